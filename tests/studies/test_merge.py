"""Merges of output folders that are written without training."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import PROVENANCE, metrics, planned, write_cost_result, write_trial

from studies.activation_norms import PROBE
from studies.harness.command import lock, manage
from studies.harness.design.arms import Trial
from studies.harness.kinds.judge import ledger
from studies.harness.kinds.probe import folder as probes
from studies.harness.kinds.search.proposals import Proposals, proposals_path
from studies.harness.transfer.place import ASIDE
from trainables.files import append_lines, read_lines
from trainables.store import COMPLETED, DIVERGED, FAILED, TrialStore, lock_generation, read_status

TRIALS = planned(seeds=1, epochs=3)
TRIAL = TRIALS[0]
Kill = Callable[[int], None]


def run(*arguments: Any) -> int:
    words = ["merge", *map(str, arguments)]
    return manage.GROUP.main(words, standalone_mode=False)


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of an output folder without its lock, by relative path."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def commit(root: Path, trial: Trial, epochs: int, generation: int | None = None) -> TrialStore:
    """Write the folder of a trial in flight, with a checkpoint after each epoch."""
    store = TrialStore(root, trial.config)
    store.create()
    store.generation = generation
    store.begin(PROVENANCE)
    for epoch in range(epochs):
        store.record(epoch, metrics(trial, epoch))
        store.commit({"weights": torch.full((3,), float(epoch))})
    return store


def judged(name: str, before: int, time: float) -> list[dict[str, Any]]:
    """Return the lines of a judgement that began at a time and ended later."""
    head = {"event": ledger.BEGUN, "judgement": name, "time": time, "attempts_before": before}
    return [head, {"event": ledger.ENDED, "judgement": name, "time": time + 1, "verdicts": []}]


def search(root: Path, number: int, stopped: int = 0, sampler: str = "tpe") -> Path:
    """Write a search with some proposals, the first of which ASHA stopped."""
    path = proposals_path(root, "tune", "digits/cnn", "sgd")
    proposals = Proposals(path, {"sampler": sampler})
    for i in range(number):
        proposals.append({"lr": 0.1 * (i + 1)}, f"{i:064x}", {})
    for i in range(stopped):
        proposals.stop(i, 1, {0: 0.5, 1: 0.6}, 2.0)
    return path


def write_all(root: Path) -> None:
    """Write an output folder with results of each kind, and trials that did not end."""
    for trial in TRIALS[:4]:
        write_trial(root, trial)
    write_trial(root, TRIALS[4], 2, DIVERGED, reason="the loss is not finite")
    commit(root, TRIALS[5], 2)
    search(root, 3, stopped=1)
    write_cost_result(root / "cost" / "cpu", TRIAL.config)
    probes.write(PROBE, TRIAL.config, root, {"status": COMPLETED}, {"norms": np.arange(3.0)})
    append_lines(root / ledger.NAME, [*judged("a", 0, 1.0), *judged("b", 1, 5.0)])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_all(tmp_path / "whole")
    return tmp_path / "whole"


def split(whole: Path) -> tuple[Path, Path]:
    """Divide an output folder into two, which share every third trial."""
    halves = whole.with_name("a"), whole.with_name("b")
    for i, folder in enumerate(sorted((whole / "trials").iterdir())):
        for half in halves if i % 3 == 0 else [halves[i % 2]]:
            shutil.copytree(folder, half / "trials" / folder.name)
    shutil.copytree(whole / "searches", halves[0] / "searches")
    shutil.copytree(whole / "probes", halves[0] / "probes")
    shutil.copytree(whole / "cost", halves[1] / "cost")
    lines = read_lines(whole / ledger.NAME)
    append_lines(halves[0] / ledger.NAME, lines[2:])
    append_lines(halves[1] / ledger.NAME, lines[:2])
    return halves


def test_merge_of_two_halves_equals_the_whole_folder(
    whole: Path, capsys: pytest.CaptureFixture[str]
):
    a, b = split(whole)
    before = contents(a), contents(b)
    into = whole.with_name("c")
    assert run(a, b, "--into", into) == 0
    assert contents(into) == contents(whole)
    assert (contents(a), contents(b)) == before  # sources are only read
    output = capsys.readouterr().out
    assert "trials: 6 copied, 0 replaced, 0 already there" in output
    assert "searches: 1 copied" in output and f"studies sync --out {into}" in output


@pytest.mark.parametrize("into", ["a", "c"])
def test_second_merge_changes_nothing(whole: Path, into: str, capsys: pytest.CaptureFixture[str]):
    a, b = split(whole)
    target = whole.with_name(into)
    assert run(a, b, "--into", target) == 0
    before = contents(target), lock_generation(target), (target / "trials").stat().st_mtime_ns
    capsys.readouterr()
    assert run(a, b, "--into", target) == 0
    after = contents(target), lock_generation(target), (target / "trials").stat().st_mtime_ns
    assert after == before and contents(target) == contents(whole)
    assert "trials: 0 copied, 0 replaced, 6 already there" in capsys.readouterr().out


def test_folders_trained_separately_agree_except_for_times(tmp_path: Path):
    a, b, alone = tmp_path / "a", tmp_path / "b", tmp_path / "alone"
    for root, trials in ((a, TRIALS[:4]), (b, TRIALS[2:]), (alone, TRIALS)):
        for trial in trials:
            write_trial(root, trial)
    for path in b.rglob("epochs.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["metrics"] |= {"time/train_s": 7.0, "mem/peak_mb": 8.0}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(a, b, "--into", tmp_path / "c") == 0

    def values(root: Path) -> dict[str, Any]:
        stores = [TrialStore(root, trial.config) for trial in TRIALS]
        epochs = [
            [
                {name: v for name, v in line["metrics"].items() if name.startswith("test/")}
                for line in store.epochs()
            ]
            for store in stores
        ]
        statuses = [(store.status() or {})["status"] for store in stores]
        return {"epochs": epochs, "statuses": statuses}

    assert values(tmp_path / "c") == values(alone)
    assert len(list((tmp_path / "c" / "trials").iterdir())) == len(TRIALS)


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ((3, COMPLETED), (2, None)),
        ((1, DIVERGED), (2, None)),
        ((3, COMPLETED), (1, FAILED)),
        ((1, FAILED), (2, None)),
        ((2, None), (1, None)),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_folder_of_a_trial_that_is_further_is_kept(
    tmp_path: Path,
    winner: tuple[int, str | None],
    loser: tuple[int, str | None],
    order: str,
    inside: bool,
):
    for name, (epochs, status) in zip(order, (winner, loser), strict=True):
        write_trial(tmp_path / name, TRIAL, epochs, status)
    a, b = tmp_path / "a", tmp_path / "b"
    expected, into = contents(tmp_path / order[0]), a if inside else tmp_path / "c"
    assert run(a, b, "--into", into) == 0
    assert contents(into) == expected and not (into / ASIDE).exists()


def test_trial_in_flight_resumes_in_the_merged_folder(tmp_path: Path):
    commit(tmp_path / "a", TRIAL, 1)
    store = commit(tmp_path / "b", TRIAL, 2)
    (store.folder / "checkpoint-2.tmp").mkdir()
    (store.folder / "quarantine").mkdir()
    assert run(tmp_path / "b", "--into", tmp_path / "a") == 0
    loaded = TrialStore.open(tmp_path / "a", TRIAL.config.trial_key).load()
    assert loaded is not None and loaded[0] == 1
    names = {path.name for path in TrialStore(tmp_path / "a", TRIAL.config).folder.iterdir()}
    assert not names & {"checkpoint-2.tmp", "quarantine"}


def test_generation_exceeds_those_in_the_copied_attempts(tmp_path: Path):
    """Otherwise, a new driver would count attempts of another folder's driver as lost workers."""
    for _ in range(4):
        with lock.exclusive(tmp_path / "a") as generation:
            pass
    commit(tmp_path / "a", TRIAL, 1, generation)
    assert run(tmp_path / "a", "--into", tmp_path / "c") == 0
    with lock.exclusive(tmp_path / "c") as generation:
        assert generation > 4


