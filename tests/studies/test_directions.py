"""Mirrored results: a metric m and 1 - m with the opposite direction give the same conclusions.

The accuracy of `digits/cnn` has larger values for better trials, and the squared error of
`digits/autoencoder` has smaller values.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import folders
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from studies.harness.design.arms import Arm, Trial
from studies.harness.design.result import Report
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.costs import Costs
from studies.harness.evidence.levels import EDGE, INSIDE
from studies.harness.evidence.targets import Times, target_of_runs
from studies.harness.kinds.study.figures import CurveFigure, LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.kinds.target.figure import TargetFigure

HIGHER, LOWER = "digits/cnn", "digits/autoencoder"
METRICS = {HIGHER: "test/accuracy", LOWER: "test/mse"}
EPOCHS = 8
# Rank 10 of NysAct-S is the best arm. NysAct-G improves up to the edge of its grid.
MEANS = {
    "sgd": 0.60,
    "foof": 0.66,
    "nysact-g rank=5": 0.62,
    "nysact-g rank=10": 0.64,
    "nysact-g rank=20": 0.68,
    "nysact-s rank=5": 0.65,
    "nysact-s rank=10": 0.75,
    "nysact-s rank=20": 0.70,
}


def accuracy(trial: Trial, epoch: int) -> float:
    """Return a value between 0 and 1 that does not depend on the workload."""
    label, seed = trial.arm.label, trial.config.seed
    noise = np.random.default_rng(zlib.crc32(f"{label} {seed}".encode())).normal()
    return MEANS[label] * (1 - 0.5 ** (epoch + 1)) + 0.004 * float(noise)


class Mirror(NamedTuple):
    """The output folder, the trials and the report of the results on a workload."""

    root: Path
    trials: list[Trial]
    report: Report
    text: str
    evidence: Evidence


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes the mirrored results of a study."""
    numbers = itertools.count()

    def write(study: Study = folders.STUDY, value: Callable = accuracy) -> dict[str, Mirror]:
        """Write trials with the accuracies `value(trial, epoch)`, or 1 minus this value."""
        monkeypatch.setattr(folders, "accuracy", value)
        results = {}
        for workload in METRICS:
            root = tmp_path / str(next(numbers))
            trials = folders.planned(4, EPOCHS, study.arms, workload)
            for trial in trials:
                folders.write_trial(root, trial)
            report = folders.report(root, trials, study)
            text = report.files[0].read_text()
            evidence = folders.evidence(root, trials, study)
            results[workload] = Mirror(root, trials, report, text, evidence)
        return results

    return write


def test_best_arm_is_named_in_the_terminal_and_in_the_report(mirrors):
    for workload, mirror in mirrors().items():
        listing = mirror.report.listing
        bold = [listing.rows[row][0] for row, _ in sorted(listing.bold)]
        assert bold == ["nysact-s rank=10"], workload
        assert METRICS[workload].replace("/", " ") in listing.caption
        assert "nysact-s rank=10 is significantly better than 7 arms; no arm" in mirror.text
        assert re.search(r"\| nysact-s rank=10 \| 4 \| \*\*[\d.]+\*\* \|", mirror.text)
        assert "rank 10 has the best mean, inside the grid" in mirror.text
        assert "rank 20 has the best mean, at the edge of the grid" in mirror.text


def test_no_sentence_about_a_squared_error_uses_percent_or_accuracy(mirrors):
    text = mirrors()[LOWER].text.replace(folders.STUDY.claim, "").replace("Accuracy does", "")
    text = re.sub(r"(95|80|5)% (t-interval|Student|level|power)", "", text)
    assert not re.search(r"accurac|percent|\d %|\d%", text, re.IGNORECASE), text
    assert "difference (test mse)" in text and "percentage points" in mirrors()[HIGHER].text


def test_statistics_of_mirrored_results_are_mirrored(mirrors):
    higher, lower = (mirror.evidence for mirror in mirrors().values())
    assert list(higher.arms["bold"]) == list(lower.arms["bold"])
    np.testing.assert_allclose(lower.arms["mean"], 1 - higher.arms["mean"], rtol=1e-12)
    np.testing.assert_allclose(lower.arms["best"], 1 - higher.arms["best"], rtol=1e-12)
    np.testing.assert_allclose(lower.pairs["difference"], -higher.pairs["difference"], atol=1e-12)
    np.testing.assert_allclose(lower.pairs["p_holm"], higher.pairs["p_holm"], rtol=1e-6)
    assert [verdict.verdict for verdict in higher.levels] == [EDGE, INSIDE]
    assert higher.levels == lower.levels
    for order in ("better than", "worse than", "not significantly different from"):
        sentences = [re.findall(rf"[^.;|]*{order} sgd", m.text) for m in mirrors().values()]
        assert sentences[0] == sentences[1]


def test_equivalence_is_only_decided_for_metrics_in_percent(mirrors):
    def nearly_equal(trial: Trial, epoch: int) -> float:
        return 0.7 + 1e-6 * trial.config.seed * trial.arm.overrides["rank"]

    arms = [arm for arm in folders.ARMS if arm.optimizer == "nysact-s"]
    study = replace(folders.STUDY, arms=arms, figure=LevelFigure(factor="rank", panels=("nysact-s",)))
    higher, lower = mirrors(study, nearly_equal).values()
    assert "all levels are equivalent" in higher.text
    for part in ("equivalent", "percentage points"):
        assert part not in lower.text
    noisy = mirrors(study, lambda trial, epoch: accuracy(trial, 0) - MEANS[trial.arm.label] / 2)
    assert "not every pair of levels is equivalent within" in noisy[HIGHER].text
    assert "no other level is significantly different from it." in noisy[LOWER].text
