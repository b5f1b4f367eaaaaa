"""Trials that ended without a result count as the worst of their seed in every decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import folders
import numpy as np
import pandas as pd
import pytest
from folders import planned, write_trial
from scipy import stats

from studies.harness.evidence import contrasts, ledger
from studies.harness.evidence.analysis import Evidence
from studies.harness.evidence.arms import by_seed, group, mean_curves, measured, skewed
from studies.harness.evidence.levels import EQUIVALENT, best_level, level_verdicts
from studies.harness.report import arms as arms_table
from studies.harness.report import notes, sections
from studies.harness.report.document import Text
from trainables.store import DIVERGED, FAILED, OOM

ACCURACY, LOSS, STEP = "test/accuracy", "test/loss", 1 / 600
RNG = np.random.default_rng
NONE = math.nan  # in `ledger_frame`: the trial diverged


def ledger_frame(values: Mapping[str, Sequence[float]], metric: str = ACCURACY) -> pd.DataFrame:
    """Return a ledger frame of a factor `rank` from the values of each arm by seed."""
    rows = [
        {
            "arm": arm,
            "optimizer": "nysact-s",
            "rank": int(arm),
            "seed": seed,
            "as_released": False,
            "status": DIVERGED if math.isnan(value) else "completed",
            metric: value,
        }
        for arm, sample in values.items()
        for seed, value in enumerate(sample)
    ]
    return pd.DataFrame(rows)


def pairs_of(values: Mapping[str, Sequence[float]], metric: str = ACCURACY, step: float = 0.0):
    return contrasts.contrasts(by_seed(ledger_frame(values, metric), metric), metric, step)


def verdict_of(values: Mapping[str, Sequence[float]], metric: str = ACCURACY, step: float = 0.0):
    frame = ledger_frame(values, metric)
    (verdict,) = level_verdicts(frame, by_seed(frame, metric), metric, step)
    return verdict


# ---------------------------------------------------------------------- values by seed


@pytest.mark.parametrize(("metric", "worst"), [(ACCURACY, -math.inf), (LOSS, math.inf)])
@pytest.mark.parametrize("status", [DIVERGED, OOM, FAILED])
def test_only_a_trial_that_has_not_ended_is_missing(metric: str, worst: float, status: str):
    frame = ledger_frame({"5": [0.9, 0.8, 0.7]}, metric)
    frame.loc[0, "status"], frame.loc[1, "status"] = status, "in flight"
    values = by_seed(frame, metric)["5"].to_numpy()
    assert values == pytest.approx([worst, math.nan, 0.7], nan_ok=True)
    assert by_seed(frame.drop(columns=metric), metric).loc[0, "5"] == worst  # no epoch is committed


def test_means_are_those_of_the_completed_trials():
    frame = ledger_frame({"5": [0.9, NONE, 0.7]})
    (row,) = group(frame, ACCURACY).to_dict("records")
    assert (row["n"], row["planned"], row["diverged"]) == (2, 3, 1)
    assert row["mean"] == pytest.approx(0.8)
    (row,) = group(ledger_frame({"5": [0.5, math.inf]}, LOSS), LOSS).to_dict("records")
    assert (row["n"], row["mean"], row["widened"]) == (1, 0.5, False)


def test_interval_near_100_percent_is_extended_to_the_binomial_interval():
    """With five seeds without an error in 600 images, the t-interval would have no width."""
    perfect, usual = group(ledger_frame({"5": [1.0] * 5, "10": [0.9, 0.92, 0.91]}), ACCURACY, STEP)[
        ["ci_lo", "ci_hi", "widened"]
    ].to_numpy()
    assert (perfect[1], perfect[2]) == (1.0, True)
    assert perfect[0] == pytest.approx(0.025 ** (1 / 3000))
    assert not usual[2]


def test_curves_omit_infinite_values():
    frame = pd.DataFrame({"arm": "a", "epoch": 0, "seed": [0, 1, 2], LOSS: [1.0, math.inf, 3.0]})
    curve = mean_curves(frame, LOSS)["a"]
    assert (curve.loc[0, "n"], curve.loc[0, "mean"]) == (2, 2.0)


def test_out_of_memory_is_a_failure_in_the_verdicts_on_published_numbers(tmp_path: Path):
    trials = [trial for trial in planned() if trial.arm.optimizer == "sgd"]
    for trial, status in zip(trials, (OOM, DIVERGED, FAILED), strict=True):
        write_trial(tmp_path, trial, 1, status)
    (result,) = measured(trials, ledger.frame(trials, tmp_path), ACCURACY)
    assert (result.failures, result.oom, dict(result.values)) == (3, 1, {})
    assert result.step == STEP


# ---------------------------------------------------------------------- pairs of arms


def test_arm_whose_trials_all_failed_is_worse_than_an_arm_that_completed():
    values = {"5": [NONE] * 5, "10": [0.9, 0.91, 0.92, 0.9, 0.93]}
    pairs = pairs_of(values)
    (pair,) = pairs.to_dict("records")
    assert (pair["n"], pair["failures"], pair["wins"], pair["losses"]) == (5, 5, 0, 5)
    # Of the 252 ways to assign the ten ranks, one puts the five failures last.
    assert pair["p"] == pytest.approx(2 / 252) and pair["leader"] == "10"
    assert math.isnan(pair["difference"]) and math.isnan(pair["ci_lo"])
    assert contrasts.beaten(pairs) == {"10": ["5"]} and contrasts.bold(pairs) == {"10"}


def test_arm_with_a_failure_can_be_bold():
    values = {"5": [0.99] * 9 + [NONE], "10": [0.5 + 0.01 * i for i in range(10)]}
    assert contrasts.bold(pairs_of(values)) == {"5"}
    losses = {arm: [1 - value for value in sample] for arm, sample in values.items()}
    assert contrasts.bold(pairs_of(losses, LOSS)) == {"5"}


def test_arm_that_is_worse_than_another_is_not_bold_in_a_table():
    noise = 0.001 * RNG(7).normal(size=(3, 8))
    values = {str(5 * i): list(0.01 * i + noise[i]) for i in range(3)}
    assert contrasts.beaten(pairs_of(values)) == {"5": ["0"], "10": ["0", "5"]}
    assert contrasts.bold(pairs_of(values)) == {"10"}


def test_failure_of_an_arm_does_not_hide_the_differences_of_the_others():
    """Eight arms with three seeds: half are better by 10 SDs, and one trial of another arm fails."""
    noise = RNG(6).normal(size=(8, 3))
    values = {str(i): list(0.9 + 0.01 * (i < 4) + 0.001 * noise[i]) for i in range(8)}
    complete = contrasts.beaten(pairs_of(values))
    assert len(complete) == 4
    values["7"] = [NONE, *values["7"][1:]]
    expected = {
        arm: [other for other in losers if other != "7"] for arm, losers in complete.items()
    }
    losers = contrasts.beaten(pairs_of(values))
    assert {arm: [x for x in others if x != "7"] for arm, others in losers.items()} == expected


def test_two_failures_on_one_seed_are_a_tie():
    (pair,) = pairs_of({"5": [NONE, 0.9], "10": [NONE, 0.8]}).to_dict("records")
    assert (pair["n"], pair["failures"], pair["wins"], pair["losses"]) == (2, 1, 1, 0)


def test_pairs_without_failures_have_the_paired_t_test():
    x, y = RNG(0).normal(size=(2, 6))
    (pair,) = pairs_of({"5": list(x), "10": list(y)}).to_dict("records")
    expected = stats.ttest_rel(x, y)
    assert (pair["p"], pair["difference"]) == pytest.approx((expected.pvalue, (x - y).mean()))
    assert pair["leader"] == ("5" if x.mean() > y.mean() else "10")


def test_constant_gap_has_a_p_value():
    """With a grid of 1/600, a gap of three examples on each of five seeds is significant."""
    values = {"5": [0.90, 0.91, 0.92, 0.93, 0.94], "10": [0.905, 0.915, 0.925, 0.935, 0.945]}
    (pair,) = pairs_of(values, step=STEP).to_dict("records")
    t = 0.005 * math.sqrt(5) / (STEP / math.sqrt(6))
    assert pair["p"] == pytest.approx(2 * stats.t.sf(t, 4))
    assert contrasts.bold(pairs_of(values, step=STEP)) == {"10"}


def test_pair_without_two_common_seeds_has_no_p_value():
    (pair,) = pairs_of({"5": [0.9], "10": [0.8]}).to_dict("records")
    assert pair["difference"] == pytest.approx(0.1) and math.isnan(pair["p_adjusted"])


# ---------------------------------------------------------------------- families


def evidence_of(root: Path, values: Mapping[str, float], sd: float, seeds: int = 5) -> Evidence:
    """Return the evidence of trials with normal accuracies around the values of the arms."""
    noise, trials = RNG(0), planned(seeds)
    accuracies = {
        trial.config.trial_key: values.get(trial.arm.label, 0.9) + sd * noise.normal()
        for trial in trials
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "accuracy", lambda trial, epoch: accuracies[trial.config.trial_key])
        for trial in trials:
            write_trial(root, trial, 1)
    return folders.evidence(root, trials)


def test_differences_from_the_reference_are_a_family_of_their_own(tmp_path: Path):
    """Holm's method is applied to the 7 rows of the table, not to the 28 pairs of arms."""
    evidence = evidence_of(tmp_path, {"sgd": 0.88}, 0.01)
    rows = evidence.references.pairs
    assert [row.base for row in rows] == ["sgd"] * 7 and evidence.references.tests == 7
    p = sorted(row.p for row in rows)
    expected = np.maximum.accumulate([min(1.0, (7 - i) * value) for i, value in enumerate(p)])
    assert sorted(row.p_adjusted for row in rows) == pytest.approx(list(expected))
    texts = [block.text for block in arms_table.differences(evidence) if isinstance(block, Text)]
    assert "Holm-corrected over the 7 differences of this table only" in texts[0]