def change_metric(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    lines[1]["metrics"]["test/accuracy"] = 0.25
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "epochs.jsonl").write_text(text)


def change_status(folder: Path) -> None:
    status = json.loads((folder / "status.json").read_bytes())
    (folder / "status.json").write_text(json.dumps({**status, "status": DIVERGED}))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (change_metric, "test/accuracy of epoch 1 is "),
        (change_status, "the status is completed and diverged"),
    ],
)
def test_different_results_of_a_trial_are_refused(
    tmp_path: Path,
    change: Callable[[Path], None],
    difference: str,
    capsys: pytest.CaptureFixture[str],
):
    a, b = tmp_path / "a", tmp_path / "b"
    for trial in TRIALS[:3]:
        write_trial(a, trial)
    write_trial(b, TRIALS[3])
    change(write_trial(b, TRIAL).folder)
    before = contents(tmp_path)
    assert run(a, b, "--into", tmp_path / "c") == 2
    assert run(a, "--into", b) == 2
    first, second = capsys.readouterr().err.splitlines()
    key = TRIAL.config.trial_key[:16]
    assert f"error: {key} (sgd seed 0): " in first and difference in first
    assert str(a) in first and str(b) in first and key in second
    assert contents(tmp_path) == before and not (tmp_path / "c").exists()
    assert not (b / ".lock").exists()


