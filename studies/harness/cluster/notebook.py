"""The progress of the training in a notebook: one output of the cell that is replaced in place."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType

SECONDS = 1.0  # shortest time between two updates


class CellDisplay:
    """An output of the running cell, as plain text. It needs no widgets.

    Args:
        render: Returns the content.
        width: The number of characters in a line.
    """

    def __init__(self, render: Callable[[], RenderableType], width: int):
        self._render, self._width = render, width
        self._handle: Any = None
        self._updated = 0.0

    def start(self) -> None:
        """Add the output to the cell."""
        from IPython.display import display

        self._handle = display(self._content(), raw=True, display_id=True)
        self._updated = time.monotonic()

    def update(self) -> None:
        """Replace the output, at most once in `SECONDS`."""
        if time.monotonic() - self._updated >= SECONDS:
            self._updated = time.monotonic()
            self._handle.update(self._content(), raw=True)

    def stop(self) -> None:
        """Show the last content, which stays in the notebook."""
        if self._handle is not None:
            self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        text = io.StringIO()
        # In a notebook, a console displays what is printed to it, unless `force_jupyter` is False.
        console = Console(file=text, width=self._width, color_system=None, force_jupyter=False)
        console.print(self._render())
        return {"text/plain": text.getvalue()}
