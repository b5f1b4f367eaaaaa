"""The scripts and the notebook in `examples/` run as they are."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import folders
import nbformat
import pytest
from nbclient import NotebookClient

from precond.rules import RULES
from studies import ablation_rank

EXAMPLES = Path(__file__).parents[1] / "examples"
UNTRACKED = ("--tracking-uri", "none")


def load(name: str) -> dict[str, Any]:
    """Return the names that an example defines, without running it."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def run(name: str, *arguments: str | Path) -> str:
    """Run an example as a script; return what it prints."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_nysact_trains_with_each_update_rule():
    accuracies = load("update_rules")["main"]()
    assert list(accuracies) == list(RULES)
    assert all(accuracy > 0.85 for accuracy in accuracies.values())


def test_nysact_trains_in_a_plain_loop(capsys):
    assert load("plain_loop")["main"](epochs=2) > 0.85
    assert capsys.readouterr().out.count("test accuracy") == 2


def test_nysact_trains_under_accelerate():
    # A new process, because accelerate allows one configuration, which other tests have set.
    *_, last = run("accelerate_loop").splitlines()
    assert last.startswith("epoch 5: training loss ") and float(last.split()[-1]) < 0.5


def test_a_custom_optimizer_takes_part_in_a_study(tmp_path: Path):
    output = run("custom_optimizer", *UNTRACKED, "--seeds", "1", "--epochs", "3", "--out", tmp_path)
    assert "signsgd" in output
    report = tmp_path / "reports/signsgd/digits-autoencoder+epochs=3"
    assert (report / "report.html").exists() and (report / "curves.png").exists()


def test_a_custom_study_runs(tmp_path: Path):
    output = run("custom_study", *UNTRACKED, "--smoke", "--out", tmp_path)
    assert "nysact-s momentum=0.8" in output
    assert (tmp_path / "smoke/reports/momentum/digits-cnn/momentum.png").exists()


def test_results_are_read_and_drawn_with_pandas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(folders, "metrics", lambda *_: {"test/mse": 0.9, "time/train_s": 0.5})
    for trial in ablation_rank.STUDY.trials():
        folders.write_trial(tmp_path, trial, epochs=1)
    assert load("results_in_pandas")["main"](tmp_path).stat().st_size > 10_000
    assert "nysact-s rank=5      0.900         0.500" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Jupyter packages
def test_the_notebook_runs_a_study_and_displays_its_claims_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(EXAMPLES / "run_a_study.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("studies.main(STUDY)"))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "MLFLOW_TRACKING_URI": "none"})
    run, figure, table, folder, command_line = [
        cell["outputs"] for cell in notebook.cells if cell.get("outputs")
    ]
    *progress, result = [output["data"] for output in run if "data" in output]
    texts = [output["text/plain"] for output in progress]
    assert any("9 trials (3 arms x 3 seeds): 0 done" in text for text in texts)
    assert ["9/9 trials" in text for text in texts if "\u2501" in text] == [True]
    assert "nysact-s is better than sgd, for the train loss" in result["text/html"]
    assert 'src="data:image/png;base64,' in result["text/html"]
    assert "9 done, 0 to go" in result["text/plain"]
    assert "image/png" in figure[0]["data"]
    assert "nysact-s" in table[0]["data"]["text/html"]
    assert folder[0]["data"]["text/html"].count("completed") == 9
    assert command_line[0]["text"].endswith("call studies.run(STUDY) instead\n")
