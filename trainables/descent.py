"""A trial's optimizer and its learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

import precond
from trainables.config import TrialConfig, stream_seed
from trainables.settings import NEUTRAL

WARMUP_START = 0.01  # share of the learning rate at the first step, as in the NysAct paper's code for ImageNet
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def build_optimizer(config: TrialConfig, model: nn.Module) -> Optimizer:
    """The trial's optimizer; the trial's seed seeds whatever it draws."""
    seed = {"seed": stream_seed(config.seed, "optimizer")} if "seed" in precond.defaults(config.optimizer) else {}
    exempt = config.settings.get("decay_exempt", NEUTRAL["decay_exempt"])
    return precond.build(
        config.optimizer, model, params=parameter_groups(model, exempt), **config.hyperparameters, **seed
    )


def parameter_groups(model: nn.Module, decay_exempt: str) -> list[dict[str, Any]] | None:
    """Parameter groups of which the second has no weight decay; None where one group is all there is.

    Args:
        model: The model.
        decay_exempt: What is in the second: `nothing`, the parameters of `norm` layers, or all `vectors`, which is
            everything but the weights of linear layers, convolutions and embeddings.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if decay_exempt == "norm":
        spared = {p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    elif decay_exempt == "vectors":
        spared = set(trainable) - {module.weight for module in model.modules() if isinstance(module, MATRICES)}
    else:
        return None
    groups = [[p for p in trainable if p not in spared], [p for p in trainable if p in spared]]
    return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}] if all(groups) else None


def schedule(name: str, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Factor of the learning rate at a step.

    Args:
        name: `cosine` or `constant`.
        steps: Of the whole run, the warm-up included.
        warmup: Steps in which the factor rises linearly from `WARMUP_START` to 1, before the schedule begins.

    Raises:
        ValueError: Unknown schedule.
    """
    after = steps - warmup
    shapes: Mapping[str, Callable[[int], float]] = {
        "cosine": lambda step: (1 + math.cos(math.pi * min(step, after) / after)) / 2,
        "constant": lambda step: 1.0,
    }
    if name not in shapes:
        raise ValueError(f'schedule = "{name}": must be cosine or constant')

    def factor(step: int) -> float:
        if step < warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / warmup
        return shapes[name](step - warmup)

    return factor
