"""Memory of a contestant: exact bytes of its state, and the peak of a process that does nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from precond.bank import named_tensors
from precond.optimizer import Preconditioned
from trainables.cost.contestants import Contestant
from trainables.train import peak_memory_mb, reset_peak_memory

MIB = 2**20


def state_bytes(contestant: Contestant) -> dict[str, int]:
    """Bytes by what they are for: `rule` (momentum and the like), `algorithm`, `gradient_buffer`, and all weights."""
    optimizer = contestant.optimizer
    banks = optimizer._banks if isinstance(optimizer, Preconditioned) else []
    return {
        "rule": sum(map(_bytes, _tensors(dict(optimizer.state)))),
        "algorithm": sum(_bytes(tensor) for bank in banks for _, tensor in named_tensors(bank.state)),
        "gradient_buffer": sum(_bytes(bank.buffer) for bank in banks),
        "weights": sum(map(_bytes, contestant.model.parameters())),
    }


def peak_bytes(contestant: Contestant, batch: tuple[Tensor, Tensor]) -> int:
    """Peak while training steps of every kind, in a process that has done nothing else with this device.

    On a GPU what the allocator gave out; on a CPU the resident high-water mark, reset before, of the whole process.
    """
    device = batch[0].device
    contestant.warm_up(batch)
    _return_free_memory()
    reset_peak_memory(device)
    contestant.warm_up(batch)
    return round(peak_memory_mb(device) * MIB)


def _return_free_memory() -> None:
    """Let glibc give the system what is free, or the mark would start at the peak of the warm-up."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another libc
        return


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
