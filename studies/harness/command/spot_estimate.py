"""Estimate the end and the cost of a study on machines that can be lost at any time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Column, Table

from precond.counts import counted
from studies.harness.command.estimate import Rates, committed, nearest_rate
from studies.harness.command.planned import plan_elsewhere
from studies.harness.command.screen import refuse, terminal
from studies.harness.design.ending import COMPLETE
from studies.harness.design.options import Options
from studies.harness.evidence.metrics import duration
from studies.harness.statistics.preemptions import Fleet, Outcome, Training, simulate
from trainables.config import TrialConfig
from trainables.files import read_lines
from trainables.store import trial_folder

if TYPE_CHECKING:
    from studies.harness.kinds.artefact import Artefact

HOUR = 3600.0
MOST_LOSSES = 2.0  # expected losses of a machine during its start and one commit interval
EVENTS = 100_000  # of all simulations together, about a second
FEWEST_RUNS, MOST_RUNS = 20, 500


def run(study: str, flags: Sequence[str], raw: dict[str, Any]) -> int:
    """Check the command and print the estimate; return the exit code.

    Args:
        study: The name of a study, or the path of its file.
        flags: The options of the study.
        raw: The options of the estimate, by name.
    """
    artefact, options, work, errors = plan_elsewhere(study, flags)
    configs = [trial.config for part in work for trial in part.trials]
    if errors := errors or list(_problems(artefact, configs, options, raw)):
        return refuse(errors)
    seconds = raw["epoch_seconds"]
    rates = {} if seconds else committed(options.root)
    if errors := list(_unmeasured(configs, rates, options) if not seconds else ()):
        return refuse(errors)
    trainings = [
        _training(config, seconds or _epoch_seconds(config, rates), options) for config in configs
    ]
    fleet = Fleet(
        machines=raw["machines"],
        slots=_slots(options, raw),
        start_seconds=raw["startup"],
        rate=raw["preemption_rate"] / HOUR,
    )
    if errors := list(_rate_errors(trainings, fleet)):
        return refuse(errors)
    source = f"{seconds:g} s for each epoch" if seconds else f"measured epochs in {options.root}"
    _print(artefact, trainings, fleet, raw, source)
    return COMPLETE


# ---------------------------------------------------------------------- checks


def _problems(
    artefact: Artefact, configs: Sequence[TrialConfig], options: Options, raw: dict[str, Any]
) -> Iterator[str]:
    """Yield a line for each error in the command."""
    name, number = "--gpus-per-machine", raw["gpus_per_machine"]
    if not _slots(options, raw):
        yield f"{name} = {number}: must be at least {_gpus(options):g}, the GPUs of a trial"
    if not configs:
        yield f"{artefact.name}: has no missing trials, so there is nothing to estimate"


def _unmeasured(configs: Iterable[TrialConfig], rates: Rates, options: Options) -> Iterator[str]:
    """Yield a line for each workload with optimizers that have no committed epochs."""
    missing: dict[str, dict[str, None]] = {}
    for config in configs:
        if (config.workload, config.optimizer) not in rates:
            missing.setdefault(config.workload, {})[config.optimizer] = None
    for workload, optimizers in missing.items():
        yield (
            f"{', '.join(optimizers)} on {workload}: no epochs in {options.root}; train one trial of "
            "each for two epochs on such a machine (--seeds 1 --epochs 2), or set --epoch-seconds"
        )


def _rate_errors(trainings: Sequence[Training], fleet: Fleet) -> Iterator[str]:
    """Yield a line if machines are usually lost before they commit anything."""
    longest = max(min(training.interval, training.seconds) for training in trainings)
    seconds = fleet.start_seconds + longest
    if not seconds:
        return
    most = MOST_LOSSES / seconds
    if fleet.rate > most:
        yield (
            f"--preemption-rate = {fleet.rate * HOUR:g}: must be at most {most * HOUR:.3g} per hour, "
            f"because a machine needs {duration(seconds)} to start and to commit an epoch; lower "
            "--startup, or --commit-every after --"
        )


# ---------------------------------------------------------------------- estimate


def _gpus(options: Options) -> float:
    """Return the GPUs of a trial; 1 if they are not set or not measured yet."""
    return (options.gpus_per_trial or 1.0) * options.workers_per_trial


def _slots(options: Options, raw: dict[str, Any]) -> int:
    """Return the number of concurrent trials on a machine."""
    return math.floor(raw["gpus_per_machine"] / _gpus(options) + 1e-9)


def _epoch_seconds(config: TrialConfig, rates: Rates) -> float:
    return nearest_rate(rates[config.workload, config.optimizer], config.batch_size)


def _training(config: TrialConfig, epoch_seconds: float, options: Options) -> Training:
    """Return the training of a trial from its last committed epoch on."""
    folder = trial_folder(options.root, config.trial_key)
    epochs = max(0, config.epochs - len(read_lines(folder / "epochs.jsonl")))
    # A trial commits at the first end of an epoch after the commit interval.
    epochs_per_commit = max(1, math.ceil(options.commit_every / epoch_seconds))
    return Training(epochs * epoch_seconds, epochs_per_commit * epoch_seconds)


def _simulate(trainings: Sequence[Training], fleet: Fleet) -> list[Outcome]:
    """Return the results of as many simulations as take about a second; at least one."""
    if not fleet.rate:
        return [simulate(trainings, fleet, np.random.default_rng(0))]
    busy = sum(training.seconds for training in trainings) / fleet.slots
    losses = busy * fleet.rate * math.exp(MOST_LOSSES)  # an upper bound
    runs = min(MOST_RUNS, max(FEWEST_RUNS, int(EVENTS / (len(trainings) + losses))))
    rng = np.random.default_rng(0)
    return [simulate(trainings, fleet, rng) for _ in range(runs)]


# ---------------------------------------------------------------------- output


def _print(
    artefact: Artefact,
    trainings: Sequence[Training],
    fleet: Fleet,
    raw: dict[str, Any],
    source: str,
) -> None:
    """Print what was assumed, and a row for each kind of machine."""
    console, total = terminal(), sum(training.seconds for training in trainings)
    machines = counted(fleet.machines, "machine")
    gpus = counted(raw["gpus_per_machine"], "GPU")
    slots = counted(fleet.slots, "concurrent trial")
    console.print(
        f"[bold]{artefact.title}[/]: {counted(len(trainings), 'missing trial')}, "
        f"{duration(total)} of training ({source}). At most {machines} with {gpus} and {slots} each, "
        f"which need {duration(fleet.start_seconds)} to start.",
        highlight=False,
    )
    columns = ("USD/GPU-h", "lost/h", "ends after", "90%", "USD", "90%", "repeated")
    numbers = (Column(name, no_wrap=True, justify="right") for name in columns)
    table = Table(Column("machines", no_wrap=True), *numbers, box=None, padding=(0, 2, 0, 0))
    rows = [("spot", raw["price"], fleet)]
    if raw["on_demand_price"] is not None:
        rows.append(("on demand", raw["on_demand_price"], replace(fleet, rate=0.0)))
    for name, price, kind in rows:
        table.add_row(*_row(name, price, kind, trainings, raw["gpus_per_machine"]))
    console.print(table, highlight=False)
    console.print(
        "Times and costs are means, and values that are not exceeded with 90% probability. Repeated: "
        "training that is lost, relative to all training. Machines are lost without a notice and "
        "replaced at once. Not included: the head node, disks and traffic.",
        highlight=False,
    )


def _row(
    name: str, price: float, fleet: Fleet, trainings: Sequence[Training], gpus: int
) -> Iterator[str]:
    outcomes = _simulate(trainings, fleet)
    seconds = [outcome.seconds for outcome in outcomes]
    costs = [outcome.machine_seconds / HOUR * gpus * price for outcome in outcomes]
    total = sum(training.seconds for training in trainings)
    repeated = fmean(outcome.lost_seconds for outcome in outcomes) / max(total, 1e-9)
    yield from (name, f"{price:g}", f"{fleet.rate * HOUR:g}")
    yield from map(duration, (fmean(seconds), float(np.quantile(seconds, 0.9))))
    yield from (f"{dollars:.2f}" for dollars in (fmean(costs), np.quantile(costs, 0.9)))
    yield f"{repeated:.1%}"
