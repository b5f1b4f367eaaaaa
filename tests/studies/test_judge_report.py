"""The report of a judgement: sentences, tables, files and the figure."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geometry
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from studies.harness.command import screen
from studies.harness.evidence.judgement import Combination, Effect, Rules, Verdict, judge
from studies.harness.evidence.scale import Scale
from studies.harness.report import document
from studies.harness.report.figures import judgement as drawing
from studies.harness.report.figures.judgement import draw
from studies.harness.report.figures.layout import arrange_texts
from studies.harness.report.judgement import blocks, listing, rows
from studies.harness.report.judgement_files import files, metrics, record
from studies.harness.report.judgement_sentences import e_text, effect_text, sentences

MSE = Scale("digits/autoencoder", "test/mse", ratio=True)
ACCURACY = Scale("digits/cnn", "test/accuracy", ratio=False, step=1 / 600)
NAMES = [f"nysact-s rank={rank}" for rank in range(1, 13)]


def effect(scale: Scale, gains: Sequence[float], interval=(-math.inf, math.inf), signs=None):
    """Return the effect of a candidate on the first seeds, with constant ends of the interval."""
    baseline = np.full(len(gains), 0.5)
    values = baseline * np.exp(-np.array(gains)) if scale.ratio else baseline + np.array(gains)
    baseline = np.where(np.array(gains) == math.inf, math.inf, baseline)
    low, high = (np.full(len(gains), end) for end in interval)
    return Effect(
        scale=scale,
        seeds=[*range(len(gains))],
        gains=np.array(gains, dtype=float),
        candidate=0.4,
        baseline=0.5,
        low=low,
        high=high,
        first_sign=len(gains) if signs is None else signs,
        values=np.stack([values, baseline], axis=1),
    )


def verdict(decision, effects: Sequence[Effect], e=143.0, level=0.025, attempt=1, expected=None):
    """Return a verdict whose last e-value is `e`."""
    return Verdict(
        candidate="nysact-s",
        baseline="sgd",
        decision=decision,
        attempt=attempt,
        level=level,
        e_values=np.linspace(1.0, e, len(effects[0].gains)),
        effects=effects,
        expected=expected,
    )


def sentence(result: Verdict, combine: Combination = "average") -> str:
    """Return the sentence of a single candidate."""
    [text] = sentences([result], combine)
    return text


def table(seeds: int, names: Sequence[str], gain: float = 0.3) -> pd.DataFrame:
    """Return errors of the names and of `sgd` by seed; the gain of each name is larger."""
    generator = np.random.default_rng(0)
    noise = 0.2 * generator.standard_normal((seeds, 1 + len(names)))
    noise[:, 1:] -= gain * np.arange(len(names))
    return pd.DataFrame(np.exp(noise), columns=["sgd", *names])


# ---------------------------------------------------------------------- sentences


def test_better_by_a_ratio():
    ends = (-math.log(0.67), -math.log(0.43))
    text = sentence(verdict("better", [effect(MSE, [-math.log(0.54)] * 6, ends)]))
    assert text == (
        "nysact-s is better than sgd on digits/autoencoder: its test mse is 0.540 [0.430, 0.670] "
        "times that of sgd (6 paired seeds, e = 143; 40 decides)."
    )


def test_worse_by_a_difference_in_percentage_points():
    text = sentence(verdict("worse", [effect(ACCURACY, [-0.012] * 9, (-0.02, -0.004))]))
    assert text == (
        "nysact-s is worse than sgd on digits/cnn: its test accuracy differs from that of sgd by "
        "-1.20 [-2.00, -0.40] percentage points (9 paired seeds, e = 143; 40 decides)."
    )


def test_a_difference_of_an_error_has_the_sign_of_the_error():
    loss = Scale("digits/cnn", "test/loss", ratio=False)
    assert effect_text(effect(loss, [0.2], (0.1, math.inf))) == "-0.2000 [-inf, -0.1000]"


@pytest.mark.parametrize(
    ("scale", "margin"),
    [
        (MSE._replace(margin=math.log(1.05)), "5%"),
        (ACCURACY._replace(margin=0.003), "0.3 percentage points"),
        (Scale("w", "diag/residual", ratio=False, margin=0.1), "0.1"),
    ],
)
def test_equal_within_the_margin_in_its_unit(scale: Scale, margin: str):
    text = sentence(verdict("equal", [effect(scale, [0.0] * 14, (-0.002, 0.002))]))
    assert text.startswith(f"nysact-s is equal to sgd within {margin} on {scale.workload}: its ")
    assert text.endswith("(14 paired seeds, the confidence sequence is within the margin).")


@pytest.mark.parametrize(
    ("pairs", "expected", "text"),
    [
        (30, 75, "About 45 more seeds would be expected to decide it."),
        (30, 31, "About 1 more seed would be expected to decide it."),
        (30, 30, "About 1 more seed would be expected to decide it."),
        (30, None, "More than 1000 paired seeds would be expected to decide it."),
        (1, None, "One pair is not enough to predict how many more seeds are needed."),
    ],
)
def test_inconclusive_with_the_seeds_that_would_be_expected(pairs, expected, text):
    ends = (-0.2, 0.2) if pairs > 1 else (-math.inf, math.inf)
    start = "nysact-s against sgd on digits/autoencoder is inconclusive after "
    result = verdict("inconclusive", [effect(MSE, [0.0] * pairs, ends)], e=1.0, expected=expected)
    assert sentence(result).startswith(start) and sentence(result).endswith(text)
    assert ("1.00 [0.819, 1.22] times" in sentence(result)) == (pairs > 1)


def test_without_a_pair():
    assert sentence(verdict("inconclusive", [effect(MSE, [])])) == (
        "nysact-s has not been compared with sgd on digits/autoencoder, because no pair of seeds "
        "has ended yet."
    )


def test_lost_pairs_signs_and_the_attempt():
    gains = [0.1, 0.1, 0.1, -math.inf, 0.1, math.inf, 0.1, -math.inf]
    result = verdict("inconclusive", [effect(MSE, gains, signs=3)], 39.96, 0.05 / 56, 7, 20)
    assert sentence(result).endswith(
        "(e = 39.9; 1,120 decides). About 12 more seeds would be expected to decide it. nysact-s "
        "has no result with seeds 3 and 7, and loses these pairs. sgd has no result with seed 5, "
        "and loses this pair. From seed 3 on, the gains are judged by their signs, because a trial "
        "with this seed has no result. This is attempt 7 against this baseline, so e must reach "
        "1,120."
    )


@pytest.mark.parametrize(
    ("gains", "reason"),
    [
        (
            [0, 0, 0, 0, 0, 0, 0, 1 / 600, 0, 0],
            "the gains vary by less than one step of the metric",
        ),
        ([0.01, 0.02, 0.0, 0.01, 0.02, 0.0, 0.01, 0.2, 0, 0], "the gains before it are skewed"),
    ],
)
def test_reasons_for_signs(gains: Sequence[float], reason: str):
    baseline = np.full(len(gains), 0.5)
    values = pd.DataFrame({"sgd": baseline, "nysact-s": baseline + np.array(gains)})
    [result] = judge({ACCURACY: values}, ["nysact-s"], "sgd", Rules())
    assert f"From seed 8 on, the gains are judged by their signs, because {reason}." in sentence(
        result
    )


def test_a_candidate_that_always_diverges():
    failing = pd.DataFrame({"sgd": [1.0] * 30, "nysact-s": [math.inf] * 30})
    [result] = judge({MSE: failing}, ["nysact-s"], "sgd", Rules())
    text = sentence(result)
    assert text.startswith(
        "nysact-s is worse than sgd on digits/autoencoder: there is no seed on which both "
        "have a result ("
    )
    assert f"nysact-s has no result with {result.pairs} of {result.pairs} seeds, and" in text
    assert rows([result])[0][3] == "-"


def test_trials_that_miss_the_target_lose_their_pairs():
    values = pd.DataFrame({"sgd": [3.0, math.inf], "nysact-s": [math.inf, 3.0]})
    scale = Scale("digits/autoencoder", "epochs_to_target", ratio=True)
    text = sentence(judge({scale: values}, ["nysact-s"], "sgd", Rules())[0])
    assert "nysact-s does not reach the target with seed 0, and loses this pair." in text
    assert "sgd does not reach the target with seed 1, and loses this pair." in text
    assert "because a trial with this seed does not reach the target." in text


def test_two_failures_are_no_part_of_the_mean():
    values = pd.DataFrame({"sgd": [1.0, math.inf], "nysact-s": [0.5, math.inf]})
    [result] = judge({MSE: values}, ["nysact-s"], "sgd", Rules())
    assert effect_text(result.effects[0]) == "0.500" and rows([result])[0][-1] == "1/0/1"


def test_several_workloads_have_one_decision_and_an_effect_each():
    effects = [
        effect(MSE, [0.5] * 6, (0.3, 0.7)),
        effect(ACCURACY, [0.01, -math.inf] * 3, (-0.01, 0.02)),
    ]
    result = verdict("better", effects)
    assert sentence(result, "product") == (
        "nysact-s is better than sgd on 2 workloads (6 paired seeds on each, product of e-values, "
        "e = 143; 40 decides). nysact-s has no result on digits/cnn with seeds 1, 3 and 5, and "
        "loses these pairs."
    )
    assert rows([result]) == [
        ["nysact-s", "better", "6", "", "143", "40", ""],
        ["digits/autoencoder", "test mse", "", "0.607 [0.497, 0.741]", "", "", "6/0/0"],
        ["digits/cnn", "test accuracy", "", "+1.00 [-1.00, +2.00]", "", "", "3/3/0"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (39.999, "39.9"), (143.9, "143"), (4321.9, "4,321"), (1e300, "1.0e+300")],
)
def test_e_values_are_rounded_down(value: float, text: str):
    assert e_text(value) == text


def test_the_attempt_is_stated_for_a_single_candidate():
    results = judge({MSE: table(2, NAMES[:2])}, NAMES[:2], "sgd", Rules(attempts_before=4))
    assert [result.attempt for result in results] == [5, 6]
    assert not any("attempt" in text for text in sentences(results))
    assert "This is attempt 5 against this baseline" in sentence(results[0])


# ---------------------------------------------------------------------- report and files


def test_report(tmp_path: Path):
    values = table(9, NAMES[:1])
    values.loc[2, NAMES[0]] = math.inf
    verdicts = judge({MSE: values}, NAMES[:1], "sgd", Rules())
    notes, costs = ["The ledger has 3 judgements."], ["nysact-s takes 1.3 times the time of sgd."]
    content = blocks(verdicts, notes=notes, costs=costs, pictures=["judgement"])
    assert document.findings(content) == [*sentences(verdicts), *notes, *costs]
    pictures = draw(verdicts, tmp_path)
    assert [path.name for path in pictures] == [f"judgement.{s}" for s in ("pdf", "png", "svg")]
    paths = document.write(tmp_path, "Judgement", content, pictures, files(verdicts))
    assert {"report.md", "judgement.csv", "seeds.csv", "row.md"} <= {path.name for path in paths}
    assert "![Figure: judgement](judgement.png)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("several", [False, True], ids=["1 workload", "2 workloads"])
def test_the_table_fits_a_terminal_of_80_columns(several: bool):
    values = table(9, NAMES)
    tables = {MSE: values, **({ACCURACY: values / 10} if several else {})}
    shown = listing(judge(tables, NAMES, "sgd", Rules()), "Judgement")
    assert shown is not None
    output = io.StringIO()
    Console(width=80, file=output).print(screen.table(shown))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and any("W/L/T" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_report_with_a_problem_has_no_table_and_no_files():
    content = blocks([], problem="The baseline sgd diverged with seed 3.")
    assert document.findings(content) == ["The baseline sgd diverged with seed 3."]
    assert listing([], "Judgement") is None and files([]) == {} and metrics([]) == {}
    assert json.loads(record([], problem="It diverged."))["problem"] == "It diverged."


def test_csv_files_have_full_precision():
    values = table(12, NAMES[:2])
    values.loc[2, NAMES[0]] = math.inf
    verdicts = judge({MSE: values}, NAMES[:2], "sgd", Rules(attempts_before=2))
    written = files(verdicts)
    decisions: Any = pd.read_csv(io.StringIO(written["judgement.csv"]))
    assert [*decisions["candidate"]] == NAMES[:2] and [*decisions["attempt"]] == [3, 4]
    effects = [result.effects[0] for result in verdicts]
    assert [*decisions["effect"]] == [math.exp(-effect.mean) for effect in effects]
    assert [*decisions["high"]] == pytest.approx([math.exp(-part.interval[0]) for part in effects])
    assert decisions["signs_from_seed"][0] == 2
    seeds: Any = pd.read_csv(io.StringIO(written["seeds.csv"]))
    first = seeds[seeds["candidate"] == NAMES[0]]
    assert [*first["candidate_value"]] == [*values[NAMES[0]][: len(first)]]
    assert [*first["gain"]] == [*effects[0].gains] and first["gain"][2] == -math.inf
    assert [*first["e"]] == [*verdicts[0].e_values]


def test_json_has_null_for_an_unbounded_interval():
    failing = pd.DataFrame({"sgd": [1.0], "nysact-s": [math.inf]})
    text = record(judge({MSE: failing}, ["nysact-s"], "sgd", Rules()))
    document_ = json.loads(text, parse_constant=pytest.fail)
    [decision] = document_["judgement"]
    assert "\n" not in text and decision["decision"] == "inconclusive"
    assert (decision["pairs"], decision["attempt"], decision["expected"]) == (1, 1, None)
    assert decision["threshold"] == pytest.approx(40) and decision["level"] == pytest.approx(0.025)
    [workload] = decision["workloads"]
    assert workload["seeds"] == [0] and (workload["wins"], workload["losses"]) == (0, 1)
    assert workload["effect"] is workload["high"] is workload["candidate_mean"] is None
    assert workload["low"] == 0 and workload["comparison"] == "ratio"


def test_markdown_table_to_copy():
    result = verdict("better", [effect(MSE, [0.5] * 6, (0.3, 0.7))])
    assert files([result])["row.md"] == (
        "| candidate | baseline | workload | decision | effect | seeds | e (decides) |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| nysact-s | sgd | digits/autoencoder | better | test mse: 0.607 [0.497, 0.741] times | 6 "
        "| 143 (40) |\n"
    )


def test_metrics_have_names_that_mlflow_accepts():
    values = table(4, ["nysact-s rank=5"])
    verdicts = judge({MSE: values}, ["nysact-s rank=5"], "sgd", Rules())
    assert metrics(verdicts) == {
        "judge/nysact-s.rank.5/e": verdicts[0].e,
        "judge/nysact-s.rank.5/pairs": 4.0,
        "judge/nysact-s.rank.5/threshold": verdicts[0].threshold,
    }


# ---------------------------------------------------------------------- the figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Check the texts of each figure instead of writing it, and return the figures."""
    figures: list[Figure] = []

    def check(figure: Figure, folder: Path, name: str) -> list[Path]:
        arrange_texts(figure)
        assert geometry.faults(figure) == []
        figures.append(figure)
        return [folder / f"{name}.png"]

    monkeypatch.setattr(drawing, "save", check)
    return figures


