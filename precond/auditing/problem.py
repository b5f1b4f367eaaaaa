"""The model and the batches on which an audit runs two optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 8
CLASSES = 3
CONTENTS: Mapping[str, frozenset[str]] = {
    "all kinds of parameters": frozenset({"convolution", "bias", "norm", "vector", "scalar"}),
    "all but the parameter without dimensions": frozenset(
        {"convolution", "bias", "norm", "vector"}
    ),
    "Linear and Conv2d layers only": frozenset({"convolution", "bias"}),
    "weights of Linear and Conv2d layers only": frozenset({"convolution"}),
    "weights of Linear layers only": frozenset(),
}
"""The kinds of parameters in the model, from the most to the fewest.

An audit uses the first entry that both optimizers accept.
"""


class Shift(nn.Module):
    """Add a bias to the second dimension of a tensor."""

    def __init__(self, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the shifted outputs, `[batch, size, ...]`."""
        return outputs + self.bias.view(-1, *(1 for _ in outputs.shape[2:]))


class Network(nn.Module):
    """A small classifier with the kinds of parameters that `kinds` lists.

    The inputs are images `[batch, 2, 5, 5]` and tokens `[batch]`. If `separate` is True, the biases
    are in separate modules; the order of the parameters is the same.
    """

    def __init__(self, kinds: frozenset[str], separate: bool = False):
        super().__init__()
        bias = "bias" in kinds and not separate
        separate = "bias" in kinds and separate
        if "convolution" in kinds:
            self.conv = nn.Conv2d(2, 4, 3, bias=False)
            self.norm = nn.GroupNorm(2, 4) if "norm" in kinds else nn.Identity()
            self.conv2 = nn.Conv2d(4, 6, 2, bias=bias)
            self.conv2_shift = Shift(6) if separate else nn.Identity()
        else:
            self.stem = nn.Linear(50, 6, bias=False)
        if "vector" in kinds:
            self.embedding = nn.Embedding(4, 6)
            self.shift = nn.Parameter(torch.zeros(6))
        self.linear = nn.Linear(6, 7, bias=bias)
        self.linear_shift = Shift(7) if separate else nn.Identity()
        self.head = nn.Linear(7, CLASSES, bias=False)
        if "scalar" in kinds:
            self.scale = nn.Parameter(torch.tensor(0.0))
        self.kinds = kinds

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits, `[batch, CLASSES]`."""
        if "convolution" in self.kinds:
            maps = torch.tanh(self.norm(self.conv(images)))
            features = self.conv2_shift(self.conv2(maps)).mean((2, 3))
        else:
            features = self.stem(images.flatten(1))
        if "vector" in self.kinds:
            features = features + self.embedding(tokens) + self.shift
        logits = self.head(torch.tanh(self.linear_shift(self.linear(features))))
        return logits * self.scale if "scalar" in self.kinds else logits


@dataclass(frozen=True)
class Batch:
    """Images, tokens and labels of one step."""

    images: Tensor
    tokens: Tensor
    labels: Tensor

    def loss(self, model: nn.Module) -> Tensor:
        """Return the mean cross-entropy."""
        return F.cross_entropy(model(self.images, self.tokens), self.labels)


@dataclass(frozen=True)
class Problem:
    """A model and its batches; equal values give equal numbers.

    Attributes:
        contents: A key of `CONTENTS`.
        steps: The number of steps.
        seed: Seed of the weights and the batches.
        separate: Put the biases into separate modules.
    """

    contents: str
    steps: int = 20
    seed: int = 0
    separate: bool = False

    def model(self) -> Network:
        """Return a new model in float64. No parameter is zero, so that each weight decay shows."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            model = Network(CONTENTS[self.contents], self.separate).double()
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(0.5 * noise + (1.0 if parameter.dim() < 2 else 0.0))
        return model

    def batches(self) -> list[Batch]:
        """Return a batch for each step. Their scales differ, so that the gradients' sizes do."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        scales = (1.0, 2.0, 0.5, 1.5, 0.25)
        return [
            Batch(
                scales[step % len(scales)]
                * torch.randn(BATCH, 2, 5, 5, generator=generator, dtype=torch.float64),
                torch.randint(4, (BATCH,), generator=generator),
                torch.randint(CLASSES, (BATCH,), generator=generator),
            )
            for step in range(self.steps)
        ]
