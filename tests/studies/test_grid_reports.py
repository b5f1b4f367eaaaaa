"""Figures and reports of the grids, from synthetic folders: two kinds of arm, failures by level, curves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import folders
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from studies import ablation_batch_size, ablation_damping, ablation_sampling, compare_accuracy
from studies.harness.command.estimate import duration, estimate, probe
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence import ledger
from studies.harness.evidence.contrasts import seed_spreads, smallest_difference
from studies.harness.evidence.levels import EDGE
from studies.harness.kinds.study.study import Study
from studies.harness.report.figures import levels as level_figures
from trainables.store import DIVERGED, FAILED
from trainables.workloads import resolve

METRIC = "test/accuracy"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a study's folders: accuracy by a function of trial and epoch, status by one of the trial."""

    def write(
        study: Study, accuracy: Callable, ends: Callable = lambda trial: None, epochs: int = 4
    ) -> list[Trial]:
        monkeypatch.setattr(folders, "accuracy", accuracy)
        trials = study.trials(recipe={"epochs": epochs})
        for trial in trials:
            status = ends(trial)
            if status is None:
                folders.run(tmp_path, trial)
            else:
                folders.run(tmp_path, trial, 1, status, epoch=1, step=3)
        return trials

    return write


def text_of(root: Path, trials: list[Trial], study: Study = ablation_damping.STUDY) -> str:
    """The study's report."""
    return folders.report(root, trials, study).files[0].read_text()


def noise(trial: Trial, sd: float = 0.001) -> float:
    """Of a trial by its key: different in every arm, the same in every run."""
    return sd * float(np.random.default_rng(int(trial.config.trial_key[:8], 16)).normal())


def damped(trial: Trial, epoch: int) -> float:
    level = trial.config.hyperparameters["damping"]
    return 0.95 - 0.01 * abs(np.log10(level)) - 0.05 / (epoch + 1) + noise(trial)


def kfac_diverges_at_10(trial: Trial) -> str | None:
    if trial.arm.optimizer != "kfac" or trial.arm.overrides["damping"] != 10:
        return None
    return (DIVERGED, FAILED, None)[trial.config.seed]


