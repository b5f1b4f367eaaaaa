"""User-defined optimizers and workloads, in a Python file that `--plugin FILE` names.

    from trainables.plugins import optimizer, workload

    @optimizer
    def signsgd(model, *, lr: float = 0.01):
        return SignSGD(model.parameters(), lr=lr)

    @workload("moons/mlp", data=moons, batch_size=50, epochs=20)
    def mlp():
        return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

The file's SHA-256 is a part of the key of every trial that uses an optimizer or a workload of the
file. If the file is edited, these trials therefore have new keys and are trained again. Workers
read the copy `plugins/<sha256>.py` in the output folder.

A plugin is code that runs with the user's rights. Its path therefore comes only from the command
line or from the caller in Python, never from a trial's configuration.
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
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from precond import HyperparameterError
from precond.hyperparameters import alike, nearest, problems
from precond.registry import REGISTRY, Entry
from trainables import workloads
from trainables.data.base import Loading, Source
from trainables.data.tensors import TensorData
from trainables.files import checksum, write_atomically
from trainables.metrics import LOSS, METRICS, Metric
from trainables.models import Model
from trainables.recipes import Recipe
from trainables.tasks import CLASSIFICATION, TASKS, Function, Task, UserLoss, WithMetrics
from trainables.workloads import Workload

# Training inputs and targets, test inputs and targets: tensors, or dictionaries of tensors.
Tensors = tuple[Any, Any, Any, Any]


class PluginError(HyperparameterError):
    """A plugin cannot be used; the message is one line."""


_loaded: dict[str, list[str]] = {}  # SHA-256 -> names that the file registered
_loading: str | None = None  # SHA-256 of the file that is being imported


def optimizer(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Register a function that builds an optimizer.

    The optimizer's name is the function's name with `-` in place of `_`. The function takes a model
    and keyword-only hyperparameters, whose types are those of their defaults. If there is a
    keyword-only parameter `params=None`, it receives the parameter groups of a trial that exempts
    some parameters from weight decay.
    """
    if _is_script(build):
        return build
    parameters = inspect.signature(build).parameters.values()
    hyperparameters = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    name = build.__name__.replace("_", "-")
    if missing := [p.name for p in hyperparameters if p.default is p.empty]:
        raise PluginError(f"{name}: {missing[0]} has no default; every hyperparameter needs one")
    fields = [(p.name, Any, alike(p.default)) for p in hyperparameters if p.name != "params"]
    kind = dataclasses.make_dataclass(
        name, fields, frozen=True, kw_only=True, namespace={"problems": problems}
    )
    takes_groups = any(p.name == "params" for p in hyperparameters)

    def build_from_model(model: nn.Module, *, params: Any = None, **values: Any) -> Optimizer:
        if params is not None and not takes_groups:
            reason = "the trial exempts some parameters from weight decay (setting decay_exempt)"
            raise PluginError(f"{name}: {reason}: add the keyword-only parameter `params=None`")
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
    loss: str | Function = "classification",
    metrics: Mapping[str, Function] | None = None,
    higher_is_better: bool | Mapping[str, bool] | None = None,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a workload; the decorated function builds its model.

    Args:
        name: The names of the data and the model, separated by a slash, such as `moons/mlp`.
        data: A function that returns training inputs, training targets, test inputs and test
            targets. Each is a tensor `[n, ...]` or a dictionary of such tensors, for example with a
            mask. The targets of a classification are labels `[n]` of type int64.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: Learning-rate schedule: `cosine` or `constant`.
        optimizers: Hyperparameters by optimizer. All other hyperparameters have their defaults.
        loss: The name of a task (`classification`, `regression`, `reconstruction`, `next-token` or
            `segmentation`), or a function of the model's outputs and the targets of a batch. The
            function returns the mean loss over the examples as a scalar, or a dictionary that
            contains this scalar as `loss`.
        metrics: By name, functions of the same arguments that return the mean of a metric over the
            examples, or over the tokens or pixels that count for the tasks `next-token` and
            `segmentation`. They replace the task's metrics, and the first is the headline metric.
            If `loss` is a function and there are no metrics, the loss is the headline metric.
        higher_is_better: True if larger values of a metric are better: a value for each metric by
            name, or one value for all. It is required if there are metrics.
    """
    task = _task(name, loss, metrics or {}, higher_is_better)

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if _is_script(build):
            return build
        if name.count("/") != 1 or not all(name.split("/")):
            raise PluginError(f'workload "{name}": must be DATA/MODEL, for example moons/mlp')
        _register(name, workloads.unknown_workload(name) is None)
        workloads.PLUGINS[name] = PluginWorkload(
            name=name,
            source=PluginTensors(name.partition("/")[0], data, task=task),
            model=Model(build=lambda fit: build(), channels=None),
            recipe=Recipe(
                batch_size=batch_size, epochs=epochs, schedule=schedule, optimizers=optimizers or {}
            ),
            plugin=_loading,
        )
        return build

    return register


def _task(
    name: str,
    loss: str | Function,
    metrics: Mapping[str, Function],
    higher_is_better: bool | Mapping[str, bool] | None,
) -> Task:
    """Return the task of a plugin's workload, and register its metrics.

    Raises:
        PluginError: The task is unknown; or a metric has an invalid name or no direction, or its
            direction differs from that of the registered metric with the same name.
    """
    label = f'workload "{name}"'
    if isinstance(loss, str) and loss not in TASKS:
        raise PluginError(f'{label}: loss = "{loss}": unknown.{nearest(loss, TASKS)}')
    if isinstance(loss, str) and not metrics:
        return TASKS[loss]
    directions = higher_is_better
    if not isinstance(directions, Mapping):
        directions = {} if directions is None else dict.fromkeys(metrics, directions)
    for key in metrics:
        if key not in directions:
            advice = f'pass higher_is_better={{"{key}": True}} or False'
            raise PluginError(f'{label}: metric "{key}" has no direction: {advice}')
        if not key.isidentifier() or key == LOSS.name:
            raise PluginError(f'{label}: metric "{key}": must be a Python name other than "loss"')
        known = METRICS.get(key)
        if known is not None and known.higher_is_better != directions[key]:
            better = "higher" if known.higher_is_better else "lower"
            rule = f"{better} values are better: choose another name or direction"
            raise PluginError(f'{label}: metric "{key}" exists, and {rule}')
    user = {METRICS.setdefault(m, Metric(m, directions[m])): f for m, f in metrics.items()}
    task = TASKS[loss] if isinstance(loss, str) else UserLoss(loss)
    return WithMetrics(task, user) if user else task


@dataclass(frozen=True)
class PluginTensors(Source):
    """A plugin's dataset, without augmentation; `make` is called when a tensor is first used."""

    name: str
    make: Callable[[], Tensors]
    size: int = 0
    channels: int = 0
    augmented: bool = False
    task: Task = CLASSIFICATION

    @cached_property
    def _tensors(self) -> Tensors:
        label = f"data of {self.name}"
        try:
            tensors = self.make()
        except Exception as error:
            raise PluginError(f"{label}: {_first_line(error)}") from error
        four = isinstance(tensors, tuple) and len(tensors) == 4
        if not four or not all(_is_data(part) for part in tensors):
            parts = "training inputs, training targets, test inputs and test targets"
            rule = "must be a tuple of four tensors or dictionaries of tensors"
            raise PluginError(f"{label}: {rule}: {parts}")
        for inputs, targets in (tensors[:2], tensors[2:]):
            sizes = {len(leaf) for leaf in tree_leaves((inputs, targets))}
            if len(sizes) > 1:
                numbers = " and ".join(map(str, sorted(sizes)))
                rule = "inputs and targets must have equal length"
                raise PluginError(f"{label}: {numbers} examples; {rule}")
            if reason := self.task.problems(targets):
                raise PluginError(f"{label}: {reason} for {self.task.name}")
        return tensors

    @property
    def classes(self) -> int:  # type: ignore[override]
        """The largest training label plus one, or 0 for a task without `mixes_labels`."""
        labels = self._tensors[1]
        return int(labels.max()) + 1 if self.task.mixes_labels else 0

    @property
    def train_examples(self) -> int:  # type: ignore[override]
        """The number of training examples."""
        return len(tree_leaves(self._tensors[1])[0])

    @property
    def test_examples(self) -> int:  # type: ignore[override]
        """The number of test examples."""
        return len(tree_leaves(self._tensors[3])[0])

    def problems(self, data_dir: Path, verify: bool = False) -> list[str]:
        """Return a line if the plugin's function raises an error or returns invalid tensors."""
        try:
            self._tensors  # noqa: B018
        except PluginError as error:
            return [str(error)]
        return []

    def load(self, loading: Loading) -> TensorData:
        """Load the tensors onto the device."""
        return TensorData.load(self._tensors, loading)

    def random_batch(self, examples: int, size: int, generator: Generator) -> tuple[Any, Any]:
        """Return the first training examples, because random values can be invalid inputs."""
        return self.examples(examples)

    def examples(self, count: int) -> tuple[Any, Any]:
        """Return the inputs and the targets of the first training examples.

        They are repeated if there are fewer than `count`.
        """
        positions = torch.arange(count) % self.train_examples
        inputs, targets = tree_map(lambda tensor: tensor[positions], self._tensors[:2])
        return inputs, targets


