"""Damaged, incomplete and failing files: the real store and training loop, a toy trainer, no Ray."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from studies.harness.command import lock
from tests.faults import toy
from tests.faults.injection import BROKEN, DONE, EIO, ENOSPC, KILL, Fault, in_child, operations
from tests.faults.invariants import damaged, finished, unfinished
from trainables.checkpoints import list_checkpoints
from trainables.config import TrialConfig
from trainables.store import TrialStore

Tries = Iterator[list[str]]
LINES = ("epochs.jsonl", "attempts.jsonl")


def corrupt(n: int, rng: random.Random, folder: Path) -> Tries:
    """Flip single bits (n tries) and truncate files (n / 10 tries) of the newest checkpoint.

    The store must detect each damage and load the older checkpoint.
    """
    [config] = toy.configs(1)
    root = folder / "damaged"
    intact = _stopped_trial(folder / "intact", config).folder
    *older, newest = list_checkpoints(intact)
    shutil.copytree(folder / "intact", root)
    store = TrialStore(root, config)
    checkpoint = store.folder / newest.name
    for number in range(n + n // 10):
        name = rng.choice(["state.pt", "state.pt", "manifest.json"])
        content = bytearray((newest / name).read_bytes())
        position = rng.randrange(len(content))
        if number < n:
            content[position] ^= 1 << rng.randrange(8)
            damage = f"bit flipped at byte {position} of {name}"
        else:
            del content[position:]
            damage = f"{name} truncated to {position} bytes"
        (checkpoint / name).write_bytes(content)
        loaded = _loaded_checkpoint(store)
        yield [] if loaded in [path.name for path in older] else [f"{damage}: {loaded}"]
        shutil.rmtree(store.folder)
        shutil.copytree(intact, store.folder)


def _loaded_checkpoint(store: TrialStore) -> str:
    """Return the name of the checkpoint that the store loads, or the error, or `none`."""
    try:
        loaded = store.load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none" if loaded is None else f"checkpoint-{loaded[0]}"


def torn(n: int, rng: random.Random, folder: Path) -> Tries:
    """Truncate the JSON-lines files at every byte of their last n records.

    After each truncation, the next session must resume the trial and complete it correctly.
    """
    [config] = toy.configs(1)
    expected = toy.reference(folder / "reference", [config])
    root = folder / "torn"
    intact = _stopped_trial(folder / "intact", config).folder
    for name in LINES:
        content = (intact / name).read_bytes()
        records = content.splitlines(keepends=True)
        first = len(content) - sum(map(len, records[-n:]))
        for cut in range(first, len(content)):
            shutil.copytree(folder / "intact", root)
            (TrialStore(root, config).folder / name).write_bytes(content[:cut])
            code = in_child(lambda: toy.session(root, [config]))
            violations = finished(root, [config], expected)
            violations += [] if code == DONE else [f"exit code {code}"]
            yield [f"{name} truncated at byte {cut}: {line}" for line in violations]
            shutil.rmtree(root)


def nth(n: int, rng: random.Random, folder: Path) -> Tries:
    """Make each file operation of a session fail; the next session must complete the trial.

    The sessions start with an empty folder or with the folder of a crashed trial. The faults are an
    I/O error, which occurs once; a full disk, on which all later operations also fail; and a kill,
    which loses data that were not flushed. About `n` evenly spaced operations are tried for each
    folder and fault, or all operations if `n` is 0.
    """
    trials = toy.configs(1)
    expected = toy.reference(folder / "reference", trials)
    starts = {
        "empty": lambda root: root.mkdir(),
        "crashed": lambda root: _crashed_trial(root, trials[0]),
    }
    for name, start in starts.items():
        probe = folder / f"probe-{name}"
        start(probe)
        total = operations(lambda probe=probe: toy.session(probe, trials), probe)
        step = max(1, total // n) if n else 1
        for at in range(1, total + 1, step):
            for error in (EIO, ENOSPC, KILL):
                root = folder / f"{name}-{at}-{error}"
                start(root)
                fault = Fault(root, at, error, stays=error == ENOSPC)
                violations = _fail_and_resume(root, trials, expected, fault)
                place = f"{error} at operation {at} of {total}, {name}"
                yield [f"{place}: {line}" for line in violations]
                shutil.rmtree(root)


def _fail_and_resume(
    root: Path, trials: list[TrialConfig], expected: dict, fault: Fault
) -> list[str]:
    """Run a session with a fault and one without; return the violations after each."""
    code = in_child(lambda: toy.session(root, trials), fault)
    violations = [f"exit code {code}"] if code == BROKEN else []
    for trial in trials:
        if TrialStore(root, trial).folder.exists():
            violations += unfinished(root, trial, expected[trial.trial_key])
    code = in_child(lambda: toy.session(root, trials))
    violations += [f"exit code {code} of the next session"] if code != DONE else []
    return violations + finished(root, trials, expected)


def _stopped_trial(root: Path, config: TrialConfig, epochs: int = 3) -> TrialStore:
    """Return the store of a trial that was stopped after some epochs, all of them committed."""
    with lock.exclusive(root) as generation:
        store = TrialStore(root, config, generation)
        store.create()
        store.begin({})
        trainer = toy.Toy(config, toy.torch.device("cpu"))
        for epoch in range(epochs):
            store.record(epoch, trainer.run_epoch(epoch))
            store.commit(trainer.state_dict())
    return store


def _crashed_trial(root: Path, config: TrialConfig) -> None:
    """Create a trial with a damaged checkpoint, an incomplete record and temporary files."""
    store = _stopped_trial(root, config)
    assert not damaged(store)
    newest = list_checkpoints(store.folder)[-1]
    (newest / "state.pt").write_bytes(b"damaged")
    with open(store.folder / "attempts.jsonl", "ab") as file:
        file.write(b'{"time": 17')
    (store.folder / "checkpoint-3.tmp").mkdir()
    (store.folder / "checkpoint-3.tmp" / "state.pt").write_bytes(b"half")
    (store.folder / "status.json.tmp").write_bytes(b'{"sta')
