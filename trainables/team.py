"""Training of a trial by several processes that share each batch (`TrialConfig.workers`).

Every process runs the same loop (`train.py`) with the `Team` of its process group; a single process
is a team of size 1. Rank 0 writes the trial folder. Up to the order of summation, the results equal
those of a single process with the same batches, with two exceptions. Each process applies batch
normalisation, Mixup and CutMix to its share of the batch, and draws its own dropout masks.
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

from precond import HyperparameterError
from precond.optimizer import Preconditioned
from trainables.data.order import share
from trainables.store import StoreError, TrialStore

TIMEOUT = datetime.timedelta(minutes=10)  # of a collective operation; an evaluation is far shorter


@dataclass(frozen=True)
class Team:
    """The processes that train a trial.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Team:
        """Return the team of the default process group, or a team of size 1 without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose backward pass averages the gradients over the team."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def weight(self, batch_size: int) -> float:
        """Return the factor by which this process multiplies its mean loss.

        The average of the weighted losses over the team is then the mean over the whole batch, even
        if the shares of the batch have different sizes.
        """
        indices = share(0, batch_size, self.rank, self.size)
        return (indices.stop - indices.start) * self.size / batch_size

    def set_loss_weight(self, optimizer: torch.optim.Optimizer, weight: float) -> None:
        """Pass the weight of the loss to optimizers that may use output gradients."""
        if self.size > 1 and isinstance(optimizer, Preconditioned):
            optimizer.grad_output_scale = weight

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over the team, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def copy_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0, which writes the checkpoints, to all processes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def lost_process(self, error: BaseException) -> bool:
        """Return True if the error means that another process of the team has ended."""
        message = str(error)
        return self.size > 1 and (
            isinstance(error, dist.DistError) or "gloo/transport" in message or "NCCL" in message
        )

    def leave(self) -> None:
        """Destroy the process group, so that processes that wait for this one end with an error."""
        if self.size > 1:
            dist.destroy_process_group()

    def store(self, store: TrialStore) -> TrialStore:
        """Return a store of the same trial folder in which only rank 0 writes."""
        return store if self.size == 1 else TeamStore(store, self.rank)


ALONE = Team()


def _on_first(method: Callable[..., None]) -> Callable[..., None]:
    """Return a method of `TeamStore` that calls `method` on rank 0 only."""

    @wraps(method)
    def call(self: TeamStore, *arguments: Any, **keywords: Any) -> None:
        if self._first:
            method(self, *arguments, **keywords)

    return call


class TeamStore(TrialStore):
    """A trial folder that all processes of a team read, and that only rank 0 writes."""

    def __init__(self, store: TrialStore, rank: int):
        super().__init__(store.root, store.config, store.generation, store.nodes)
        self._first = rank == 0

    def begin(self, provenance: Mapping[str, Any]) -> int:
        """Call `TrialStore.begin` on rank 0, and return its result on all ranks."""
        return _from_first(super().begin(provenance) if self._first else None)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest intact checkpoint.

        Rank 0 loads it before the other ranks, because it may move damaged checkpoints.
        """
        loaded = super().load() if self._first else None
        _from_first(None)
        return loaded if self._first else super().load()

    record = _on_first(TrialStore.record)
    commit = _on_first(TrialStore.commit)
    finish = _on_first(TrialStore.finish)
    log = _on_first(TrialStore.log)


def _from_first(value: Any) -> Any:
    """Wait for all ranks, and return the value of rank 0 on all of them."""
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def spawn(target: Any, size: int, device: str, *arguments: Any) -> None:
    """Run `target(*arguments)` in a team of `size` new local processes, and wait for them.

    Raises:
        StoreError: A process could not use the data, the plugin or the trial folder; all processes
            have ended.
        torch.multiprocessing.ProcessRaisedException: A process failed otherwise; all have ended.
    """
    with tempfile.TemporaryDirectory(prefix="team-") as name:
        folder = Path(name)
        try:
            torch.multiprocessing.spawn(
                _join, (target, size, device, folder, arguments), nprocs=size
            )
        except (
            torch.multiprocessing.ProcessRaisedException,
            torch.multiprocessing.ProcessExitedException,
        ) as error:
            problems = sorted(folder.glob("problem-*"))
            if not problems:
                raise
            raise StoreError(problems[0].read_text()) from error


def _join(
    rank: int, target: Any, size: int, device: str, folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(rank)
    address = (folder / "rendezvous").as_uri()
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=address, rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        target(*arguments)
    except (OSError, StoreError, HyperparameterError) as error:
        (folder / f"problem-{rank}").write_text(str(error))
        raise
    finally:
        dist.destroy_process_group()
    # Exit without the interpreter's shutdown: DistributedDataParallel keeps a reference to the
    # process group, whose threads can abort the process during this shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
