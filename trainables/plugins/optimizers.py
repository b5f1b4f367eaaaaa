"""The decorator `optimizer`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from torch import nn
from torch.optim import Optimizer

from precond.entries import Entry
from precond.hyperparameters import problems
from precond.registry import REGISTRY
from precond.signatures import field_of, global_names, is_plain, plain_types, types_of
from trainables.plugins.registration import PluginError, is_script, register

GROUPS = "params"  # the parameter that receives the parameter groups; it is no hyperparameter


def optimizer(build: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Register a function that builds an optimizer.

    The optimizer's name is the function's name with `-` in place of `_`. The function takes a model
    and keyword-only hyperparameters: `def signsgd(model, *, lr=0.01)`. Each has a default: a number, a
    text, a bool, None or a tuple of these. The annotation has the type of the values, if it contains
    float, int, bool or str: `clip: float | None = None`. Otherwise, the default has it. If there is a
    keyword-only parameter `params=None`, it receives the parameter groups of a trial that exempts
    some parameters from weight decay.

    Raises:
        PluginError: The function has other parameters, or the name exists already.
    """
    if is_script(build):
        return build
    name = build.__name__.replace("_", "-")
    parameters = list(inspect.signature(build).parameters.values())
    names = global_names(build)
    kinds = {p.name: types_of(p.annotation, names) for p in parameters}
    if error := _signature_error(build.__name__, parameters, kinds):
        raise PluginError(f"{name}: {error}")
    takes_groups = any(p.name == GROUPS for p in parameters)
    fields = [(p.name, Any, field_of(p, kinds[p.name])) for p in parameters[1:] if p.name != GROUPS]
    kind = dataclasses.make_dataclass(
        name, fields, frozen=True, kw_only=True, namespace={"problems": problems}
    )

    def build_from_model(model: nn.Module, *, params: Any = None, **values: Any) -> Optimizer:
        if params is not None and not takes_groups:
            reason = "the trial exempts some parameters from weight decay (setting decay_exempt)"
            raise PluginError(f"{name}: {reason}: add the keyword-only parameter `params=None`")
        # A trial's configuration is JSON, which has lists instead of tuples.
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return build(model, params=params, **values) if takes_groups else build(model, **values)

    digest = register(name, build, name in REGISTRY)
    REGISTRY[name] = Entry(build_from_model, (kind,), plugin=digest)
    return build


def _signature_error(
    name: str, parameters: Sequence[Parameter], kinds: Mapping[str, Sequence[Any]]
) -> str:
    """Return the first error in the parameters of an optimizer's function, or ""."""
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    first = parameters[0] if parameters else None
    advice = f"write {_correct(name, parameters, kinds)}"
    if first is None or first.kind not in positional:
        return f"the first parameter must be the model: {advice}"
    if first.default is not Parameter.empty:
        return f"the first parameter is the model and has no default, but it is `{first}`: {advice}"
    for parameter in parameters[1:]:
        if parameter.kind is not Parameter.KEYWORD_ONLY:
            return (
                f"the parameter `{parameter}` is not keyword-only, and only those are "
                f"hyperparameters: {advice}"
            )
    for parameter in parameters[1:]:
        if parameter.default is Parameter.empty:
            return f"{parameter.name} has no default; every hyperparameter needs one"
        if parameter.name == GROUPS and parameter.default is not None:
            return f"{GROUPS} receives the parameter groups, so its default must be None"
        if parameter.name == GROUPS:
            continue
        if parameter.default is None and not plain_types(kinds[parameter.name]):
            return (
                f"the default of {parameter.name} is None, so its annotation must contain the type "
                f"of its values (float, int, bool or str), but `{parameter}` contains none that is "
                f"known here: write `{parameter.name}: float | None = None`"
            )
        if not is_plain(parameter.default):
            return (
                f"the default of {parameter.name} is {parameter.default!r}: must be a finite "
                "number, a text, a bool, None, or a tuple of these"
            )
    return ""


def _correct(name: str, parameters: Sequence[Parameter], kinds: Mapping[str, Sequence[Any]]) -> str:
    """Return the head of a function with the same parameters that is accepted as an optimizer."""
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    usable = [p for p in parameters if p.kind not in variadic]
    has_model = bool(usable) and usable[0].default is Parameter.empty
    has_model = has_model and usable[0].kind is not Parameter.KEYWORD_ONLY
    model, rest = (usable[0].name, usable[1:]) if has_model else ("model", usable)
    values = [_declaration(p, kinds[p.name]) for p in rest]
    return f"`def {name}({', '.join([model, '*', *(values or ['lr=0.1'])])})`"


def _declaration(parameter: Parameter, kinds: Sequence[Any]) -> str:
    """Return a parameter with a default that is accepted."""
    if parameter.default is None and parameter.name != GROUPS:
        union = " | ".join(kind.__name__ for kind in plain_types(kinds) or [float])
        return f"{parameter.name}: {union} | None = None"
    value = "0.1" if parameter.default is parameter.empty else repr(parameter.default)
    return f"{parameter.name}={value}"
