"""The datasets of plugins, and the checks of their workloads before the first trial is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from trainables.data.base import Loading, Source
from trainables.data.tensors import TensorData
from trainables.plugins.registration import PluginError
from trainables.tasks import CLASSIFICATION, Task
from trainables.workloads import Workload

# Training inputs and targets, test inputs and targets: tensors, or dictionaries of tensors.
Tensors = tuple[Any, Any, Any, Any]


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
