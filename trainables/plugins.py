"""A user-defined optimizer or workload, in one Python file that the command line names: `--plugin FILE`.

    from trainables.plugins import optimizer, workload

    @optimizer
    def signsgd(model, *, lr: float = 0.01):
        return SignSGD(model.parameters(), lr=lr)

    @workload("moons/mlp", data=moons, batch_size=50, epochs=20)
    def mlp():
        return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

The file's SHA-256 is a part of the key of every trial that uses what it registers, so the trials of an edited plugin
are new trials. Workers read the copy `plugins/<sha256>.py` in the output folder. A plugin is code that runs with the
user's rights: only the command line names one, never a trial's configuration.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precond import HyperparameterError
from precond.hyperparameters import alike, problems
from precond.registry import REGISTRY, Entry
from trainables import workloads
from trainables.data.base import Loading, Source, TensorData
from trainables.files import checksum, write_atomically
from trainables.models import Model
from trainables.recipes import Recipe
from trainables.workloads import Workload

Tensors = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # training inputs and labels, test inputs and labels


class PluginError(HyperparameterError):
    """A plugin that cannot be used; the message is one line."""


_loaded: dict[str, list[str]] = {}  # SHA-256 -> names that the file registered
_loading: str | None = None  # SHA-256 of the file that runs now


def optimizer(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Register a function of a model and keyword-only hyperparameters under its name, with `-` for `_`.

    Its defaults are the hyperparameters' defaults and determine their types. A parameter called `params` receives
    parameter groups if a recipe exempts some parameters from weight decay.
    """
    if _is_script(build):
        return build
    hyperparameters = [
        p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    name = build.__name__.replace("_", "-")
    if missing := [p.name for p in hyperparameters if p.default is p.empty]:
        raise PluginError(
            f"{name}: {missing[0]} has no default, which every hyperparameter must have"
        )
    fields = [(p.name, Any, alike(p.default)) for p in hyperparameters if p.name != "params"]
    kind = dataclasses.make_dataclass(
        name, fields, frozen=True, kw_only=True, namespace={"problems": problems}
    )
    takes_groups = any(p.name == "params" for p in hyperparameters)

    def build_from_model(model: nn.Module, *, params: Any = None, **values: Any) -> Optimizer:
        if params is not None and not takes_groups:
            raise PluginError(f"{name}: takes no `params`, and this recipe has parameter groups")
        return build(model, params=params, **values) if takes_groups else build(model, **values)

    _register(name, name in REGISTRY)
    REGISTRY[name] = Entry(build_from_model, (kind,), plugin=_loading)
    return build


def workload(
    name: str,
    *,
    data: Callable[[], Tensors],
    batch_size: int,
    epochs: int,
    schedule: str = "cosine",
    optimizers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a function that builds a model, as the workload `name`.

    Args:
        name: The data, a slash and the model, such as `moons/mlp`.
        data: Returns training inputs and labels, test inputs and labels: tensors `[n, ...]` and `[n]` int64.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: Learning-rate schedule: `cosine` or `constant`.
        optimizers: Hyperparameters by optimizer; the others keep the optimizer's defaults.
    """

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if _is_script(build):
            return build
        if name.count("/") != 1 or not all(name.split("/")):
            raise PluginError(
                f'workload "{name}": must be a name, a slash and a name, as in moons/mlp'
            )
        _register(name, workloads.unknown_workload(name) is None)
        workloads.PLUGINS[name] = Workload(
            name=name,
            source=PluginTensors(name.partition("/")[0], data),
            model=Model(build=lambda fit: build(), channels=None),
            recipe=Recipe(
                batch_size=batch_size, epochs=epochs, schedule=schedule, optimizers=optimizers or {}
            ),
            plugin=_loading,
        )
        return build

    return register


@dataclass(frozen=True)
class PluginTensors(Source):
    """A plugin's dataset, which is not augmented; `make` is called at the first use of the tensors."""

    name: str
    make: Callable[[], Tensors]
    size: int = 0
    channels: int = 0
    augmented: bool = False

    @cached_property
    def _tensors(self) -> Tensors:
        tensors = self.make()
        if (
            not isinstance(tensors, tuple)
            or len(tensors) != 4
            or not all(isinstance(t, Tensor) for t in tensors)
        ):
            raise PluginError(
                f"data of {self.name}: must be four tensors: inputs and labels, to train and to test on"
            )
        for inputs, labels in (tensors[:2], tensors[2:]):
            if len(inputs) != len(labels) or labels.dtype != torch.int64 or labels.dim() != 1:
                shapes = f"inputs {list(inputs.shape)}, labels {list(labels.shape)} {labels.dtype}"
                raise PluginError(
                    f"data of {self.name}: {shapes}; labels must be [n] int64 for inputs [n, ...]"
                )
        return tensors

    @property
    def classes(self) -> int:  # type: ignore[override]
        """The largest label plus one."""
        return int(self._tensors[1].max()) + 1

    @property
    def train_examples(self) -> int:  # type: ignore[override]
        """Number of training examples."""
        return len(self._tensors[1])

    @property
    def test_examples(self) -> int:  # type: ignore[override]
        """Number of test examples."""
        return len(self._tensors[3])

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return one line if the plugin's function fails."""
        try:
            self._tensors  # noqa: B018
        except PluginError as error:
            return [str(error)]
        except Exception as error:
            return [f"data of {self.name}: {type(error).__name__}: {error}"]
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load the tensors onto the device."""
        return TensorData.load(self._tensors, loading)


def _is_script(build: Callable[..., Any]) -> bool:
    """Return True in a file that runs as a script: `main(STUDY, plugin=__file__)` loads it as a plugin."""
    return _loading is None and build.__module__ == "__main__"


def _register(name: str, taken: bool) -> None:
    """Note that the running file registers a name, which must not be taken."""
    if _loading is None:
        raise PluginError(f"{name}: plugins are loaded by --plugin FILE, not imported")
    earlier = [sha for sha, names in _loaded.items() if name in names and sha != _loading]
    if taken and not earlier:
        raise PluginError(f'"{name}" is taken: choose another name')
    for sha in earlier:  # an older version of the file, in a worker that outlived it
        _loaded[sha].remove(name)
    _loaded[_loading].append(name)


def load(path: Path, sha256: str | None = None) -> str:
    """Run a plugin, once in a process, and return its SHA-256.

    Args:
        path: The file.
        sha256: The expected SHA-256; None for any.

    Raises:
        PluginError: It cannot be read, is another file, raises, or registers nothing or a taken name.
    """
    global _loading
    try:
        sha = checksum(path)
    except OSError as error:
        raise PluginError(f"plugin {path}: {error.strerror}") from error
    if sha256 not in (None, sha):
        raise PluginError(
            f"plugin {path}: its bytes are not those of the trial's plugin; restore the file"
        )
    if _loaded.get(sha):
        return sha
    _loading, _loaded[sha] = sha, []
    try:
        _run(path, f"plugin_{sha[:16]}")
    except BaseException:
        _forget(sha)
        raise
    finally:
        _loading = None
    if not _loaded[sha]:
        raise PluginError(
            f"plugin {path}: registers nothing; use @optimizer or @workload of trainables.plugins"
        )
    return sha


def keep(path: Path, root: Path) -> None:
    """Copy a plugin into an output folder, where workers read it."""
    content = path.read_bytes()
    copy = kept(root, hashlib.sha256(content).hexdigest())
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, content)


def kept(root: Path, sha256: str) -> Path:
    """Return the path of a plugin's copy in an output folder."""
    return root / "plugins" / f"{sha256}.py"


def _run(path: Path, name: str) -> None:
    """Import a file as a module; an error becomes a `PluginError` with its line."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path}: must be a Python file that ends in .py")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        lines = [error.lineno] if isinstance(error, SyntaxError) else lines
        what = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        raise PluginError(
            f"plugin {path}{f', line {lines[-1]}' if lines else ''}: {what}"
        ) from error


def _forget(sha256: str) -> None:
    for name in _loaded.pop(sha256, []):
        REGISTRY.pop(name, None)
        workloads.PLUGINS.pop(name, None)
