"""The tuning procedure: the configurations, the winners, and the committed ledgers."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

import precond
from precond.registry import REGISTRY, composed_names
from trainables.recipes import Recipe, tuning
from trainables.recipes.digits import DIGITS_CNN
from trainables.recipes.tuning import BUDGET, LEDGERS, SEEDS, SPACES, Ledger, Row, configurations
from trainables.workloads import RECIPES, workload

LOWER, HIGHER = "val/mse", "val/accuracy"


def ledger(metric: str, score: Callable[[str, int, int], float], *optimizers: str) -> Ledger:
    """Return a ledger with all configurations and seeds; a score of nan is a diverged trial."""
    rows = []
    for optimizer in optimizers:
        for number, values in enumerate(configurations(optimizer)):
            for seed in SEEDS:
                result = score(optimizer, number, seed)
                status = "diverged" if math.isnan(result) else "completed"
                rows.append(Row(optimizer, number, values, seed, status, result))
    return Ledger(metric, rows)


def problems(results: Ledger, recipe: Recipe) -> list[str]:
    """Return a line for each difference between a ledger and the procedure or the recipe."""
    errors = []
    for name in results.optimizers:
        rows = [row for row in results.rows if row.optimizer == name]
        trials = Counter((row.configuration, row.seed) for row in rows)
        if trials != Counter((number, seed) for number in range(BUDGET) for seed in SEEDS):
            errors.append(
                f"{name}: the trials are not {BUDGET} configurations x {len(SEEDS)} seeds"
            )
        expected = configurations(name)
        errors += [
            f"{name}: configuration {row.configuration} is {row.values}"
            for row in rows
            if row.configuration >= BUDGET or row.values != expected[row.configuration]
        ]
        winner = results.winner(name)
        if winner is None or not winner.values.items() <= recipe.hyperparameters(name).items():
            errors.append(f"{name}: the recipe does not have the values of the winner")
    return errors


def test_every_optimizer_has_a_space_and_the_same_budget():
    registered = {name for name, entry in REGISTRY.items() if not entry.plugin}
    assert registered < set(SPACES) <= {*registered, *composed_names()}
    for name, space in SPACES.items():
        assert next(iter(space)) == "lr"
        assert ("damping" in space) == ("damping" in precond.defaults(name))
        points = configurations(name)
        assert len(points) == BUDGET == len({tuple(point.values()) for point in points})
        for values in points:
            assert precond.check(name, values) == []
            assert all(low <= values[key] <= high for key, (low, high) in space.items())


@pytest.mark.parametrize("optimizer", SPACES)
def test_configurations_are_stratified_on_logarithmic_scales(optimizer: str):
    """A Hammersley set of 2**4 points has a point in every dyadic rectangle of area 1/16."""
    places = []
    for values in configurations(optimizer):
        spaces = SPACES[optimizer].values()
        pairs = zip(values.values(), spaces, strict=True)
        places.append(
            [math.log(value / low) / math.log(high / low) for value, (low, high) in pairs]
        )
    for columns in (1, 2, 4, 8, 16) if len(places[0]) == 2 else (16,):
        rows = 16 // columns
        cells = {(int(p[0] * columns), int(p[-1] * rows) if rows > 1 else 0) for p in places}
        assert len(cells) == 16, columns


def test_configurations_have_known_values():
    assert [values["lr"] for values in configurations("sgd", 4)] == [0.0024, 0.013, 0.075, 0.42]
    assert all(
        len(f"{v:g}".strip("0.").replace(".", "")) <= 2 for v in configurations("kfac")[5].values()
    )


@pytest.mark.parametrize(("metric", "best"), [(LOWER, 3), (HIGHER, 12)])
def test_the_winner_has_the_best_mean_in_the_direction_of_the_metric(metric: str, best: int):
    means = {number: 0.5 + 0.01 * number for number in range(BUDGET)}
    means |= {3: 0.1, 12: 0.9}
    noise = {100: -0.05, 101: 0.0, 102: 0.05}
    results = ledger(metric, lambda name, number, seed: means[number] + noise[seed], "sgd")
    winner = results.winner("sgd")
    assert winner is not None
    assert (winner.configuration, winner.values) == (best, configurations("sgd")[best])
    assert winner.mean == pytest.approx(means[best])


@pytest.mark.parametrize("metric", [LOWER, HIGHER])
@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_configuration_with_a_lost_seed_ranks_below_all_others(metric: str, lost: float):
    best = 0.01 if metric == LOWER else 0.99

    def score(name: str, number: int, seed: int) -> float:
        return (lost if seed == 101 else best) if number == 5 else 0.5

    assert [c.configuration for c in ledger(metric, score, "sgd").ranking("sgd")] == [
        *(number for number in range(BUDGET) if number != 5),
        5,
    ]


def test_equal_means_rank_by_the_index():
    ranking = ledger(LOWER, lambda *trial: 0.5, "kfac").ranking("kfac")
    assert [candidate.configuration for candidate in ranking] == list(range(BUDGET))


def test_an_optimizer_without_a_completed_configuration_has_no_winner():
    results = ledger(LOWER, lambda *trial: math.nan, "sgd")
    assert results.winner("sgd") is None and results.edges("sgd") == []


def test_edges_name_the_hyperparameters_at_the_end_of_their_space():
    def edges(best: int) -> list[str]:
        results = ledger(LOWER, lambda name, number, seed: abs(number - best), "kfac")
        return results.edges("kfac")

    # The damping rises with the reversed bits of the index: 0, 8, 4, 12, ..., 15.
    assert edges(0) == ["lr", "damping"] == edges(15)
    assert edges(5) == []
    by_damping = sorted(range(BUDGET), key=lambda i: configurations("kfac")[i]["damping"])
    assert by_damping[:4] == [0, 8, 4, 12]
    assert edges(8) == []


def test_a_newer_ledger_replaces_only_its_optimizers():
    old = ledger(LOWER, lambda name, number, seed: abs(number - 3), "sgd", "kfac")
    new = ledger(LOWER, lambda name, number, seed: abs(number - 5), "kfac", "foof")
    merged = old.updated(new)
    assert merged.optimizers == ["sgd", "kfac", "foof"]
    numbers = [merged.winner(name).configuration for name in merged.optimizers]
    assert numbers == [3, 5, 5]
    with pytest.raises(ValueError, match=f"{HIGHER} instead of {LOWER}"):
        old.updated(ledger(HIGHER, lambda name, number, seed: number, "sgd"))


def test_a_ledger_is_read_as_it_was_written():
    results = ledger(
        HIGHER,
        lambda name, number, seed: math.nan if number == 7 else number / 7 + seed / 3,
        "kfac",
        "sgd",
    )
    text = results.to_csv()
    copy = Ledger.from_csv(text)
    assert copy.to_csv() == text and copy.metric == HIGHER
    for optimizer in ("kfac", "sgd"):
        assert copy.winner(optimizer) == results.winner(optimizer)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [
        *("optimizer", "configuration", "lr", "damping", "seed", "status", HIGHER, "mean")
    ]
    sgd = [row for row in rows if row["optimizer"] == "sgd" and row["configuration"] == "15"]
    assert {row["damping"] for row in sgd} == {""} and len(sgd) == 3
    assert {row["mean"] for row in sgd} == {f"{15 / 7 + 101 / 3:.6g}"}
    lost = [row for row in rows if row["configuration"] == "7"]
    assert {(row["status"], row[HIGHER], row["mean"]) for row in lost} == {("diverged", "", "")}
    assert len(text) < 60 * len(rows)


def test_the_check_of_committed_ledgers_reports_edited_recipes_and_ledgers():
    results = ledger(LOWER, lambda name, number, seed: abs(number - 6.2), "sgd", "kfac")
    winners = {name: dict(configurations(name)[6]) for name in ("sgd", "kfac")}
    recipe = replace(DIGITS_CNN, optimizers={**winners, "adam": {"lr": 0.5}})
    assert problems(results, recipe) == []
    edited = replace(recipe, optimizers={**winners, "sgd": {"lr": 0.02}})
    assert problems(results, edited) == ["sgd: the recipe does not have the values of the winner"]
    fewer = Ledger(LOWER, results.rows[1:])
    assert problems(fewer, recipe) == ["sgd: the trials are not 16 configurations x 3 seeds"]
    other = Ledger(LOWER, [results.rows[0]._replace(values={"lr": 0.5}), *results.rows[1:]])
    assert problems(other, recipe) == ["sgd: configuration 0 is {'lr': 0.5}"]


def test_recipes_have_the_winners_of_the_committed_ledgers():
    workloads = {tuning.ledger_file(name): name for name in RECIPES}
    for file in sorted(LEDGERS.glob("*")):
        text, name = file.read_text(), workloads[file]
        results = Ledger.from_csv(text)
        assert results.to_csv() == text, f"{file.name}: edited"
        assert results.metric == f"val/{workload(name).task.headline.name}"
        assert problems(results, RECIPES[name]) == [], file.name
        assert file.stat().st_size < 2_500 * len(results.optimizers)
