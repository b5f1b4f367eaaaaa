"""The command line: parse the options, run the artefacts, print to the terminal, exit with a code.

`options.py` parses the options. `run.py` plans, checks, locks, executes, tracks and reports any
artefact. Put a file here if only commands need it. This room may import every other room. The
modules that every command imports (`cli`, `options`, `run`) import Ray, MLflow, matplotlib, pandas
and torch inside functions only.
"""
