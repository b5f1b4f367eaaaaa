"""A trial's optimizer and its learning rate over the steps."""

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

WARMUP_START = 0.01  # factor of the learning rate at the first step, as in the NysAct paper's code for ImageNet
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def build_optimizer(config: TrialConfig, model: nn.Module) -> Optimizer:
    """Return the trial's optimizer; its random numbers are seeded with the trial's seed."""
    seed = (
        {"seed": stream_seed(config.seed, "optimizer")}
        if "seed" in precond.defaults(config.optimizer)
        else {}
    )
    groups = parameter_groups(model, config.settings.get("decay_exempt", NEUTRAL["decay_exempt"]))
    return precond.build(config.optimizer, model, params=groups, **config.hyperparameters, **seed)


def parameter_groups(model: nn.Module, decay_exempt: str) -> list[dict[str, Any]] | None:
    """Return two parameter groups, the second without weight decay; None if one of them would be empty.

    Args:
        model: The model.
        decay_exempt: The parameters of the second group: `nothing`, those of `norm` layers, or all `vectors`, which are
            all but the weights of linear layers, convolutions and embeddings.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_exempt == "norm":
        spared = {
            p
            for module in model.modules()
            if isinstance(module, NORMS)
            for p in module.parameters()
        }
    elif decay_exempt == "vectors":
        spared = set(trainable) - {
            module.weight for module in model.modules() if isinstance(module, MATRICES)
        }
    else:
        return None
    groups = [[p for p in trainable if p not in spared], [p for p in trainable if p in spared]]
    return (
        [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}] if all(groups) else None
    )


def schedule(name: str, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Return a function of the step, whose value is the factor of the learning rate.

    Args:
        name: `cosine` or `constant`.
        steps: Steps of the whole run, the warm-up included.
        warmup: Steps in which the factor rises linearly from `WARMUP_START` to 1, before the schedule begins.

    Raises:
        ValueError: Unknown schedule.
    """
    if name not in SCHEDULES:
        raise ValueError(f'schedule = "{name}": must be {" or ".join(SCHEDULES)}')
    after = steps - warmup

    def factor(step: int) -> float:
        if step < warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / warmup
        return (
            (1 + math.cos(math.pi * min(step - warmup, after) / after)) / 2
            if name == "cosine"
            else 1.0
        )

    return factor
