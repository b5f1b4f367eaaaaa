"""Tasks with a loss or metrics of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from trainables.metrics import Metric
from trainables.tasks import Task, described

Function = Callable[[Any, Any], Any]  # of the outputs of a model and the targets of a batch


class UserLoss(Task):
    """A plugin's loss, without other metrics.

    Args:
        function: Returns the mean loss over the examples of a batch, given the outputs of the model
            and the targets: a scalar, or a dictionary with a scalar `loss`.
    """

    name = "the plugin's loss"
    metrics = ()

    def __init__(self, function: Function):
        self._function = function

    def loss(self, outputs: Any, targets: Any, smoothing: float = 0.0) -> Tensor:
        """Return the plugin's loss.

        Raises:
            TypeError: The loss is not a scalar.
        """
        loss = self._function(outputs, targets)
        loss = loss["loss"] if isinstance(loss, Mapping) else loss
        if not isinstance(loss, Tensor) or loss.dim() > 0 or not loss.is_floating_point():
            rule = "a floating-point scalar, or a dictionary with such a `loss`"
            raise TypeError(described(loss, "the loss", rule))
        return loss

    def loss_sum(self, outputs: Any, targets: Any) -> Tensor:
        """Return the plugin's mean loss times the number of examples."""
        return self.loss(outputs, targets).double() * self.units(targets)


class WithMetrics(Task):
    """A task whose metrics are those of a plugin.

    Args:
        task: The task.
        metrics: Functions of the outputs of the model and the targets, by metric. They return a
            mean over the units of a batch.
    """

    def __init__(self, task: Task, metrics: Mapping[Metric, Function]):
        self._task, self._functions = task, tuple(metrics.values())
        self.metrics, self.name, self.mixes_labels = tuple(metrics), task.name, task.mixes_labels
        self.targets, self.units, self.problems = task.targets, task.units, task.problems

    def loss(self, outputs: Any, targets: Any, smoothing: float = 0.0) -> Tensor:
        """Return the loss of the task."""
        return self._task.loss(outputs, targets, smoothing)

    def loss_sum(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum of the loss of the task."""
        return self._task.loss_sum(outputs, targets)

    def measures(self, outputs: Any, targets: Any) -> Tensor:
        """Return each metric times the number of units."""
        device, units = tree_leaves(targets)[0].device, self.units(targets)
        values = [torch.as_tensor(f(outputs, targets), device=device) for f in self._functions]
        return torch.stack([value.double() * units for value in values])
