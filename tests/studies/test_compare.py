"""`studies/compare.py`: a comparison of the optimizers that the command names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import folders
import pytest

from precond import HyperparameterError
from studies.compare import STUDY
from studies.harness.design.arms import Trial
from studies.harness.design.options import Options
from studies.harness.evidence.claims import CONTRADICTED, SUPPORTED
from studies.harness.kinds.study.plan import StudyPlan
from studies.harness.kinds.study.study import Study
from trainables import plugins

PLUGIN = Path(__file__).parents[2] / "examples" / "custom_optimizer.py"


def plan(*optimizers: str, study: Study = STUDY, **options) -> StudyPlan:
    """Return the plan of `--optimizers OPTIMIZERS`."""
    options = {"workload": "digits/cnn", "optimizers": [*optimizers] or None, **options}
    [planned] = study.plan(Options(**options))
    return planned


def arms(planned: StudyPlan) -> list[str]:
    return list(dict.fromkeys(trial.arm.label for trial in planned.trials))


def claims(planned: StudyPlan) -> list[str]:
    return [claim.text for claim in planned.artefact.claims_on(planned.workload)]


def test_without_optimizers_it_compares_three():
    planned = plan()
    assert arms(planned) == ["nysact-s", "adam", "sgd"]
    expected = ["nysact-s is better than adam", "nysact-s is better than sgd"]
    assert claims(planned) == [*expected, "adam is better than sgd"]


def test_it_compares_the_named_optimizers_in_their_order():
    planned = plan("soap", "adam", "kfac")
    assert arms(planned) == ["soap", "adam", "kfac"]
    expected = ["soap is better than adam", "soap is better than kfac", "adam is better than kfac"]
    assert claims(planned) == expected


def test_it_compares_the_optimizer_of_a_plugin():
    plugins.load(PLUGIN)
    assert claims(plan("signsgd", "sgd")) == ["signsgd is better than sgd"]


def test_any_study_accepts_the_optimizers_of_pytorch_optimizer():
    pytest.importorskip("pytorch_optimizer")
    name = "pytorch-optimizer:adan"
    assert claims(plan(name, "muon")) == [f"{name} is better than muon"]
    closed = replace(STUDY, any_optimizer=False)
    assert name in arms(plan(name, "sgd", study=closed))


@pytest.mark.parametrize(
    ("name", "error"),
    [("adann", 'Did you mean "adan"?'), ("lomo", "cannot be used here: it updates the weights")],
)
def test_an_optimizer_of_pytorch_optimizer_that_cannot_be_used_is_one_line(name, error):
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(HyperparameterError) as caught:
        plan(f"pytorch-optimizer:{name}", "sgd")
    [line] = str(caught.value).splitlines()
    assert line.startswith(f'optimizer = "pytorch-optimizer:{name}": ') and error in line


@pytest.mark.parametrize("option", ["levels", "only"])
def test_a_study_without_factors_names_the_option_that_sets_values(option):
    with pytest.raises(HyperparameterError) as error:
        plan("sgd", "adam", **{option: {"momentum": [0.9]}})
    line = "momentum: compare has no factors; to set a hyperparameter, use --set momentum=VALUE"
    assert line in str(error.value).splitlines()


def test_an_unknown_optimizer_is_refused_with_the_registered_names():
    with pytest.raises(
        HyperparameterError, match='--optimizers = "sopa": not an optimizer of comp'
    ):
        plan("sopa", "sgd")
    with pytest.raises(HyperparameterError, match="soap"):
        plan("sopa", "sgd")


def test_other_studies_still_refuse_an_optimizer_that_they_lack():
    with pytest.raises(HyperparameterError, match="not an optimizer of compare"):
        plan("kfac", study=replace(STUDY, any_optimizer=False))


def test_own_claims_replace_those_about_all_pairs():
    study = replace(folders.STUDY, any_optimizer=True)
    assert study.claims_on("digits/cnn") == folders.STUDY.claims


def test_report_decides_each_pair_and_names_the_optimizers_with_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plugins.load(PLUGIN)
    means = {"sgd": 0.90, "foof": 0.95, "signsgd": 0.92}

    def accuracy(trial: Trial, epoch: int) -> float:
        return means[trial.arm.optimizer] + 0.001 * trial.config.seed - 0.1 / (epoch + 1)

    monkeypatch.setattr(folders, "accuracy", accuracy)
    planned = plan("sgd", "foof", "signsgd", out=tmp_path, epochs=2)
    for trial in planned.trials:
        folders.write_trial(tmp_path, trial)
    report = planned.artefact.report(planned)
    verdicts = [claim["verdict"] for claim in report.claims]
    assert verdicts == [CONTRADICTED, CONTRADICTED, SUPPORTED]
    text = report.files[0].read_text()
    assert "The recipe of digits/cnn has no values for `signsgd`." in text
    assert "(curves.png)" in text


@pytest.mark.parametrize("name", ["steve+sign", "nysact-s+sgin", "nysact-s+sgd"])
def test_an_invalid_composition_is_one_error(name):
    with pytest.raises(HyperparameterError, match=r'^optimizer = "') as error:
        plan("nysact-s", name)
    assert str(error.value).count("\n") == 0
