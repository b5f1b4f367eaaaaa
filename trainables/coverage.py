"""The share of a trial's model that its optimizer preconditions, without data or training."""

from __future__ import annotations

import torch

import precond
from precond import HyperparameterError
from trainables.config import TrialConfig, digest
from trainables.data import DataError
from trainables.descent import build_optimizer
from trainables.workloads import workload

_known: dict[str, precond.Coverage | None] = {}


def coverage(config: TrialConfig) -> precond.Coverage | None:
    """Return the layers and parameters that a trial's optimizer preconditions.

    The optimizer is built for the model on the meta device, which allocates no memory, and once for
    all trials with the same model and hyperparameters.

    Returns:
        The numbers; None if the optimizer does not distinguish layers, as SGD, or if they are not
        known: a user's data do not exist here, or a plugin's optimizer needs the values of weights.
    """
    model = config.workload, config.settings, config.plugin
    key = digest([*model, config.optimizer, config.hyperparameters])
    if key not in _known:
        _known[key] = _coverage(config)
    return _known[key]


def _coverage(config: TrialConfig) -> precond.Coverage | None:
    try:
        chosen = workload(config.workload)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = chosen.model.build(chosen.fit(config.settings))
        return precond.coverage(build_optimizer(config, model))
    except (HyperparameterError, DataError):
        return None
    except Exception:
        if config.plugin is None:
            raise
        return None
