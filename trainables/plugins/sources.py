"""The files of a plugin: one Python file, or a folder that is imported as a package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainables.config import digest
from trainables.plugins.registration import PluginError

INIT = "__init__.py"


@dataclass(frozen=True)
class Source:
    """A Python file of a plugin.

    Attributes:
        path: The file.
        content: Its bytes.
        package: True for the file `__init__.py` of a package.
    """

    path: Path
    content: bytes
    package: bool = False


@dataclass(frozen=True)
class Sources:
    """All Python files of a plugin, as they were when they were read.

    Attributes:
        path: The file or the folder.
        files: The files by module name, relative to the plugin: the name of a single file, and of
            a folder's `__init__.py`, is "".
    """

    path: Path
    files: Mapping[str, Source]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of a single file's bytes, or of the names and the bytes of all files."""
        hashes = {
            source.path.relative_to(self.path).as_posix(): hashlib.sha256(
                source.content
            ).hexdigest()
            for source in self.files.values()
        }
        return hashes["."] if "." in hashes else digest(hashes)

    @property
    def package(self) -> str:
        """The name of the plugin's module in `sys.modules`."""
        return f"plugin_{self.sha256[:16]}"

    def full_name(self, module: str) -> str:
        """Return the name of a module of the plugin in `sys.modules`."""
        return f"{self.package}.{module}" if module else self.package

    @property
    def modules(self) -> list[str]:
        """The modules to import, in order: a folder's files whose names do not begin with `_`."""
        public = [name for name in self.files if name and "." not in name and name[0] != "_"]
        return [name for name in ["", *public] if name in self.files]


def read(path: Path) -> Sources:
    """Read a plugin.

    Args:
        path: A Python file, or a folder with Python files.

    Raises:
        PluginError: The path does not exist, cannot be read, or is not a plugin.
    """
    try:
        if path.is_dir():
            files = dict(_folder(path))
            if not any(name for name in files) and not files[""].content:
                raise PluginError(f"{path}: the folder contains no .py file")
            return Sources(path, files)
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(f"{path}: {error.strerror}") from error
    if path.suffix != ".py":
        raise PluginError(f"{path}: the name of the file must end in .py")
    return Sources(path, {"": Source(path, content)})


def _folder(folder: Path, package: str = "") -> Iterator[tuple[str, Source]]:
    """Yield the modules of a folder; subfolders count if they contain an `__init__.py`."""
    init = folder / INIT
    yield package, Source(init, init.read_bytes() if init.exists() else b"", package=True)
    for path in sorted(folder.iterdir()):
        name = f"{package}.{path.stem}" if package else path.stem
        if path.suffix == ".py" and path.stem.isidentifier() and path.name != INIT:
            yield name, Source(path, path.read_bytes())
        elif (path / INIT).is_file() and path.name.isidentifier() and not path.is_symlink():
            yield from _folder(path, name)
