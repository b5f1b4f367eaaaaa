"""The benchmark of an optimizer's cost in time and memory relative to a baseline; docs/cost.md describes the method.

Contestants take turns in blocks B X X B. The result is the median ratio X / B with an interval, the share of each kind
of step, the peak of memory and the bytes of the state.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import precond
from precond.bank import named_tensors
from precond.optimizer import Preconditioned
from trainables.cost.contestants import Batch, Clock, Contestant, build
from trainables.cost.files import configuration
from trainables.cost.race import evaluation_seconds, race
from trainables.cost.released import PREFIX, build_released
from trainables.measure import peak_memory_mb, reset_peak_memory
from trainables.workloads import workload

ALSO_AGAINST_ADAM = ("steve", "ekfac")
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Setting(NamedTuple):
    """Everything that all contestants share."""

    workload: str
    batch_size: int
    device: torch.device
    channels_last: bool
    stated: Mapping[str, Any]
    reference: Path | None
    as_released: bool = False

    def model(self) -> nn.Module:
        """Return a new model on the device, with the same initial weights in each call."""
        chosen = workload(self.workload)
        torch.manual_seed(0)
        model = chosen.build(chosen.settings({})).to(self.device).train()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def batch(self) -> Batch:
        """Return synthetic images and labels on the device."""
        chosen = workload(self.workload)
        classes, channels, side, _ = chosen.fit(chosen.settings({}))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, channels, side, side, generator=generator).to(
            self.device
        )
        labels = torch.randint(classes, (self.batch_size,), generator=generator).to(self.device)
        return images.to(
            memory_format=torch.channels_last
        ) if self.channels_last else images, labels

    def contestant(self, name: str) -> Contestant:
        """Return a registered or released optimizer with a new model."""
        if name.startswith(PREFIX):
            assert self.reference is not None
            registered = name.removeprefix(PREFIX)
            return build_released(registered, self.model(), self.known(registered), self.reference)
        return build(name, self.model(), self.known(name))

    def known(self, name: str) -> dict[str, Any]:
        """Return the recipe's hyperparameters of an optimizer, overridden by the stated ones that it has."""
        defaults = precond.defaults(name)
        stated = {key: value for key, value in self.stated.items() if key in defaults}
        known = {**workload(self.workload).recipe.hyperparameters(name, self.as_released), **stated}
        # As in a trial's configuration, where 1 and 1.0 are the same damping.
        return {
            key: float(v) if isinstance(defaults[key], float) and type(v) is int else v
            for key, v in known.items()
        }

    def configuration(self, name: str) -> dict[str, Any]:
        """Return everything that decides the cost of a registered or released optimizer."""
        hyperparameters = {
            **precond.defaults(name.removeprefix(PREFIX)),
            **self.known(name.removeprefix(PREFIX)),
        }
        resolution = workload(self.workload).settings({}).get("resolution")
        execution = {"channels_last": self.channels_last, "resolution": resolution}
        return configuration(self.workload, name, hyperparameters, self.batch_size, **execution)


def measure(setting: Setting, name: str, blocks: int, repeat: int, clock: Clock) -> dict[str, Any]:
    """Return the seconds of an optimizer's step and evaluation, and its races against the baselines."""
    batch = setting.batch()
    against, evaluation = {}, math.nan
    for rival in ("sgd", *(["adam"] if name in ALSO_AGAINST_ADAM else [])):
        base, other = setting.contestant(rival), setting.contestant(name)
        base.warm_up(batch)
        other.warm_up(batch)
        against[rival] = race(base, other, batch, blocks, repeat, clock)
        evaluation = evaluation_seconds(other, batch, clock)
    return {
        "step_seconds": against["sgd"]["step_seconds"],
        "evaluation_seconds_per_example": evaluation,
        "against": against,
    }


def footprint(setting: Setting, name: str) -> dict[str, Any]:
    """Return the exact bytes of an optimizer's state, and the peak over steps of every kind.

    This process must do nothing else with the device. On a GPU the peak is the allocator's; on a CPU it is the resident
    high-water mark of the process, which is reset before.
    """
    contestant, batch = setting.contestant(name), setting.batch()
    contestant.warm_up(batch)
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(
            0
        )  # return free memory: else the mark would start at the peak of the warm-up
    reset_peak_memory(setting.device)
    contestant.warm_up(batch)
    return {
        "peak_bytes": round(peak_memory_mb(setting.device) * 2**20),
        "state_bytes": state_bytes(contestant),
    }


def state_bytes(contestant: Contestant) -> dict[str, int]:
    """Return bytes by purpose: `rule` (such as momentum), `algorithm`, `gradient_buffer`, and all `weights`."""
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
    parts = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return [tensor for part in parts for tensor in _tensors(part)]
