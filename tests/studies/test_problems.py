"""Messages about errors and signals name what happened, and name the right file or stream."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common import utils
from rich.console import Console

from precond import HyperparameterError
from studies.ablation_rank import STUDY
from studies.harness.cluster import execute, sockets
from studies.harness.command import cli, interrupts, problems, reports, screen
from studies.harness.command.manage import GROUP
from studies.harness.command.options import parse
from studies.harness.command.run import run_command
from studies.harness.design.ending import STOPS, Stopped
from studies.harness.design.options import Options
from studies.harness.design.result import Listing, Report
from tests.faults import __main__ as faults
from trainables.data import DataError
from trainables.files import append_lines, write_atomically
from trainables.store import StoreError

ROOT = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, "No space left on device")


def command(*arguments: str, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """Return the exit code and standard error of `python studies/ablation_rank.py`."""
    script = str(ROOT / "studies" / "ablation_rank.py")
    done = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stderr or ""


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """Return the writing end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_closed_pipe_does_not_change_the_exit_code_and_prints_nothing(closed_pipe: int):
    assert command("--help", stdout=closed_pipe) == (0, "")
    assert command("--help", stdout=closed_pipe, stderr=subprocess.STDOUT) == (0, "")
    code, _ = command("--seeds", "0", stdout=subprocess.PIPE, stderr=closed_pipe)
    assert code == 2


def test_a_full_standard_output_is_named():
    with open("/dev/full", "w") as full:
        code, err = command("--help", stdout=full.fileno())
    assert code == 4
    assert err == (
        "error: cannot write to standard output (No space left on device); "
        "the rest of it was discarded\n"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), (130, "interrupted")),
        (Stopped(*STOPS["budget"]), (3, "the time budget is used up")),
        (HyperparameterError("rank = 0: must be ..."), (2, "rank = 0: must be ...")),
        (StoreError("x is damaged"), (4, "x is damaged")),
        (DataError("y is missing"), (4, "y is missing")),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            (4, "/a/b: Permission denied"),
        ),
        (FULL, (4, "No space left on device")),
        (problems.ActivityError("do it", FULL), (4, "cannot do it (No space left on device)")),
        (ZeroDivisionError(), None),
    ],
)
def test_an_exception_is_an_exit_code_and_a_line(error: BaseException, expected: object):
    assert problems.explain(error) == expected


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "line"),
    [
        (reports.Reports, "write", "cannot write the report"),
        (execute, "train", "cannot train the trials"),
        ("studies.harness.command.run", "prepare_data", "cannot read the data in "),
        ("studies.harness.command.run", "check_disk_space", "cannot write to "),
    ],
)
def test_an_error_of_the_operating_system_names_the_activity(
    owner: object,
    name: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{name}", fail)
    else:
        monkeypatch.setattr(owner, name, fail)
    monkeypatch.setattr(execute, "train", lambda *_: "done") if name == "write" else None
    options = Options(
        out=tmp_path, seeds=[0], optimizers=["sgd"], tracking_uri="none", data_dir=tmp_path
    )
    assert run_command([STUDY], options) == 4
    err = capsys.readouterr().err
    assert err.startswith(f"error: {line}") and "(No space left on device)" in err
    assert len(err.splitlines()) == 1


def test_an_unreadable_output_folder_is_not_called_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "trials"))

    monkeypatch.setattr("studies.harness.evidence.status.progress", denied)
    assert run_command([STUDY], Options(out=tmp_path)) == 4
    line = f"cannot read {tmp_path} ({tmp_path}/trials: Permission denied)"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_every_command_of_the_group_prints_one_line_for_an_unreadable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def denied(root: Path) -> list[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(root / "trials"))

    monkeypatch.setattr("trainables.store.trial_folders", denied)
    monkeypatch.setattr(sys, "argv", ["studies", "status", "--out", str(tmp_path)])
    assert cli.invoke(GROUP) == 4
    assert capsys.readouterr().err == f"error: {tmp_path}/trials: Permission denied\n"


def test_an_error_while_writing_a_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trainables.files.sync", fail)
    for write in (
        lambda: write_atomically(tmp_path / "table.csv", b""),
        lambda: append_lines(tmp_path / "table.csv", [{}]),
    ):
        with pytest.raises(OSError, match=r"table\.csv"):
            write()


def test_a_temporary_folder_that_is_too_long_for_rays_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + 80 * "x")
    out = tmp_path / "out"
    assert run_command([STUDY], Options(out=out, seeds=[0], optimizers=["sgd"])) == 2
    err = capsys.readouterr().err
    assert not out.exists() and len(err.splitlines()) == 1
    size = 85 + len(f"/ray/session_0000-00-00_00-00-00_000000_{os.getpid()}/sockets/plasma_store")
    assert f"would have {size} bytes, and the system allows {sockets.MAX_SOCKET_BYTES}." in err
    assert f"whose path has at most {85 - size + sockets.MAX_SOCKET_BYTES} bytes" in err
    monkeypatch.setenv("TMPDIR", "/tmp/" + (80 - size + sockets.MAX_SOCKET_BYTES) * "x")
    assert sockets.socket_problem() == ""
    assert str(sockets.temporary_folder()) == utils.get_default_ray_temp_dir()


