"""Trials on machines that are lost: the simulation against exact expectations and schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studies.harness.statistics.preemptions import Fleet, Training, simulate

RUNS = 4000


def expected_seconds(training: Training, rate: float, start_seconds: float) -> float:
    """Return the expected time of a trial on a machine that trains no other.

    To train for t seconds without a loss takes (exp(rate t) - 1) / rate seconds, lost attempts
    included. After each loss, a new machine must also start without being lost.

    Args:
        training: The trial.
        rate: Expected losses of the machine per second.
        start_seconds: Time until a new machine trains, also at the beginning.
    """
    if rate == 0:
        return start_seconds + training.seconds
    whole, rest = divmod(training.seconds, training.interval)
    start = math.expm1(rate * start_seconds) / rate
    attempts = whole * math.expm1(rate * training.interval) + math.expm1(rate * rest)
    return start + attempts * (1 / rate + start)


@pytest.mark.parametrize(
    ("training", "rate", "start"),
    [
        (Training(100, 10), 0.01, 5),
        (Training(95, 20), 0.02, 0),  # the last part is shorter than an interval
        (Training(30, 100), 0.03, 12),  # without a commit
    ],
)
def test_mean_of_simulations_is_the_expectation(training: Training, rate: float, start: float):
    rng = np.random.default_rng(0)
    outcomes = [simulate([training], Fleet(1, 1, start, rate), rng) for _ in range(RUNS)]
    seconds = np.array([outcome.seconds for outcome in outcomes])
    error = seconds.std(ddof=1) / math.sqrt(RUNS)
    assert abs(seconds.mean() - expected_seconds(training, rate, start)) < 4 * error
    # A single machine is up all the time, and its replacements start at once.
    assert [outcome.machine_seconds for outcome in outcomes] == pytest.approx(seconds)
    assert all(
        training.seconds + outcome.lost_seconds <= outcome.seconds + 1e-9 for outcome in outcomes
    )


def test_expectation_is_that_of_the_geometric_number_of_attempts():
    # By direct summation: an attempt of t seconds succeeds with probability exp(-rate t), and a
    # failed one takes the mean of an exponential time below t.
    rate, t = 0.05, 30.0
    success = math.exp(-rate * t)
    failed = 1 / rate - t * success / (1 - success)
    attempts = sum(k * (1 - success) ** k * success for k in range(2000))
    assert expected_seconds(Training(t, 100), rate, 0) == pytest.approx(t + attempts * failed)


def test_without_losses_free_slots_take_the_next_trial():
    trainings = [Training(seconds, 1) for seconds in (5, 4, 3, 2, 1)]
    # Two machines of one slot: the second machine trains 4 and 2, the first one 5 and 3, then 1.
    outcome = simulate(trainings, Fleet(2, 1, 10, 0), np.random.default_rng(0))
    assert (outcome.seconds, outcome.machine_seconds, outcome.lost_seconds) == (18, 18 + 17, 0)
    # One machine of two slots has the same schedule.
    outcome = simulate(trainings, Fleet(1, 2, 10, 0), np.random.default_rng(0))
    assert (outcome.seconds, outcome.machine_seconds) == (18, 18)


def test_more_machines_than_trials_do_not_start():
    outcome = simulate([Training(8, 1)] * 3, Fleet(100, 2, 1, 0), np.random.default_rng(0))
    assert (outcome.seconds, outcome.machine_seconds) == (9, 18)


def test_a_lost_machine_loses_the_training_since_the_last_commits_of_all_its_trials():
    class Losses:
        """One loss 27 s after the start of the first machine."""

        times = iter([27.0, math.inf, math.inf])

        def exponential(self, scale: float) -> float:
            return next(self.times)

    trainings = [Training(50, 10), Training(50, 6)]
    outcome = simulate(trainings, Fleet(1, 2, 5, 0.01), Losses())  # type: ignore[arg-type]
    # After 22 s of training, 20 s and 18 s are committed; the second machine starts at 27 s.
    assert outcome.lost_seconds == 2 + 4
    assert outcome.seconds == 27 + 5 + (50 - 18) == outcome.machine_seconds
