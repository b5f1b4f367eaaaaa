"""The same command twice at once, in forked processes; only the training is not the real one."""

from __future__ import annotations

import os
import random
import select
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import studies.harness.cluster
from studies.ablation_rank import STUDY
from studies.harness.command import reports
from studies.harness.command.run import run
from tests.faults.drivers import PATIENCE, options
from tests.faults.injection import forked
from trainables.store import lock_generation

LOSER_SECONDS = 3


def double(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """G11: n times the same command twice within 0.2 s: one trains, the other gives up at once and writes nothing.

    The winner trains until the other has ended, so that on a busy machine, too, neither comes after the other. For the
    same reason the loser's seconds are the processor's.
    """
    for number in range(n):
        root = folder / str(number)
        waits = [0.0, rng.uniform(0, 0.2)]
        reading, writing = os.pipe()
        children = [
            forked(lambda w=wait, r=root, p=(reading, writing): _command(r, w, *p))
            for wait in waits
        ]
        os.close(reading)
        ended = {}
        while len(ended) < 2:
            pid, status, used = os.wait4(-1, 0)
            if not ended:
                os.close(writing)
            ended[pid] = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        codes = {pid: code for pid, (code, _) in ended.items()}
        wrong = [] if sorted(codes.values()) == [0, 4] else [f"exit codes {sorted(codes.values())}"]
        losers = [pid for pid in children if codes[pid] == 4]
        wrong += [
            f"the loser took {ended[p][1]:.1f} s" for p in losers if ended[p][1] > LOSER_SECONDS
        ]
        holder = (root / ".lock").read_text()
        wrong += (
            ["the loser wrote the lock"]
            if any(f'"pid": {pid},' in holder for pid in losers)
            else []
        )
        wrong += [] if lock_generation(root) == 1 else [f"generation {lock_generation(root)}"]
        yield wrong


def _command(root: Path, wait: float, reading: int, writing: int) -> int:
    """The command as a user runs it; its training waits until nobody can write into a pipe."""
    os.close(writing)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)

    def trains(*_: object, **__: object) -> str:
        select.select([reading], [], [], PATIENCE)
        return "done"

    fake: Any = types.SimpleNamespace(train=trains)
    sys.modules["studies.harness.cluster.execute"] = studies.harness.cluster.execute = fake
    reports.Reports.write = lambda self: False
    time.sleep(wait)
    return run([STUDY], options(root))
