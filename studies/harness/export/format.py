"""The interface of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from studies.harness.export.runs import Run


class Format(ABC):
    """A format of another tracker.

    Attributes:
        LIBRARY: The package that the format imports.
        EXTRA: The extra of this project that installs the package.
        COMMAND: A command that uses the folder of an export, `{folder}`.
    """

    LIBRARY: ClassVar[str]
    EXTRA: ClassVar[str]
    COMMAND: ClassVar[str]

    @property
    def available(self) -> bool:
        """True if the package is installed."""
        spec = find_spec(self.LIBRARY)
        # A folder without code, such as the folder `wandb` with a user's runs, has no origin.
        return spec is not None and spec.origin is not None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Prepare the library for calls of `write`, and end its processes afterwards."""
        yield

    @abstractmethod
    def place(self, run: Run) -> str:
        """Return the folder of a run, relative to that of the export, of one or two parts."""

    @abstractmethod
    def write(self, run: Run, folder: Path) -> None:
        """Write a run into a folder that does not exist yet."""
