"""The kinds of artefact: `study`, `search`, `probe`, `cost` and `tuning`, each in a folder.

The folder `target` contains a figure for studies. `artefact.py` has the interface of all kinds.

To add a kind, write a folder with the class of its literals, `plan.py`, `execute.py` and
`report.py`; export the class from `studies/__init__.py`, and add the kind to `ORDER`. This room may
import every room except `command`. It imports `cluster` and `report` only inside the functions and
modules that need them, to keep `--help` fast.
"""

ORDER = ("study", "cost", "probe", "search")
"""The order of the kinds in `python -m studies list`; kinds that are not listed here come last."""