@pytest.mark.parametrize(
    ("count", "pairs"), [(1, 1), (1, 2), (1, 9), (12, 1), (12, 9)], ids="{}".format
)
def test_figure_of_few_pairs_and_many_candidates(tmp_path: Path, drawn, count: int, pairs: int):
    names, values = NAMES[:count], table(pairs, NAMES[:count])
    values.loc[0, names[0]] = math.inf
    verdicts = judge({MSE: values, MSE._replace(workload="w"): values}, names, "sgd", Rules())
    draw(verdicts, tmp_path)
    evidence, first, second = drawn[0].axes
    assert [axes.get_title() for axes in (first, second)] == ["digits/autoencoder", "w"]
    curves = [line for line in evidence.lines if "NysAct-S" in str(line.get_label())]
    assert len(curves) == count and curves[-1].get_ydata()[0] == 1
    if count == 12:
        assert [label.get_text() for label in first.get_yticklabels()][3] == "NysAct-S rank=4"


def test_no_figure_without_a_pair(tmp_path: Path):
    assert draw(judge({MSE: table(0, ["foof"])}, ["foof"], "sgd", Rules()), tmp_path) == []
    assert draw([], tmp_path) == []


@pytest.mark.parametrize(("scale", "edge"), [(MSE, 0.97), (ACCURACY, 0.03)])
def test_lost_pairs_are_at_the_edge_of_the_worse_effects(
    tmp_path: Path, drawn, scale: Scale, edge: float
):
    """The figure has the lines of a margin, and ends below a very large e-value."""
    lost = effect(scale._replace(margin=0.1), [0.1, -math.inf])
    draw([verdict("better", [lost], e=1e300)], tmp_path)
    evidence, effects = drawn[0].axes
    marks = [line.get_ydata() for line in effects.lines if line.get_marker() == "x"]
    assert [height for heights in marks for height in heights] == [edge]
    labels = [line.get_label() for line in effects.lines]
    assert labels.count("margin") == 2 and labels.count("no difference") == 1
    assert evidence.get_ylim()[1] < 1e14


def test_at_most_four_workloads_are_drawn(tmp_path: Path, drawn):
    values = table(3, ["foof"])
    tables = {MSE._replace(workload=f"workload {i}"): values for i in range(5)}
    draw(judge(tables, ["foof"], "sgd", Rules()), tmp_path)
    assert [axes.get_title() for axes in drawn[0].axes[1:]] == [f"workload {i}" for i in range(4)]
    assert drawn[0].legends[0].get_title().get_text() == "the first 4 of 5 workloads"


def test_few_candidates_have_different_colours(tmp_path: Path, drawn):
    draw(judge({MSE: table(2, NAMES[:3])}, NAMES[:3], "sgd", Rules()), tmp_path)
    curves = [line for line in drawn[0].axes[0].lines if "NysAct-S" in str(line.get_label())]
    assert len({line.get_color() for line in curves}) == 3
