"""The command line: options, the one path from a command to its exit code, the lock, the terminal.

`cli.py` turns words into options, `run.py` plans, checks, locks, executes, tracks and reports any artefact. Put a file
here if only commands need it. May import every room; Ray, MLflow, matplotlib, pandas and torch never at import.
"""
