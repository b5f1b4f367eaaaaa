"""Plans and reports use the singular for a count of one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from studies import Arm, Study
from studies.harness.command.results import Folder
from studies.harness.design.options import Options
from studies.harness.kinds.artefact import Artefact
from studies.harness.kinds.study.figures import CurveFigure
from studies.harness.report import protocol
from studies.tune_optimizers import SEARCH

PLURAL_OF_ONE = re.compile(r"(?<![\d.,/-])1 (?:[a-z]+ )?(?:trials|epochs|seeds|arms|configurations|"
                           r"optimizers|layers|claims|pairs)\b")  # fmt: skip
STUDY = Study(
    name="counts",
    title="One of each",
    arms=[Arm(optimizer="sgd")],
    figure=CurveFigure(),
    workload="digits/mlp",
)


def lines(artefact: Artefact, options: Options) -> str:
    [plan] = artefact.plan(options)
    work = artefact.missing(plan)
    return "\n".join([work.summary, *work.details])


@pytest.mark.parametrize("artefact", [STUDY, replace(SEARCH, budget=1)], ids=["study", "search"])
def test_plan_of_one_seed_and_one_configuration_has_no_plurals(artefact: Artefact, tmp_path: Path):
    options = Options(out=tmp_path, seeds=[0], optimizers=["sgd"], dry_run=True)
    text = lines(artefact, options)
    assert not PLURAL_OF_ONE.findall(text), text


def test_line_of_an_arm_separates_seeds_and_epochs(tmp_path: Path):
    options = Options(out=tmp_path, seeds=[0], epochs=1, dry_run=True)
    assert "  sgd  seed 0; 1 epoch; 1 to train" in lines(STUDY, options)
    options = replace(options, seeds=[3, 7], epochs=2)
    assert "  sgd  seeds 3,7; 2 epochs; 2 to train" in lines(STUDY, options)


def test_protocol_and_folder_use_the_singular(tmp_path: Path):
    [plan] = STUDY.plan(Options(out=tmp_path, seeds=[0], epochs=1))
    assert "; seed 0. Hyperparameters" in str(protocol.section(plan.artefact, plan.trials))
    assert "; 1 epoch; schedule" in str(protocol.section(plan.artefact, plan.trials))
    assert ": 0 trials" in repr(Folder(tmp_path))
