"""The command line: parse the options, run the artefacts, print to the terminal, exit with a code.

`flags.py` has the options and `options.py` parses them. `run.py` plans, checks, locks, executes,
tracks and reports any artefact. Put a file here if only commands need it. This room may import
every other room. Importing `cli` or `options` must not import Ray, MLflow, matplotlib, pandas or
torch, so that `--help` is fast. Importing `run` also imports torch, but none of the others.
"""