# ---------------------------------------------------------------------- detectable differences


def test_detectable_effect_is_that_of_a_t_test_after_the_correction():
    """For 2 arms and 5 seeds, TTestPower of statsmodels 0.15 gives 1.6820 SDs."""
    noise = RNG(1).normal(size=(5, 2))
    summary = contrasts.detectable(pd.DataFrame(noise, columns=["a", "b"]))
    assert summary is not None and (summary.n, summary.pairs) == (5, 1)
    assert summary.effect == pytest.approx(1.6820, abs=1e-3) and summary.conclusive
    assert summary.sd == pytest.approx(np.std(noise[:, 0] - noise[:, 1], ddof=1))


def test_design_with_many_arms_and_few_seeds_is_inconclusive():
    values = pd.DataFrame(RNG(2).normal(size=(3, 36)), columns=[str(i) for i in range(36)])
    summary = contrasts.detectable(values)
    assert summary is not None and summary.pairs == 630
    # The critical value of |t| is 112; 80% power needs more than this / sqrt(3).
    assert summary.effect > 112 / math.sqrt(3) and not summary.conclusive


def test_notes_say_that_a_design_is_inconclusive(tmp_path: Path):
    few = evidence_of(tmp_path / "few", {}, 0.01, seeds=2)
    assert "too few to compare all pairs of arms" in notes.power(few)
    many = evidence_of(tmp_path / "many", {}, 0.01)
    assert many.power is not None and many.power.conclusive
    assert "too few" not in notes.power(many) and "unpaired" not in notes.power(many)
    assert "One example of the evaluated set is 0.17 percentage points" in notes.grid(many)
    assert notes.grid(many.of(LOSS)) == ""


