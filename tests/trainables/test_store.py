"""The trial folder: commits survive crashes, damage is detected, and old drivers cannot write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainables import checkpoints, workloads
from trainables.config import SCHEMA, TrialConfig
from trainables.files import read_lines, temporary_folder
from trainables.store import (
    COMPLETED,
    MAX_LOST_WORKERS,
    FencedError,
    StoreError,
    TrialStore,
    trial_folder,
)


@pytest.fixture
def config() -> TrialConfig:
    return workloads.resolve("digits/cnn", "sgd", {}, recipe={"epochs": 5})


@pytest.fixture
def store(tmp_path: Path, config: TrialConfig) -> TrialStore:
    store = TrialStore(tmp_path, config)
    store.create()
    store.begin({})
    return store


def commit(store: TrialStore, *epochs: int) -> None:
    for epoch in epochs:
        store.record(epoch, {"test/accuracy": epoch / 10})
    store.commit({"weights": torch.full((100,), float(epochs[-1]))})


def committed_epochs(store: TrialStore) -> list[int]:
    return [line["epoch"] for line in store.epochs()]


def test_key_depends_on_values_only(config: TrialConfig):
    shuffled = TrialConfig.from_dict(dict(reversed(config.to_dict().items())))
    as_integer, as_float = (
        workloads.resolve("digits/cnn", "sgd", {"weight_decay": wd}) for wd in (1, 1.0)
    )
    assert shuffled.trial_key == config.trial_key
    assert as_integer.trial_key == as_float.trial_key
    assert config.with_seed(1).trial_key != config.trial_key
    assert config.with_seed(1).group_key == config.group_key


def test_commit_writes_all_recorded_epochs_and_keeps_two_checkpoints(store: TrialStore):
    commit(store, 0, 1)
    commit(store, 2)
    commit(store, 3)
    assert committed_epochs(store) == [0, 1, 2, 3]
    assert sorted(path.name for path in store.folder.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    assert (loaded := store.load()) is not None
    assert loaded[0] == 3 and loaded[1]["weights"].eq(3).all()


@pytest.mark.parametrize(("remaining", "resumed"), [(2, 2), (1, 1), (0, None)])
def test_a_checkpoint_is_not_used_if_lines_of_earlier_epochs_are_missing(
    store: TrialStore, remaining: int, resumed: int | None
):
    """A power failure may remove several lines; a later checkpoint would leave a gap in the epochs."""
    for epoch in range(3):
        commit(store, epoch)
    path = store.folder / "epochs.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:remaining]))
    loaded = store.load()
    assert (loaded and loaded[0]) == resumed
    assert committed_epochs(store) == list(range(remaining if resumed is None else resumed + 1))


def test_a_worker_killed_between_checkpoint_and_lines_loses_no_lines(
    store: TrialStore, monkeypatch: pytest.MonkeyPatch
):
    """The checkpoint contains the missing lines; the next worker appends them once and resumes."""
    commit(store, 0)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("trainables.store.append_lines", die)
        store.record(1, {"mem/peak_mb": float("nan")})
        commit(store, 2)
    assert committed_epochs(store) == [0]
    for _ in range(2):
        reopened = TrialStore(store.root, store.config)
        reopened.begin({})
        assert (loaded := reopened.load()) is not None and loaded[0] == 2
        assert committed_epochs(reopened) == [0, 1, 2]
    commit(reopened, 3)
    assert committed_epochs(reopened) == [0, 1, 2, 3]


def test_recorded_epochs_are_not_written_before_a_commit(store: TrialStore):
    store.record(0, {})
    assert committed_epochs(store) == [] and store.load() is None


def test_finish_writes_the_last_epochs_and_deletes_the_checkpoints(store: TrialStore):
    commit(store, 0)
    store.record(1, {})
    store.finish(COMPLETED)
    assert committed_epochs(store) == [0, 1]
    assert (store.status() or {})["status"] == COMPLETED
    assert not list(store.folder.glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_flipped_bit_is_detected_and_the_previous_checkpoint_is_used(
    store: TrialStore, name: str
):
    commit(store, 0)
    commit(store, 1)
    path = store.folder / "checkpoint-1" / name
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
        )
        with pytest.raises(checkpoints.Damaged):
            checkpoints.read(path.parent, store.config.trial_key)
    assert (loaded := store.load()) is not None and loaded[0] == 0
    assert len(list((store.folder / "quarantine").iterdir())) == 1


def test_a_truncated_checkpoint_is_detected(store: TrialStore):
    commit(store, 0)
    path = store.folder / "checkpoint-0" / "state.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert store.load() is None


def test_the_line_of_a_recomputed_epoch_does_not_change(store: TrialStore):
    commit(store, 0, 1)
    before = (store.folder / "epochs.jsonl").read_bytes()
    commit(store, 0, 1)
    assert (store.folder / "epochs.jsonl").read_bytes() == before


def test_an_incomplete_last_line_is_removed_and_its_epoch_committed_again(store: TrialStore):
    commit(store, 0)
    commit(store, 1)
    path = store.folder / "epochs.jsonl"
    content = path.read_bytes()
    last = content.rfind(b"\n", 0, -1) + 1
    for size in range(last, len(content)):
        path.write_bytes(content[:size])
        store.begin({})
        assert committed_epochs(store) == [0]
        assert path.read_bytes() == content[:last]
        commit(store, 1)
        assert committed_epochs(store) == [0, 1]


def test_begin_removes_temporary_files_of_a_killed_worker(store: TrialStore):
    (store.folder / "checkpoint-0.tmp").mkdir()
    (store.folder / "checkpoint-0.tmp" / "state.pt").write_bytes(b"half")
    (store.folder / "status.json.tmp").write_bytes(b"{")
    store.begin({})
    assert not list(store.folder.glob("*.tmp"))


def test_lost_workers_are_counted_until_a_commit(tmp_path: Path, config: TrialConfig):
    (tmp_path / ".lock").write_text(json.dumps({"generation": 7}))
    store = TrialStore(tmp_path, config, generation=7)
    store.create()
    assert [store.begin({}) for _ in range(MAX_LOST_WORKERS + 1)] == [0, 1, 2, 3]
    commit(store, 0)
    assert store.begin({}) == 0


def test_workers_ordered_to_leave_or_lost_with_their_node_are_not_counted(
    tmp_path: Path, config: TrialConfig
):
    (tmp_path / ".lock").write_text(json.dumps({"generation": 7}))
    store = TrialStore(tmp_path, config, generation=7, nodes={"alive"})
    store.create()
    assert store.begin({"node": "dead"}) == 0
    assert store.begin({"node": "alive"}) == 0
    store.leave("SIGTERM")
    assert store.begin({"node": "alive"}) == 0
    assert store.begin({"node": "alive"}) == 1
    assert read_lines(store.folder / "attempts.jsonl")[2]["left"] == "SIGTERM"


def test_a_worker_of_a_replaced_driver_writes_nothing(tmp_path: Path, config: TrialConfig):
    (tmp_path / ".lock").write_text(json.dumps({"generation": 1}))
    old = TrialStore(tmp_path, config, generation=1)
    old.create()
    old.begin({})
    (tmp_path / ".lock").write_text(json.dumps({"generation": 2}))
    old.record(0, {})
    before = sorted(old.folder.rglob("*"))
    with pytest.raises(FencedError, match="generation 2"):
        old.commit({})
    with pytest.raises(FencedError):
        old.finish(COMPLETED)
    assert sorted(old.folder.rglob("*")) == before


def test_a_newer_schema_is_refused_and_the_message_says_to_update(
    store: TrialStore, tmp_path: Path, config: TrialConfig
):
    path = store.folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 1}))
    with pytest.raises(StoreError, match=f"schema {SCHEMA + 1}.*update"):
        TrialStore.open(tmp_path, config.trial_key)


def test_create_keeps_existing_files_and_refuses_another_trial(
    store: TrialStore, config: TrialConfig
):
    before = (store.folder / "config.json").read_bytes()
    store.create()
    assert (store.folder / "config.json").read_bytes() == before
    (store.folder / "config.json").write_text(
        json.dumps({"schema": SCHEMA, "key": "other", "config": {}})
    )
    with pytest.raises(StoreError, match="another trial"):
        store.create()


def test_folder_is_named_by_the_key(store: TrialStore, tmp_path: Path, config: TrialConfig):
    assert (
        store.folder
        == trial_folder(tmp_path, config.trial_key)
        == tmp_path / "trials" / config.trial_key[:16]
    )
    assert TrialStore.open(tmp_path, config.trial_key).config == config
    assert len(read_lines(store.folder / "attempts.jsonl")) == 1


def test_temporary_folder_is_removed_unless_its_process_runs(tmp_path: Path):
    (tmp_path / ".new-killed" / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    with (
        temporary_folder(tmp_path, ".new-") as first,
        temporary_folder(tmp_path, ".new-") as second,
    ):
        assert sorted(tmp_path.iterdir()) == sorted([first, second, tmp_path / "other"])
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    with pytest.raises(ValueError), temporary_folder(tmp_path, ".new-") as folder:
        (folder / "file").write_text("x")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