def test_as_released_and_corrected_are_two_lines_of_a_panel(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = written(ablation_damping.STUDY, damped)
    drawn: dict[str, list[str]] = {}
    errorbar = Axes.errorbar

    def note(self: Axes, x, y, *rest, **look):
        drawn.setdefault(look["label"], []).append((look["color"], look["linestyle"], len(x)))
        return errorbar(self, x, y, *rest, **look)

    monkeypatch.setattr(Axes, "errorbar", note)
    paths = folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert [path.name for path in paths] == ["damping.pdf", "damping.png", "damping.svg"]
    [corrected], as_released = (
        drawn["corrected: mean, 95% t-interval"],
        drawn["as-released: mean, 95% t-interval"],
    )
    assert [n for _, _, n in as_released] == [5, 5, 4, 4] and corrected[
        2
    ] == 4  # KFAC and Eva have the recipe's 0.03, too
    assert len({line[:2] for line in as_released}) == 1  # in every panel the same
    assert (
        corrected[0] != as_released[0][0] and corrected[1] != as_released[0][1]
    )  # a color, and dashes for grayscale


def test_what_diverges_is_marked_and_in_no_mean(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = written(ablation_damping.STUDY, damped, kfac_diverges_at_10)
    texts: list[str] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *_, **__: texts.append(text))
    folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert texts == ["2/3"]
    text = text_of(tmp_path, trials)
    assert "## Stability over damping" in text
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
    assert row and float(row[1]) == pytest.approx(100 * damped(survivor, 3), abs=0.005)


def test_a_collapsed_level_does_not_squeeze_the_others(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is an arrow with its value at the foot, and every level within some points of the best is on the axis."""

    def collapsing(trial: Trial, epoch: int) -> float:
        return 0.1 if trial.config.hyperparameters["damping"] == 0.01 else damped(trial, epoch)

    trials = written(ablation_damping.STUDY, collapsing)
    texts: list[str] = []
    monkeypatch.setattr(Axes, "annotate", lambda self, text, *_, **__: texts.append(text))
    limits: list[tuple[float, float]] = []
    compute = level_figures._limits
    monkeypatch.setattr(
        level_figures, "_limits", lambda arms: limits.append(compute(arms)) or limits[-1]
    )
    folders.draw(tmp_path, trials, ablation_damping.STUDY)
    assert texts == ["10"] * 5 and len(set(limits)) == 1
    values = [100 * collapsing(t, 3) for t in trials]
    (low, high), shown = limits[0], [value for value in values if value > 11]
    assert min(shown) - 10 < low < min(shown) and max(shown) < high <= 100.5


def test_a_level_that_diverges_continues_the_grid(written, tmp_path: Path):
    """The best of those that remain is then no edge; without the failures it is."""

    def rising(trial, _):
        return 0.9 + 0.02 * np.log10(trial.config.hyperparameters["damping"]) + noise(trial)

    one = replace(
        ablation_damping.STUDY,
        arms=[arm for arm in ablation_damping.STUDY.arms if arm.optimizer == "kfac"],
    )
    trials = written(one, rising, lambda t: DIVERGED if t.arm.overrides["damping"] == 10 else None)
    (verdict,) = folders.evidence(tmp_path, trials).levels
    assert (verdict.best, verdict.lost, verdict.as_released) == (1.0, ("10.0 (3 of 3)",), True)
    assert verdict.verdict != EDGE
    (without,) = folders.evidence(
        tmp_path, [t for t in trials if t.arm.overrides["damping"] < 10]
    ).levels
    assert (without.best, without.verdict, without.lost) == (1.0, EDGE, ())
    text = text_of(tmp_path, trials, one)
    assert (
        "`kfac` as-released damping 0.01 to 1.0: best at 1.0" in text
        and "Ended without a result: 10.0 (3 of 3)." in text
    )


def test_levels_are_held_against_the_recipes_value(written, tmp_path: Path):
    """Paired by seed, each kind of arm against its own centre, Holm over the differences of that table alone."""
    trials = written(ablation_damping.STUDY, damped)
    text = text_of(tmp_path, trials)
    section = text.partition("## Differences to the recipe's values")[2].partition("## ")[0]
    arms = re.findall(r"^\| ([a-z-]+(?: as-released)? damping=[\d.]+) \| 3 \|", section, re.M)
    assert len(arms) == 4 * 2 + 3 * 3 and "kfac as-released damping=0.03" not in arms
    assert (
        "(kfac as-released damping=0.03, eva as-released damping=0.03, foof as-released damping=1.0,"
        in section
    )
    assert (
        "Holm over the 17 differences of this table" in section
        and "## Differences to kfac" not in text
    )
    values = {(t.arm.label, t.config.seed): damped(t, 3) for t in trials}
    gaps = [
        values["foof as-released damping=10.0", s] - values["foof as-released damping=1.0", s]
        for s in range(3)
    ]
    row = re.search(r"\| foof as-released damping=10.0 \| 3 \| ([+-][\d.]+) \|", section)
    assert row and float(row[1]) == pytest.approx(100 * np.mean(gaps), abs=0.005)


def test_sampling_is_held_against_the_algorithm_by_sketch(written, tmp_path: Path):
    trials = written(ablation_sampling.STUDY, lambda trial, epoch: 0.9 + noise(trial))
    text = text_of(tmp_path, trials, ablation_sampling.STUDY)
    section = text.partition("## Differences to the recipe's values")[2].partition("## ")[0]
    for kind in "sg":
        assert (
            len(re.findall(rf"^\| nysact-{kind} resample=\w+ shift=\w+ \| 5 \|", section, re.M))
            == 7
        )
    assert "Holm over the 14 differences" in section and "## Differences to foof" in text
    assert (
        "shift=tropp: mean"
        in folders.draw(tmp_path, trials, ablation_sampling.STUDY)[2].read_text()
    )


def test_curves_are_means_over_completed_seeds_in_a_row_for_each_kind(
    written, tmp_path: Path, monkeypatch
):
    def rising(trial: Trial, epoch: int) -> float:
        return 0.9 - 0.3 / (epoch + 1) + noise(trial)

    trials = written(
        compare_accuracy.STUDY,
        rising,
        lambda t: DIVERGED if t.arm.label == "adam as-released" else None,
    )
    titles: list[str] = []
    lines: dict[str, list[np.ndarray]] = {}
    plot, set_title = Axes.plot, Axes.set_title
    monkeypatch.setattr(
        Axes, "set_title", lambda self, text: (titles.append(text), set_title(self, text))
    )

    def note(self: Axes, x, y, **look):
        lines.setdefault(look["label"], []).append(np.array(y))
        return plot(self, x, y, **look)

    monkeypatch.setattr(Axes, "plot", note)
    paths = folders.draw(tmp_path, trials, compare_accuracy.STUDY)
    assert [path.name for path in paths] == ["curves.pdf", "curves.png", "curves.svg"]
    assert (
        titles == ["as released", "as released", "corrected", "corrected"] and "Adam" not in lines
    )
    assert len(lines["SGD"]) == len(lines["FOOF"]) == 4
    mean = [
        100 * np.mean([rising(t, e) for t in trials if t.arm.label == "foof as-released"])
        for e in range(4)
    ]
    assert lines["FOOF"][0] == pytest.approx(mean)
    assert folders.draw(tmp_path / "empty", trials, compare_accuracy.STUDY) == []


def test_a_workload_that_is_not_the_papers_says_so(written, tmp_path: Path):
    trials = written(ablation_damping.STUDY, damped)
    text = text_of(tmp_path, trials)
    assert (
        "`python studies/ablation_damping.py --workload cifar10/resnet32,cifar100/resnet110`"
        in text
    )
    assert "**Reconstructed.**" in text and "the level 1 (the text names 0.01, 0.1 and 10)" in text


# ---------------------------------------------------------------------- what a plan takes


def test_the_smallest_difference_comes_from_finished_seeds(written, tmp_path: Path):
    trials = ablation_damping.STUDY.trials(recipe={"epochs": 4})
    before = smallest_difference(trials, tmp_path, METRIC)
    assert "= 3.1 seed SDs" in before and "no arm of digits/cnn" in before  # 3.1 by simulation, too
    assert "= 2.0 seed SDs" in smallest_difference(
        ablation_sampling.STUDY.trials(), tmp_path, METRIC
    )
    written(ablation_damping.STUDY, damped)
    spreads = seed_spreads(tmp_path, "digits/cnn", METRIC)
    frame = ledger.frame(trials, tmp_path)
    assert sorted(spreads) == pytest.approx(sorted(frame.groupby("arm")[METRIC].std()))
    after = smallest_difference(trials, tmp_path, METRIC)
    assert f"the median of {len(spreads)} finished arms" in after and "points" in after
    assert smallest_difference(trials[: len(trials) // 3], tmp_path, METRIC).startswith("One seed")


def test_time_is_that_of_committed_epochs_of_the_nearest_batch(written, tmp_path: Path):
    """0.6 s an epoch in the folders; another batch size is the nearest that is known, and nothing is timed."""
    trials = written(ablation_damping.STUDY, damped)
    options = Options(only={}, levels={}, settings={}, out=tmp_path, max_concurrent=1)
    told = estimate(trials, options)
    assert (told.seconds, told.probed, told.slots) == (pytest.approx(len(trials) * 4 * 0.6), (), 1)
    assert (
        "by the epochs that are committed" in str(told)
        and len(trials) * 4 * 500 < told.disk < 2**24
    )
    other = [
        trial
        for trial in ablation_batch_size.STUDY.trials(recipe={"epochs": 4})
        if trial.config.batch_size == 16
    ]
    assert estimate(other, options).seconds == pytest.approx(len(other) * 4 * 0.6)
    unknown = (
        ablation_sampling.STUDY.trials(seeds=[0])[:1] + compare_accuracy.STUDY.trials(seeds=[0])[:1]
    )
    assert estimate(unknown, options).probed == ("sgd",)  # NysAct-S has epochs there


def test_a_probe_times_steps_and_weighs_a_checkpoint():
    config = resolve("digits/cnn", "sgd")
    seconds, size = probe(config, steps=2)
    assert 0 < seconds < 0.1
    assert size > 2 * 4 * 19_258  # weights and momentum


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (720, "12 min"), (12_240, "3.4 hours")]
)
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words


def test_frames_tell_the_kinds_apart(written, tmp_path: Path):
    trials = written(ablation_damping.STUDY, damped)
    frame = ledger.frame(trials, tmp_path)
    assert frame["as_released"].sum() == 3 * 18 and pd.api.types.is_bool_dtype(frame["as_released"])
