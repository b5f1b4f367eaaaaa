"""A trial trained by several processes, which share each batch: `TrialConfig.workers`.

Every process runs the same loop (`train.py`) with the `Team` of its process group; a single process is a team of one.
The numbers are those of one process with the same batches, up to the order of sums, with three exceptions: batch
normalisation, Mixup and CutMix see only a process's share, and each process draws other dropout masks. Rank 0 writes
the folder.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from precond.optimizer import Preconditioned
from trainables.data.base import share
from trainables.store import TrialStore

TIMEOUT = datetime.timedelta(minutes=10)  # of one collective: an evaluation is far shorter


@dataclass(frozen=True)
class Team:
    """The processes of a trial.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """Return the team of the default process group, or of this process alone."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose backward averages the gradients over the team."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def weight(self, batch_size: int) -> float:
        """Return the factor of this process's mean loss that makes the team's average the mean over the whole batch."""
        mine = share(0, batch_size, self.rank, self.size)
        return (mine.stop - mine.start) * self.size / batch_size

    def tell(self, optimizer: torch.optim.Optimizer, weight: float) -> None:
        """Tell an optimizer that uses output gradients the weight of the loss."""
        if self.size > 1 and isinstance(optimizer, Preconditioned):
            optimizer.grad_output_scale = weight

    def total(self, value: Tensor) -> Tensor:
        """Sum over the team, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def copy_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers to all, as before every forward in training; rank 0's are saved."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def lost(self, error: BaseException) -> bool:
        """Return True if an error means that another process of the team has ended; the trial did not cause it."""
        words = str(error)
        return self.size > 1 and (
            isinstance(error, dist.DistError) or "gloo/transport" in words or "NCCL" in words
        )

    def leave(self) -> None:
        """Leave the team: the other processes, which wait for this one in a collective, end with an error."""
        if self.size > 1:
            dist.destroy_process_group()

    def store(self, store: TrialStore) -> TrialStore:
        """Return the trial's folder as this process may use it."""
        return store if self.size == 1 else TeamStore(store, self.rank)


ALONE = Team()


def _on_first(method: Callable[..., None]) -> Callable[..., None]:
    """Return a method of `TeamStore` that calls `method` on rank 0 and does nothing on the other ranks."""

    @wraps(method)
    def call(self: TeamStore, *arguments: Any, **keywords: Any) -> None:
        if self._first:
            method(self, *arguments, **keywords)

    return call


class TeamStore(TrialStore):
    """A trial folder that several processes use: all of them read it, and rank 0 alone writes."""

    def __init__(self, store: TrialStore, rank: int):
        super().__init__(store.root, store.config, store.generation, store.nodes)
        self._first = rank == 0

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """Open an attempt on rank 0, and return its result on all ranks."""
        return _from_first(super().begin(provenance) if self._first else None)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest checkpoint; rank 0 loads first, because it may move damaged checkpoints away."""
        loaded = super().load() if self._first else None
        _from_first(None)
        return loaded if self._first else super().load()

    record = _on_first(TrialStore.record)
    commit = _on_first(TrialStore.commit)
    finish = _on_first(TrialStore.finish)
    log = _on_first(TrialStore.log)


def _from_first(value: Any) -> Any:
    """Wait for all ranks, then return rank 0's value on each of them."""
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def spawn(target: Any, size: int, device: str, *arguments: Any) -> None:
    """Run `target(*arguments)` in a team of `size` new processes on this machine, and wait for them.

    Raises:
        torch.multiprocessing.ProcessRaisedException: One of them raised; all have ended.
    """
    with tempfile.TemporaryDirectory(prefix="team-") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        torch.multiprocessing.spawn(_join, (target, size, device, meeting, arguments), nprocs=size)


def _join(
    rank: int, target: Any, size: int, device: str, meeting: str, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=meeting, rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        target(*arguments)
    finally:
        dist.destroy_process_group()
    # DistributedDataParallel keeps the group, whose threads can abort a process at the interpreter's shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
