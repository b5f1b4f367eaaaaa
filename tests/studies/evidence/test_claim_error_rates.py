"""Rates of wrong decisions in families of claims that are exactly at their limits.

If the claims are taken as true, an error is a contradicted claim; it is most likely if all pairs of
a claim are at its limit. If they are taken as false, an error is a supported claim; it is most
likely if one pair is at the limit and the other pairs are far inside. Each of the two rates, over
all claims of a table together, is at most 5%.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rates import Rate, cases, verify

from studies.harness.design.claims import Better, Claim, Equivalent, NotWorse
from studies.harness.evidence import claims as engine
from studies.harness.evidence.claims import CONTRADICTED, SUPPORTED, decide

MARGINS = {"points": 0.01, "share": 0.02}
CLAIMS: list[Claim] = [
    Better("a *", than="base"),
    NotWorse("b *", than="base", **MARGINS),
    Equivalent("c *", to="base", **MARGINS),
    Equivalent("d", to="base", **MARGINS),
]
# The true gain of each arm in margins.
LIMITS = {"base": 0.0, "a 1": 0.0, "a 2": 0.0, "b 1": -1.0, "b 2": -1.0, "c 1": 1.0, "c 2": 1.0}
LIMITS["d"] = -1.0
GAINS = {CONTRADICTED: LIMITS, SUPPORTED: LIMITS | {"a 2": 1.0, "b 2": 0.0, "c 2": 0.0}}
METRICS = {"absolute margin": "test/accuracy", "relative margin": "test/mse"}
SEEDS = 5
TRUTHS = {CONTRADICTED: "true claims", SUPPORTED: "false claims"}


def results(
    rng: np.random.Generator, metric: str, failing: float, gains: Mapping[str, float]
) -> pd.DataFrame:
    """Return results of arms with these true gains, in margins; a failure is infinite."""
    noise = rng.normal(size=(SEEDS, len(gains))) + rng.normal(size=(SEEDS, 1))
    sizes = np.array([*gains.values()]) + 0.1 * noise
    higher = metric == "test/accuracy"
    values = 0.5 + MARGINS["points"] * sizes if higher else (1 + MARGINS["share"]) ** -sizes
    values[rng.random(values.shape) < failing] = -np.inf if higher else np.inf
    return pd.DataFrame(values, columns=list(gains))


def simulate(rng, tables, metric, failing, verdict, anytime):
    """Return for each table whether a claim has the verdict, which is wrong."""
    samples = [results(rng, metric, failing, GAINS[verdict]) for _ in range(tables)]
    rows = [decide(CLAIMS, values, metric) for values in samples]
    name = "anytime_verdict" if anytime else "verdict"
    return np.array([any(getattr(d, name) == verdict for d in row) for row in rows])


def rate(margin: str, failing: float, verdict: str, anytime: bool = False, small: int = 0) -> Rate:
    arguments = {"metric": METRICS[margin], "failing": failing, "verdict": verdict}
    kind = f"{margin}, {failing:.0%} failures"
    decision = f"claims, {'anytime-valid' if anytime else 'fixed sample'}, {TRUTHS[verdict]}"
    errors = partial(simulate, **arguments, anytime=anytime)
    return Rate(decision, kind, f"{SEEDS} seeds, {len(CLAIMS)} claims", errors, small=small)


RATES = [
    rate("absolute margin", 0.0, CONTRADICTED, small=100),
    rate("absolute margin", 0.0, SUPPORTED),
    rate("absolute margin", 0.15, CONTRADICTED),
    rate("absolute margin", 0.15, SUPPORTED, small=100),
    rate("relative margin", 0.0, CONTRADICTED),
    rate("relative margin", 0.0, SUPPORTED, small=100),
    rate("relative margin", 0.15, CONTRADICTED, small=100),
    rate("relative margin", 0.15, SUPPORTED),
    rate("absolute margin", 0.0, CONTRADICTED, anytime=True),
    rate("relative margin", 0.15, SUPPORTED, anytime=True),
]


@pytest.mark.parametrize(("rate", "full"), cases(RATES))
def test_families_of_claims_are_decided_wrongly_in_at_most_5_percent(
    rate: Rate, full: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "seeds_needed", lambda effect, tests: None)  # it takes most time
    if "anytime" not in rate.decision:
        monkeypatch.setattr(engine, "anytime_p", lambda gains, step: (1.0, 1.0, 1.0, 1.0))
    verify(rate, full)


def test_clear_claims_are_decided():
    """The opposite of the tests above: the verdicts are not just always inconclusive."""
    gains = LIMITS | {"a 1": 1.0, "a 2": 1.0, "b 1": -2.0}
    values = results(np.random.default_rng(0), "test/accuracy", 0.0, gains)
    better, not_worse, *_ = decide(CLAIMS, values, "test/accuracy")
    assert (better.verdict, better.anytime_verdict) == (SUPPORTED, SUPPORTED)
    assert (not_worse.verdict, not_worse.anytime_verdict) == (CONTRADICTED, CONTRADICTED)
