"""The kinds of artefact, a folder each: its literal, its plan, its execution and its report.

`artefact.py` is the protocol that they implement. A new kind is a new folder and a line in `ORDER`; no other file
changes. May import every room but `command`; cluster, tracking and report only where they are used.
"""

ORDER = ("study", "cost", "probe", "search")
"""The kinds in the order of `python -m studies list`; others follow."""
