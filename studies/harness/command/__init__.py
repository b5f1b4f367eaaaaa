"""The command line: options, the path from a command to its exit code, the lock, the terminal.

`options.py` parses the options. `run.py` plans, checks, locks, executes, tracks and reports any
artefact. Put a file here if only commands need it. This room may import every other room. The
modules that every command imports (`cli`, `options`, `run`) import Ray, MLflow, matplotlib, pandas
and torch inside functions only.
"""
