"""A study's command from its plan to its exit code; trials are trained without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes

from studies.ablation_rank import STUDY
from studies.harness.cluster import execute
from studies.harness.command import lock
from studies.harness.command.run import run_command as execute_command
from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.claims import Better
from studies.harness.design.options import DEFAULT_WORKLOAD, Options
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.report.figures import curves, style
from trainables.files import read_lines
from trainables.store import TrialStore, lock_generation, trial_folders
from trainables.train import Trainer, epochs

FIRST = replace(
    STUDY,
    workload="digits/cnn",
    name="first",
    claims=[Better("nysact-s rank=*", than="sgd")],
    arms=[*grid("nysact-s", rank=[5, 10]), Arm(optimizer="sgd")],
    figure=LevelFigure(factor="rank", panels=("nysact-s",), references=("sgd",)),
    arms_on={},
    extra_figures=[],
)
SECOND = replace(
    FIRST, name="second", arms=[*grid("nysact-s", rank=[10, 20]), Arm(optimizer="sgd")]
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train the trials in this process. The list receives the arm and seed of each trained trial."""
    labels: list[str] = []

    def train(
        trials: Sequence[Trial], options: Options, generation: int, progress, on_lost, prepare
    ) -> str:
        assert trials  # Ray must not start without trials
        prepare()
        for trial in trials:
            labels.append(f"{trial.arm.label} s{trial.config.seed}")
            store = TrialStore.open(options.root, trial.config.trial_key, generation)
            settings = {name: getattr(options, name) for name in ("commit_every", "diagnostics")}
            for metrics in epochs(trial.config, store, **settings):
                progress.epoch(trial.config.trial_key, int(metrics["epoch"]), metrics)
            status = store.status() or {}
            progress.finished(trial.config.trial_key, status["status"], status.get("reason", ""))
        return "done"

    monkeypatch.setattr(execute, "train", train)
    return labels


def run_command(root: Path, *studies: Study, **options) -> int:
    common = {"out": root, "tracking_uri": "none", "epochs": 1, "seeds": [0]}
    return execute_command(studies or [FIRST], Options(**{**common, **options}))


def test_a_trial_that_two_studies_need_is_trained_once(tmp_path: Path, trained: list[str]):
    assert run_command(tmp_path, FIRST, SECOND) == 0
    assert sorted(trained) == [
        "nysact-s rank=10 s0",
        "nysact-s rank=20 s0",
        "nysact-s rank=5 s0",
        "sgd s0",
    ]
    assert {path.parent.parent.name for path in tmp_path.glob("reports/*/*/report.md")} == {
        "first",
        "second",
    }


def test_several_workloads_give_a_report_each(tmp_path: Path, trained: list[str]):
    assert run_command(tmp_path, workload="digits/mlp,digits/cnn", optimizers=["sgd"]) == 0
    assert trained == ["sgd s0", "sgd s0"]
    assert {path.parent.name for path in tmp_path.glob("reports/first/*/report.md")} == {
        "digits-mlp+optimizers=sgd+epochs=1",
        "digits-cnn+optimizers=sgd+epochs=1",
    }
    trained.clear()
    assert run_command(tmp_path, optimizers=["sgd"]) == 0 and trained == []


def test_report_of_the_default_workload_has_its_headline_metric(tmp_path: Path, trained: list[str]):
    study = replace(FIRST, name="error", workload=DEFAULT_WORKLOAD)
    assert run_command(tmp_path, study, optimizers=["sgd"], seeds=[0, 1], epochs=3) == 0
    assert trained == ["sgd s0", "sgd s1"]
    [folder] = tmp_path.glob("reports/error/*")
    assert folder.name == "digits-autoencoder+optimizers=sgd+epochs=3"
    epochs_of_trials = [read_lines(path / "epochs.jsonl") for path in trial_folders(tmp_path)]
    errors = [lines[-1]["metrics"]["test/mse"] for lines in epochs_of_trials]
    table = pd.read_csv(folder / "arms.csv")
    assert list(table["mean"]) == pytest.approx([sum(errors) / 2])
    text = (folder / "report.md").read_text()
    assert f"| sgd | 2 | {sum(errors) / 2:#.4g} |" in text and "last-epoch test mse" in text
    pictures = {path.name for path in folder.glob("*.[ps][dnv][fg]")}
    assert pictures == {"curves.pdf", "curves.png", "curves.svg"}  # SGD has no rank


def test_another_study_level_or_seed_trains_only_new_trials(tmp_path: Path, trained: list[str]):
    steps = [
        ({}, ["nysact-s rank=5 s0", "nysact-s rank=10 s0", "sgd s0"]),
        ({}, []),
        ({"levels": {"rank": [5, 10, 15]}}, ["nysact-s rank=15 s0"]),
        ({"seeds": [0, 1], "optimizers": ["sgd"]}, ["sgd s1"]),
    ]
    for options, expected in steps:
        trained.clear()
        assert run_command(tmp_path, **options) == 0
        assert trained == expected
    trained.clear()
    assert run_command(tmp_path, SECOND) == 0
    assert trained == ["nysact-s rank=20 s0"]


def test_report_only_trains_nothing(tmp_path: Path, trained: list[str], capsys):
    assert run_command(tmp_path, report_only=True) == 0
    assert "3 trials (3 arms x 1 seed): 0 done, 3 to go" in capsys.readouterr().out
    report = (tmp_path / "reports/first/digits-cnn+epochs=1/report.md").read_text()
    assert trained == [] and "3 of 3" not in report and "1 of 1 not run" in report


