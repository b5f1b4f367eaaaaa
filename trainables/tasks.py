"""Tasks: the loss that a workload minimises, and the metrics of its evaluation.

A loss is a mean over the units of a batch. A unit is an example, a token or a pixel. An evaluation
divides sums over all units by their number, so that the size of its batches has no influence.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from trainables.metrics import ACCURACY, LOSS, MSE, PERPLEXITY, PIXEL_ACCURACY, Metric

IGNORED = -100  # a target with this value is no unit, as in torch.nn.functional.cross_entropy


class Task(ABC):
    """The loss and the metrics of a workload.

    Attributes:
        name: The name of the task, for messages.
        metrics: The metrics besides the loss. The first is the headline: the metric that reports,
            searches and the progress display use. Without metrics, the headline is the loss.
        mixes_labels: True if Mixup, CutMix and label smoothing apply.
    """

    name: str
    metrics: tuple[Metric, ...]
    mixes_labels: bool = False

    @property
    def headline(self) -> Metric:
        """The metric that describes a result by a single number."""
        return self.metrics[0] if self.metrics else LOSS

    def targets(self, inputs: Any, targets: Any) -> Any:
        """Return the targets of a batch."""
        return targets

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss over the units of a batch, a scalar.

        Args:
            outputs: The outputs of the model.
            targets: The targets of the batch.
            smoothing: The label smoothing; 0 for tasks without `mixes_labels`.
        """

    @abstractmethod
    def loss_sum(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum of the loss over the units of a batch, a scalar."""

    def measures(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum of each metric over the units of a batch, `[metrics]` float64.

        The sum is 0 for a metric that `values` computes from the loss, such as the perplexity.
        """
        device = tree_leaves(targets)[0].device
        return torch.zeros(len(self.metrics), dtype=torch.float64, device=device)

    def units(self, targets: Any) -> int | Tensor:
        """Return the number of units of a batch."""
        return len(tree_leaves(targets)[0])

    def values(self, loss: float, measures: Sequence[float]) -> dict[str, float]:
        """Return the metrics by name.

        Args:
            loss: The mean loss over the units.
            measures: The sums of `measures` divided by the number of units.
        """
        return {m.name: value for m, value in zip(self.metrics, measures, strict=True)}

    def problems(self, targets: Any) -> str:
        """Return the reason why targets do not suit the task, or an empty text."""
        return ""


class Classification(Task):
    """Cross-entropy of logits `[n, classes]` and labels `[n]` int64, or of mixed labels.

    Mixed labels are probabilities `[n, classes]`. The class of a mixed label is the class with the
    largest probability.
    """

    name = "classification"
    metrics = (ACCURACY,)
    mixes_labels = True

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over the examples."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropy over the examples."""
        return F.cross_entropy(outputs, targets, reduction="sum")

    def measures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of correct predictions."""
        classes = targets if targets.dim() == 1 else targets.argmax(1)
        return (outputs.argmax(1) == classes).sum().double()[None]

    def problems(self, targets: Any) -> str:
        """Return the reason why labels do not suit the task, or an empty text."""
        return _wrong_tensor(targets, torch.int64, 1, "labels", "[n] int64")


class Regression(Task):
    """Half the squared error, summed over the outputs of an example.

    This is the negative log-likelihood of a normal distribution with variance 1, without its
    constant. Outputs and targets are floating-point tensors `[n, ...]` of equal shape. The metric
    is the mean squared error over examples and outputs.
    """

    name = "regression"
    metrics = (MSE,)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean over the examples of half the squared error."""
        return self.loss_sum(outputs, targets) / len(targets)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the examples of half the squared error.

        Raises:
            ValueError: Outputs and targets have different shapes.
        """
        if outputs.shape != targets.shape:
            shapes = f"outputs are {list(outputs.shape)} and targets are {list(targets.shape)}"
            raise ValueError(f"{shapes}: must have equal shapes")
        return F.mse_loss(outputs, targets, reduction="sum") / 2

    def measures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the examples of the mean squared error of the outputs."""
        return ((outputs - targets).double() ** 2).flatten(1).mean(1).sum()[None]

    def problems(self, targets: Any) -> str:
        """Return the reason why targets do not suit the task, or an empty text."""
        if isinstance(targets, Tensor) and targets.is_floating_point() and targets.dim() > 1:
            return ""
        return described(targets, "targets", "[n, outputs] and floating-point")


class Reconstruction(Regression):
    """Regression whose targets are the inputs, for autoencoders."""

    name = "reconstruction"

    def targets(self, inputs: Tensor, targets: Any) -> Tensor:
        """Return the inputs."""
        return inputs

    def problems(self, targets: Any) -> str:
        """Return an empty text, because the targets of the dataset are not used."""
        return ""


class _PerUnit(Task):
    """Cross-entropy of each unit of an example: logits `[n, classes, ...]`, labels `[n, ...]`.

    Labels with the value `IGNORED` do not count.
    """

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over the units."""
        return F.cross_entropy(outputs, targets, ignore_index=IGNORED)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropy over the units."""
        return F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="sum")

    def units(self, targets: Tensor) -> Tensor:
        """Return the number of labels that count."""
        return (targets != IGNORED).sum()


class NextToken(_PerUnit):
    """Cross-entropy of the next token: logits `[n, context, vocabulary]`, tokens `[n, context]`.

    The metric is the perplexity, which is the exponential of the mean loss over all tokens.
    """

    name = "next-token prediction"
    metrics = (PERPLEXITY,)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over the tokens."""
        return super().loss(outputs.transpose(1, 2), targets)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropy over the tokens."""
        return super().loss_sum(outputs.transpose(1, 2), targets)

    def values(self, loss: float, measures: Sequence[float]) -> dict[str, float]:
        """Return the perplexity."""
        return {PERPLEXITY.name: math.exp(loss) if loss < 700 else math.inf}

    def problems(self, targets: Any) -> str:
        """Return the reason why tokens do not suit the task, or an empty text."""
        return _wrong_tensor(targets, torch.int64, 2, "targets", "[n, context] int64")


class Segmentation(_PerUnit):
    """Cross-entropy of each pixel.

    Logits are `[n, classes, height, width]`, and labels are `[n, height, width]`. The metric is the
    share of pixels whose class is predicted correctly.
    """

    name = "segmentation"
    metrics = (PIXEL_ACCURACY,)

    def measures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of correct pixels."""
        correct = (outputs.argmax(1) == targets) & (targets != IGNORED)
        return correct.sum().double()[None]

    def problems(self, targets: Any) -> str:
        """Return the reason why labels do not suit the task, or an empty text."""
        return _wrong_tensor(targets, torch.int64, 3, "labels", "[n, height, width] int64")


CLASSIFICATION, REGRESSION, RECONSTRUCTION = Classification(), Regression(), Reconstruction()
NEXT_TOKEN, SEGMENTATION = NextToken(), Segmentation()
TASKS: Mapping[str, Task] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "reconstruction": RECONSTRUCTION,
    "next-token": NEXT_TOKEN,
    "segmentation": SEGMENTATION,
}
"""The tasks that a plugin can select by name."""


def _wrong_tensor(value: Any, dtype: torch.dtype, dims: int, noun: str, rule: str) -> str:
    if isinstance(value, Tensor) and value.dtype == dtype and value.dim() == dims:
        return ""
    return described(value, noun, rule)


def described(value: Any, noun: str, rule: str) -> str:
    """Return an error in the kind of a value, with the rule."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        kind = f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    verb = "is" if noun == "the loss" else "are"
    return f"{noun} {verb} {kind}: must be {rule}"
