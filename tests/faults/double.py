"""Run the same command twice at the same time, in processes that wait instead of training."""

from __future__ import annotations

import os
import random
import select
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import studies.harness.cluster
from studies.ablation_rank import STUDY
from studies.harness.command import reports
from studies.harness.command.run import run_command
from tests.faults.drivers import PATIENCE, options
from tests.faults.injection import forked
from trainables.store import lock_generation

LOSER_SHARE = 1.5  # of the CPU time of a command that only plans


def double(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Start the same command twice within 0.2 s, n times.

    One command trains. The other command, the loser, must exit immediately and write nothing. The
    training lasts until the loser has ended, so that the commands overlap even on a busy machine.
    For the same reason, the CPU time of the loser is measured, not its wall time, and compared with
    that of the same command with `dry_run`, which differs from machine to machine.
    """
    limit = LOSER_SHARE * _planning_seconds(folder / "planned")
    for number in range(n):
        root = folder / str(number)
        delays = [0.0, rng.uniform(0, 0.2)]
        reading, writing = os.pipe()
        children = [
            forked(lambda d=delay, r=root, p=(reading, writing): _command(r, d, *p))
            for delay in delays
        ]
        os.close(reading)
        ended = {}
        while len(ended) < 2:
            pid, status, used = os.wait4(-1, 0)
            if not ended:
                os.close(writing)
            ended[pid] = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        codes = {pid: code for pid, (code, _) in ended.items()}
        violations = []
        if sorted(codes.values()) != [0, 4]:
            violations.append(f"exit codes {sorted(codes.values())}")
        losers = [pid for pid in children if codes[pid] == 4]
        lock = (root / ".lock").read_text()
        for pid in losers:
            if ended[pid][1] > limit:
                violations.append(f"the loser took {ended[pid][1]:.1f} s of at most {limit:.1f} s")
            if f'"pid": {pid},' in lock:
                violations.append("the loser wrote the lock")
        if (generation := lock_generation(root)) != 1:
            violations.append(f"generation {generation}")
        yield violations


def _planning_seconds(root: Path) -> float:
    """Return the CPU time of a command that plans, does not time any step and starts nothing."""
    pid = forked(lambda: _plan(root))
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("the command with dry_run failed")
    return used.ru_utime + used.ru_stime


def _plan(root: Path) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    return run_command([STUDY], replace(options(root), dry_run=True, as_json=True))


def _command(root: Path, delay: float, reading: int, writing: int) -> int:
    """Run a study's command and return its exit code.

    Its training waits until the writing end of the pipe is closed in all processes.
    """
    os.close(writing)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)

    def train(*_: object, **__: object) -> str:
        select.select([reading], [], [], PATIENCE)
        return "done"

    fake: Any = types.SimpleNamespace(train=train)
    sys.modules["studies.harness.cluster.execute"] = studies.harness.cluster.execute = fake
    reports.Reports.write = lambda self: False
    time.sleep(delay)
    return run_command([STUDY], options(root))
