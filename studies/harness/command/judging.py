"""Judge a candidate against a baseline from Python: `studies.judge`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from precond.hyperparameters import HyperparameterError
from studies.harness.command.results import Result
from studies.harness.command.session import PathLike, run
from studies.harness.kinds.judge.judge import Judgement

if TYPE_CHECKING:
    from studies.harness.evidence.judgement import Decision, Verdict


class Judged(Result):
    """The results of a judgement: a `Result` with the verdicts."""

    @cached_property
    def verdicts(self) -> Sequence[Verdict]:
        """The verdict on each candidate.

        Raises:
            ValueError: The call was a dry run, which is not recorded as an attempt.
        """
        if self._plans[0].options.dry_run:
            raise ValueError("a dry run has no verdicts: use report_only=True")
        from studies.harness.kinds.judge.results import results

        return results(self._plans[0]).verdicts

    @property
    def decision(self) -> Decision:
        """The decision on a single candidate: better, worse, equal or inconclusive.

        Raises:
            ValueError: There are several candidates.
        """
        if len(self.verdicts) != 1:
            raise ValueError(f"there are {len(self.verdicts)} candidates: use .verdicts")
        return self.verdicts[0].decision


def judge(
    candidate: PathLike | Iterable[PathLike],
    baseline: PathLike,
    *,
    workload: str | Sequence[str] | None = None,
    margin: float | str | None = None,
    max_seeds: int | None = None,
    budget: float | str | None = None,
    metric: str | None = None,
    target: float | None = None,
    combine: str | None = None,
    tune: int | None = None,
    first_seed: int | None = None,
    epochs: int | None = None,
    plugins: PathLike | Sequence[PathLike] | None = None,
    out: PathLike | None = None,
    tracking_uri: str | None = None,
    **options: Any,
) -> Judged:
    """Train pairs of trials until each candidate is better, worse or equal, and return the verdicts.

    This is the command `python -m studies judge`. A repeated call trains nothing if all candidates
    are decided or all seeds are used, and otherwise resumes.

    Args:
        candidate: One or more sides, such as `"nysact-s:rank=5,lr=0.01"` or the path of a file.
        baseline: The side to compare with, such as `"sgd"`.
        workload: One or more workloads, which are judged together.
        margin: The largest difference that does not matter: `"5%"` for errors and times, `"0.3pp"`
            for percentages, a number for other metrics. Without it, no verdict is "equal".
        max_seeds: The largest number of pairs; 30 if None.
        budget: Seconds, or a text such as `"2h"`, after which the verdict is "inconclusive".
        metric: The metric; the test metric of the workload if None.
        target: The value of the test metric to reach, for `metric="epochs_to_target"` and
            `"time_to_target"`.
        combine: `"average"` (if None) or `"product"`, for the e-values of several workloads.
        tune: The number of configurations with which each side is tuned first.
        first_seed: The first seed; 0 if None.
        epochs: The number of epochs, instead of the recipe's.
        plugins: Python files that register optimizers or workloads.
        out: The output folder; `$PRECOND_OUT` or `outputs` if None.
        tracking_uri: See `studies.run`.
        **options: Other arguments of `studies.run`.

    Raises:
        HyperparameterError: An argument is invalid, or a trial of the baseline has ended without a
            result in an earlier call. The message has one line for each error.
        Stopped: A trial of the baseline ended without a result.
        KeyboardInterrupt, StoreError: See `studies.run`.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    sides = ("candidate", "baseline", "options")
    arguments = {name: given[name] for name in given if name not in sides}
    if "budget" in arguments:
        arguments["time_budget"] = arguments.pop("budget")
    judgement = Judgement(
        candidates=",".join(_sides(candidate)), baseline=_side("baseline", baseline)
    )
    return Judged(run(judgement, **arguments, **options).plans)


def _sides(value: Any) -> list[str]:
    """Return one or more candidates as texts."""
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike)
    return [_side("candidate", side) for side in (value if several else [value])]


def _side(name: str, value: Any) -> str:
    """Return a side as text."""
    if not isinstance(value, str | os.PathLike):
        rule = 'must be the name of an optimizer with values, such as "sgd:lr=0.1", or a file'
        raise HyperparameterError(f"{name} = {value!r}: {rule}")
    return str(os.fspath(value))
