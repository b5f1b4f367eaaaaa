"""Figures and reports of grids, from synthetic trial folders; estimates of the training time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import precond
from precond.registry import REGISTRY
from studies import ablation_batch_size, ablation_damping, ablation_sampling, compare_accuracy
from studies.harness.command.estimate import duration, estimate, probe
from studies.harness.design.arms import Arm, Trial, grid
from studies.harness.design.options import Options
from studies.harness.evidence import ledger
from studies.harness.evidence.levels import EDGE
from studies.harness.kinds.study.figures import CurveFigure
from studies.harness.kinds.study.study import Study
from studies.harness.report.figures import curves
from studies.harness.report.figures import levels as level_figures
from studies.harness.report.figures.style import display, lines
from trainables.store import DIVERGED, FAILED
from trainables.workloads import resolve

METRIC, WORKLOAD = "test/accuracy", "digits/cnn"


@pytest.fixture
def write_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes the trial folders of a study."""

    def write(
        study: Study,
        accuracy: Callable,
        status: Callable = lambda trial: None,
        epochs: int = 4,
        seeds: Sequence[int] | None = None,
    ) -> list[Trial]:
        """Write the trial folders with the values of `accuracy(trial, epoch)`.

        If `status(trial)` is not None, the trial ends with this status in its second epoch.
        """
        monkeypatch.setattr(folders, "accuracy", accuracy)
        trials = study.trials(WORKLOAD, seeds, recipe={"epochs": epochs})
        for trial in trials:
            if (final := status(trial)) is None:
                folders.write_trial(tmp_path, trial)
            else:
                folders.write_trial(tmp_path, trial, 1, final, epoch=1, step=3)
        return trials

    return write


def text_of(root: Path, trials: list[Trial], study: Study = ablation_damping.STUDY) -> str:
    """Return the report of a study as Markdown."""
    return folders.report(root, trials, study).files[0].read_text()


def noise(trial: Trial, sd: float = 0.001) -> float:
    """Return noise that depends only on the trial's key."""
    return sd * float(np.random.default_rng(int(trial.config.trial_key[:8], 16)).normal())


def accuracy_by_damping(trial: Trial, epoch: int) -> float:
    level = trial.config.hyperparameters["damping"]
    return 0.95 - 0.01 * abs(np.log10(level)) - 0.05 / (epoch + 1) + noise(trial)


def kfac_diverges_at_10(trial: Trial) -> str | None:
    if trial.arm.optimizer != "kfac" or trial.arm.overrides["damping"] != 10:
        return None
    return (DIVERGED, FAILED, None)[trial.config.seed]


