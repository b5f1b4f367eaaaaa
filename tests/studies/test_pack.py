"""Archives of output folders that are written without training."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import PROVENANCE, metrics, planned, write_cost_result, write_trial

from studies.ablation_rank import STUDY
from studies.harness.command import lock, manage
from studies.harness.transfer.archive import MANIFEST, VERSION
from trainables.files import write_atomically
from trainables.store import TrialStore, lock_generation

TRIALS = planned(seeds=1, epochs=2)


def run(*arguments: Any) -> int:
    return manage.GROUP.main([*map(str, arguments)], standalone_mode=False)


def contents(root: Path) -> dict[str, bytes]:
    """Return the files below a folder without locks, by relative path."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an output folder with ended trials, a trial in flight, a plugin and a cost result."""
    root = tmp_path / "out"
    for trial in TRIALS[:2]:
        write_trial(root, trial)
    store = TrialStore(root, TRIALS[2].config)
    store.create()
    store.begin(PROVENANCE)
    store.record(0, metrics(TRIALS[2], 0))
    store.commit({"weights": torch.zeros(3)})
    write_cost_result(root / "cost" / "cpu", TRIALS[0].config)
    plugin = b"# a plugin\n"
    (root / "plugins").mkdir()
    write_atomically(root / "plugins" / f"{sha256(plugin).hexdigest()}.py", plugin)
    return root


def test_unpacked_folder_equals_the_packed_one(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with lock.exclusive(root, after=6):
        pass
    expected = contents(root)
    (root / "mlflow.db").write_text("")
    (root / "trials" / "half.tmp").mkdir()
    assert run("pack", root, tmp_path / "a.tar") == 0
    assert f"{tmp_path / 'a.tar'}: 3 trials, " in capsys.readouterr().out
    assert run("unpack", tmp_path / "a.tar", "--into", tmp_path / "new" / "out") == 0
    assert contents(tmp_path / "new" / "out") == expected
    assert (lock_generation(tmp_path / "new" / "out") or 0) > 7
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    before = contents(tmp_path)
    assert run("unpack", tmp_path / "a.tar", "--into", root) == 0  # its results are there
    assert contents(tmp_path) == before


def test_equal_results_give_equal_files(root: Path, tmp_path: Path):
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    for name in ("out", "copy"):
        assert run("pack", tmp_path / name, tmp_path / f"{name}.tar") == 0
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "copy.tar").read_bytes()
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = archive.getnames()
        assert names[0] == MANIFEST and names[1:] == sorted(names[1:])
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in archive} == {(0, 0, "", 0o644)}


def test_only_trials_that_ended_after_a_time_are_packed(root: Path, tmp_path: Path):
    store = TrialStore(root, TRIALS[0].config)
    status = json.dumps({**(store.status() or {}), "time": 86400.0 * 365})  # in 1971
    write_atomically(store.folder / "status.json", status.encode())
    assert run("pack", root, tmp_path / "a.tar", "--since", "1980-01-01") == 0
    assert run("unpack", tmp_path / "a.tar", "--into", tmp_path / "new") == 0
    names = [path.name for path in (tmp_path / "new" / "trials").iterdir()]
    assert names == [TRIALS[1].config.trial_key[:16]]


