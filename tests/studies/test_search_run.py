"""Searches with Ray, as a user runs them: killed and resumed drivers, ASHA, SIGTERM and MLflow."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studies.harness.design.options import Options, default_uri
from studies.harness.kinds.search.proposals import proposals_path, stopped_keys
from studies.harness.kinds.search.proposer import Proposer
from studies.harness.kinds.search.tuning import plans
from studies.tune_optimizers import SEARCH
from trainables.files import read_lines
from trainables.store import TrialStore, read_config, trial_folders
from trainables.train import epochs
from trainables.workloads import resolve

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "RAY_raylet_start_wait_time_s": "180",
    "COLUMNS": "80",
    "NO_COLOR": "1",
}
TIMEOUT = 1500  # seconds, because a busy machine is slow
TUNING = ("--optimizers", "sgd,adamw", "--budget", "4", "--max-concurrent", "1")
WORKLOAD = ("--workload", "digits/cnn")
SMALL = (*WORKLOAD, *TUNING, "--epochs", "2", "--seeds", "2")


def start_search(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, ROOT / "studies" / "tune_optimizers.py", *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_end(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=TIMEOUT)[0]
    assert process.returncode == code, output
    return output


def wait_for(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def proposal_lines(root: Path, optimizer: str) -> list[dict]:
    return read_lines(proposals_path(root, "tune_optimizers", "digits/cnn", optimizer))


def finished_trials(root: Path) -> list[Path]:
    return [folder for folder in trial_folders(root) if (folder / "status.json").exists()]


def bytes_by_path(folders: list[Path]) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for folder in folders
        for path in sorted(folder.glob("*"))
        if path.is_file()
    }


def run_uninterrupted(root: Path) -> None:
    """Run the same search in this process, without Ray."""
    options = Options(
        only={},
        levels={},
        settings={},
        workload="digits/cnn",
        epochs=2,
        optimizers=["sgd", "adamw"],
        out=root,
    )
    (plan,) = plans(SEARCH.__class__(**{**vars(SEARCH), "budget": 4}), options)
    for optimizer in ("sgd", "adamw"):
        proposer = Proposer(plan, optimizer, root)
        while trial := proposer.next():
            list(epochs(trial.config, TrialStore(root, trial.config)))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Kill the driver of a search halfway, and finish the search with the same command.

    Return the output folder and the output of the second command.
    """
    out = tmp_path_factory.mktemp("out")
    driver = start_search(*SMALL, "--out", out)
    wait_for(lambda: len(finished_trials(out)) >= 2, driver)
    driver.kill()
    driver.wait()
    assert driver.stdout is not None
    driver.stdout.close()
    before, done = proposal_lines(out, "sgd"), bytes_by_path(finished_trials(out))
    assert len(finished_trials(out)) < 8, "the driver was killed too late for a meaningful test"
    output = wait_for_end(start_search(*SMALL, "--out", out))
    assert proposal_lines(out, "sgd")[: len(before)] == before
    assert {path: path.read_bytes() for path in done} == done
    return out, output


def test_killed_search_resumes_with_the_same_proposals_and_budget(
    resumed: tuple[Path, str], tmp_path: Path
):
    run_uninterrupted(tmp_path)
    for optimizer in ("sgd", "adamw"):
        # The first line is the identity of the search; the others are four proposals.
        assert len(proposal_lines(resumed[0], optimizer)) == 5
        assert proposal_lines(resumed[0], optimizer) == proposal_lines(tmp_path, optimizer)
    configs = [read_config(folder)["config"] for folder in finished_trials(resumed[0])]
    scored = [config for config in configs if config["train_fraction"] == 0.9]
    fresh = [config for config in configs if config["train_fraction"] == 1]
    assert len(scored) == 8 and {config["seed"] for config in scored} == {1000}
    assert len(fresh) == 4 and {config["seed"] for config in fresh} == {0, 1}
    for folder in finished_trials(resumed[0]):
        assert [line["epoch"] for line in read_lines(folder / "epochs.jsonl")] == [0, 1]


