"""Generated command lines: an invalid line must exit with code 2; no line may write a file."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from studies.ablation_rank import STUDY
from studies.harness.command.cli import main
from tests.faults.drivers import PATIENCE, ROOT

HUGE = "9" * 5000
NOT_NUMBERS = [
    "",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "x",
    "1;2",
    "0x10",
    "--",
    "\u0661x",
    "\n",
    "${HOME}",
]
COUNTS = [*NOT_NUMBERS, "0", "-1", "1.5", "4.0", "true", HUGE]
PATHS = [
    "../../etc",
    "digits",
    "digits/",
    "/",
    "digits/cnn/..",
    "digits\\cnn",
    "DIGITS/CNN",
    "imagefolder:",
    "a" * 4000,
]
INVALID: dict[str, list[str]] = {
    "--seeds": [*COUNTS, "-1,", "3,3", "4294967296,", "10001", ",", ",,", "1,x", "0.5,1"],
    "--epochs": COUNTS,
    "--max-concurrent": COUNTS,
    "--workers-per-trial": [*COUNTS, "4096"],
    "--gpus-per-trial": ["", "x", "nan", "inf", "-1", "-inf"],
    "--commit-every": ["", "x", "nan", "inf", "-1", "1s", HUGE],
    "--time-budget": [*NOT_NUMBERS, "0", "0s", "-5m", "1d", "..", "1.2.3s", "s", HUGE],
    "--workload": ["", " ", *PATHS, "cifar10/resnet999", "digits/cnn "],
    "--optimizers": ["", ",", "fof", "sgd,,foof", "SGD", "__import__('os')", "a" * 4000],
    "--address": ["", "ray://h:1", "host", "host:", ":1", "h:123456", "http://h:1", "h:1/x", "h p:1"],
    "--tracking-uri": [
        "", "ftp://x", "http://me:secret@host", "sqlite://", "file:///x", "https://", "/tmp", "databricks",
    ],
    "--retry": ["", "lost", "completed", "failed,oom", "FAILED"],
    "--rerun": ["", "123", "zzzzzz", "../../x", "*", "0" * 64],
    "--plugin": ["nowhere.py", "/", "/dev/null/x", "../x", "a" * 4000],
    "--only": ["", "rank", "rank=", "=5", "rank=0", "rank=8", "rnk=5", "rank=5,x", "__class__=1"],
    "--levels": ["rank=0", "rank=-1", "rank=4.0", "rank=true", "rank=nan", "rank=100000", "rank=x", "rank=,", "lr=1"],
    "--set": [
        *(f"{name}={value}" for name in ("lr", "damping") for value in ("0", "-1", "nan", "inf", "1e999", "x", "none")),
        *(f"{name}={value}" for name in ("momentum", "ema_decay") for value in ("1", "-0.1", "nan", "x", "2")),
        *(f"{name}={value}" for name in ("cov_interval", "inv_interval") for value in ("0", "-1", "2.5", "nan", "x")),
        "weight_decay=-1", "weight_decay=nan", "batch_size=0", "batch_size=1", "batch_size=1198", "batch_size=64.0",
        "schedule=cosin", "nesterov=maybe", "sketch=columns", "resample=never", "precision=bf15", "compile=2",
        "rank=5", "seed=1", "dampng=1", "__class__=x", "=1", "lr", "lr=", "", "tcov=100", "lr=1,2",
    ],
    "--sedes": ["3"],
    "--": ["rank=5"],
}  # fmt: skip
VALID = [
    ["--seeds", "2"], ["--seeds", "3,7"], ["--epochs", "3"], ["--optimizers", "sgd"], ["--only", "rank=5"], ["--smoke"],
    ["--set", "lr=0.2"], ["--set", "ema=0.9"], ["--commit-every", "0"], ["--json"], ["--time-budget", "90s"],
    ["--diagnostics"],
    ["--workload", "digits/mlp"], ["--levels", "rank=5,7"], ["--tracking-uri", "none"], ["--max-concurrent", "1"],
]  # fmt: skip


def inputs(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Run n command lines in this process."""
    os.chdir(folder)
    os.environ.pop("PRECOND_DATA", None)
    for line, invalid in _command_lines(n, rng):
        yield _violations(line, folder, invalid, _main)


def commands(n: int, rng: random.Random, folder: Path) -> Iterator[list[str]]:
    """Run n command lines in new processes, as a user does."""
    for line, invalid in _command_lines(n, rng):
        yield _violations(line, folder, invalid, partial(_process, folder))


def _command_lines(n: int, rng: random.Random) -> Iterator[tuple[list[str], bool]]:
    """Yield command lines, with True for an invalid line.

    A line has up to four valid flags; an invalid line also has one to three invalid flags.
    """
    pairs = [(flag, value) for flag, values in INVALID.items() for value in values]
    for number in range(n):
        invalid = [pairs[number % len(pairs)]] if number % 8 else []
        invalid += rng.sample(pairs, rng.randint(0, 2)) if invalid else []
        excluded = {flag for flag, _ in invalid}
        if invalid:
            # These flags could make an invalid value valid: for example, a network without batch
            # normalisation accepts a batch size of one.
            excluded |= {"--optimizers", "--only", "--workload"}
        valid = [flag for flag in rng.sample(VALID, rng.randint(0, 4)) if flag[0] not in excluded]
        flags = [list(pair) for pair in invalid] + valid
        rng.shuffle(flags)
        line = [word for flag in flags for word in flag]
        if "--" not in line:
            line.insert(0, "--dry-run")  # a valid command must not train
        yield line, bool(invalid)


def _violations(
    line: list[str], folder: Path, invalid: bool, run: Callable[[list[str]], tuple[int, str]]
) -> list[str]:
    """Run a command line and return the violations; `run` returns its exit code and stderr."""
    code, err = run(line)
    violations = []
    if code not in ((2,) if invalid else (0, 2)):
        violations.append(f"exit code {code}: {err[-400:]}")
    lines = err.splitlines()
    if code == 2 and (not lines or not all(text.startswith("error: ") for text in lines)):
        violations.append(f"a line does not begin with 'error: ': {err[-400:]}")
    if any(len(text) > 10_000 for text in lines):
        violations.append("a line of more than 10,000 characters")
    violations += [f"{path.name[:60]} was written" for path in folder.iterdir()]
    return [f"{[word[:80] for word in line]}: {violation}" for violation in violations]


def _process(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Run the study's command in a new process; return its exit code and stderr."""
    command = [sys.executable, ROOT / "studies" / "ablation_rank.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    return ended.returncode, ended.stderr


def _main(arguments: list[str]) -> tuple[int, str]:
    """Run the study's command in this process; return its exit code and stderr.

    An exception counts as exit code 1.
    """
    sys.argv = ["ablation_rank.py", *arguments]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main(STUDY)
        except SystemExit as ended:
            return int(ended.code or 0), err.getvalue()
        except BaseException:
            return 1, traceback.format_exc()
