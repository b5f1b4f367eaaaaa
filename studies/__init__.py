"""The study files, each for a table or figure of a paper, and the names that they import.

>>> from studies import Arm, LevelFigure, Study, grid, main

Each name is imported on first use, so that `--help` imports neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.harness.command.cli import main
    from studies.harness.command.judging import Judged, judge
    from studies.harness.command.results import Folder, Result
    from studies.harness.command.session import load, run
    from studies.harness.design.arms import Arm, grid
    from studies.harness.design.claims import Better, Change, Claim, Equivalent, NotWorse
    from studies.harness.design.ending import Stopped
    from studies.harness.kinds.cost.cost import CostStudy
    from studies.harness.kinds.probe.probe import Covariances, Norms, Probe
    from studies.harness.kinds.search.search import Choice, Range, Search
    from studies.harness.kinds.study.figures import (
        CurveFigure,
        HeatmapFigure,
        LevelFigure,
        ResidualFigure,
    )
    from studies.harness.kinds.study.study import Study
    from studies.harness.kinds.target.figure import TargetFigure

_MODULES = {
    "command.cli": ("main",),
    "command.judging": ("Judged", "judge"),
    "command.results": ("Folder", "Result"),
    "command.session": ("load", "run"),
    "design.arms": ("Arm", "grid"),
    "design.claims": ("Better", "Change", "Claim", "Equivalent", "NotWorse"),
    "design.ending": ("Stopped",),
    "kinds.cost.cost": ("CostStudy",),
    "kinds.probe.probe": ("Covariances", "Norms", "Probe"),
    "kinds.search.search": ("Choice", "Range", "Search"),
    "kinds.study.figures": ("CurveFigure", "HeatmapFigure", "LevelFigure", "ResidualFigure"),
    "kinds.study.study": ("Study",),
    "kinds.target.figure": ("TargetFigure",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Arm",
    "Better",
    "Change",
    "Choice",
    "Claim",
    "CostStudy",
    "Covariances",
    "CurveFigure",
    "Equivalent",
    "Folder",
    "HeatmapFigure",
    "Judged",
    "LevelFigure",
    "Norms",
    "NotWorse",
    "Probe",
    "Range",
    "ResidualFigure",
    "Result",
    "Search",
    "Stopped",
    "Study",
    "TargetFigure",
    "grid",
    "judge",
    "load",
    "main",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"studies.harness.{_MODULE_OF[name]}"), name)
