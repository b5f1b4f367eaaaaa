"""Malicious trial folders and files: no code in them runs, and no file outside is changed."""

from __future__ import annotations

import builtins
import hashlib
import importlib
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import checkpoints, workloads
from trainables.__main__ import main as run_trials
from trainables.config import TrialConfig, digest
from trainables.store import TrialStore

MARKER = "code-was-executed"
# Calls that would write a file, import a module or read a pickle.
CALLS: dict[str, Callable[[Path], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "os.system": lambda path: (os.system, (f"touch '{path}'",)),
    "os.mkdir": lambda path: (os.mkdir, (str(path),)),
    "subprocess.call": lambda path: (subprocess.call, (["touch", str(path)],)),
    "exec": lambda path: (builtins.exec, (f"open({str(path)!r}, 'w')",)),
    "eval": lambda path: (builtins.eval, (f"open({str(path)!r}, 'w')",)),
    "open": lambda path: (builtins.open, (str(path), "w")),
    "shutil.copy": lambda path: (shutil.copy, (__file__, str(path))),
    "Path.touch": lambda path: (Path.touch, (path,)),
    "import": lambda path: (importlib.import_module, ("this",)),
    "torch.save": lambda path: (torch.save, ({}, str(path))),
    "torch.load": lambda path: (torch.load, (str(path),)),
}


class CallWhenUnpickled:
    """An object that calls a function when it is unpickled."""

    def __init__(self, call: tuple[Callable[..., Any], tuple[Any, ...]]):
        self._call = call

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


FORMATS: dict[str, Callable[[CallWhenUnpickled, Path], None]] = {
    "zip": lambda evil, path: torch.save({"model": {"weight": evil}}, path),
    "legacy": lambda evil, path: torch.save(
        {"model": evil}, path, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda evil, path: path.write_bytes(pickle.dumps(evil, protocol=2)),
}


@pytest.fixture
def config() -> TrialConfig:
    return workloads.resolve("digits/cnn", "sgd", {}, recipe={"epochs": 3})


@pytest.fixture
def store(tmp_path: Path, config: TrialConfig) -> TrialStore:
    """A trial folder with checkpoints of the first two epochs."""
    store = TrialStore(tmp_path / "out", config)
    store.create()
    store.begin({})
    for epoch in range(2):
        store.record(epoch, {"test/accuracy": 0.5})
        store.commit({"weights": torch.full((3,), float(epoch))})
    return store


def update_manifest(checkpoint: Path) -> None:
    """Update the manifest to match `state.pt`, as an attacker can."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["digest"]
    manifest["sha256"] = hashlib.sha256((checkpoint / "state.pt").read_bytes()).hexdigest()
    path.write_text(json.dumps({**manifest, "digest": digest(manifest)}))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", CALLS)
def test_code_in_a_checkpoint_is_not_executed(
    store: TrialStore, tmp_path: Path, name: str, file_format: str
):
    """The checkpoint is quarantined and the previous checkpoint is loaded.

    The manifest matches the file, so that only the unpickler can refuse it."""
    marker, checkpoint = tmp_path / MARKER, store.folder / "checkpoint-1"
    FORMATS[file_format](CallWhenUnpickled(CALLS[name](marker)), checkpoint / "state.pt")
    update_manifest(checkpoint)
    with pytest.raises(checkpoints.Damaged, match="UnpicklingError"):
        checkpoints.read(checkpoint, store.config.trial_key)
    assert (loaded := store.load()) is not None and loaded[0] == 0
    assert not marker.exists() and len(list((store.folder / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("name", ["checkpoint-7.tmp", "checkpoint-0"])
def test_a_symbolic_link_is_removed_but_its_target_is_kept(
    store: TrialStore, tmp_path: Path, name: str
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("content")
    if (store.folder / name).exists():
        shutil.rmtree(store.folder / name)
    (store.folder / name).symlink_to(outside, target_is_directory=True)
    reopened = TrialStore(store.root, store.config)
    reopened.begin({})
    assert (loaded := reopened.load()) is not None and loaded[0] == 1
    reopened.record(2, {})
    reopened.finish("completed")
    assert (outside / "file").read_text() == "content" and not (store.folder / name).is_symlink()


def trial_document(config: TrialConfig, **changes: Any) -> dict[str, Any]:
    return {"config": {**config.to_dict(), **changes}, "key": config.trial_key}


INVALID_TRIALS: dict[str, Callable[[TrialConfig], str]] = {
    "no JSON": lambda config: "{",
    "a list": lambda config: "[]",
    "a number": lambda config: "7",
    "null": lambda config: "null",
    "deeply nested": lambda config: "[" * 100_000,
    "no key": lambda config: json.dumps({"config": config.to_dict()}),
    "another key": lambda config: json.dumps({**trial_document(config), "key": "0" * 64}),
    "a path as key": lambda config: json.dumps({**trial_document(config), "key": "../../../evil"}),
    "a text as config": lambda config: json.dumps({"config": "x", "key": "y"}),
    "unknown field": lambda config: json.dumps(trial_document(config, command="touch evil")),
    "a path as workload": lambda config: json.dumps(trial_document(config, workload="../../evil")),
    "another seed": lambda config: json.dumps(trial_document(config, seed=1)),
    "a text as settings": lambda config: json.dumps(trial_document(config, settings="x")),
    "nan": lambda config: json.dumps(trial_document(config, batch_size=float("nan"))),
}


@pytest.mark.parametrize("name", INVALID_TRIALS)
def test_an_invalid_trials_file_is_refused(
    tmp_path: Path, config: TrialConfig, name: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "trials.jsonl").write_text(INVALID_TRIALS[name](config))
    assert run_trials([str(tmp_path / "trials.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["trials.jsonl"]
