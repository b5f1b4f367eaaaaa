"""A trial trained by several processes, which share each batch: `TrialConfig.workers`.

Every process runs the one loop (`train.py`) with a `Team` of its process group, which is a team of one elsewhere. The
numbers are those of one process with the same batches, up to the order of sums. The exceptions: batch normalisation
and Mixup or CutMix, which see a process's share only, and dropout, whose masks are each process's own. Rank 0 writes
the folder.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from precond.optimizer import Preconditioned
from trainables.data import share
from trainables.store import TrialStore

TIMEOUT = datetime.timedelta(minutes=10)  # of one collective: an evaluation is far shorter


@dataclass(frozen=True)
class Team:
    """The processes of a trial.

    Attributes:
        rank: This one's number.
        size: How many they are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Team:
        """That of the default process group, or this process alone."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def wrap(self, model: nn.Module) -> nn.Module:
        """A model whose backward averages the gradients over the team."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def weight(self, batch_size: int) -> float:
        """What this process's mean loss is multiplied by, so that their average is the mean over the whole batch."""
        mine = share(0, batch_size, self.rank, self.size)
        return (mine.stop - mine.start) * self.size / batch_size

    def tell(self, optimizer: torch.optim.Optimizer, weight: float) -> None:
        """Let an optimizer that uses output gradients know the loss's weight."""
        if self.size > 1 and isinstance(optimizer, Preconditioned):
            optimizer.grad_output_scale = weight

    def total(self, value: Tensor) -> Tensor:
        """The sum over the team, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def copy_buffers(self, model: nn.Module) -> None:
        """Rank 0's buffers for all, as before every forward in training: it is rank 0's that are saved."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def lost(self, error: BaseException) -> bool:
        """Whether an error says that another of these processes is gone: no fault of the trial, nor of this process."""
        words = str(error)
        return self.size > 1 and (isinstance(error, dist.DistError) or "gloo/transport" in words or "NCCL" in words)

    def leave(self) -> None:
        """Break off: the others, which wait for this process's part of a sum, end with an error."""
        if self.size > 1:
            dist.destroy_process_group()

    def store(self, store: TrialStore) -> TrialStore | TeamStore:
        """A trial's folder as this process may use it."""
        return store if self.size == 1 else TeamStore(store, self.rank)


ALONE = Team()


class TeamStore:
    """A trial folder with several processes at it: all read, rank 0 writes, and the others wait where they must."""

    def __init__(self, store: TrialStore, rank: int):
        self._store, self._first = store, rank == 0

    @property
    def root(self) -> Path:
        """The output folder."""
        return self._store.root

    def status(self) -> dict[str, Any] | None:
        """As in `TrialStore`."""
        return self._store.status()

    def epochs(self) -> list[dict[str, Any]]:
        """As in `TrialStore`."""
        return self._store.epochs()

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """As in `TrialStore`; the others get rank 0's answer when it has put the folder in order."""
        return _from_first(self._store.begin(provenance) if self._first else None)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """As in `TrialStore`; rank 0 goes first, since it may put damaged checkpoints away."""
        loaded = self._store.load() if self._first else None
        _from_first(None)
        return loaded if self._first else self._store.load()

    def record(self, epoch: int, metrics: Mapping[str, float], layers: Sequence[dict[str, Any]] = ()) -> None:
        """As in `TrialStore`, by rank 0."""
        if self._first:
            self._store.record(epoch, metrics, layers)

    def commit(self, state: Mapping[str, Any]) -> None:
        """As in `TrialStore`, by rank 0."""
        if self._first:
            self._store.commit(state)

    def finish(self, status: str, **details: Any) -> None:
        """As in `TrialStore`, by rank 0."""
        if self._first:
            self._store.finish(status, **details)

    def log(self, message: str) -> None:
        """As in `TrialStore`, by rank 0."""
        if self._first:
            self._store.log(message)


def _from_first(value: Any) -> Any:
    """Rank 0's value, on all, when all have come here."""
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


def _join(rank: int, target: Any, size: int, device: str, meeting: str, arguments: tuple[Any, ...]) -> None:
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
    # DistributedDataParallel keeps the group, and its threads now and then abort a process whose interpreter ends.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
