"""Check every figure that a test saves."""

from typing import Any

import geometry
import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def check_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a text of a saved figure is cut or lies on another one."""
    save = Figure.savefig

    def checked(self: Figure, path: Any, **options: Any) -> None:
        if str(path).endswith(".png"):
            assert geometry.faults(self) == [], path
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", checked)