@dataclass(frozen=True, kw_only=True, eq=False)
class PluginWorkload(Workload):
    """A plugin's workload, whose model is run once before the first trial is planned."""

    source: PluginTensors

    def problems(self, overrides: Mapping[str, Any], epochs: Any) -> list[str]:
        """Return one line for each invalid setting or, without any, for an unusable model."""
        return super().problems(overrides, epochs) or self._model_problems

    @cached_property
    def _model_problems(self) -> list[str]:
        """A line if the model, its inputs or output, the loss or a metric cannot be used."""
        label = f"model of {self.name}"
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                model, (inputs, targets) = self.build({}).eval(), self.source.examples(2)
                dtypes = {p.dtype for p in model.parameters()}
                leaves = {leaf.dtype for leaf in tree_leaves(inputs)}
                if torch.float64 in leaves - dtypes:
                    advice = "convert them to torch.float32"
                    return [f"data of {self.source.name}: inputs are torch.float64: {advice}"]
                output = model(inputs)
                expected = [2, self.source.classes]
                if self.task.mixes_labels and (shape := _shape(output)) != expected:
                    rule = f"must be {expected}, because the labels have {expected[1]} classes"
                    return [f"{label}: the output for 2 examples is {shape}: {rule}"]
                label = f"loss of {self.name}"
                targets = self.task.targets(inputs, targets)
                self.task.loss(output, targets)
                label = f"metrics of {self.name}"
                self.task.measures(output, targets)
        except PluginError:
            raise
        except Exception as error:
            return [f"{label}: {_first_line(error)}"]
        return []


