"""Real trials on the digits without Ray: kills at random moments, and losses that are not finite."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from studies.harness.command import lock
from studies.harness.design.arms import Arm, Trial
from studies.harness.evidence.status import missing
from tests.faults.injection import DONE, in_child
from tests.faults.invariants import finished, numbers
from trainables import train, workloads
from trainables.config import TrialConfig
from trainables.data import digits
from trainables.store import DIVERGED, TrialStore

OPTIMIZERS = ("nysact-g", "sgd", "foof", "nysact-s", "kfac", "eva", "ekfac", "steve")
EPOCHS, MOST_KILLS = 6, 4


def equal(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Kill n trials at random moments; resumed trials must equal uninterrupted ones bitwise.

    The metrics and the final weights are compared.
    """
    digits._tensors()  # read before the forks
    expected: dict[str, tuple[list[dict[str, float]], str]] = {}
    for number in range(n):
        config = _config(OPTIMIZERS[number % len(OPTIMIZERS)])
        key = config.trial_key
        if key not in expected:
            reference = folder / f"reference-{key[:8]}"
            assert in_child(partial(_session, reference, config, 0.0)) == DONE
            metrics = numbers(TrialStore(reference, config).folder)
            expected[key] = metrics, (reference / "weights").read_text()
        root, commit_every = folder / str(number), rng.choice([0.0, 0.0, 0.2, train.COMMIT_SECONDS])
        kills = rng.randint(1, MOST_KILLS)
        for _ in range(kills):
            in_child(partial(_session, root, config, commit_every, rng.uniform(0.05, 1.0)))
        code = in_child(partial(_session, root, config, commit_every))
        violations = [f"exit code {code}"] if code != DONE else []
        violations += finished(root, [config], {key: expected[key][0]})
        if not violations and (root / "weights").read_text() != expected[key][1]:
            violations.append("the final weights differ")
        description = f"{config.optimizer}, {kills} kills, commits every {commit_every} s"
        yield [f"{description}: {line}" for line in violations]
        shutil.rmtree(root)


def diverge(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """In n trials, set a weight to nan or infinity before the first, second ... epoch.

    The trial must get the status `diverged`, keep the epochs trained before, and not be trained
    again.
    """
    digits._tensors()
    for number in range(n):
        at, optimizer = number % EPOCHS, OPTIMIZERS[number % len(OPTIMIZERS)]
        config, value = _config(optimizer), rng.choice([torch.nan, torch.inf, -torch.inf])
        root = folder / str(number)

        def work(
            root: Path = root, config: TrialConfig = config, at: int = at, value: float = value
        ) -> None:
            class Poisoned(train.Trainer):
                def run_epoch(self, epoch: int) -> dict[str, float]:
                    if epoch == at:
                        next(self.model.parameters()).data.view(-1)[0] = value
                    return super().run_epoch(epoch)

            _session(root, config, 0.0, trainer=Poisoned)

        codes = [in_child(work) for _ in range(2)]
        store = TrialStore(root, config)
        status = store.status() or {}
        violations = [] if codes == [DONE, DONE] else [f"exit codes {codes}"]
        if (status.get("status"), status.get("epoch"), len(store.epochs())) != (DIVERGED, at, at):
            violations.append(f"{status} after {len(store.epochs())} epochs")
        if len((store.folder / "attempts.jsonl").read_text().splitlines()) != 1:
            violations.append("the trial was trained again")
        if missing([Trial(Arm(optimizer=optimizer), config)], root):
            violations.append("the trial counts as missing")
        yield [f"{optimizer}, {value} before epoch {at}: {line}" for line in violations]


def _config(optimizer: str) -> TrialConfig:
    return workloads.resolve("digits/cnn", optimizer, {}, recipe={"epochs": EPOCHS})


def _session(
    root: Path,
    config: TrialConfig,
    commit_every: float,
    seconds: float | None = None,
    trainer: type[train.Trainer] = train.Trainer,
) -> None:
    """Train a trial, and write the digest of its final weights to the file `weights`.

    The process is killed by SIGALRM after `seconds`, if they are set.
    """

    class RecordingTrainer(trainer):
        def run_epoch(self, epoch: int) -> dict[str, float]:
            metrics = super().run_epoch(epoch)
            if epoch == self.config.epochs - 1:
                buffer = io.BytesIO()
                torch.save(dict(self.model.state_dict()), buffer)
                (root / "weights").write_text(hashlib.sha256(buffer.getvalue()).hexdigest())
            return metrics

    train.Trainer = RecordingTrainer  # type: ignore[misc]
    torch.set_num_threads(1)
    if seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # without a handler, the signal kills
        signal.setitimer(signal.ITIMER_REAL, seconds)
    with lock.exclusive(root) as generation:
        store = TrialStore(root, config, generation)
        store.create()
        for _ in train.epochs(config, store, commit_every=commit_every):
            pass
