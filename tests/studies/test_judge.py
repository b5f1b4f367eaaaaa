"""Judgements on trial folders that are written without training."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from folders import PROVENANCE, write_cost_result

import studies
from precond.hyperparameters import HyperparameterError
from studies.harness.command.judge import COMMAND, decision_code
from studies.harness.command.options import parse
from studies.harness.design.arms import Trial
from studies.harness.kinds.judge import ledger
from studies.harness.kinds.judge.execute import PairSource, amount
from studies.harness.kinds.judge.judge import Judgement
from studies.harness.kinds.judge.judge_plan import JudgePlan
from studies.harness.kinds.judge.results import Results, results
from studies.harness.kinds.judge.sides import arm, split
from trainables.files import append_lines, read_lines
from trainables.recipes.tuning import SEEDS
from trainables.store import COMPLETED, DIVERGED, TrialStore

Value = Callable[[str, int], float | None]
"""Returns the error of a side with a seed; None if the trial diverges."""


def plan(root: Path, candidates: str = "nysact-s", baseline: str = "sgd", **raw: Any) -> JudgePlan:
    raw = {name: str(value) for name, value in raw.items()}
    judgement = Judgement(candidates=candidates, baseline=baseline)
    options, errors = parse({"out": str(root), **raw}, judgement.FLAGS)
    assert not errors
    [planned] = judgement.plan(options)
    return planned


def finish(root: Path, trial: Trial, value: float | None) -> None:
    """Write the folder of a trial; its error is the value, or it diverged if the value is None."""
    store = TrialStore(root, trial.config)
    store.create()
    store.begin(PROVENANCE)
    values = {"test/mse": value or 1.0, "test/loss": 2 * (value or 1.0), "val/mse": value or 1.0}
    for epoch in range(trial.config.epochs):
        store.record(epoch, {**values, "time/train_s": 0.5, "time/eval_s": 0.1})
    store.finish(COMPLETED if value is not None else DIVERGED)


def run(planned: JudgePlan, value: Value, room: int = 2, limit: int = 1000) -> Results:
    """Train by need, as the driver does, but write the values instead."""
    planned.root.mkdir(exist_ok=True)
    ledger.begin(planned)
    source = PairSource(planned)
    for _ in range(limit):
        batch = [trial for _ in range(room) if (trial := source.next(room))]
        if not batch:
            break
        for trial in batch:
            finish(planned.root, trial, value(trial.arm.label, trial.config.seed))
    current = results(planned)
    ledger.end(planned, current.verdicts, current.problem)
    return current


def noise(name: str, seed: int) -> float:
    """Return a standard normal number that depends on the side and the seed."""
    return Random(f"{name} {seed}").gauss(0, 1)


def better(name: str, seed: int) -> float:
    return (0.1 if name.startswith("nysact-s") else 0.2) * math.exp(0.1 * noise(name, seed))


def similar(name: str, seed: int) -> float:
    return 0.2 * math.exp(0.1 * noise(name, seed))


def decisions(current: Results) -> list[str]:
    return [verdict.decision for verdict in current.verdicts]


def test_pairs_are_trained_one_at_a_time_until_there_is_a_decision(tmp_path: Path):
    current = run(plan(tmp_path), better)
    assert decisions(current) == ["better"] and decision_code(current.verdicts) == 0
    pairs = current.verdicts[0].pairs
    assert 3 <= pairs <= 8 and current.done and not current.needed(30)
    assert len(list((tmp_path / "trials").iterdir())) == 2 * pairs  # none more than needed


def test_reversed_sides_are_worse_with_the_same_evidence(tmp_path: Path):
    forward, backward = run(plan(tmp_path), better), plan(tmp_path, "sgd", "nysact-s")
    assert decisions(run(backward, better)) == ["worse"]
    assert results(backward).verdicts[0].e_values == pytest.approx(forward.verdicts[0].e_values)
    assert decision_code(results(backward).verdicts) == 10


def test_without_a_difference_all_seeds_are_used(tmp_path: Path):
    current = run(plan(tmp_path, max_seeds=12), similar)
    assert decisions(current) == ["inconclusive"] and current.verdicts[0].pairs == 12
    assert current.done and decision_code(current.verdicts) == 12
    [(command, _)] = current.plan.artefact.next_steps(current.plan)
    assert command == "the same command with --max-seeds 24"
    assert decisions(run(plan(tmp_path, max_seeds=12, margin="50%"), similar)) == ["equal"]


def test_room_for_several_pairs_trains_them_at_once(tmp_path: Path):
    source = PairSource(plan(tmp_path, max_seeds=10))
    first = [source.next(6) for _ in range(7)]
    assert [trial.config.seed for trial in first if trial] == [0, 0, 1, 1, 2, 2]
    assert not source.finished() and source.left() == 6


def test_a_judgement_without_tuned_sides_is_inconclusive(tmp_path: Path):
    current = results(plan(tmp_path, tune=2))
    assert current.verdicts == () and decision_code(current.verdicts) == 12


def test_a_killed_judgement_resumes_with_the_same_decision(tmp_path: Path):
    whole = run(plan(tmp_path / "whole"), better)
    run(plan(tmp_path / "killed"), better, limit=2)
    resumed = run(plan(tmp_path / "killed"), better)
    assert resumed.verdicts[0].e_values == pytest.approx(whole.verdicts[0].e_values)
    begun = [line for line in read_lines(tmp_path / "killed" / ledger.NAME) if "candidates" in line]
    assert len(begun) == 1


def test_more_seeds_change_no_decision(tmp_path: Path):
    few = run(plan(tmp_path), better).verdicts[0]
    for trial in plan(tmp_path).pairs(results(plan(tmp_path)).sides or {}, range(30)):
        if not (tmp_path / "trials" / trial.config.trial_key[:16]).exists():
            finish(tmp_path, trial, 0.3)
    many = results(plan(tmp_path)).verdicts[0]
    assert (many.decision, many.pairs, many.e) == (few.decision, few.pairs, few.e)


def test_a_diverging_candidate_loses_its_pairs(tmp_path: Path):
    def value(name: str, seed: int) -> float | None:
        return None if name == "nysact-s" and seed % 2 else similar(name, seed)

    current = run(plan(tmp_path), value)
    verdict = current.verdicts[0]
    assert verdict.decision in ("worse", "inconclusive") and verdict.effects[0].losses >= 3
    assert decisions(
        run(plan(tmp_path / "all"), lambda name, seed: None if name != "sgd" else 1.0)
    ) == ["worse"]


def test_a_baseline_without_a_result_is_reported(tmp_path: Path):
    def value(name: str, seed: int) -> float | None:
        return None if name == "sgd" and seed == 2 else similar(name, seed)

    current = run(plan(tmp_path), value)
    assert current.problem.startswith("sgd diverged with seed 2 on digits/autoencoder")
    with pytest.raises(HyperparameterError, match="sgd diverged with seed 2"):
        plan(tmp_path)


def test_a_lost_baseline_after_the_decision_does_not_matter(tmp_path: Path):
    run(plan(tmp_path), better)
    seeds = results(plan(tmp_path)).verdicts[0].pairs
    sides = results(plan(tmp_path)).sides or {}
    for trial in plan(tmp_path).pairs(sides, [seeds]):
        finish(tmp_path, trial, None)
    assert decisions(results(plan(tmp_path))) == ["better"]


# ---------------------------------------------------------------------- ledger


def test_each_judgement_counts_as_an_attempt(tmp_path: Path):
    thresholds = []
    for rank in (5, 10, 20):
        current = run(plan(tmp_path, f"nysact-s:rank={rank}", max_seeds=3), similar, limit=1)
        thresholds.append(current.verdicts[0].threshold)
    assert thresholds == pytest.approx([20 * 2, 20 * 6, 20 * 12])
    assert results(plan(tmp_path, "nysact-s:rank=10")).verdicts[0].attempt == 2
    assert results(plan(tmp_path, "adam")).verdicts[0].attempt == 4


def test_an_abandoned_judgement_counts(tmp_path: Path):
    ledger.begin(plan(tmp_path))  # the driver is killed before the first trial
    assert results(plan(tmp_path, "adam")).attempts_before == 1


def test_a_changed_baseline_or_metric_does_not_evade_the_count(tmp_path: Path):
    ledger.begin(plan(tmp_path))
    assert results(plan(tmp_path, baseline="sgd:lr=0.02")).attempts_before == 1
    assert results(plan(tmp_path, metric="test/loss")).attempts_before == 1
    assert results(plan(tmp_path, workload="digits/cnn")).attempts_before == 0
    assert results(plan(tmp_path, baseline="adam")).attempts_before == 0


def test_the_number_of_seeds_does_not_make_another_attempt(tmp_path: Path):
    ledger.begin(plan(tmp_path, max_seeds=3))
    ledger.begin(plan(tmp_path, max_seeds=30))
    assert len(read_lines(tmp_path / ledger.NAME)) == 1


def test_the_ledger_contains_configurations_rules_and_verdicts(tmp_path: Path):
    run(plan(tmp_path, margin="5%"), better)
    begun, ended = read_lines(tmp_path / ledger.NAME)
    assert begun["baseline"]["hyperparameters"]["digits/autoencoder"]["lr"] > 0
    assert begun["margin"] == "5%" and begun["tuning"] == "recipe" and begun["first_seed"] == 0
    assert ended["verdicts"][0]["decision"] == "better" and ended["verdicts"][0]["seeds"][0] == 0
    ledger.end(plan(tmp_path, margin="5%"), results(plan(tmp_path, margin="5%")).verdicts, "")
    assert len(read_lines(tmp_path / ledger.NAME)) == 2


def test_a_cut_line_of_the_ledger_is_repaired(tmp_path: Path):
    ledger.begin(plan(tmp_path))
    path = tmp_path / ledger.NAME
    path.write_bytes(path.read_bytes()[:-20])
    ledger.begin(plan(tmp_path))
    assert len(read_lines(path)) == 1
    append_lines(path, [{"event": "later version"}])
    assert results(plan(tmp_path, "adam")).attempts_before == 1


# ---------------------------------------------------------------------- several candidates


def test_several_candidates_share_the_trials_of_the_baseline(tmp_path: Path):
    current = run(plan(tmp_path, "nysact-s,adam", max_seeds=6), better, room=3)
    assert decisions(current) == ["better", "inconclusive"]
    assert decision_code(current.verdicts) == 0
    first, second = current.verdicts
    assert second.pairs == 6 and first.pairs < 6
    trained = len(list((tmp_path / "trials").iterdir()))
    assert trained == 6 + 6 + first.pairs  # the decided candidate gets no further seeds
    assert (first.attempt, second.attempt) == (1, 2)


def test_several_workloads_are_judged_together(tmp_path: Path):
    both = plan(tmp_path, workload="digits/autoencoder,diabetes/mlp", combine="product")
    current = run(both, better, room=4)
    assert decisions(current) == ["better"] and len(current.verdicts[0].effects) == 2
    single = run(plan(tmp_path / "single"), better).verdicts[0]
    assert current.verdicts[0].pairs < single.pairs


# ---------------------------------------------------------------------- tuning and metrics


def test_both_sides_are_tuned_with_the_same_budget_first(tmp_path: Path):
    planned = plan(tmp_path, "nysact-s:rank=5", tune=4)

    def value(name: str, seed: int) -> float:
        return better(name, seed)

    current = run(planned, value)
    assert decisions(current) == ["better"]
    tuning = planned.tuning["digits/autoencoder"]
    assert {label: len(trials) for label, trials in tuning.items()} == {
        "sgd": 4 * len(SEEDS),
        "nysact-s rank=5": 4 * len(SEEDS),
    }
    assert all(trial.config.train_fraction == 0.9 for trial in tuning["sgd"])
    assert (current.sides or {})["digits/autoencoder"]["nysact-s rank=5"].config.train_fraction == 1
    assert "best of 12 trials" in " ".join(current.notes)
    [begun] = [line for line in read_lines(tmp_path / ledger.NAME) if line["event"] == "begun"]
    assert begun["tuning"] == {"configurations": 4, "seeds": [*SEEDS]}


def test_no_pair_is_trained_before_the_tuning_is_complete(tmp_path: Path):
    planned = plan(tmp_path, tune=2)
    source = PairSource(planned)
    trials = [source.next(100) for _ in range(14)]
    fractions = [trial.config.train_fraction for trial in trials if trial]
    assert fractions == [0.9] * 12 and not source.finished()


def test_the_progress_counts_the_pairs_before_the_tuning_is_complete(tmp_path: Path):
    planned = plan(tmp_path, tune=2, max_seeds=5)
    expected = planned.artefact.missing(planned).trials
    assert len(expected) == 12 and amount(planned, expected) == (12 + 10, 22 * 20)


def test_tuning_without_a_winner_is_an_error(tmp_path: Path):
    planned = plan(tmp_path, tune=2)
    for trials in planned.tuning["digits/autoencoder"].values():
        for trial in trials:
            finish(tmp_path, trial, None)
    with pytest.raises(HyperparameterError, match="none of the configurations of sgd completes"):
        plan(tmp_path, tune=2)


def test_time_to_a_target_uses_exclusive_measurements(tmp_path: Path):
    with pytest.raises(HyperparameterError, match="no hardware has timed all sides"):
        plan(tmp_path, metric="time_to_target", target=0.3)
    sides = plan(tmp_path).sides() or {}
    for label, ratio in (("sgd", 1.0), ("nysact-s", 3.0)):
        config = sides["digits/autoencoder"][label].config
        write_cost_result(
            tmp_path / "cost" / "cpu-2-threads", config, step=0.1 * ratio, ratio=ratio
        )
    assert results(plan(tmp_path)).costs[0].endswith("times as large.")  # no probability yet
    current = run(plan(tmp_path, metric="time_to_target", target=0.3), similar)
    assert decisions(current) == ["worse"]  # the same epochs, but longer steps
    assert "takes 3.00 times as long" in current.costs[0]
    assert "a shorter step is 0.00" in current.costs[0]
    epochs = run(plan(tmp_path / "e", metric="epochs_to_target", target=0.3, max_seeds=4), similar)
    assert decisions(epochs) == ["inconclusive"]


def test_a_side_that_misses_the_target_loses(tmp_path: Path):
    current = run(plan(tmp_path, metric="epochs_to_target", target=0.15), better)
    assert decisions(current) == ["better"] and not current.problem


# ---------------------------------------------------------------------- sides and errors


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("sgd", ["sgd"]),
        ("nysact-s:rank=5,lr=0.01,adamw", ["nysact-s:rank=5,lr=0.01", "adamw"]),
        ("sgd,adam:lr=1,betas=0.9/0.99", ["sgd", "adam:lr=1,betas=0.9/0.99"]),
        ("pytorch-optimizer:lion:lr=1,sgd", ["pytorch-optimizer:lion:lr=1", "sgd"]),
    ],
)
def test_sides_are_split_at_their_names(text: str, sides: Sequence[str]):
    assert split(text) == sides


def test_a_side_is_a_name_with_values_or_a_file(tmp_path: Path):
    side = arm("nysact-s:rank=5,stat_decay=0.9")
    assert side.label == "nysact-s rank=5 ema_decay=0.9"
    assert arm("adam:betas=0.9/0.99").overrides == {"betas": (0.9, 0.99)}
    toml, document = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('optimizer = "nysact-s"\n[hyperparameters]\nrank = 5\nema_decay = 0.9\n')
    content = {"optimizer": "nysact-s", "hyperparameters": {"rank": 5, "ema_decay": 0.9}}
    document.write_text(json.dumps(content))
    assert arm(str(toml)) == arm(str(document)) == side


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"candidates": "nysact"}, 'optimizer = "nysact": unknown. Did you mean'),
        ({"candidates": "sgd"}, "sgd: named twice"),
        ({"candidates": "sgd:lr=0.011"}, "are the same configuration on digits/autoencoder"),
        ({"candidates": "sgd:lr"}, 'optimizer = "sgd:lr": unknown'),
        ({"candidates": "sgd:rank=5"}, "rank"),
        ({"candidates": "no.toml"}, "no.toml: No such file"),
        ({"margin": "-5%"}, "--margin = -5%: for test/mse, must be a percentage such as 5%, or 0"),
        ({"margin": "0.3pp"}, "must be a percentage such as 5%"),
        ({"margin": "5%", "workload": "digits/cnn"}, "must be percentage points such as 0.3pp"),
        ({"metric": "test/accuracy"}, "has no such metric"),
        ({"metric": "val/mse"}, "must be test/..., train/loss"),
        ({"metric": "epochs_to_target"}, "requires --target, a value of test/mse"),
        ({"target": "0.3"}, "only for the metrics epochs_to_target and seconds_to_target"),
        ({"max_seeds": "1"}, "--max-seeds = 1: must be an integer in 2..1000"),
        ({"combine": "sum"}, "--combine = sum: must be one of average, product"),
        ({"tune": "1"}, "--tune = 1: must be an integer in 2..1000"),
        ({"candidates": "nysact-s:lr=1,damping=1", "tune": "4"}, "fixes all hyperparameters"),
    ],
)
def test_invalid_judgements_are_refused_in_one_line(
    tmp_path: Path, arguments: dict[str, str], line: str
):
    with pytest.raises(HyperparameterError) as error:
        plan(tmp_path, **arguments)
    assert line in str(error.value)
    assert not any(tmp_path.iterdir())


def test_an_unavailable_option_has_its_name_in_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["nysact-s", "sgd", "--set", "lr=1", "--out", str(tmp_path)]
    assert COMMAND.main(arguments, standalone_mode=False) == 2
    assert "error: --set: not available for judge, which" in capsys.readouterr().err


def test_judge_from_python(tmp_path: Path):
    run(plan(tmp_path), better)
    result = studies.judge("nysact-s", "sgd", out=tmp_path, tracking_uri="none", report_only=True)
    assert result.decision == "better" and set(result.frame()["arm"]) == {"sgd", "nysact-s"}
    with pytest.raises(HyperparameterError, match="named twice"):
        studies.judge("sgd", "sgd", out=tmp_path)
