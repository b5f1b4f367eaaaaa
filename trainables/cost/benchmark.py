"""The benchmark of an optimizer's cost in time and memory relative to a baseline.

docs/cost.md describes the method. The baseline B and the optimizer X are timed in turns, in blocks
B X X B. The result is the median ratio X / B with its interval, the additional time of each kind of
step (`contestants.py`), the peak memory and the bytes of the state.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import precond
from precond.optimizer import Preconditioned
from precond.parts.stacks import named_tensors
from trainables.cost.contestants import Batch, Clock, Contestant, build
from trainables.cost.files import configuration
from trainables.cost.race import evaluation_seconds, race
from trainables.cost.released import PREFIX, build_released
from trainables.measure import peak_memory_mb, reset_peak_memory
from trainables.workloads import workload

ALSO_AGAINST_ADAM = ("steve", "ekfac")
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Setting(NamedTuple):
    """The configuration that all contestants share.

    Attributes:
        workload: `DATASET/MODEL`.
        batch_size: Examples per step.
        device: The device of the model and the batch.
        channels_last: True for the channels_last memory format.
        overrides: Hyperparameters that replace the recipe's values, for the optimizers that have
            them.
        reference: A checkout of the NysAct authors' repository, or None.
        as_released: True for the as-released variant of the recipe.
    """

    workload: str
    batch_size: int
    device: torch.device
    channels_last: bool
    overrides: Mapping[str, Any]
    reference: Path | None
    as_released: bool = False

    def model(self) -> nn.Module:
        """Return a new model on the device, with the same initial weights in each call."""
        definition = workload(self.workload)
        torch.manual_seed(0)
        model = definition.build(definition.settings({})).to(self.device).train()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def batch(self) -> Batch:
        """Return random inputs and targets, or examples of a plugin's data, on the device."""
        definition = workload(self.workload)
        batch = definition.random_batch(self.batch_size, definition.settings({}))
        return tree_map(self._placed, batch)

    def _placed(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, and in the memory format if it contains images."""
        is_image = self.channels_last and tensor.dim() == 4
        layout = torch.channels_last if is_image else torch.preserve_format
        return tensor.to(self.device, memory_format=layout)

    def contestant(self, name: str) -> Contestant:
        """Return a registered or released optimizer with a new model."""
        registered = name.removeprefix(PREFIX)
        arguments = registered, self.model(), self.hyperparameters(registered)
        if name == registered:
            contestant = build(*arguments)
        else:
            assert self.reference is not None
            contestant = build_released(*arguments, self.reference)
        return replace(contestant, task=workload(self.workload).task)

    def hyperparameters(self, name: str) -> dict[str, Any]:
        """Return an optimizer's hyperparameters: the recipe's values, updated with `overrides`."""
        defaults, recipe = precond.defaults(name), workload(self.workload).recipe
        values = {
            **recipe.hyperparameters(name, self.as_released),
            **{key: value for key, value in self.overrides.items() if key in defaults},
        }
        # A trial's configuration treats 1 and 1.0 as the same damping, and so must the file's name.
        return {
            key: float(v) if isinstance(defaults[key], float) and type(v) is int else v
            for key, v in values.items()
        }

    def configuration(self, name: str) -> dict[str, Any]:
        """Return all values that determine the cost of a registered or released optimizer."""
        registered = name.removeprefix(PREFIX)
        hyperparameters = {**precond.defaults(registered), **self.hyperparameters(registered)}
        resolution = workload(self.workload).settings({}).get("resolution")
        execution = {"channels_last": self.channels_last, "resolution": resolution}
        return configuration(self.workload, name, hyperparameters, self.batch_size, **execution)


def measure(setting: Setting, name: str, blocks: int, repeat: int, clock: Clock) -> dict[str, Any]:
    """Return the seconds of an optimizer's step and evaluation, and its cost relative to baselines.

    The baselines are SGD and, for the optimizers in `ALSO_AGAINST_ADAM`, Adam.
    """
    batch = setting.batch()
    against, evaluation = {}, math.nan
    for baseline in ("sgd", *(["adam"] if name in ALSO_AGAINST_ADAM else [])):
        base, contestant = setting.contestant(baseline), setting.contestant(name)
        base.warm_up(batch)
        contestant.warm_up(batch)
        against[baseline] = race(base, contestant, batch, blocks, repeat, clock)
        evaluation = evaluation_seconds(contestant, batch, clock)
    return {
        "step_seconds": against["sgd"]["step_seconds"],
        "evaluation_seconds_per_example": evaluation,
        "against": against,
    }


def footprint(setting: Setting, name: str) -> dict[str, Any]:
    """Return the exact bytes of an optimizer's state, and the peak memory over all kinds of steps.

    This process must not use the device for anything else. On a GPU the peak is that of torch's
    allocator. On a CPU it is the peak resident memory of the process, which is reset first.
    """
    contestant, batch = setting.contestant(name), setting.batch()
    contestant.warm_up(batch)
    # Return free memory to the system, or the measurement would start at the peak of the warm-up.
    with suppress(AttributeError, OSError):  # only glibc has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    reset_peak_memory(setting.device)
    contestant.warm_up(batch)
    return {
        "peak_bytes": round(peak_memory_mb(setting.device) * 2**20),
        "state_bytes": state_bytes(contestant),
    }


def state_bytes(contestant: Contestant) -> dict[str, int]:
    """Return the bytes of a contestant's tensors by purpose.

    Returns:
        The bytes of `rule` (the update rule's state, such as momentum), `algorithm` (the
        preconditioners' state), `gradient_buffer` and `weights`.
    """
    optimizer = contestant.optimizer
    banks = optimizer._banks if isinstance(optimizer, Preconditioned) else []
    return {
        "rule": sum(tensor.nbytes for tensor in _tensors(dict(optimizer.state))),
        "algorithm": sum(
            tensor.nbytes for bank in banks for _, tensor in named_tensors(bank.state)
        ),
        "gradient_buffer": sum(bank.buffer.nbytes for bank in banks),
        "weights": sum(parameter.nbytes for parameter in contestant.model.parameters()),
    }


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
