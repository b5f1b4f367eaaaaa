"""The copies of plugins in an output folder, which workers import.

    plugins/<sha256>.py, plugins/<sha256>/    the file or the folder; the name is the SHA-256 of the
                                              bytes
    plugins/<hash>.json                       the copy that contains the code with this hash, and
                                              the function, and versions of packages

A trial's configuration contains the hash of the code that the trial uses (`content.py`). Several
versions of a file can contain the same code for a trial; a hash then names the last copy, and each
of these copies gives the same results.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from precond.registry import REGISTRY
from trainables.config import TrialConfig
from trainables.files import write_atomically
from trainables.plugins import content, sources
from trainables.plugins.loading import Plugin, load
from trainables.plugins.registration import PluginError
from trainables.workloads import PLUGINS, code_hash


def write_copy(path: Path, root: Path) -> None:
    """Copy a plugin into an output folder, so that workers can import it there.

    Raises:
        PluginError: The plugin cannot be imported.
        OSError: The output folder cannot be written.
    """
    plugin = load(path)
    folder = root / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    copy = _write(plugin, folder)
    for function in plugin.functions.values():
        document: dict[str, Any] = {"copy": copy.name}
        document |= {"module": function.module, "function": function.name}
        document["versions"] = dict(function.versions)
        text, index = json.dumps(document).encode(), _index(root, function.digest)
        if not index.exists() or index.read_bytes() != text:
            write_atomically(index, text)


def load_copies(root: Path, config: TrialConfig) -> None:
    """Import the plugins of a trial from an output folder, unless this process has them already.

    The code is compared with the trial's configuration before it is run.

    Raises:
        PluginError: A copy is missing, or differs from the trial's plugin.
    """
    if config.plugin is None or has_code(config):
        return
    for digest in config.plugin.split("+"):
        _load_copy(root, digest)
    if not has_code(config):
        names = f"{config.workload} with {config.optimizer}"
        raise PluginError(f"{root / 'plugins'}: the copies differ from the plugin of {names}")


def has_code(config: TrialConfig) -> bool:
    """Return True if this process has imported the code of plugins that a trial uses."""
    parts = PLUGINS.get(config.workload), REGISTRY.get(config.optimizer)
    return code_hash(*(part and part.plugin for part in parts)) == config.plugin


def _load_copy(root: Path, digest: str) -> None:
    index = _index(root, digest)
    advice = "run the study's command again, with its --plugin flags"
    try:
        document = json.loads(index.read_bytes())
        name, module, function = document["copy"], document["module"], document["function"]
        versions = dict(document.get("versions", {}))  # older folders have none
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PluginError(f"{index}: cannot be read, so the plugin is unknown; {advice}") from error
    if not re.fullmatch(r"[0-9a-f]{64}(\.py)?", name):
        raise PluginError(f"{index}: invalid name of a copy; {advice}")
    copy = root / "plugins" / name
    files = sources.read(copy)
    valid = files.sha256 == name.removesuffix(".py")
    if not valid or content.code_hash_of(files, module, function) != digest:
        _, installed = content.code_of(files, module, function)
        if valid and versions and (difference := _difference(versions, installed)):
            raise PluginError(f"{copy}: {difference}; install this version, or {advice}")
        reason = "the copy, or the version of a package that it imports, differs from the trial's"
        raise PluginError(f"{copy}: {reason} plugin; {advice}")
    load(copy)


def _difference(required: dict[str, str], installed: dict[str, str]) -> str:
    """Return the packages whose versions differ from those of the trial, or ""."""
    return ", ".join(
        f"the trial requires {name} {version}, but "
        f"{f'{installed[name]} is' if name in installed else 'it is not'} installed"
        for name, version in required.items()
        if installed.get(name) != version
    )


def _index(root: Path, digest: str) -> Path:
    return root / "plugins" / f"{digest}.json"


def _write(plugin: Plugin, folder: Path) -> Path:
    """Write the files of a plugin, unless they are there and complete; return their path."""
    files = plugin.sources
    is_file = files.path.is_file()
    copy = folder / (f"{files.sha256}.py" if is_file else files.sha256)
    try:
        if sources.read(copy).sha256 == files.sha256:
            return copy
    except PluginError:
        pass  # there is no copy yet
    if is_file:
        write_atomically(copy, files.files[""].content)
        return copy
    temporary = folder / f"{files.sha256}.{os.getpid()}.tmp"
    for source in files.files.values():
        path = temporary / source.path.relative_to(files.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.content)
    if copy.exists():
        shutil.rmtree(copy)
    temporary.replace(copy)
    return copy
