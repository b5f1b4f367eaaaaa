"""A trial's optimizer, parameter groups and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

import precond
from trainables.config import TrialConfig, stream_seed
from trainables.recipes import SCHEDULES
from trainables.settings import NEUTRAL

# Factor of the learning rate at the first step, as in the NysAct paper's code for ImageNet.
WARMUP_START = 0.01
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def build_optimizer(config: TrialConfig, model: nn.Module) -> Optimizer:
    """Return the trial's optimizer; its random numbers are seeded by the trial's seed."""
    seed: dict[str, Any] = {}
    if "seed" in precond.defaults(config.optimizer):
        seed = {"seed": stream_seed(config.seed, "optimizer")}
    groups = parameter_groups(model, config.settings.get("decay_exempt", NEUTRAL["decay_exempt"]))
    return precond.build(config.optimizer, model, params=groups, **config.hyperparameters, **seed)


def parameter_groups(model: nn.Module, decay_exempt: str) -> list[dict[str, Any]] | None:
    """Return two parameter groups, the second without weight decay, or None if one would be empty.

    Args:
        model: The model.
        decay_exempt: The parameters of the second group. `nothing`: none. `norm`: those of the
            normalisation layers. `vectors`: all parameters except the weights of linear layers,
            convolutions and embeddings.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    modules = list(model.modules())
    if decay_exempt == "norm":
        exempt = {p for module in modules if isinstance(module, NORMS) for p in module.parameters()}
    elif decay_exempt == "vectors":
        matrices = {module.weight for module in modules if isinstance(module, MATRICES)}
        exempt = set(trainable) - matrices
    else:
        return None
    groups = [[p for p in trainable if p not in exempt], [p for p in trainable if p in exempt]]
    if not all(groups):
        return None
    return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]


def schedule(name: str, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Return a function that maps a step to the factor of the learning rate, for `LambdaLR`.

    Args:
        name: `cosine` or `constant`.
        steps: Number of steps of the training, including the warm-up.
        warmup: Number of steps in which the factor rises linearly from `WARMUP_START` to 1. The
            schedule begins after these steps.

    Raises:
        ValueError: The schedule is unknown.
    """
    if name not in SCHEDULES:
        raise ValueError(f'schedule = "{name}": must be {" or ".join(SCHEDULES)}')
    after = steps - warmup

    def factor(step: int) -> float:
        if step < warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / warmup
        if name == "constant":
            return 1.0
        return (1 + math.cos(math.pi * min(step - warmup, after) / after)) / 2

    return factor
