"""Judgements with invalid sides, options and ledgers, and attempts to evade their rules."""

import json
from pathlib import Path

import pytest
from test_judge import better, plan, run

from precond.hyperparameters import HyperparameterError
from studies.harness.kinds.judge import ledger
from studies.harness.kinds.judge.results import results
from studies.harness.kinds.judge.sides import arm
from trainables.files import append_lines, read_lines
from trainables.store import StoreError

# ---------------------------------------------------------------------- ledger

BEGUN = {
    "event": "begun",
    "judgement": "another",
    "attempts_before": 0,
    "baseline": {"optimizer": "sgd"},
    "workloads": ["digits/autoencoder"],
    "candidates": [{}],
}


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"event": 3},
        {"event": "begun"},
        {"event": "ended"},
        {**BEGUN, "baseline": "sgd"},
        {**BEGUN, "workloads": None},
        {**BEGUN, "workloads": [["digits/autoencoder"]]},
        {**BEGUN, "candidates": 3},
        {**BEGUN, "attempts_before": -1},
        {**BEGUN, "attempts_before": True},
        {**BEGUN, "attempts_before": "0"},
    ],
)
def test_a_damaged_line_of_the_ledger_is_refused(tmp_path: Path, line: dict[str, object]):
    append_lines(tmp_path / ledger.NAME, [BEGUN, line])
    with pytest.raises(StoreError, match=r"judgements\.jsonl, line 2 is damaged: restore it"):
        plan(tmp_path)
    assert read_lines(tmp_path / ledger.NAME) == [BEGUN, line]


def test_a_ledger_that_is_no_json_is_refused_with_advice_on_the_ledger(tmp_path: Path):
    (tmp_path / ledger.NAME).write_text("hello\n")
    with pytest.raises(StoreError, match=r"judgements\.jsonl is damaged: restore it"):
        plan(tmp_path)


def test_a_cut_record_of_the_verdicts_is_repaired(tmp_path: Path):
    run(plan(tmp_path), better)
    path = tmp_path / ledger.NAME
    path.write_bytes(path.read_bytes()[:-20])
    current = results(plan(tmp_path))
    ledger.end(current.plan, current.verdicts, "")
    assert [line["event"] for line in read_lines(path)] == ["begun", "ended"]


# ---------------------------------------------------------------------- sides


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.toml", 'optimizer = "nysact-s"\nas_released = "no"', "as_released = 'no': must be tr"),
        ("a.json", "[" * 100_000, "not a JSON file"),
        ("a.toml", "a = " + "[" * 100_000, "not a TOML file"),
        ("a.json", '{"optimizer": "sgd", "hyperparameters": null}', "hyperparameters = None: must"),
        ("a.json", '{"optimizer": "sgd", "lr": 1}', "lr: unknown; allowed are optimizer"),
        ("a.json", '{"optimizer": "sgd", "hyperparameters": {"epochs": 9}}', "epochs belongs to t"),
    ],
)
def test_an_invalid_recipe_file_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str, line: str
):
    (tmp_path / name).write_text(content)
    with pytest.raises(HyperparameterError) as error:
        arm(str(tmp_path / name))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_file_may_have_a_byte_order_mark_and_an_upper_case_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "A.TOML").write_text('# é\noptimizer = "sgd"', encoding="utf-8-sig")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert arm("~/A.TOML").optimizer == "sgd"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nysact-s:epochs=300", "epochs belongs to the workload"),
        ("adam:test_resolution=4", "test_resolution belongs to the workload"),
        ("adam:precision=bf16", "precision belongs to the workload"),
        ("adam:lr=1,lr=2", "adam:lr=1,lr=2: lr has two values"),
        ("nysact-s:ema=0.9,ema_decay=0.8", "ema_decay has two values"),
        ("adam:betas=0.9,0.99", "with two numbers as 0.9/0.99"),
    ],
)
def test_a_side_cannot_change_the_workload_or_name_a_value_twice(text: str, line: str):
    with pytest.raises(HyperparameterError) as error:
        arm(text)
    assert line in str(error.value)


def test_a_side_may_replace_the_settings_that_belong_to_an_optimizer():
    names = {"batch_size", "schedule", "warmup_epochs", "decay_exempt"}
    text = "adam:batch_size=20,schedule=constant,warmup_epochs=0,decay_exempt=norm"
    assert {*arm(text).overrides} == names


def test_an_error_in_a_side_names_the_side(tmp_path: Path):
    with pytest.raises(HyperparameterError, match=r"^adam lr=-1: lr = -1: must be"):
        plan(tmp_path, "nysact-s,adam:lr=-1")
    with pytest.raises(HyperparameterError, match=r"^warmup_epochs = 2: must be below epochs = 1$"):
        plan(tmp_path, epochs=1)  # an error of all sides


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"margin": ""}, "--margin = : for test/mse, must be a percentage"),
        ({"metric": " "}, '--metric = "": must be test/...'),
        ({"max_seeds": "9" * 5000}, "must be an integer in 2..1000"),
        ({"first_seed": "4294967267"}, "the last of 30 seeds must be at most 4294967295"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    tmp_path: Path, arguments: dict[str, str], line: str
):
    with pytest.raises(HyperparameterError) as error:
        plan(tmp_path, **arguments)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_the_largest_seeds_can_be_used(tmp_path: Path):
    assert plan(tmp_path, first_seed=2**32 - 30).seeds[-1] == 2**32 - 1


def test_spaces_around_a_margin_make_no_other_attempt(tmp_path: Path):
    ledger.begin(plan(tmp_path, margin="5%"))
    assert results(plan(tmp_path, margin=" 5% ")).attempts_before == 0
    assert json.loads((tmp_path / ledger.NAME).read_text())["margin"] == "5%"
