"""Judgements with invalid sides, options and ledgers, and attempts to evade their rules."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from test_judge import better, decisions, plan, run, similar

import studies
from precond.hyperparameters import HyperparameterError
from studies.harness.command import cli, manage
from studies.harness.kinds.judge import ledger
from studies.harness.kinds.judge.results import results
from studies.harness.kinds.judge.sides import arm
from studies.harness.report.figures.judgement import draw
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


def test_a_margin_of_zero_is_the_same_attempt_however_it_is_written(tmp_path: Path):
    ledger.begin(plan(tmp_path))
    assert results(plan(tmp_path, margin="0.0")).attempts_before == 0
    assert results(plan(tmp_path, margin="0%")).attempts_before == 0


def test_more_seeds_than_allowed_are_not_recommended(tmp_path: Path):
    current = run(plan(tmp_path, max_seeds=4, first_seed=2**32 - 5), similar)
    [(command, _)] = current.plan.artefact.next_steps(current.plan)
    assert command == "the same command with --max-seeds 5"
    last = run(plan(tmp_path, max_seeds=5, first_seed=2**32 - 5), similar)
    assert last.plan.artefact.next_steps(last.plan) == []


# ---------------------------------------------------------------------- commands


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write reports without figures, which take seconds."""
    monkeypatch.setattr("studies.harness.kinds.judge.report.draw", lambda *_: [])


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """Run a command of `python -m studies` in this process; return its code and output."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["studies", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "80")
    code = cli.invoke(manage.GROUP)
    output, errors = capsys.readouterr()
    return code, output, errors


@pytest.mark.usefixtures("undrawn")
def test_the_listed_command_writes_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options = {"workload": "digits/mlp,diabetes/mlp", "metric": "test/loss", "max_seeds": 9}
    run(plan(tmp_path, margin="5%", epochs=4, combine="product", **options), better)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    words += ["--margin=5%", "--epochs=4", "--combine=product", "--tracking-uri=none"]
    judged = command(monkeypatch, capsys, "judge", "nysact-s", "sgd", "--out", tmp_path, *words)
    before = (tmp_path / ledger.NAME).read_bytes()
    _, listed, _ = command(monkeypatch, capsys, "reports", "--out", tmp_path)
    assert "nysact-s vs sgd" in listed.splitlines()[0]
    [line] = [line for line in listed.splitlines() if "python" in line]
    repeated = command(
        monkeypatch, capsys, *shlex.split(line.partition("-m studies ")[2]), "--tracking-uri=none"
    )
    assert repeated == judged and judged[0] == 0
    assert (tmp_path / ledger.NAME).read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_a_lost_baseline_keeps_the_decisions_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def value(name: str, seed: int) -> float | None:
        return None if name == "sgd" and seed == 8 else better(name, seed)

    assert decisions(run(plan(tmp_path, "nysact-s,adam"), value)) == ["better", "inconclusive"]
    words = ("sgd", "--out", tmp_path, "--tracking-uri", "none", "--json")
    code, output, _ = command(monkeypatch, capsys, "judge", "nysact-s,adam", *words)
    assert code == 1 and json.loads(output)["problem"].startswith("sgd diverged with seed 8")
    assert [row["decision"] for row in json.loads(output)["judgement"]] == [
        "better",
        "inconclusive",
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_lost_baseline_is_refused_unless_only_the_report_is_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run(plan(tmp_path), lambda name, seed: None if name == "sgd" else 0.1)
    words = ("judge", "nysact-s", "sgd", "--out", tmp_path, "--tracking-uri", "none")
    code, _, errors = command(monkeypatch, capsys, *words)
    assert code == 2 and errors.startswith("error: sgd diverged with seed 0")
    code, output, _ = command(monkeypatch, capsys, *words, "--report-only")
    assert code == 1 and "- sgd diverged with seed 0" in output


@pytest.mark.usefixtures("undrawn")
def test_without_a_tuned_side_a_report_is_inconclusive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ("judge", "nysact-s", "sgd", "--out", tmp_path, "--tracking-uri", "none")
    code, output, _ = command(monkeypatch, capsys, *words, "--tune", "2", "--report-only", "--json")
    assert code == 12 and json.loads(output)["judgement"] == []


def test_ratios_beyond_the_range_of_a_float_are_drawn(tmp_path: Path):
    current = run(
        plan(tmp_path), lambda name, seed: 1e-300 * (1 + seed) if name == "sgd" else 1e300
    )
    assert decisions(current) == ["worse"]
    assert draw(current.verdicts, tmp_path)


def test_the_refused_option_is_named_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ("judge", "nysact-s", "sgd", "--out", tmp_path / "out", "--set", "lr=1")
    code, _, errors = command(monkeypatch, capsys, *words)
    assert code == 2 and errors.startswith("error: --set: not available for judge")


# ---------------------------------------------------------------------- Python


@pytest.mark.parametrize("side", [None, 3, b"sgd", ["sgd", 3], {"sgd": None}.values()])
def test_a_side_of_another_type_is_refused(tmp_path: Path, side: Any):
    for sides in ((side, "sgd"), ("sgd", side)):
        with pytest.raises(HyperparameterError, match=r" = .*: must be the name of an optimizer"):
            studies.judge(*sides, out=tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("undrawn")
def test_the_path_of_a_file_is_a_side(tmp_path: Path):
    path = tmp_path / "a.toml"
    path.write_text('optimizer = "nysact-s"')
    run(plan(tmp_path), better)
    arguments: dict[str, Any] = {"out": tmp_path, "tracking_uri": "none", "report_only": True}
    assert studies.judge(path, "sgd", **arguments).decision == "better"
    assert studies.judge([path], "sgd", **arguments).decision == "better"


@pytest.mark.usefixtures("undrawn")
def test_a_dry_run_gives_no_verdict_without_an_attempt(tmp_path: Path):
    run(plan(tmp_path), better)
    (tmp_path / ledger.NAME).unlink()
    dry = studies.judge("nysact-s", "sgd", out=tmp_path, tracking_uri="none", dry_run=True)
    with pytest.raises(ValueError, match="a dry run has no verdicts"):
        _ = dry.decision
    assert not (tmp_path / ledger.NAME).exists()