def test_report_counts_completed_trials_without_a_value(tmp_path: Path):
    assert sections.without_value(evidence_of(tmp_path / "all", {}, 0.01)) == []
    (line,) = sections.without_value(evidence_of(tmp_path / "nan", {"sgd": math.nan}, 0.01))
    assert line.finding and line.text == (
        "Of 40 completed trials, 5 ended without a finite test accuracy; no mean includes them."
    )


# ---------------------------------------------------------------------- levels


def test_without_failures_the_best_mean_is_best():
    for values in RNG(3).normal(size=(300, 4, 5)):
        table = pd.DataFrame(values)
        assert best_level(table, ACCURACY) == values.mean(axis=0).argmax()
        assert best_level(table, LOSS) == values.mean(axis=0).argmin()


def test_failures_of_a_third_level_do_not_change_the_order_of_two_levels():
    """Level 10 has the best mean, and level 5 is better on most seeds."""
    stable = {"5": [0.81, 0.81, 0.81], "10": [0.80, 0.80, 0.99]}
    for lost in ([NONE] * 3, [NONE, 0.7, 0.7]):
        assert verdict_of({**stable, "20": lost}).best == 10


def test_level_with_one_failure_is_best_if_it_is_better_on_the_other_seeds():
    values = {"5": [0.95, 0.96, 0.95, 0.96, NONE], "10": [0.91, 0.92, 0.93, 0.92, 0.99]}
    assert verdict_of(values).best == 5
    values["5"][2:4] = [NONE, NONE]
    verdict = verdict_of(values)
    assert (verdict.best, verdict.unstable) == (10, (5,))