def test_nan_is_equal_to_nan(tmp_path: Path):
    for name in "ab":
        store = TrialStore(tmp_path / name, TRIAL.config)
        store.create()
        store.record(0, {"test/loss": float("nan")})
        store.finish(DIVERGED)
    assert run(tmp_path / "a", tmp_path / "b", "--into", tmp_path / "c") == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


DAMAGES: dict[str, tuple[int | None, Callable[[Path], Any]]] = {
    "checkpoint": (2, lambda folder: flip(folder / "checkpoint-1" / "state.pt")),
    "manifest": (2, lambda folder: (folder / "checkpoint-0" / "manifest.json").unlink()),
    "line": (2, edit("epochs.jsonl", '"epoch"', '"epoch')),
    "attempt": (2, edit("attempts.jsonl", "{", "")),
    "number": (2, edit("epochs.jsonl", '"epoch": 1', '"epoch": 2')),
    "configuration": (2, edit("config.json", '"seed": 0', '"seed": 1')),
    "no configuration": (2, lambda folder: (folder / "config.json").unlink()),
    "empty configuration": (2, lambda folder: (folder / "config.json").write_text("{}")),
    "status": (None, edit("status.json", "completed", "complete")),
    "epochs": (None, lambda folder: os.truncate(folder / "epochs.jsonl", 300)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_trial_is_refused(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]):
    a, b = tmp_path / "a", tmp_path / "b"
    write_trial(a, TRIALS[1])
    epochs, change = DAMAGES[damage]
    store = write_trial(b, TRIAL) if epochs is None else commit(b, TRIAL, epochs)
    change(store.folder)
    before = contents(tmp_path)
    assert run(a, b, "--into", tmp_path / "c") == 2
    assert run(b, "--into", a) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and str(store.folder) in first
    assert contents(tmp_path) == before and not (tmp_path / "c").exists()


@pytest.mark.parametrize("file", ["searches", "cost", "probes", ledger.NAME, "plugins"])
def test_other_damaged_results_are_refused(
    whole: Path, file: str, capsys: pytest.CaptureFixture[str]
):
    if file == "plugins":
        (whole / file).mkdir()
        (whole / file / f"{'0' * 64}.py").write_text("different\n")
    else:
        damaged = [path for path in [whole / file, *(whole / file).rglob("*")] if path.is_file()]
        damaged = [path for path in damaged if path.name != "config.json"]
        damaged[0].write_bytes(b"{\n" if file != "probes" else b"{}")
    before = contents(whole.parent)
    assert run(whole, "--into", whole.with_name("c")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(whole / file) in line
    assert contents(whole.parent) == before and not whole.with_name("c").exists()


class Killed(BaseException):
    """Stands for a kill of the process."""


def test_kill_at_every_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a kill before any flush, rename or removal, the same command completes the merge."""
    whole = tmp_path / "whole"
    write_trial(whole, TRIALS[0])
    commit(whole, TRIALS[1], 1)
    append_lines(whole / ledger.NAME, judged("a", 0, 1.0))
    write_trial(tmp_path / "begun", TRIALS[0], 2, None)
    left = 0

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **options)

        return call

    def merge(operations: int, a: Path, b: Path) -> bool:
        nonlocal left
        left = operations
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", limited(lambda _: None))
            patch.setattr(Path, "rename", limited(Path.rename))
            patch.setattr(Path, "replace", limited(Path.replace))
            patch.setattr(shutil, "rmtree", limited(shutil.rmtree))
            try:
                assert run(b, "--into", a) == 0
            except Killed:
                return False
        return True

    for operations in range(100):
        home = tmp_path / f"kill-{operations}"
        a, b = home / "a", home / "b"
        shutil.copytree(tmp_path / "begun", a)
        shutil.copytree(whole, b)
        done = merge(operations, a, b)
        for folder in (a / "trials").glob("*"):  # partial folders do not have a name
            assert read_status(folder) or (folder / "epochs.jsonl").exists()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)  # only for speed
            assert run(a, b, "--into", a) == 0
        assert contents(a) == contents(whole)
        if done:
            break
    assert done and operations > 20


def test_trial_whose_copy_was_killed_is_restored(tmp_path: Path):
    """A kill between two renames leaves the replaced folder aside; any later merge restores it."""
    a, b = tmp_path / "a", tmp_path / "b"
    folder = write_trial(a, TRIAL, 1, None).folder
    write_trial(b, TRIALS[1])
    expected = contents(a)
    (a / ASIDE / "replaced" / "trials").mkdir(parents=True)
    folder.rename(a / ASIDE / "replaced" / "trials" / folder.name)
    assert run(b, "--into", a) == 0
    assert expected.items() <= contents(a).items() and not (a / ASIDE).exists()


def test_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = tmp_path / "a", tmp_path / "b"
    write_trial(a, TRIAL)
    write_trial(b, TRIALS[1])
    with lock.exclusive(a):
        assert run(a, "--into", b) == 4 and run(b, "--into", a) == 4
    assert capsys.readouterr().err.count(f"error: {a} is in use by pid {os.getpid()}") == 2
    assert not (b / ".lock").exists() and len(list((a / "trials").iterdir())) == 1


def test_folder_of_another_machine_is_not_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, lock.exclusive(tmp_path / "a"):
        patch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
    write_trial(tmp_path / "a", TRIAL)
    assert run(tmp_path / "a", "--into", tmp_path / "c") == 0


def test_dry_run_prints_the_copies_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a, b = tmp_path / "a", tmp_path / "b"
    write_trial(a, TRIAL, 1, None)
    write_trial(b, TRIAL)
    write_trial(b, TRIALS[1])
    before = contents(tmp_path)
    assert run(b, "--into", a, "--dry-run") == 0
    assert contents(tmp_path) == before and not (a / ".lock").exists()
    output = capsys.readouterr().out
    key = TRIAL.config.trial_key[:16]
    reason = "completed, 3 epochs, instead of in flight, 1 epoch"
    assert f"replace trials/{key} from {b / 'trials' / key} ({reason})" in output
    assert f"copy trials/{TRIALS[1].config.trial_key[:16]}" in output
    assert "trials: 1 copied, 1 replaced, 0 already there" in output


def test_judgements_are_merged_in_the_order_of_time(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    shared = judged("x", 0, 10.0)
    for root, lines in ((a, [*shared, *judged("y", 1, 30.0)]), (b, judged("z", 0, 20.0))):
        root.mkdir()
        append_lines(root / ledger.NAME, lines)
    append_lines(b / ledger.NAME, [{**shared[0], "attempts_before": 3, "time": 25.0}])
    append_lines(b / ledger.NAME, [shared[1]])
    assert run(a, b, "--into", tmp_path / "c") == 0
    lines = read_lines(tmp_path / "c" / ledger.NAME)
    summary = [(line["event"], line["judgement"], line["time"]) for line in lines]
    assert summary == [
        ("ended", "x", 11.0),
        ("begun", "z", 20.0),
        ("ended", "z", 21.0),
        ("begun", "x", 25.0),
        ("begun", "y", 30.0),
        ("ended", "y", 31.0),
    ]
    assert lines[3]["attempts_before"] == 3


def test_proposals_and_stops_of_a_search_are_merged(tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    search(a, 3)
    search(b, 2, stopped=2)
    assert run(a, b, "--into", tmp_path / "c") == 0
    path = proposals_path(tmp_path / "c", "tune", "digits/cnn", "sgd")
    merged = Proposals(path, {"sampler": "tpe"})
    assert [proposal.number for proposal in merged.all] == [0, 1, 2]
    assert [proposal.stopped is not None for proposal in merged.all] == [True, True, False]
    before = path.read_bytes()
    assert run(b, a, "--into", tmp_path / "c") == 0 and path.read_bytes() == before


@pytest.mark.parametrize("difference", ["proposal 1", "the settings of the search"])
def test_different_searches_of_one_name_are_refused(
    tmp_path: Path, difference: str, capsys: pytest.CaptureFixture[str]
):
    a, b = tmp_path / "a", tmp_path / "b"
    search(a, 3)
    path = search(b, 2, sampler="random" if "settings" in difference else "tpe")
    if "proposal" in difference:
        path.write_text(path.read_text().replace('"lr": 0.2', '"lr": 0.3'))
    assert run(a, b, "--into", tmp_path / "c") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "tune/digits-cnn/sgd" in line and difference in line
    assert not (tmp_path / "c").exists()


def test_first_of_two_different_measurements_of_a_cost_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a, b = tmp_path / "a", tmp_path / "b"
    path = write_cost_result(a / "cost" / "cpu", TRIAL.config, step=0.1)
    write_cost_result(b / "cost" / "cpu", TRIAL.config, step=0.2)
    before = contents(a)
    assert run(b, "--into", a) == 0 and contents(a) == before
    assert f"{path}: the measurement in {b}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_folder_without_results_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    write_trial(tmp_path / "a", TRIAL)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "a", tmp_path / name, "--into", tmp_path / "c") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(tmp_path / name) in line and not (tmp_path / "c").exists()