def _is_data(value: Any) -> bool:
    """Return True for a tensor with at least one dimension, or a dictionary of such tensors."""
    leaves = tree_leaves(value)
    return (
        isinstance(value, (Tensor, dict))
        and bool(leaves)
        and all(isinstance(leaf, Tensor) and leaf.dim() > 0 for leaf in leaves)
    )


def _shape(output: Any) -> list[int] | str:
    return list(output.shape) if isinstance(output, Tensor) else type(output).__name__


def _first_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _is_script(build: Callable[..., Any]) -> bool:
    """Return True if the file of the decorated function runs as a script.

    Nothing is registered then, because `main(STUDY, plugin=__file__)` in the script imports the
    file again as a plugin.
    """
    return _loading is None and build.__module__ == "__main__"


def _register(name: str, exists: bool) -> None:
    """Record a name that the file being imported registers.

    A name that another plugin registered is replaced, because in a long-running worker the other
    plugin is an older version of the same file.

    Args:
        name: The name of the optimizer or the workload.
        exists: True if the name is already registered.
    """
    if _loading is None:
        raise PluginError(f"{name}: load the plugin with --plugin FILE; it cannot be imported")
    earlier = [sha for sha, names in _loaded.items() if name in names and sha != _loading]
    if exists and not earlier:
        raise PluginError(f'"{name}" exists already: choose another name')
    for sha in earlier:
        _loaded[sha].remove(name)
    _loaded[_loading].append(name)


def load(path: Path, sha256: str | None = None) -> str:
    """Import a plugin, once per process, and return its SHA-256.

    Args:
        path: The file.
        sha256: The expected SHA-256, or None to accept any file.

    Raises:
        PluginError: The file cannot be read, has another SHA-256, raises an error, registers
            nothing, or registers a name that exists already.
    """
    global _loading
    try:
        sha = checksum(path)
    except OSError as error:
        raise PluginError(f"plugin {path}: {error.strerror}") from error
    if sha256 not in (None, sha):
        raise PluginError(
            f"plugin {path}: the file differs from the trial's plugin ({sha256}); restore the file"
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


def write_copy(path: Path, root: Path) -> None:
    """Copy a plugin into an output folder, so that workers can read it there."""
    content = path.read_bytes()
    copy = copy_path(root, hashlib.sha256(content).hexdigest())
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, content)


def copy_path(root: Path, sha256: str) -> Path:
    """Return the path of the copy of a plugin in an output folder."""
    return root / "plugins" / f"{sha256}.py"


def _run(path: Path, name: str) -> None:
    """Import a file as a module.

    Raises:
        PluginError: The file raised an error; the message contains the line in the file.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {path}: the file name must end in .py")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        lines = [error.lineno] if isinstance(error, SyntaxError) else lines
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
        raise PluginError(f"plugin {place}: {kind}{error}") from error


def _forget(sha256: str) -> None:
    for name in _loaded.pop(sha256, []):
        REGISTRY.pop(name, None)
        workloads.PLUGINS.pop(name, None)