def test_as_released_and_corrected_variants_are_two_lines_of_a_panel(
    write_trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = write_trials(ablation_damping.STUDY, accuracy_by_damping)
    drawn: dict[str, list[str]] = {}
    errorbar = Axes.errorbar

    def record(self: Axes, x, y, *rest, **style):
        drawn.setdefault(style["label"], []).append((style["color"], style["linestyle"], len(x)))
        return errorbar(self, x, y, *rest, **style)

    monkeypatch.setattr(Axes, "errorbar", record)
    paths = folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert [path.name for path in paths] == ["damping.pdf", "damping.png", "damping.svg"]
    [corrected] = drawn["corrected"]
    as_released = drawn["as-released"]
    # KFAC and Eva have the recipe's level 0.03 in addition to the four levels of the grid.
    assert [n for _, _, n in as_released] == [5, 5, 4, 4] and corrected[2] == 4
    assert len({line[:2] for line in as_released}) == 1  # the same style in each panel
    # The lines differ in colour and, for print in grayscale, in their dashes.
    assert corrected[0] != as_released[0][0] and corrected[1] != as_released[0][1]


def test_diverged_trials_are_marked_and_not_averaged(
    write_trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = write_trials(
        ablation_damping.STUDY, accuracy_by_damping, kfac_diverges_at_10, seeds=range(3)
    )
    texts: list[str] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *_, **__: texts.append(text))
    folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert texts == ["2 of 3"]
    text = text_of(tmp_path, trials)
    assert "<summary>Stability by damping</summary>" in text
    assert re.search(
        r"\| kfac as-released \|.* 3 of 3 \|.*\| 1 of 3, 1 diverged, 1 failed \|", text
    )
    row = re.search(
        r"\| kfac as-released damping=10.0 \| 1 \| ([\d.]+) \| - \|.*1 of 3 diverged, 1 of 3 failed",
        text,
    )
    survivor = next(
        t
        for t in trials
        if kfac_diverges_at_10(t) is None and t.arm.label == "kfac as-released damping=10.0"
    )
    assert row and float(row[1]) == pytest.approx(100 * accuracy_by_damping(survivor, 3), abs=0.005)


def test_each_optimizer_has_a_line_of_its_own():
    styles = lines([*precond.available(), "a-plugin", "sgd"])
    assert len(styles) == len(set(styles)) >= 16


def test_style_of_an_optimizer_does_not_depend_on_the_others_of_a_figure():
    styles = dict(zip(precond.available(), lines(precond.available()), strict=True))
    assert all(lines(["sgd", name])[1] == styles[name] for name in styles if name != "sgd")


def test_very_low_mean_does_not_compress_the_axis(
    write_trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The axis shows the levels near the best level; an arrow with the value marks the low mean."""

    def collapsing(trial: Trial, epoch: int) -> float:
        damping = trial.config.hyperparameters["damping"]
        return 0.1 if damping == 0.01 else accuracy_by_damping(trial, epoch)

    trials = write_trials(ablation_damping.STUDY, collapsing)
    texts: list[str] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *_, **__: texts.append(text))
    limits: list[tuple[float, float]] = []
    compute = level_figures.limits

    def record(*arguments: Any, **options: Any) -> tuple[float, float]:
        limits.append(compute(*arguments, **options))
        return limits[-1]

    monkeypatch.setattr(level_figures, "limits", record)
    folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert texts == ["10%"] * 5 and len(set(limits)) == 1
    values = [100 * collapsing(t, 3) for t in trials]
    (low, high), visible = limits[0], [value for value in values if value > 11]
    assert min(visible) - 10 < low < min(visible) and max(visible) < high <= 100.5


def test_level_with_diverged_trials_still_bounds_the_best_level(write_trials, tmp_path: Path):
    """Level 1.0 has the best mean. It is at the edge only if the diverged level 10 is not planned."""

    def rising(trial, _):
        return 0.9 + 0.02 * np.log10(trial.config.hyperparameters["damping"]) + noise(trial)

    def diverges_at_10(trial: Trial) -> str | None:
        return DIVERGED if trial.arm.overrides["damping"] == 10 else None

    arms = [arm for arm in ablation_damping.STUDY.arms if arm.optimizer == "kfac"]
    study = replace(ablation_damping.STUDY, arms=arms)
    trials = write_trials(study, rising, diverges_at_10, seeds=range(3))
    (verdict,) = folders.evidence(tmp_path, trials).levels
    assert (verdict.best, verdict.lost, verdict.as_released) == (1.0, ("10.0 (3 of 3)",), True)
    assert verdict.verdict != EDGE
    completed = [trial for trial in trials if not diverges_at_10(trial)]
    (verdict,) = folders.evidence(tmp_path, completed).levels
    assert (verdict.best, verdict.verdict, verdict.lost) == (1.0, EDGE, ())
    text = text_of(tmp_path, trials, study)
    assert "`kfac` as-released, damping 0.01 to 10.0: damping 1.0 has the best mean" in text
    assert "Trials without a result: damping 10.0 (3 of 3)." in text


def test_levels_are_compared_with_the_recipes_value(write_trials, tmp_path: Path):
    """Each variant is compared with its recipe; Holm's correction covers only this table."""
    trials = write_trials(ablation_damping.STUDY, accuracy_by_damping, seeds=range(3))
    text = text_of(tmp_path, trials)
    section = text.partition("Differences from the recipe's values</summary>")[2]
    section = section.partition("</details>")[0]
    arms = re.findall(r"^\| ([a-z-]+(?: as-released)? damping=[\d.]+) \| 3 \|", section, re.M)
    assert len(arms) == 4 * 2 + 3 * 3 and "kfac as-released damping=0.03" not in arms
    assert (
        "(kfac as-released damping=0.03, eva as-released damping=0.03, foof as-released damping=1.0,"
        in section
    )
    assert "Holm-corrected over the 17 differences of this table only" in section
    assert "Differences from kfac" not in text
    values = {(t.arm.label, t.config.seed): accuracy_by_damping(t, 3) for t in trials}
    gaps = [
        values["foof as-released damping=10.0", s] - values["foof as-released damping=1.0", s]
        for s in range(3)
    ]
    row = re.search(r"\| foof as-released damping=10.0 \| 3 \| ([+-][\d.]+) \|", section)
    assert row and float(row[1]) == pytest.approx(100 * np.mean(gaps), abs=0.005)


def test_sampling_variants_are_compared_within_each_sketch(write_trials, tmp_path: Path):
    trials = write_trials(ablation_sampling.STUDY, lambda trial, epoch: 0.9 + noise(trial))
    text = text_of(tmp_path, trials, ablation_sampling.STUDY)
    section = text.partition("Differences from the recipe's values</summary>")[2]
    section = section.partition("</details>")[0]
    for kind in "sg":
        assert (
            len(re.findall(rf"^\| nysact-{kind} resample=\w+ shift=\w+ \| 5 \|", section, re.M))
            == 7
        )
    assert "Holm-corrected over the 14 differences" in section
    assert "<summary>Differences from foof</summary>" in text
    assert "shift=tropp" in folders.draw(tmp_path, trials, ablation_sampling.STUDY)[2].read_text()


def test_curves_are_means_over_completed_seeds_by_variant(
    write_trials, tmp_path: Path, monkeypatch
):
    def rising(trial: Trial, epoch: int) -> float:
        return 0.9 - 0.3 / (epoch + 1) + noise(trial)

    def adam_diverges(trial: Trial) -> str | None:
        return DIVERGED if trial.arm.label == "adam as-released" else None

    trials = write_trials(compare_accuracy.STUDY, rising, adam_diverges)
    titles: list[str] = []
    lines: dict[str, list[np.ndarray]] = {}
    plot, set_title = Axes.plot, Axes.set_title
    monkeypatch.setattr(
        Axes, "set_title", lambda self, text: (titles.append(text), set_title(self, text))
    )

    def record(self: Axes, x, y, **style):
        lines.setdefault(style["label"], []).append(np.array(y))
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", record)
    paths = folders.draw(tmp_path, trials, compare_accuracy.STUDY)
    assert [path.name for path in paths] == ["curves.pdf", "curves.png", "curves.svg"]
    assert (
        titles == ["as-released", "as-released", "corrected", "corrected"] and "Adam" not in lines
    )
    assert len(lines["SGD"]) == len(lines["FOOF"]) == 4
    mean = [
        100 * np.mean([rising(t, e) for t in trials if t.arm.label == "foof as-released"])
        for e in range(4)
    ]
    assert lines["FOOF"][0] == pytest.approx(mean)
    assert folders.draw(tmp_path / "empty", trials, compare_accuracy.STUDY) == []


def test_legend_of_curves_has_the_best_arm_first_and_counts_diverged_trials(
    write_trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    means = {"sgd": 0.90, "kfac": 0.91, "foof": 0.97, "adam": 0.99}
    study = replace(
        compare_accuracy.STUDY, arms=[Arm(optimizer=name) for name in means], arms_on={}
    )

    def status(trial: Trial) -> str | None:
        seeds = {"kfac": 2, "adam": 5}.get(trial.arm.optimizer, 0)
        return DIVERGED if trial.config.seed < seeds else None

    legends: list[tuple[list[str], str]] = []
    monkeypatch.setattr(curves, "save", lambda figure, folder, name: [folder / name])
    monkeypatch.setattr(
        curves,
        "legend",
        lambda figure, handles, columns, title: legends.append(([*handles], title)),
    )
    folders.draw(
        tmp_path, write_trials(study, lambda trial, _: means[trial.arm.optimizer], status), study
    )
    labels = ["FOOF", "KFAC (2 of 5 diverged)", "SGD", "Adam (5 of 5 diverged)"]
    title = "means and 95% intervals over 3 to 5 seeds; ordered by the final test accuracy, "
    assert legends == [(labels, f"{title}best first")]


@pytest.mark.parametrize("size", [14, 15])
def test_many_curves_are_divided_by_their_final_means(
    write_trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    names = [name for name, entry in REGISTRY.items() if entry.package is None][:size]
    arms = [Arm(optimizer=name) for name in names]
    study = replace(compare_accuracy.STUDY, arms=arms, arms_on={}, claims=[])
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text: titles.append(text))
    plot = Axes.plot

    def record(self: Axes, *values, **style):
        labels.append(style["label"])
        return plot(self, *values, **style)

    labels: list[str] = []
    monkeypatch.setattr(Axes, "plot", record)
    final = {name: 0.9 + 0.001 * place for place, name in enumerate(names)}
    folders.draw(tmp_path, write_trials(study, lambda trial, _: final[trial.arm.optimizer]), study)
    if size == 14:
        assert titles[::2] == [""]
        return
    assert titles[::2] == ["places 1 to 8", "places 9 to 15"]
    drawn = list(dict.fromkeys(labels))
    best = {display(name) for name in names[-8:]}
    assert set(drawn[:8]) == best and len(drawn) == 15


def test_curves_of_arms_without_the_factor_are_titled_other_arms(
    write_trials, tmp_path: Path, monkeypatch
):
    """Only the names of the papers' optimizers are changed for display, not those of plugins."""
    arms = [Arm(optimizer="sgd"), *grid("nysact-s", rank=[5, 10])]
    study = replace(
        ablation_damping.STUDY, arms=arms, figure=CurveFigure(metrics=("test/accuracy",))
    )
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text: titles.append(text))
    folders.draw(tmp_path, write_trials(study, lambda trial, epoch: 0.9 + noise(trial)), study)
    assert titles == ["other arms", "rank=5", "rank=10"]
    assert [display(name) for name in ("sgd", "nysact-s", "signsgd")] == [
        "SGD",
        "NysAct-S",
        "signsgd",
    ]


def test_report_has_the_command_for_the_papers_workloads(write_trials, tmp_path: Path):
    trials = write_trials(ablation_damping.STUDY, accuracy_by_damping)
    text = text_of(tmp_path, trials)
    assert (
        "`python studies/ablation_damping.py --workload cifar10/resnet32,cifar100/resnet110`"
        in text
    )
    assert "**Reconstructed.**" in text and "the level 1 (the text names 0.01, 0.1 and 10)" in text


# ---------------------------------------------------------------------- plans and estimates


def test_estimate_uses_committed_epochs_of_the_nearest_batch_size(write_trials, tmp_path: Path):
    """An epoch takes 0.6 s in the trial folders.

    Steps are timed only for optimizers without committed epochs.
    """
    trials = write_trials(ablation_damping.STUDY, accuracy_by_damping)
    options = Options(only={}, levels={}, settings={}, out=tmp_path, max_concurrent=1)
    estimated = estimate(trials, options)
    assert (estimated.probed, estimated.slots) == ((), 1)
    assert estimated.seconds == pytest.approx(len(trials) * 4 * 0.6)
    assert "(measured: committed epochs)" in str(estimated)
    assert len(trials) * 4 * 500 < estimated.disk < 2**24
    batches = ablation_batch_size.STUDY.trials(WORKLOAD, recipe={"epochs": 4})
    smaller = [trial for trial in batches if trial.config.batch_size == 16]
    assert estimate(smaller, options).seconds == pytest.approx(len(smaller) * 4 * 0.6)
    (nysact, *_), (sgd, *_) = (
        study.trials(WORKLOAD, [0]) for study in (ablation_sampling.STUDY, compare_accuracy.STUDY)
    )
    assert estimate([nysact, sgd], options).probed == ("sgd",)  # only nysact-s has committed epochs


def test_probe_returns_seconds_per_step_and_checkpoint_size():
    config = resolve("digits/cnn", "sgd")
    seconds, size, examples = probe(config, steps=2)
    assert 0 < seconds < 0.1 and 2 <= examples <= config.batch_size
    assert size > 2 * 4 * 19_258  # weights and momentum


@pytest.mark.parametrize("workload", ["text/gpt", "diabetes/mlp", "mnist5k/autoencoder"])
def test_probe_trains_with_the_loss_of_the_workload(workload: str):
    seconds, size, _ = probe(resolve(workload, "sgd", recipe={"batch_size": 4}), steps=1)
    assert seconds > 0 and size > 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (720, "12 min"), (12_240, "3.4 hours")]
)
def test_duration_is_printed_in_a_suitable_unit(seconds: float, words: str):
    assert duration(seconds) == words


def test_frame_has_a_column_for_the_variant(write_trials, tmp_path: Path):
    trials = write_trials(ablation_damping.STUDY, accuracy_by_damping, seeds=range(3))
    frame = ledger.frame(trials, tmp_path)
    assert frame["as_released"].sum() == 3 * 18 and pd.api.types.is_bool_dtype(frame["as_released"])
