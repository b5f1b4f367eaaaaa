"""The decorator `workload`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any

from torch import nn

from precond.hyperparameters import nearest
from trainables import workloads
from trainables.metrics import LOSS, METRICS, Metric
from trainables.models import Model
from trainables.plugins.data import PluginTensors, PluginWorkload, Tensors
from trainables.plugins.registration import PluginError, is_script, register
from trainables.plugins.tasks import Function, UserLoss, WithMetrics
from trainables.recipes import Recipe
from trainables.tasks import TASKS, Task

VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def workload(
    name: str,
    *,
    data: Callable[[], Tensors],
    batch_size: int,
    epochs: int,
    schedule: str = "cosine",
    optimizers: Mapping[str, Mapping[str, Any]] | None = None,
    loss: str | Function = "classification",
    metrics: Mapping[str, Function] | None = None,
    higher_is_better: bool | Mapping[str, bool] | None = None,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a workload; the decorated function builds its model and has no parameters.

    Args:
        name: The names of the data and the model, separated by a slash, such as `moons/mlp`.
        data: A function that returns training inputs, training targets, test inputs and test
            targets. Each is a tensor `[n, ...]` or a dictionary of such tensors, for example with a
            mask. The targets of a classification are labels `[n]` of type int64.
        batch_size: Examples per step.
        epochs: Passes over the training set.
        schedule: Learning-rate schedule: `cosine` or `constant`.
        optimizers: Hyperparameters by optimizer. All other hyperparameters have their defaults.
        loss: The name of a task (`classification`, `regression`, `reconstruction`, `next-token` or
            `segmentation`), or a function of the model's outputs and the targets of a batch. The
            function returns the mean loss over the examples as a scalar, or a dictionary that
            contains this scalar as `loss`.
        metrics: By name, functions of the same arguments that return the mean of a metric over the
            examples, or over the tokens or pixels that count for the tasks `next-token` and
            `segmentation`. They replace the task's metrics, and the first is the headline metric.
            If `loss` is a function and there are no metrics, the loss is the headline metric.
        higher_is_better: True if larger values of a metric are better: a value for each metric by
            name, or one value for all. It is required if there are metrics.

    Raises:
        PluginError: An argument is invalid, a function has parameters that nothing sets, or the
            name exists already.
    """
    task = _task(name, loss, metrics or {}, higher_is_better)

    def decorate(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if is_script(build):
            return build
        if name.count("/") != 1 or not all(name.split("/")):
            raise PluginError(f'workload "{name}": must be DATA/MODEL, for example moons/mlp')
        if error := _parameter_error(build, data):
            raise PluginError(f'workload "{name}": {error}')
        digest = register(name, build, workloads.unknown_workload(name) is None)
        workloads.PLUGINS[name] = PluginWorkload(
            name=name,
            source=PluginTensors(name.partition("/")[0], data, task=task),
            model=Model(build=lambda fit: build(), channels=None),
            recipe=Recipe(
                batch_size=batch_size, epochs=epochs, schedule=schedule, optimizers=optimizers or {}
            ),
            plugin=digest,
        )
        return build

    return decorate


def _parameter_error(build: Callable[..., Any], data: Callable[..., Any]) -> str:
    """Return an error in the parameters of a workload's functions, or ""."""
    name = build.__name__
    if parameters := list(_parameters(build)):
        reason = "its parameters are not hyperparameters, and nothing sets them"
        return f"{name} has the parameter `{parameters[0]}`: {reason}: write `def {name}()`"
    required = [p for p in _parameters(data) if p.default is p.empty and p.kind not in VARIADIC]
    if required:
        label = getattr(data, "__name__", "data")
        return (
            f"data = {label} has the parameter `{required[0]}` without a default: must be a "
            "function that is called without arguments"
        )
    return ""


def _parameters(function: Callable[..., Any]) -> Iterable[Parameter]:
    try:
        return inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not callable, or without a signature; reported when called
        return ()


def _task(
    name: str,
    loss: str | Function,
    metrics: Mapping[str, Function],
    higher_is_better: bool | Mapping[str, bool] | None,
) -> Task:
    """Return the task of a plugin's workload, and register its metrics.

    Raises:
        PluginError: The task is unknown; or a metric has an invalid name or no direction, or its
            direction differs from that of the registered metric with the same name.
    """
    label = f'workload "{name}"'
    if isinstance(loss, str) and loss not in TASKS:
        raise PluginError(f'{label}: loss = "{loss}": unknown.{nearest(loss, TASKS)}')
    if isinstance(loss, str) and not metrics:
        return TASKS[loss]
    directions = higher_is_better
    if not isinstance(directions, Mapping):
        directions = {} if directions is None else dict.fromkeys(metrics, directions)
    for key in metrics:
        if key not in directions:
            advice = f'pass higher_is_better={{"{key}": True}} or False'
            raise PluginError(f'{label}: metric "{key}" has no direction: {advice}')
        if not key.isidentifier() or key == LOSS.name:
            raise PluginError(f'{label}: metric "{key}": must be a Python name other than "loss"')
        known = METRICS.get(key)
        if known is not None and known.higher_is_better != directions[key]:
            better = "higher" if known.higher_is_better else "lower"
            rule = f"{better} values are better: choose another name or direction"
            raise PluginError(f'{label}: metric "{key}" exists, and {rule}')
    user = {METRICS.setdefault(m, Metric(m, directions[m])): f for m, f in metrics.items()}
    task = TASKS[loss] if isinstance(loss, str) else UserLoss(loss)
    return WithMetrics(task, user) if user else task
