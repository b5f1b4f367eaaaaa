"""The verdicts of a judgement as CSV files, JSON, a Markdown table and metrics of MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from studies.harness.evidence.judgement import Combination, Effect, Verdict
from studies.harness.report.claims import plain
from studies.harness.report.judgement import counts
from studies.harness.report.judgement_sentences import (
    e_text,
    effect_text,
    interval,
    noun,
    sentences,
    threshold_text,
    unit_text,
)

HEADER = ("candidate", "baseline", "workload", "decision", "effect", "seeds", "e (decides)")
INTEGERS = dict.fromkeys(("expected", "signs_from_seed"), "Int64")  # integers or missing


def files(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return the content of `judgement.csv`, `seeds.csv` and `row.md`; nothing without a verdict."""
    if not verdicts:
        return {}
    table = [
        {**_decision(verdict), **_effect(effect)}
        for verdict in verdicts
        for effect in verdict.effects
    ]
    seeds = [_by_seed(verdict, effect) for verdict in verdicts for effect in verdict.effects]
    return {
        "judgement.csv": pd.DataFrame(table).astype(INTEGERS).to_csv(index=False),
        "seeds.csv": pd.concat(seeds).to_csv(index=False),
        "row.md": markdown(verdicts),
    }


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return a table in Markdown with a row for each candidate."""
    rows = [HEADER, ["---"] * len(HEADER)]
    for verdict in verdicts:
        effects = [_cell(effect) for effect in verdict.effects]
        rows.append(
            [
                verdict.candidate,
                verdict.baseline,
                ", ".join(effect.scale.workload for effect in verdict.effects),
                verdict.decision,
                "; ".join(effects),
                str(verdict.pairs),
                f"{e_text(verdict.e)} ({threshold_text(verdict)})",
            ]
        )
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def record(verdicts: Sequence[Verdict], combine: Combination = "average", problem: str = "") -> str:
    """Return the verdicts as one line of JSON, in which null is an unknown or infinite number.

    Args:
        verdicts: The verdict on each candidate.
        combine: The combination of the e-values of several workloads.
        problem: The reason why no decision is possible, or an empty text.
    """
    rows = [
        {
            **_decision(verdict),
            "sentence": text,
            "workloads": [
                {**_effect(effect), "seeds": [*effect.seeds]} for effect in verdict.effects
            ],
        }
        for verdict, text in zip(verdicts, sentences(verdicts, combine), strict=True)
    ]
    document = {"judgement": rows, "combine": combine, "problem": problem}
    return json.dumps(plain(document), allow_nan=False)


def metrics(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the metrics of MLflow by name, such as `judge/nysact-s/e`."""
    return {
        f"judge/{re.sub(r'[^A-Za-z0-9_./:-]', '.', verdict.candidate)}/{name}": float(value)
        for verdict in verdicts
        for name, value in (
            ("e", verdict.e),
            ("pairs", verdict.pairs),
            ("threshold", verdict.threshold),
        )
    }


def _decision(verdict: Verdict) -> dict[str, Any]:
    return {
        "candidate": verdict.candidate,
        "baseline": verdict.baseline,
        "decision": verdict.decision,
        "attempt": verdict.attempt,
        "pairs": verdict.pairs,
        "e": verdict.e,
        "threshold": verdict.threshold,
        "level": verdict.level,
        "expected": verdict.expected,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    """Return the effect on a workload: candidate / baseline, or candidate - baseline."""
    scale = effect.scale
    low, high = interval(effect)
    return {
        "workload": scale.workload,
        "metric": scale.metric,
        "margin": scale.margin,
        "comparison": "ratio" if scale.ratio else "difference",
        "effect": float(scale.effects(np.array(effect.mean))),
        "low": low,
        "high": high,
        "candidate_mean": effect.candidate,
        "baseline_mean": effect.baseline,
        **dict(zip(("wins", "losses", "ties"), counts(effect), strict=True)),
        "signs_from_seed": _first(effect),
    }


def _first(effect: Effect) -> int | None:
    """Return the first seed whose gain is judged by its sign."""
    return effect.seeds[effect.first_sign] if effect.first_sign < len(effect.seeds) else None


def _by_seed(verdict: Verdict, effect: Effect) -> pd.DataFrame:
    """Return a row for each seed. An infinite value is that of a trial without a result."""
    return pd.DataFrame(
        {
            "candidate": verdict.candidate,
            "baseline": verdict.baseline,
            "workload": effect.scale.workload,
            "metric": effect.scale.metric,
            "seed": [*effect.seeds],
            "candidate_value": effect.values[:, 0],
            "baseline_value": effect.values[:, 1],
            "gain": effect.gains,
            "gain_low": effect.low,
            "gain_high": effect.high,
            "e": verdict.e_values,
        }
    )


def _cell(effect: Effect) -> str:
    """Return an effect with its metric, such as `test mse: 0.540 [0.430, 0.670] times`."""
    text = effect_text(effect)
    times = " times" if effect.scale.ratio else unit_text(effect.scale)
    return f"{noun(effect.scale)}: {text}{times if text != '-' else ''}"
