"""The decisions on claims in reports, on the terminal, in CSV files and in JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from folders import STUDY, evidence, planned, report, write_trial
from rich.console import Console

from studies.harness.command import reports, screen
from studies.harness.design.claims import Better, Claim, Equivalent, NotWorse
from studies.harness.design.result import Report
from studies.harness.evidence.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTED,
    SUPPORTED,
    Decision,
    decide,
)
from studies.harness.report.claims import NO_CLAIMS, files, records, section, sentence
from studies.harness.report.document import Heading, Table
from studies.harness.report.document import Text as Paragraph

UNDECIDABLE = "NysAct converges (Theorem 1): a study trains for a finite number of epochs"
CLAIMS = [
    Better("nysact-s rank=*", than="sgd"),
    NotWorse("foof", than="nysact-g rank=20", points=0.001),
    Better("nysact-s rank=40", than="sgd"),
    Better("foof", than="sgd", metric="train/loss"),
]
CLAIMED = replace(STUDY, claims=CLAIMS, undecidable=(UNDECIDABLE,))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    for trial in planned():
        write_trial(root, trial)
    return root


@pytest.fixture(scope="module")
def written(root: Path) -> Report:
    return report(root, planned(), CLAIMED)


def read(report: Report, name: str) -> str:
    return next(path for path in report.files if path.name == name).read_text()


def test_report_begins_with_the_claims(written: Report):
    text = read(written, "report.md")
    assert text.split("\n\n")[1] == "## Claims"
    assert text.index("**Supported.** nysact-s rank=* is better than sgd") < text.index(
        "## Results"
    )
    assert (
        "**Not tested.** nysact-s rank=40 is better than sgd (no arm of this plan is called" in text
    )
    assert "(no arm of this plan is called nysact-s rank=40)." in text
    assert f"- {UNDECIDABLE}" in text
    assert "<h2>Claims</h2>" in read(written, "report.html")
    assert "Decisions on the claims." in read(written, "report.tex")


def test_csv_file_has_the_decisions_at_full_precision(root: Path, written: Report):
    table = pd.read_csv(io.StringIO(read(written, "claims.csv")))
    decisions = evidence(root, planned(), CLAIMED).claims
    assert list(table["verdict"]) == [decision.verdict for decision in decisions]
    assert table["estimate"][0] == decisions[0].estimate
    assert table["p"][1] == decisions[1].p and pd.isna(table["p"][2])


def test_json_record_is_valid_and_has_the_decisions(written: Report):
    def no_constants(name: str):
        raise AssertionError(name)

    record = json.loads(written.record, parse_constant=no_constants)
    assert [claim["verdict"] for claim in record["claims"]][2] == NOT_TESTED
    assert record["claims"] == json.loads(json.dumps(written.claims))
    assert len(record["arms"]) == len({trial.arm.label for trial in planned()})


def test_stored_report_keeps_the_decisions(root: Path):
    from folders import plan

    first, _ = reports.make(plan(root, planned(), CLAIMED))
    _, stored = reports.last(plan(root, planned(), CLAIMED).folder)
    assert stored is not None and stored.claims == list(first.claims)


def test_terminal_shows_the_claims_before_the_table(written: Report):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    screen.show(written, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "Claims:" and lines[1].startswith("- Supported: nysact-s rank=* is better")
    last = next(i for i, line in enumerate(lines) if STUDY.title in line)
    assert "- Not tested: 1 of 4 claims; the report states the reasons." in lines[:last]
    assert max(map(len, lines[:last])) <= 80


def test_claim_with_a_metric_is_decided_by_this_metric(root: Path):
    """The training loss is the same for all arms, so the arm is neither better nor worse."""
    decision = evidence(root, planned(), CLAIMED).claims[3]
    assert (decision.verdict, decision.metric, decision.estimate) == (INCONCLUSIVE, "train/loss", 1)
    assert decision.text == "foof is better than sgd, for the train loss"


def test_interim_verdicts_are_called_so(tmp_path: Path):
    trials = planned()
    for trial in trials[:-2]:
        write_trial(tmp_path, trial)
    unfinished = report(tmp_path, trials, CLAIMED).findings
    assert any(f"2 of {len(trials)} planned trials have not ended" in text for text in unfinished)
    all_but_one = report(tmp_path, trials[:-1], CLAIMED).findings
    assert any(
        f"1 of {len(trials) - 1} planned trials has not ended" in text for text in all_but_one
    )
    finished = report(tmp_path, trials[:-2], CLAIMED).findings
    assert not any("have not ended" in text for text in finished)


def test_study_without_claims_is_exploratory():
    assert section((), (), "test/mse") == [Heading("Claims"), Paragraph(NO_CLAIMS)]
    assert files(()) == {}


# ---------------------------------------------------------------------- sentences


def decision(claim: Claim, **changes) -> Decision:
    values = {"verdict": SUPPORTED, "arm": "nysact-s rank=40", "base": "sgd", "pairs": 6, "n": 5}
    numbers = {"estimate": 0.13, "ci_lo": 0.1, "ci_hi": 0.16, "p": 0.003, "anytime_p": 0.02}
    text = {"text": claim.statement("5% of the mean of foof"), "metric": "test/mse"}
    both = {"anytime_verdict": SUPPORTED, **values, **numbers, **text, **changes}
    return Decision(claim=claim, **both)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            decision(Better("nysact-s rank=*", than="sgd")),
            "Supported: nysact-s rank=* is better than sgd (least clear of 6 pairs: nysact-s "
            "rank=40, gain +0.1300 [+0.1000, +0.1600] test mse; Holm-corrected p = 0.003; "
            "anytime-valid p = 0.020).",
        ),
        (
            decision(
                NotWorse("nysact-s", than="foof"),
                verdict=CONTRADICTED, anytime_verdict=INCONCLUSIVE, pairs=1, p=0.0001,
            ),
            "Contradicted: nysact-s is not worse than foof by more than 5% of the mean of foof (gain "
            "+0.1300 [+0.1000, +0.1600] test mse; Holm-corrected p < 0.001; anytime-valid p = "
            "0.020, inconclusive).",
        ),
        (
            decision(
                Equivalent("nysact-s rank=*"),
                verdict=INCONCLUSIVE, anytime_verdict=INCONCLUSIVE, p=0.4, seeds=12,
            ),
            "Inconclusive: all pairs of nysact-s rank=* are equivalent within 5% of the mean of "
            "foof (least clear of 6 pairs: nysact-s rank=40 against sgd, gain +0.1300 [+0.1000, "
            "+0.1600] test mse; Holm-corrected p = 0.400; anytime-valid p = 0.020); about 12 seeds "
            "would decide it.",
        ),
    ],
    ids=["supported", "contradicted", "inconclusive"],
)  # fmt: skip
def test_decision_is_one_sentence(row: Decision, text: str):
    assert sentence(row, 6) == text
    assert ("Holm" in sentence(row, 1)) is False


def test_pair_with_a_failure_has_no_mean_gain():
    inf = float("inf")
    values = pd.DataFrame({"sgd": [0.5] * 5, "a": [inf, inf, inf, 0.4, 0.41]})
    (record,) = records(decide([Better("a", than="sgd")], values, "test/mse"))
    assert record["estimate"] is None and record["seeds"] is None
    assert "(rank test, because a trial has the worst result; p = " in record["sentence"]


def test_section_has_a_row_for_each_tested_claim():
    rows = [decision(Better("nysact-s rank=*", than="sgd")), Decision(claim=CLAIMS[0], text="t")]
    heading, first, second, table, notes = section(rows, (), "test/mse")
    assert isinstance(heading, Heading) and isinstance(table, Table)
    assert isinstance(first, Paragraph) and first.label == "Supported"
    assert isinstance(second, Paragraph) and second.label == "Not tested"
    assert isinstance(notes, Paragraph) and notes.note
    assert table.rows == [
        ["nysact-s rank=* is better than sgd", "supported", "nysact-s rank=40", "5", "gain +0.1300",
         "[+0.1000, +0.1600]", "0.003", "supported", "-"]
    ]  # fmt: skip


def test_pair_is_named_if_the_plan_has_only_one_pair_of_a_pattern():
    values = pd.DataFrame({"sgd": [0.5, 0.6, 0.5], "nysact-s": [0.7, 0.9, 0.8]})
    decisions = decide([Better("nysact-*", than="sgd")], values, "test/accuracy")
    text = sentence(decisions[0], 1)
    assert "nysact-* is better than sgd (only pair: nysact-s, gain +26.67 [" in text