def test_only_trials_of_a_study_are_packed(root: Path, tmp_path: Path):
    keys = set()
    for trial in STUDY.trials("digits/autoencoder", [0]):
        store = TrialStore(root, trial.config)
        store.create()
        store.begin(PROVENANCE)
        keys.add(trial.config.trial_key[:16])
    assert run("pack", root, tmp_path / "a.tar", "--study", STUDY.name) == 0
    assert run("unpack", tmp_path / "a.tar", "--into", tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new" / "trials").iterdir()} == keys
    assert (tmp_path / "new" / "plugins").exists() and not (tmp_path / "new" / "cost").exists()


def test_trials_of_a_study_without_a_report_are_packed(root: Path, tmp_path: Path):
    """The study was stopped when one of its arms had no trial."""
    planned_trials = STUDY.trials("digits/autoencoder", [0, 7])
    trials = [trial for trial in planned_trials if trial.arm.optimizer != "sgd"]
    for trial in trials:
        store = TrialStore(root, trial.config)
        store.create()
        store.begin(PROVENANCE)
    assert run("pack", root, tmp_path / "a.tar", "--study", STUDY.name) == 0
    assert run("unpack", tmp_path / "a.tar", "--into", tmp_path / "new") == 0
    names = {path.name for path in (tmp_path / "new" / "trials").iterdir()}
    assert names == {trial.config.trial_key[:16] for trial in trials}


def test_folder_of_a_killed_unpack_is_removed_by_the_next(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / ".unpack-killed" / "trials").mkdir(parents=True)
    assert run("pack", root, tmp_path / "a.tar") == 0
    capsys.readouterr()
    assert run("unpack", tmp_path / "a.tar", "--into", tmp_path / "new", "--dry-run") == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("copy plugins/") and f" from {tmp_path / 'a.tar'}/plugins/" in first
    assert not [*tmp_path.glob(".unpack*")]


def refused(
    file: Path, capsys: pytest.CaptureFixture[str], into: str = "new", code: int = 2
) -> str:
    """Check that a file is refused in one line and that nothing is written; return the line."""
    before = contents(file.parent)
    assert run("unpack", file, "--into", file.parent / into) == code
    [line] = capsys.readouterr().err.splitlines()
    assert str(file) in line and contents(file.parent) == before
    assert not (file.parent / "new").exists() and not [*file.parent.glob(".unpack*")]
    return line


def test_truncated_file_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.tar"
    assert run("pack", root, file) == 0
    capsys.readouterr()
    content = file.read_bytes()
    for size in (0, 100, 512, 3000, len(content) // 2, len(content) - 512, len(content) + 512):
        file.write_bytes(content[:size].ljust(size, b"\0"))
        refused(file, capsys)


def test_altered_file_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "a.tar"
    assert run("pack", root, file) == 0
    capsys.readouterr()
    content = file.read_bytes()
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    for member in members[1:]:
        for position in (member.offset, member.offset_data + member.size // 2):
            altered = bytearray(content)
            altered[position] ^= 1
            file.write_bytes(altered)
            refused(file, capsys)


def write_archive(
    file: Path,
    files: dict[str, bytes],
    change: Callable[[dict[str, Any]], Any] = lambda manifest: None,
    members: Callable[[str], tarfile.TarInfo] = tarfile.TarInfo,
) -> None:
    """Write an archive with a manifest of the files, after a change of the manifest."""
    entries = [
        {"name": name, "size": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in files.items()
    ]
    manifest = {"version": VERSION, "generation": 0, "files": entries}
    change(manifest)
    with tarfile.open(file, "w") as archive:
        for name, content in {MANIFEST: json.dumps(manifest).encode(), **files}.items():
            member = tarfile.TarInfo(name) if name == MANIFEST else members(name)
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "trials/../../outside",
        "/tmp/outside-of-the-folder",
        "trials//x",
        "trials/./x",
        "trials\\x",
        ".lock",
        "notes.txt",
        "reports/x/report.html",
        "mlflow.db",
    ],
)
def test_unsafe_or_unknown_member_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    write_archive(tmp_path / "a.tar", {name: b"x"})
    assert "unexpected member" in refused(tmp_path / "a.tar", capsys)
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(
    tmp_path: Path, kind: bytes, capsys: pytest.CaptureFixture[str]
):
    def link(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        return member

    write_archive(tmp_path / "a.tar", {"cost/cpu/a.json": b""}, members=link)
    assert "unexpected member" in refused(tmp_path / "a.tar", capsys)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda manifest: manifest.update(version=VERSION + 1), "update precond"),
        (lambda manifest: manifest["files"].clear(), "unexpected member"),
        (lambda manifest: manifest["files"][0].update(size=3), "size"),
        (lambda manifest: manifest["files"][0].update(sha256="0" * 64), "SHA-256"),
        (
            lambda manifest: manifest["files"].append({**manifest["files"][0], "name": "cost/x"}),
            "cost/x is missing",
        ),
        (lambda manifest: manifest.clear(), "KeyError"),
        (lambda manifest: manifest.update(files=3), "TypeError"),
    ],
)
def test_wrong_manifest_is_refused(
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    reason: str,
    capsys: pytest.CaptureFixture[str],
):
    write_archive(tmp_path / "a.tar", {"cost/cpu/a.json": b"{}"}, change)
    assert reason in refused(tmp_path / "a.tar", capsys)


def test_conflict_with_the_folder_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("pack", root, tmp_path / "a.tar") == 0
    path = TrialStore(root, TRIALS[0].config).folder / "epochs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["metrics"]["test/loss"] = 9.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = contents(tmp_path)
    capsys.readouterr()
    assert run("unpack", tmp_path / "a.tar", "--into", root) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "test/loss of epoch 0" in line and contents(tmp_path) == before
    assert str(tmp_path / "a.tar" / "trials" / TRIALS[0].config.trial_key[:16]) in line
    assert ".unpack" not in line


def test_invalid_arguments_write_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "exists.tar").write_text("")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for arguments, reason in [
        (("pack", tmp_path / "absent", tmp_path / "a.tar"), "is not a folder"),
        (("pack", tmp_path / "empty", tmp_path / "a.tar"), "no results to pack"),
        (("pack", root, tmp_path / "exists.tar"), "exists"),
        (("pack", root, tmp_path / "absent" / "a.tar"), "does not exist"),
        (("pack", root, tmp_path / "a.tar", "--study", "ablation_rnk"), "ablation_rank"),
        (("pack", root, tmp_path / "a.tar", "--study", STUDY.name), "no results to pack"),
        (("unpack", tmp_path / "absent.tar", "--into", root), "is not a file"),
        (("unpack", tmp_path / "exists.tar", "--into", tmp_path / "exists.tar"), "a folder"),
    ]:
        assert run(*arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert reason in line and contents(tmp_path) == before


def test_damaged_folder_is_not_packed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = TrialStore(root, TRIALS[2].config).folder / "checkpoint-0" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    assert run("pack", root, tmp_path / "a.tar") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(state.parent) in line and not (tmp_path / "a.tar").exists()


def test_folder_in_use_is_not_packed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with lock.exclusive(root):
        assert run("pack", root, tmp_path / "a.tar") == 4
    assert "is in use by pid" in capsys.readouterr().err
