"""Functions with which the kinds plan a command: its workloads, its recipe and its settings."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from precond.hyperparameters import HyperparameterError, nearest
from studies.harness.design.arms import spelled
from studies.harness.design.options import SMOKE_EPOCHS, SMOKE_WORKLOAD, Options
from studies.harness.kinds.artefact import Artefact


def plan_workloads(
    artefact: Artefact, options: Options, plan: Callable[[str], Any], errors: Sequence[str] = ()
) -> list[Any]:
    """Return `plan(workload)` for each workload of the command.

    Raises:
        HyperparameterError: The lines of `errors` and of the errors that `plan` raised.
    """
    plans, errors = [], [*errors]
    for workload in workloads(artefact, options):
        try:
            plans.append(plan(workload))
        except HyperparameterError as error:
            errors += str(error).splitlines()
    if errors:
        raise HyperparameterError("\n".join(dict.fromkeys(errors)))
    return plans


def setting_errors(
    artefact: Artefact,
    options: Options,
    optimizers: Iterable[str],
    varied: Container[str],
    advice: str,
) -> list[str]:
    """Return the errors in the names of `--set`.

    Args:
        artefact: The artefact.
        options: The options of the command.
        optimizers: The optimizers of the artefact. A setting that none of the selected ones has is
            an error.
        varied: The settings that the artefact varies. `--set` cannot fix them.
        advice: The text for a varied setting, with `{name}` and `{value}`.
    """
    from trainables.workloads import settable

    optimizers = list(optimizers)
    selected = options.optimizers or optimizers
    if not set(selected) <= set(optimizers):
        return []  # an unknown optimizer has its own error, and may have any setting
    known = sorted({name for optimizer in selected for name in settable(optimizer)})
    none = f"no optimizer of {artefact.name}"
    if options.optimizers:
        none = f"none of the selected optimizers ({', '.join(selected)})"
    errors = []
    for name, value in options.settings.items():
        value = spelled(value)
        if name in varied:
            text = advice.format(name=name, value=value)
            errors.append(f"--set {name}={value}: {artefact.name} {text}")
        elif name not in known:
            text = f"{none} has this setting"
            errors.append(f"--set {name}: {text}.{nearest(name, known)}")
    return errors


def recipe(options: Options) -> dict[str, Any]:
    """Return the settings of the command that replace the recipe's, such as `batch_size`."""
    from trainables.workloads import RECIPE_SETTINGS

    changed = {name: value for name, value in options.settings.items() if name in RECIPE_SETTINGS}
    if options.epochs is not None:
        changed["epochs"] = options.epochs
    if options.smoke:
        changed.setdefault("epochs", SMOKE_EPOCHS)
    if options.workers_per_trial != 1:
        changed["workers"] = options.workers_per_trial
    return changed


def workloads(artefact: Artefact, options: Options) -> list[str]:
    """Return the known workloads of the command, or the artefact's default if there are none.

    A smoke run always uses `SMOKE_WORKLOAD`.
    """
    if options.smoke:
        return [SMOKE_WORKLOAD]
    if not options.workloads:
        return [artefact.workload]
    from trainables.workloads import unknown_workload

    return [name for name in options.workloads if not unknown_workload(name)] or [artefact.workload]
