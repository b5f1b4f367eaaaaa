"""The analysis of a study's trials, which a report computes only once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import folders
import pandas as pd
import pytest
from folders import STUDY, planned, write_trial

from studies.harness.evidence import arms, contrasts, ledger
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.status import STATUSES
from trainables.store import FAILED


@pytest.fixture
def output_folder(tmp_path: Path) -> Path:
    for trial in planned():
        write_trial(tmp_path, trial)
    return tmp_path


def test_report_computes_each_table_once(output_folder: Path, monkeypatch: pytest.MonkeyPatch):
    calls = Counter[str]()

    def count_calls(module, name: str):
        function = getattr(module, name)

        def call(*arguments, **options):
            calls[" ".join([name, *options.values()])] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for module, name in (
        (ledger, "frame"),
        (arms, "group"),
        (arms, "by_seed"),
        (contrasts, "contrasts"),
    ):
        count_calls(module, name)
    report = folders.report(output_folder, planned())
    assert report.listing is not None and report.record and report.metrics
    assert {"report.md", "report.tex", "differences.csv"} <= {path.name for path in report.files}
    # The values by seed are those of the tables, and those of the metric of the claims.
    assert calls == {"frame": 1, "frame epoch": 1, "group": 1, "by_seed": 2, "contrasts": 1}


def test_another_metric_is_analysed_without_reading_the_folders_again(
    output_folder: Path, monkeypatch
):
    evidence = folders.evidence(output_folder, planned())
    monkeypatch.setattr(ledger, "frame", None)
    loss = evidence.of("test/loss")
    assert isinstance(loss, Evidence) and set(loss.arms["mean"]) == {0.6}
    assert evidence.of(evidence.metric) is evidence


def test_report_metrics_contain_status_counts_and_the_mean_of_each_arm(output_folder: Path):
    write_trial(output_folder, planned(seeds=4)[-1], 1, FAILED, reason="no")
    report = folders.report(output_folder, planned(seeds=4))
    counts = {status: report.metrics[f"trials/{status}"] for status in STATUSES}
    assert counts == {
        "completed": 24,
        "diverged": 0,
        "oom": 0,
        "failed": 1,
        "in flight": 0,
        "not run": 7,
    }
    assert report.metrics["trials/planned"] == 32 and report.failed
    table = pd.read_csv(next(path for path in report.files if path.name == "arms.csv")).set_index(
        "arm"
    )
    assert report.metrics["mean/nysact-s.rank.5"] == table.loc["nysact-s rank=5", "mean"]
    assert report.metrics["n/sgd"] == 3 and len(report.metrics) == 7 + 5 * len(STUDY.arms)