def test_report_names_the_winners_and_writes_the_recipe_of_their_trials(resumed: tuple[Path, str]):
    [folder] = resumed[0].glob("reports/tune_optimizers/digits-cnn+*")
    text = (folder / "report.md").read_text()
    for part in ("| sgd | 2 |", "| adamw | 2 |", "not exchangeable", "shrinkage"):
        assert part in text
    for name in ("best_of_k.png", "best_of_k.csv", "proposals.csv", "report.tex"):
        assert (folder / name).exists()
    source = (folder / "recipe.py").read_text()
    recipes = ast.literal_eval(source[source.index("{") :])
    configs = [read_config(folder)["config"] for folder in finished_trials(resumed[0])]
    fresh = [config for config in configs if config["train_fraction"] == 1]
    for name, values in recipes.items():
        config = resolve("digits/cnn", name, values, {"epochs": 2})
        assert config.to_dict() in fresh
    trials = (folder / "trials.csv").read_text()
    assert "val/accuracy" not in trials and "test/accuracy" in trials, (
        "trials.csv must not contain the scores of tuning trials"
    )


def test_mlflow_has_the_search_its_trials_and_a_group_for_each_winner(resumed: tuple[Path, str]):
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(resumed[0]))
    experiment = client.get_experiment_by_name("tune_optimizers")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    kinds = [run.data.tags["kind"] for run in runs]
    assert {kind: kinds.count(kind) for kind in kinds} == {"study": 1, "trial": 12, "group": 2}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "tracking failed" not in resumed[1]


def test_second_run_trains_nothing_and_writes_the_same_report(resumed: tuple[Path, str]):
    out = resumed[0]
    # .report.json contains the modification times of the files.
    reports = sorted((out / "reports").glob("*/*/[!.]*"))

    def state() -> tuple:
        bytes_of_reports = {path: path.read_bytes() for path in reports}
        return (
            bytes_of_reports,
            bytes_by_path(list(trial_folders(out))),
            proposal_lines(out, "adamw"),
        )

    before = state()
    command = (*SMALL, "--out", out, "--json")
    output = wait_for_end(start_search(*command))
    assert "sgd    0 configurations and 0 fresh trials to go" in output
    assert "adamw  0 configurations" in output
    assert state() == before
    record = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert [row["completed"] for row in record["optimizers"]] == [4, 4]
    assert "sampler = tpe, not random" in wait_for_end(
        start_search(*command, "--sampler", "random"), 2
    )


def test_trials_that_asha_stopped_are_not_trained_again(tmp_path: Path):
    """The search is stopped by SIGTERM halfway; the same command resumes it up to the budget."""
    arguments = "--optimizers sgd --asha --budget 7 --epochs 3 --seeds 1 --max-concurrent 1"
    command = (*WORKLOAD, *arguments.split(), "--tracking-uri", "none", "--out", tmp_path)
    driver = start_search(*command)
    wait_for(lambda: stopped_keys(tmp_path), driver)
    driver.terminate()
    assert "all committed results are kept" in wait_for_end(driver, 143)
    first, done = stopped_keys(tmp_path), bytes_by_path(finished_trials(tmp_path))
    stopped = {key: bytes_by_path([tmp_path / "trials" / key[:16]]) for key in first}
    output = wait_for_end(start_search(*command))
    assert "ASHA" in output
    proposals = [line for line in proposal_lines(tmp_path, "sgd") if "parameters" in line]
    assert len(proposals) == 7 and first <= stopped_keys(tmp_path)
    assert {key: bytes_by_path([tmp_path / "trials" / key[:16]]) for key in first} == stopped
    assert {path: path.read_bytes() for path in done} == done
    completed = {line["trial_key"] for line in proposals} - stopped_keys(tmp_path)
    assert all((tmp_path / "trials" / key[:16] / "status.json").exists() for key in completed)
    [page] = tmp_path.glob("reports/tune_optimizers/digits-cnn+*/report.md")
    text = page.read_text()
    assert "After a restart, it does not know the scores of earlier trials." in text


def test_trials_that_asha_stopped_have_the_status_killed_in_mlflow(tmp_path: Path):
    from mlflow import MlflowClient

    options = Options(only={}, levels={}, settings={}, optimizers=["sgd"], out=tmp_path)
    (plan,) = plans(SEARCH, options)
    proposer = Proposer(plan, "sgd", tmp_path)
    trial = proposer.next()
    assert trial is not None
    TrialStore(tmp_path, trial.config).begin({"torch": "2"})
    uri = default_uri(tmp_path)
    SEARCH.tracking(plan).send(uri)
    client = MlflowClient(uri)
    key = trial.config.trial_key

    def status() -> str:
        experiment = client.get_experiment_by_name("tune_optimizers")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id], f"tags.trial_key = '{key}'")
        return run.info.status

    assert status() == "RUNNING"
    proposer.stop(key, 0, {0: 0.5}, 1.0)
    for _ in range(2):
        SEARCH.tracking(plan).send(uri)
        assert status() == "KILLED"
