"""Judgements with Ray, as a user runs them: killed and resumed, with a plugin, over the budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studies.harness.kinds.judge import ledger
from trainables.files import read_lines
from trainables.store import trial_folders

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "RAY_raylet_start_wait_time_s": "180",
    "COLUMNS": "80",
    "NO_COLOR": "1",
}
TIMEOUT = 1500  # seconds, because a busy machine is slow
PLUGIN = ROOT / "examples" / "custom_optimizer.py"
SMALL = ("--epochs", "3", "--max-seeds", "3", "--tracking-uri", "none", "--plugin", PLUGIN)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "studies", "judge", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, output, errors


def finished(root: Path) -> list[Path]:
    return [folder for folder in trial_folders(root) if (folder / "status.json").exists()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill the driver of a judgement after its first trials; return the output folder."""
    out = tmp_path_factory.mktemp("out")
    driver = start("signsgd,nysact-s", "vs", "sgd", *SMALL, "--out", out)
    deadline = time.monotonic() + TIMEOUT
    while len(finished(out)) < 2:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.05)
    driver.kill()
    driver.communicate()
    return out


def test_a_killed_judgement_resumes_and_its_repetition_trains_nothing(killed: Path):
    kept = {path: (path / "status.json").read_bytes() for path in finished(killed)}
    arguments = ("signsgd,nysact-s", "sgd", *SMALL, "--out", killed, "--json")
    code, output, errors = run(*arguments)
    # Three pairs never suffice: the e-value of two pairs is at most 3.
    assert code in (12, 0), errors
    assert all((path / "status.json").read_bytes() == content for path, content in kept.items())
    stamps = {path: (path / "status.json").stat().st_mtime_ns for path in finished(killed)}
    lines = read_lines(killed / ledger.NAME)
    repeated = run(*arguments)
    assert repeated[:2] == (code, output)
    assert {path: (path / "status.json").stat().st_mtime_ns for path in finished(killed)} == stamps
    assert read_lines(killed / ledger.NAME) == lines
    assert [line["event"] for line in lines] == ["begun", "ended"]
    assert json.loads(output)


def test_the_time_budget_ends_a_judgement_as_inconclusive(tmp_path: Path):
    code, output, errors = run("signsgd", "sgd", *SMALL, "--out", tmp_path, "--budget", "0.001s")
    assert code == 12, errors
    assert read_lines(tmp_path / ledger.NAME)[-1]["verdicts"][0]["decision"] == "inconclusive"
    assert "no pair of seeds has ended yet" in " ".join(output.split())
