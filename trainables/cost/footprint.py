"""Memory of a contestant: exact bytes of its state, and the peak of a process that does nothing else."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from precond.bank import named_tensors
from precond.optimizer import Preconditioned
from trainables.cost.contestants import Contestant
from trainables.train import peak_memory_mb, reset_peak_memory

MIB = 2**20


def state_bytes(contestant: Contestant) -> dict[str, int]:
    """Return bytes by purpose: `rule` (such as momentum), `algorithm`, `gradient_buffer`, and all `weights`."""
    optimizer = contestant.optimizer
    banks = optimizer._banks if isinstance(optimizer, Preconditioned) else []
    return {
        "rule": sum(map(_bytes, _tensors(dict(optimizer.state)))),
        "algorithm": sum(_bytes(tensor) for bank in banks for _, tensor in named_tensors(bank.state)),
        "gradient_buffer": sum(_bytes(bank.buffer) for bank in banks),
        "weights": sum(map(_bytes, contestant.model.parameters())),
    }


def peak_bytes(contestant: Contestant, batch: tuple[Tensor, Tensor]) -> int:
    """Return the peak of steps of every kind, in a process that has done nothing else with this device.

    On a GPU that is the allocator's peak; on a CPU it is the resident high-water mark of the process, reset before.
    """
    device = batch[0].device
    contestant.warm_up(batch)
    _return_free_memory()
    reset_peak_memory(device)
    contestant.warm_up(batch)
    return round(peak_memory_mb(device) * MIB)


def _return_free_memory() -> None:
    """Make glibc return free memory to the system, or the mark would start at the peak of the warm-up."""
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
