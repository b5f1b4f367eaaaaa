"""The tables that the claims of cost studies, probes and searches compare, and their decisions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import write_cost_result, write_trial

from studies.activation_norms import PROBE as NORMS
from studies.compare_cost import COST
from studies.covariance_heatmap import PROBE as HEATMAP
from studies.harness.design.options import Options
from studies.harness.evidence.claims import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_TESTED,
    SUPPORTED,
    decide,
)
from studies.harness.kinds.cost import report as cost
from studies.harness.kinds.probe import covariances, norms
from studies.harness.kinds.probe.folder import Result
from studies.harness.kinds.probe.probe import Covariances
from studies.harness.kinds.search.plan import SearchState
from studies.harness.kinds.search.results import SearchResults
from studies.harness.kinds.search.tuning import plans
from studies.tune_optimizers import SEARCH
from trainables.workloads import resolve

# ---------------------------------------------------------------------- cost studies


def cost_results(folder: Path, ratios: dict[str, list[float]]) -> list[dict]:
    """Return results of the benchmark of as-released variants with these ratios of blocks."""
    results = []
    for optimizer, blocks in ratios.items():
        config = resolve(COST.workload, optimizer, as_released=True)
        result = json.loads(write_cost_result(folder, config).read_text())
        if blocks:
            result["against"]["sgd"]["ratios"] = blocks
        results.append(result)
    return results


def test_costs_are_compared_by_blocks(tmp_path: Path):
    noise = 0.01 * np.random.default_rng(0).normal(size=(2, 20))
    ratios = {"nysact-s": list(1.4 + noise[0]), "foof": list(1.5 + noise[1]), "kfac": []}
    table = cost.ratios(cost_results(tmp_path, ratios))
    assert list(table["nysact-s as-released"]) == ratios["nysact-s"]
    assert table["kfac as-released"].isna().all()
    decisions = {d.claim.base: d for d in decide(COST.claims_on(COST.workload), table, cost.TIME)}
    assert decisions["foof as-released"].verdict == SUPPORTED
    # The file of KFAC has no blocks, and Eva was not measured.
    assert decisions["kfac as-released"].verdict == NOT_TESTED
    assert decisions["eva as-released"].verdict == NOT_TESTED
    slower = table.rename(columns=dict(zip(table, table.columns[[1, 0, 2]], strict=True)))
    [contradicted] = decide(COST.claims_on(COST.workload)[1:2], slower, cost.TIME)
    assert contradicted.verdict == CONTRADICTED


# ---------------------------------------------------------------------- probes


def norm_numbers(norms_by_seed: list[np.ndarray]) -> pd.DataFrame:
    """Return the numbers of networks with norms `[steps, layers]`."""
    return norms.numbers(
        NORMS.measurement,
        [
            Result(
                seed,
                {"status": "completed"},
                {
                    "layers": np.array([f"b{i}" for i in range(values.shape[1])][::-1]),
                    "convolution": np.ones(values.shape[1], dtype=bool),
                    "inputs": np.full(values.shape[1], 9),
                    "norms": values,
                },
            )
            for seed, values in enumerate(norms_by_seed)
        ],
    )


def norm_verdict(numbers: pd.DataFrame, diverged: tuple[int, ...] = ()) -> str:
    table = norms.values(NORMS.measurement, numbers, diverged)
    [decision] = decide(NORMS.claims_on(NORMS.workload), table, norms.METRIC)
    return decision.verdict


def test_norms_of_two_periods_are_compared():
    rng = np.random.default_rng(0)
    flat = [np.ones((100, 2)) + 0.01 * rng.normal(size=(100, 2)) for _ in range(5)]
    growing = [values * np.linspace(1, 9, 100)[:, None] ** [0, 2] for values in flat]
    numbers = norm_numbers(growing)
    table = norms.values(NORMS.measurement, numbers, ())
    assert list(table) == norms.labels(["b1", "b0"])
    last = table["layer b0 in the last tenth"]
    assert list(last) == pytest.approx([values[90:, 1].mean() for values in growing])
    previous = table["layer b0 in the previous tenth"]
    assert list(previous) == pytest.approx([values[80:90, 1].mean() for values in growing])
    assert norm_verdict(norm_numbers(flat)) == SUPPORTED
    assert norm_verdict(numbers) == CONTRADICTED
    # With one network there is no test. Diverged networks are evidence against the claim.
    assert norm_verdict(norm_numbers(flat[:1])) == NOT_TESTED
    assert norm_verdict(norm_numbers(flat), (5,)) == INCONCLUSIVE
    assert norm_verdict(norm_numbers(flat), (5, 6, 7, 8, 9, 10)) != SUPPORTED


def error_numbers(errors: dict[str, float]) -> pd.DataFrame:
    """Return the numbers of three networks; the layer `exact` has fewer inputs than the rank."""
    rows = [
        {
            "seed": seed,
            "layer": layer,
            "inputs": 5 if layer == "exact" else 50,
            "approximation": kind,
            "draw": draw,
            "frobenius": 0.0 if layer == "exact" else error + 0.001 * (seed + draw),
        }
        for seed in range(3)
        for layer in ("b", "a", "exact")
        for kind, error in {**errors, covariances.BEST: 0.1}.items()
        for draw in range(2)
    ]
    return pd.DataFrame(rows)


def error_verdicts(column: float, gaussian: float, diverged: tuple[int, ...] = ()) -> list[str]:
    numbers = error_numbers({"column sketch": column, "Gaussian sketch": gaussian})
    table = covariances.values(Covariances(rank=10), numbers, diverged)
    assert {*table} == {*covariances.labels(["b", "a"])}
    assert list(table.loc[:2, "column sketch of layer a"]) == pytest.approx(
        [column + 0.0005 + 0.001 * seed for seed in range(3)]
    )
    decisions = decide(HEATMAP.claims_on(HEATMAP.workload), table, covariances.METRIC)
    return [decision.verdict for decision in decisions]


def test_errors_of_sketches_are_compared():
    assert error_verdicts(0.3, 0.3) == [SUPPORTED, SUPPORTED]
    assert error_verdicts(0.3, 0.2) == [SUPPORTED, CONTRADICTED]
    assert error_verdicts(0.7, 0.7) == [CONTRADICTED, SUPPORTED]
    assert error_verdicts(0.3, 0.3, (3, 4))[0] == INCONCLUSIVE


# ---------------------------------------------------------------------- searches


def test_winners_are_compared_under_the_fresh_seeds(tmp_path: Path, monkeypatch):
    [plan] = plans(replace(SEARCH, seeds=4), Options(out=tmp_path, workload="digits/cnn"))
    results = SearchResults(plan, SearchState(plan).proposers, [], tmp_path)
    assert {decision.verdict for decision in results.decisions} == {NOT_TESTED}
    accuracies = {"sgd": 0.95, "nysact-s": 0.97, "foof": 0.95, "kfac": 0.90}
    monkeypatch.setattr(
        "folders.metrics",
        lambda trial, epoch: {
            "test/accuracy": accuracies[trial.arm.optimizer] + 0.001 * trial.config.seed**2
        },
    )
    fresh = [trial for optimizer in accuracies for trial in plan.fresh(optimizer)]
    for trial in fresh:
        write_trial(tmp_path, trial, 2)
    results = SearchResults(plan, results.proposers, fresh, tmp_path)
    verdicts = {(d.claim.arm, d.claim.base): d.verdict for d in results.decisions}
    assert verdicts == {
        ("nysact-s", "sgd"): SUPPORTED,
        ("nysact-s", "adamw"): NOT_TESTED,  # AdamW has no winner yet
        ("foof", "sgd"): SUPPORTED,
        ("kfac", "sgd"): CONTRADICTED,
    }