def test_cluster_that_does_not_answer_is_reported_in_one_line(tmp_path: Path, capsys):
    assert run_command(tmp_path, address="127.0.0.1:1") == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(
        "error: no Ray cluster answers at 127.0.0.1:1"
    )
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", '{"files": []}', '{"files": {}, "report": {"listing": 1}}']
)
def test_a_damaged_record_of_the_last_report_is_ignored(tmp_path: Path, content: str):
    assert run_command(tmp_path, report_only=True) == 0
    folder = tmp_path / "reports/first/digits-cnn+epochs=1"
    page, record = folder / "report.md", folder / ".report.json"
    text, time, inputs = page.read_bytes(), page.stat().st_mtime_ns, json.loads(record.read_bytes())
    assert run_command(tmp_path, report_only=True) == 0 and page.stat().st_mtime_ns == time
    record.write_text(content)
    assert run_command(tmp_path, report_only=True) == 0
    assert page.read_bytes() == text and page.stat().st_mtime_ns > time
    assert json.loads(record.read_bytes())["inputs"] == inputs["inputs"]


def test_diverged_trials_are_results_and_trained_again_only_with_retry(
    tmp_path: Path, trained: list[str]
):
    options = {"optimizers": ["sgd"], "settings": {"lr": 1e20}}
    assert run_command(tmp_path, **options) == 0
    assert run_command(tmp_path, **options) == 0
    assert trained == ["sgd s0"]
    assert run_command(tmp_path, **options, retry=("diverged",)) == 0
    assert trained == ["sgd s0", "sgd s0"]
    [page] = tmp_path.glob("reports/first/*/report.md")
    assert "1 of 1 diverged" in page.read_text()


def test_failed_trials_give_exit_code_1_and_can_be_retried(
    tmp_path: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "evaluate", lambda self: 1 / 0)
        assert run_command(tmp_path, optimizers=["sgd"]) == 1
    output = capsys.readouterr().out
    assert "ZeroDivisionError" in output and "log.txt" in output
    assert run_command(tmp_path, optimizers=["sgd"]) == 1
    assert run_command(tmp_path, optimizers=["sgd"], retry=("failed",)) == 0


def test_rerun_trains_a_named_trial_again(tmp_path: Path, trained: list[str]):
    assert run_command(tmp_path, optimizers=["sgd"]) == 0
    folder = next(trial_folders(tmp_path))
    before = read_lines(folder / "epochs.jsonl")
    assert run_command(tmp_path, optimizers=["sgd"], rerun=(folder.name,)) == 0
    assert trained == ["sgd s0", "sgd s0"]
    after = read_lines(folder / "epochs.jsonl")
    assert after[0]["metrics"]["train/loss"] == before[0]["metrics"]["train/loss"]
    assert after[0]["time"] > before[0]["time"]


@pytest.mark.parametrize(("options", "count"), [({"optimizers": ["sgd"]}, 1), ({}, 3)])
def test_trials_of_a_concurrent_driver_are_not_trained_again(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, options: dict, count: int
):
    """The concurrent driver trains SGD, which is the whole plan or one of its three trials."""
    exclusive = lock.exclusive

    @contextmanager
    def lock_after_another_driver(root: Path) -> Iterator[int]:
        monkeypatch.setattr(lock, "exclusive", exclusive)
        assert run_command(tmp_path, optimizers=["sgd"]) == 0
        with exclusive(root) as generation:
            yield generation

    monkeypatch.setattr(lock, "exclusive", lock_after_another_driver)
    assert run_command(tmp_path, **options) == 0
    assert trained[0] == "sgd s0" and len(trained) == len({*trained}) == count
    assert lock_generation(tmp_path) == 2


def test_with_json_standard_output_contains_only_the_results(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
):
    assert run_command(tmp_path, as_json=True) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["study"] == "first" and [arm["n"] for arm in document["arms"]] == [1, 1, 1]
    assert "to go" in err


def test_diagnostics_figure_shows_the_trials_with_diagnostics(tmp_path: Path, trained: list[str]):
    """`--diagnostics` is not part of a trial's key, so completed trials are not trained again."""
    assert run_command(tmp_path, FIRST) == 0
    assert not list(tmp_path.glob("**/diagnostics*"))
    assert run_command(tmp_path, FIRST, diagnostics=True) == 0
    assert len(trained) == 3 and not list(tmp_path.glob("**/diagnostics*"))
    assert run_command(tmp_path, SECOND, diagnostics=True) == 0
    assert trained[3:] == ["nysact-s rank=20 s0"]
    [picture] = tmp_path.glob("reports/second/*/diagnostics.png")
    assert picture.stat().st_size > 10_000
    assert len(list(tmp_path.glob("trials/*/diagnostics.jsonl"))) == 1


def test_diagnostics_figure_counts_the_trials_with_diagnostics_and_epochs_from_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    titles: list[str] = []
    epochs: list[list[int]] = []
    plot = Axes.plot

    def record(self: Axes, x, y, **look):
        epochs.append([*x])
        return plot(self, x, y, **look)

    monkeypatch.setattr(style.Figure, "suptitle", lambda self, text, **_: titles.append(text))
    monkeypatch.setattr(Axes, "plot", record)
    keys = {"trial_key": ["x", "x", "y"], "optimizer": "foof"}
    frame = pd.DataFrame({"arm": ["a", "a", "b"], "seed": 0, **keys, "epoch": [0, 1, 0]})
    assert curves.draw_diagnostics(frame, tmp_path) == []
    measured = frame.assign(**{"diag/cosine_median": [0.5, 0.6, None]})
    assert len(curves.draw_diagnostics(measured, tmp_path)) == 3
    assert titles == ["mean over seeds; 1 of 2 trials with diagnostics"]
    assert epochs == [[1, 2]]
