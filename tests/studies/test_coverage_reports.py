"""The plan and the report state which share of the model is preconditioned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from folders import ARMS, STUDY, plan, planned, report, write_trial

import precond
from precond import Coverage
from studies.ablation_rank import STUDY as ABLATION
from studies.harness.design.options import Options
from studies.harness.evidence import coverage as stated
from studies.harness.kinds.artefact import Artefact
from studies.harness.kinds.study.plan import missing, plans
from studies.harness.kinds.tuning.tuning import RecipeTuning
from studies.tune_optimizers import SEARCH as TUNE
from trainables.coverage import coverage
from trainables.descent import build_optimizer
from trainables.workloads import resolve, workload

PARTIAL = Coverage(layers=1, skipped=2, parameters=132, total=6852)
SENTENCE = "nysact-s preconditions 132 of 6,852 parameters (1.9%)"


@pytest.fixture
def partial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NysAct-S precondition a small share of every model."""
    monkeypatch.setattr(
        stated, "coverage", lambda config: PARTIAL if config.optimizer == "nysact-s" else None
    )


@pytest.mark.parametrize("optimizer", ["nysact-s", "eva", "kfac"])
def test_coverage_of_a_configuration_equals_that_of_its_optimizer(optimizer: str):
    config = resolve("digits/cnn", optimizer)
    trained = build_optimizer(config, workload("digits/cnn").build(config.settings))
    assert coverage(config) == precond.coverage(trained)
    assert (coverage(config) or PARTIAL).share > 0.9


def test_sgd_and_adam_have_no_coverage():
    assert [coverage(resolve("digits/cnn", name)) for name in ("sgd", "adamw")] == [None, None]


def test_a_dry_run_states_the_layers_and_the_share_once_for_equal_arms(tmp_path: Path):
    [planned] = plans(ABLATION, Options(out=tmp_path, dry_run=True, seeds=[0]))
    lines = [line for line in missing(planned).details if "preconditions" in line]
    covered = coverage(resolve("digits/autoencoder", "foof"))
    assert covered is not None
    assert lines == [
        f"  nysact-s, nysact-g, foof: preconditions {covered.layers} of "
        f"{covered.layers + covered.skipped} layers, {covered.share:.1%} of the parameters"
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_small_share_is_a_warning_in_every_plan(partial: None, tmp_path: Path, dry_run: bool):
    [planned] = plans(ABLATION, Options(out=tmp_path, dry_run=dry_run, seeds=[0]))
    work = missing(planned)
    text = "\n".join([work.summary, *work.details])
    line = f"Warning: {SENTENCE}; the others are not preconditioned."
    assert text.count(line) == 1


def test_a_full_share_is_no_warning(tmp_path: Path):
    [planned] = plans(ABLATION, Options(out=tmp_path, seeds=[0]))
    assert "Warning" not in missing(planned).summary


def test_a_claim_about_a_partly_preconditioned_arm_says_so(partial: None, tmp_path: Path):
    trials = planned()
    for trial in trials:
        write_trial(tmp_path, trial)
    result = report(tmp_path, trials)
    about_s, about_g = (claim["sentence"] for claim in result.claims)
    assert about_s.endswith(f" {SENTENCE}.") and "preconditions" not in about_g
    text = (plan(tmp_path, trials).folder / "report.md").read_text()
    assert f"{SENTENCE}." in text.partition("## Results")[0]
    assert "| nysact-s | 1 | 2 | 132 | 6,852 | 1.9% |" in text
    assert "caveat" not in (plan(tmp_path, trials).folder / "claims.csv").read_text()


def test_a_report_without_claims_prints_the_warning_as_a_finding(partial: None, tmp_path: Path):
    trials = planned(seeds=2, arms=ARMS[-2:])
    for trial in trials:
        write_trial(tmp_path, trial)
    study = replace(STUDY, claims=[], arms=ARMS[-2:])
    assert any(SENTENCE in line for line in report(tmp_path, trials, study).findings)


@pytest.mark.parametrize("artefact", [TUNE, RecipeTuning(workload="digits/mlp")])
def test_searches_and_tunings_state_the_coverage(partial: None, tmp_path: Path, artefact: Artefact):
    [planned] = artefact.plan(Options(out=tmp_path, dry_run=True, optimizers=["nysact-s", "sgd"]))
    work = artefact.missing(planned)
    line = "  nysact-s: preconditions 1 of 3 layers, 1.9% of the parameters"
    assert [*work.details] == [line]
    assert f"Warning: {SENTENCE}; the others are not preconditioned." in work.summary.splitlines()


def test_the_report_of_a_search_has_the_table_of_the_coverage(partial: None, tmp_path: Path):
    [planned] = TUNE.plan(Options(out=tmp_path, optimizers=["nysact-s"]))
    TUNE.report(planned)
    text = (planned.folder / "report.md").read_text()
    assert "Preconditioned layers" in text and SENTENCE in text