@pytest.fixture
def ignored_signals() -> Iterator[None]:
    """Handle SIGINT and SIGTERM by functions that do nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: None) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def received(signals: interrupts.Interrupts, count: int) -> int:
    """Return the number of received signals, as soon as it is `count` or after 5 s."""
    deadline = time.monotonic() + 5
    while len(signals._received) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return len(signals._received)


def test_signals_are_acknowledged_by_a_thread(
    ignored_signals: None, capsys: pytest.CaptureFixture[str]
):
    with interrupts.Interrupts() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert received(signals, 1) == 1 and not signals.repeated
        first = capsys.readouterr().err
        assert first.startswith("SIGTERM received: stopping") and "A second Ctrl-C" in first
        signal.raise_signal(signal.SIGINT)
        assert received(signals, 2) == 2 and signals.repeated
    assert capsys.readouterr().err.startswith("SIGINT received again: ending without a report")
    signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_a_sigterm_that_becomes_a_sigint_is_acknowledged_once(
    ignored_signals: None, capsys: pytest.CaptureFixture[str]
):
    with interrupts.Interrupts() as signals, execute._signals() as names:
        signal.raise_signal(signal.SIGTERM)
    assert (names, len(signals._received)) == (["SIGTERM"], 1)


def test_no_report_is_written_after_a_second_signal(
    ignored_signals: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    sent = []

    def train(*_: object) -> str:
        for _ in sent:
            signal.raise_signal(signal.SIGINT)
        return "SIGINT"

    monkeypatch.setattr(execute, "train", train)
    options = Options(out=tmp_path, seeds=[0], optimizers=["sgd"], tracking_uri="none")
    for count in (2, 1):
        sent[:] = range(count)
        assert run_command([STUDY], options) == 130
        assert "To resume, run the same command" in capsys.readouterr().err
        assert any(tmp_path.glob("reports/*/*/report.md")) == (count == 1)


def test_ctrl_c_before_the_work_ends_with_130_and_the_command_that_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.harness.command.options.parse", interrupted)
    monkeypatch.setattr(sys, "argv", ["ablation_rank.py", "--seeds", "2"])
    assert cli.invoke(cli.command(STUDY)) == 130
    assert capsys.readouterr().err.endswith("  python ablation_rank.py --seeds 2\n")


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("out", "--out"),
        ("data_dir", "--data-dir"),
        ("workload", "--workload"),
        ("optimizers", "--optimizers"),
        ("tracking_uri", "--tracking-uri"),
        ("plugin", "--plugin"),
    ],
)
@pytest.mark.parametrize("value", ["", " ", "a\0b", "a\nb"])
def test_an_empty_value_or_a_control_character_is_refused(name: str, flag: str, value: str):
    _, errors = parse({name: (value,) if name == "plugin" else value})
    assert len(errors) == 1 and errors[0].startswith(f'{flag} = "{value}": must be ')


def test_an_empty_setting_is_refused():
    assert parse({"settings": [""]})[1] == [
        "--set : must have the form NAME=VALUE, such as damping=0.1"
    ]


@pytest.mark.parametrize("variable", ["PRECOND_OUT", "PRECOND_DATA"])
def test_an_empty_variable_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "")
    line = f'{variable} = "": must be a folder; unset the variable for the default'
    assert parse({})[1] == [line]


def test_an_empty_output_folder_is_refused_by_the_commands_of_the_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["studies", "status", "--out", ""])
    assert cli.invoke(GROUP) == 2
    assert "'--out': must be a folder" in capsys.readouterr().err


def test_a_smoke_run_refuses_a_workload():
    _, errors = parse({"smoke": True, "workload": "digits/mlp"})
    assert errors == [
        "--workload = digits/mlp: --smoke always uses digits/cnn: omit one of the two options"
    ]


@pytest.mark.parametrize("seeds", [0, -3, 2.5, True])
def test_the_power_of_an_impossible_number_of_seeds_is_refused(seeds: int):
    with pytest.raises(HyperparameterError, match=f"seeds = {seeds}: must be an integer >= 1"):
        STUDY.power(seeds=seeds)


def test_tables_of_several_workloads_name_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(execute, "train", lambda *_: "done")
    options = Options(
        out=tmp_path, seeds=[0], optimizers=["sgd"], tracking_uri="none",
        workload="digits/mlp,digits/cnn",
    )  # fmt: skip
    run_command([STUDY], options)
    printed = capsys.readouterr().out
    first, second, third = printed.split("mean over n completed trials")
    assert [part.rfind("digits/cnn") > part.rfind("digits/mlp") for part in (first, second)] == [
        False,
        True,
    ]
    assert "digits" in third


def test_a_narrow_terminal_shows_all_columns_of_the_results():
    listing = Listing(
        title="t", header=["arm", *(f"column {i}" for i in range(6))], rows=[["1"] * 7]
    )
    file = io.StringIO()
    screen.show(Report(files=[Path("report.html")], listing=listing), Console(file=file, width=40))
    assert "column 5" in file.getvalue()


def test_the_fault_scenarios_refuse_a_count_that_is_no_integer(capsys: pytest.CaptureFixture[str]):
    for arguments in (["torn", "--n", "x"], ["torn=x"]):
        with pytest.raises(SystemExit, match="2"):
            faults.main(arguments)
        assert "Traceback" not in capsys.readouterr().err
