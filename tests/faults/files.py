"""Damaged, torn and failing files: the real store and loop with a toy trainer, no Ray."""

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
    """G5: n single flipped bits and n / 10 truncations of a checkpoint; each must be noticed, the one before used."""
    [config] = toy.configs(1)
    whole, root = folder / "whole", folder / "damaged"
    _stopped(whole, config)
    newest = list_checkpoints(TrialStore(whole, config).folder)[-1]
    shutil.copytree(whole, root)
    store = TrialStore(root, config)
    checkpoint = store.folder / newest.name
    older = [
        path.name for path in list_checkpoints(TrialStore(whole, config).folder) if path != newest
    ]
    for number in range(n + n // 10):
        name = rng.choice(["state.pt", "state.pt", "manifest.json"])
        content = bytearray((newest / name).read_bytes())
        position = rng.randrange(len(content))
        if number < n:
            content[position] ^= 1 << rng.randrange(8)
            what = f"bit flipped at byte {position} of {name}"
        else:
            del content[position:]
            what = f"{name} cut to {position} bytes"
        (checkpoint / name).write_bytes(content)
        yield [] if (used := _used(store)) in older else [f"{what}: {used}"]
        shutil.rmtree(store.folder)
        shutil.copytree(TrialStore(whole, config).folder, store.folder)


def _used(store: TrialStore) -> str:
    """The checkpoint that is taken; otherwise why none is."""
    try:
        loaded = store.load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none" if loaded is None else f"checkpoint-{loaded[0]}"


def torn(n: int, rng: random.Random, folder: Path) -> Tries:
    """G6: the line files cut at every byte of their last n records; the next run goes on and ends as it should."""
    [config] = toy.configs(1)
    expected = toy.reference(folder / "reference", [config])
    whole, root = folder / "whole", folder / "torn"
    _stopped(whole, config)
    for name in LINES:
        content = (TrialStore(whole, config).folder / name).read_bytes()
        records = content.splitlines(keepends=True)
        first = len(content) - sum(map(len, records[-n:]))
        for cut in range(first, len(content)):
            shutil.copytree(whole, root)
            (TrialStore(root, config).folder / name).write_bytes(content[:cut])
            code = in_child(lambda: toy.session(root, [config]))
            wrong = finished(root, [config], expected) + (
                [] if code == DONE else [f"exit code {code}"]
            )
            yield [f"{name} cut at byte {cut}: {line}" for line in wrong]
            shutil.rmtree(root)


def nth(n: int, rng: random.Random, folder: Path) -> Tries:
    """G4: every file operation of a run fails in turn, from a fresh folder and from one in disorder; then it goes on.

    An I/O error fails once, a full disk from then on, a kill leaves what was not flushed unwritten. `n` of the
    operations, spread evenly; 0 for all.
    """
    trials = toy.configs(1)
    expected = toy.reference(folder / "reference", trials)
    starts = {
        "fresh": lambda root: root.mkdir(),
        "disorder": lambda root: _disorder(root, trials[0]),
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
                wrong = _fail_and_go_on(
                    root, trials, expected, Fault(root, at, error, stays=error == ENOSPC)
                )
                yield [f"{error} at operation {at} of {total}, {name}: {line}" for line in wrong]
                shutil.rmtree(root)


def _fail_and_go_on(
    root: Path, trials: list[TrialConfig], expected: dict, fault: Fault
) -> list[str]:
    code = in_child(lambda: toy.session(root, trials), fault)
    wrong = [f"exit code {code}"] if code == BROKEN else []
    wrong += [line for t in trials if TrialStore(root, t).folder.exists()
              for line in unfinished(root, t, expected[t.trial_key])]  # fmt: skip
    code = in_child(lambda: toy.session(root, trials))
    return (
        wrong
        + ([f"exit code {code} afterwards"] if code != DONE else [])
        + finished(root, trials, expected)
    )


def _stopped(root: Path, config: TrialConfig, epochs: int = 3) -> TrialStore:
    """A trial that was stopped after some epochs, each committed."""
    with lock.exclusive(root) as generation:
        store = TrialStore(root, config, generation)
        store.create()
        store.begin({})
        trainer = toy.Toy(config, toy.torch.device("cpu"))
        for epoch in range(epochs):
            store.record(epoch, trainer.run_epoch(epoch))
            store.commit(trainer.state_dict())
    return store


def _disorder(root: Path, config: TrialConfig) -> None:
    """What several crashes leave: a damaged checkpoint, torn lines, half-written files."""
    store = _stopped(root, config)
    assert not damaged(store)
    newest = list_checkpoints(store.folder)[-1]
    (newest / "state.pt").write_bytes(b"not what it was")
    with open(store.folder / "attempts.jsonl", "ab") as file:
        file.write(b'{"time": 17')
    (store.folder / "checkpoint-3.tmp").mkdir()
    (store.folder / "checkpoint-3.tmp" / "state.pt").write_bytes(b"half")
    (store.folder / "status.json.tmp").write_bytes(b'{"sta')
