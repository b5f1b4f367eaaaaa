"""One file for each format, with a constant `FORMAT`. The name of a format is that of its file.

Only this folder imports the libraries of other trackers, inside functions, because each of them is
an optional extra and its import takes seconds.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.harness.export.format import Format


def names() -> list[str]:
    """Return the names of all formats, such as `wandb-offline`. Imports none of them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Format:
    """Return the format with one of the `names`."""
    return import_module(f"{__name__}.{name.replace('-', '_')}").FORMAT
