"""Tests of complete study commands with Ray, trial folders, reports and MLflow.

Commands are also repeated, stopped and killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.__main__ import main as train_without_ray
from trainables.files import read_lines
from trainables.store import TrialStore, read_config, trial_folders
from trainables.train import epochs

ROOT = Path(__file__).parents[2]
# On a busy machine, Ray can take longer to start than its default limit.
ENVIRONMENT = {
    **os.environ,
    "RAY_raylet_start_wait_time_s": "180",
    "COLUMNS": "80",
    "NO_COLOR": "1",
}


def start_study(*arguments: object, file: str = "ablation_rank.py") -> subprocess.Popen[str]:
    command = [sys.executable, ROOT / "studies" / file, *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_output(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=240)[0]
    assert process.returncode == code, output
    return output


def read_files(root: Path, *patterns: str) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes()
        for pattern in patterns
        for p in sorted(root.glob(pattern))
    }


def deterministic_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a trial's epochs, without times, memory and system usage."""
    measured = ("time/", "mem/", "system/")
    lines = read_lines(folder / "epochs.jsonl")
    return [
        {k: v for k, v in line["metrics"].items() if not k.startswith(measured)} for line in lines
    ]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("out")
    return out / "smoke", wait_for_output(start_study("--smoke", "--out", out))


def test_smoke_study_writes_trials_and_reports(smoke: tuple[Path, str]):
    root, output = smoke
    assert "12 to go" in output and "Traceback" not in output
    lines = [line for line in output.splitlines() if root.parent.name not in line]
    assert all(len(line) <= 80 for line in lines)  # lines with a path may be longer
    folders = list(trial_folders(root))
    assert len(folders) == 12
    for folder in folders:
        assert [line["epoch"] for line in read_lines(folder / "epochs.jsonl")] == [0, 1]
        assert not list(folder.glob("checkpoint-*"))
    reports = {Path(name).name for name in read_files(root, "reports/ablation_rank/digits-cnn/*")}
    assert reports >= {"report.md", "report.html", "trials.csv", "rank.png", "rank.svg"}
    assert "reports/ablation_rank/digits-cnn/report.html" in output.replace("\n", "")


def test_training_in_a_ray_worker_and_in_this_process_gives_equal_metrics(
    smoke: tuple[Path, str], tmp_path: Path
):
    folder = next(
        f for f in trial_folders(smoke[0]) if read_config(f)["config"]["optimizer"] == "nysact-g"
    )
    source = TrialStore.open(smoke[0], read_config(folder)["key"])
    store = TrialStore(tmp_path, source.config)
    store.create()
    list(epochs(store.config, store))
    assert deterministic_metrics(store.folder) == deterministic_metrics(folder)


def test_mlflow_has_one_parent_run_and_a_run_for_each_trial(smoke: tuple[Path, str]):
    from mlflow import MlflowClient

    from studies.harness.design.options import default_uri

    client = MlflowClient(default_uri(smoke[0]))
    experiment = client.get_experiment_by_name("ablation_rank-smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parent = [run for run in runs if run.data.tags["kind"] == "study"]
    trials = [run for run in runs if run.data.tags["kind"] == "trial"]
    assert len(parent) == 1 and len(trials) == 12
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    artifacts = {item.path for item in client.list_artifacts(parent[0].info.run_id)}
    assert {"report.md", "trials.csv", "rank.png"} <= artifacts


def test_repeated_command_trains_nothing_and_writes_equal_reports(smoke: tuple[Path, str]):
    root = smoke[0]
    before = read_files(root, "reports/**/*.*", "trials/*/*")
    output = wait_for_output(start_study("--smoke", "--out", root.parent))
    assert "12 done, 0 to go" in output
    assert read_files(root, "reports/**/*.*", "trials/*/*") == before


def test_trials_without_ray_are_bitwise_equal(
    smoke: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """`python -m trainables` trains the output of `--dry-run --json` as Ray's workers do."""
    flags = ("--smoke", "--dry-run", "--json", "--out", tmp_path / "none", "--seeds", "1")
    trials, path = wait_for_output(start_study(*flags)), tmp_path / "trials.jsonl"
    path.write_text(trials)
    arguments = [str(path), "--out", str(tmp_path)]
    assert train_without_ray([*arguments, "--commit-every", "0"]) == 0
    folders = list(trial_folders(tmp_path))
    assert len(folders) == 6 and "completed" in capsys.readouterr().out
    for folder in folders:
        assert deterministic_metrics(folder) == deterministic_metrics(
            smoke[0] / "trials" / folder.name
        )
    assert train_without_ray(arguments) == 0  # all trials are complete
    path.write_text(trials.replace('"batch_size": 64', '"batch_size": 32'))
    assert train_without_ray(arguments) == 2  # the keys do not match the configurations


def test_study_can_vary_a_recipe_field_for_both_variants(tmp_path: Path):
    flags = "--smoke --optimizers foof,nysact-s --tracking-uri none --out"
    arguments = (*flags.split(), tmp_path)
    assert "12 to go" in wait_for_output(start_study(*arguments, file="ablation_batch_size.py"))
    sizes = {
        (c["optimizer"], c["batch_size"])
        for c in (read_config(f)["config"] for f in trial_folders(tmp_path / "smoke"))
    }
    assert sizes == {("foof", 16), ("foof", 32), ("nysact-s", 16), ("nysact-s", 32)}
    [page] = tmp_path.glob("smoke/reports/ablation_batch_size/digits-cnn+optimizers=*/report.md")
    text = page.read_text()
    assert "batch size varied" in text and "(batch_size.png)" in text
    assert "| nysact-s as-released batch_size=16 | 2 |" in text
    assert "| nysact-s batch_size=16 | 2 |" in text
    assert "12 done, 0 to go" in wait_for_output(
        start_study(*arguments, file="ablation_batch_size.py")
    )


def test_study_resumes_after_its_driver_is_stopped_or_killed(tmp_path: Path):
    """A time budget, SIGTERM and SIGKILL stop the driver; then the same command resumes the study.

    The folders of finished trials do not change.
    """
    flags = "--optimizers sgd --seeds 12 --epochs 8 --tracking-uri none --out"
    arguments = (*flags.split(), tmp_path)
    output = wait_for_output(start_study(*arguments, "--time-budget", "1"), 3)
    assert output.splitlines()[-1].strip().endswith("--time-budget 1")
    assert "the time budget is used up" in output

    driver = start_study(*arguments)
    before = len(_finished(tmp_path))
    _wait_for(lambda: len(_finished(tmp_path)) > before, driver)
    driver.terminate()
    assert "stopped by SIGTERM; all committed results are kept" in wait_for_output(driver, 143)

    driver = start_study(*arguments)
    before = len(_finished(tmp_path))
    _wait_for(lambda: len(_finished(tmp_path)) > before, driver)
    driver.kill()
    driver.wait()
    assert driver.stdout is not None
    driver.stdout.close()
    done = {folder: read_files(folder, "*") for folder in _finished(tmp_path)}
    assert len(done) < 12, "all trials were complete before the driver was killed"

    wait_for_output(start_study(*arguments))
    assert len(_finished(tmp_path)) == 12
    for folder in _finished(tmp_path):
        assert [line["epoch"] for line in read_lines(folder / "epochs.jsonl")] == list(range(8))
    assert {folder: read_files(folder, "*") for folder in done} == done, (
        "a finished trial has changed"
    )


def _finished(root: Path) -> list[Path]:
    return [folder for folder in trial_folders(root) if (folder / "status.json").exists()]


def _wait_for(condition, process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"the condition was not met within {seconds} s"
        time.sleep(0.02)
