"""The command line: options, the one path from a command to its exit code, the lock, the terminal.

`options.py` parses the options, `run.py` plans, checks, locks, executes, tracks and reports any artefact. Put a file
here if only commands need it. May import every room; what every command imports (`cli`, `options`, `run`) imports Ray,
MLflow, matplotlib, pandas and torch only inside functions.
"""