def test_if_all_levels_fail_the_level_with_the_fewest_losses_is_best():
    assert verdict_of({"5": [NONE, 0.9, 0.9], "10": [NONE, NONE, 0.8]}).best == 5
    assert verdict_of({"5": [NONE, NONE], "10": [NONE, NONE]}).best is None


def test_level_whose_trials_all_failed_is_significantly_worse():
    good = [0.9, 0.91, 0.92, 0.9, 0.93, 0.91]
    verdict = verdict_of({"5": good, "10": [v - 1e-4 for v in good[::-1]], "20": [NONE] * 6})
    assert verdict.levels == (5, 10, 20) and set(verdict.tied) == {5, 10}
    assert verdict.verdict != EQUIVALENT


# ---------------------------------------------------------------------- equivalence


def test_ties_are_not_equality_beyond_the_grid():
    """Two seeds with equal accuracies of 600 images do not show equality within 0.3 points."""
    pair = {"5": [0.95, 0.96], "10": [0.95, 0.96]}
    assert verdict_of(pair, step=STEP).verdict != EQUIVALENT
    assert verdict_of({arm: sample * 2 for arm, sample in pair.items()}, step=STEP).verdict == (
        EQUIVALENT
    )


def test_a_metric_without_percent_has_a_relative_margin():
    losses = {"5": [2.0, 2.1, 1.9, 2.0], "10": [2.02, 2.09, 1.91, 2.01]}
    assert verdict_of(losses, LOSS).verdict == EQUIVALENT
    assert verdict_of({**losses, "10": [2.3, 2.4, 2.2, 2.3]}, LOSS).verdict != EQUIVALENT
    tiny = {arm: [1e-3 * value for value in sample] for arm, sample in losses.items()}
    assert verdict_of(tiny, LOSS).verdict == EQUIVALENT


# ---------------------------------------------------------------------- warnings


def test_arm_with_a_collapsed_trial_is_named():
    values = pd.DataFrame(0.95 + 0.002 * RNG(5).normal(size=(5, 4)), columns=list("abcd"))
    assert skewed(values, STEP) == []
    values.loc[2, "b"] = 0.1
    values.loc[3, "c"] = -math.inf  # a failure is not a value
    assert skewed(values, STEP) == ["b"]
    two_near = pd.DataFrame({"a": [0.95, 0.9501, 0.954], "b": [0.95, 0.953, 0.956]})
    assert skewed(two_near) == []  # 0.954 is far in the deviations of "a", but not in those of "b"
