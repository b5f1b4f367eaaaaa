"""The kinds of artefact: `study`, `search`, `probe` and `cost`, a folder each; `target` adds a figure to studies.

`artefact.py` is the protocol that they implement. A new kind is a new folder with its literal, `plan.py`, `execute.py`
and `report.py`; `studies/__init__.py` exports the literal, and `ORDER` sets its place in a list. May import every room
but `command`; `cluster` and `report` only where they are used.
"""

ORDER = ("study", "cost", "probe", "search")
"""The kinds in the order of `python -m studies list`; others follow."""
