"""Checks of parameter groups and of saved states, so that no option is ignored silently."""

from __future__ import annotations

import reprlib
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from precond.hyperparameters import HyperparameterError, known_names

Group = Mapping[str, Any]
LISTED = 10  # names of layers in a line of the text of an optimizer
WIDTH = 100  # of that text

# Options of torch's optimizers that an optimizer without them must not ignore silently.
TORCH_OPTIONS = {
    *("alpha", "amsgrad", "capturable", "centered", "dampening", "decoupled_weight_decay"),
    *("differentiable", "etas", "lambd", "lr_decay", "maximize", "momentum_decay", "rho"),
}


def require_dictionary(group: Any) -> None:
    """Raise `TypeError` unless a parameter group is a dictionary."""
    if not isinstance(group, dict):
        kind = type(group).__name__
        raise TypeError(f'a parameter group must be a dict such as {{"params": ...}}, not a {kind}')


def scalar_lr(group: Group) -> float | Tensor:
    """Return the learning rate of a group: a number, or a tensor without dimensions."""
    lr = group["lr"]
    return lr.reshape(()) if isinstance(lr, Tensor) else lr


def unsupported_options(group: Group, supported: Iterable[str], name: str) -> list[str]:
    """Return one line for each option that a group sets, but that the optimizer does not have.

    A false value, such as `maximize=False`, counts as not set. Keys that are no optimizer's options
    are allowed: training code stores its own values in the groups.
    """
    supported = set(supported)
    unknown = (TORCH_OPTIONS | known_names()) - supported
    return [
        f"{key} = {value!r} in a parameter group: {name} has no such option. "
        f"Known: {', '.join(sorted(supported))}"
        for key, value in group.items()
        if key in unknown and isinstance(value, (bool, int, float, tuple, list, str)) and value
    ]


def differing_options(group: Group, fixed: Group, name: str) -> list[str]:
    """Return one line for each value of a group that differs from the value in `fixed`."""
    return [
        f"{key} = {group[key]!r} in a parameter group: {name} uses {key} = {value!r} in all "
        f"groups. Remove {key} from the group, or build {name} with {key} = {group[key]!r}"
        for key, value in fixed.items()
        if key in group and group[key] != value
    ]


def foreign_state(
    saved: Mapping[str, Any], required: Iterable[str], supported: Iterable[str], name: str
) -> str | None:
    """Return one line if a saved state belongs to another kind of optimizer, else None.

    Args:
        saved: The saved state.
        required: The keys that a parameter group of this optimizer must have.
        supported: The names of the optimizer's options.
        name: The name of the optimizer.
    """
    advice = "Load it into an optimizer of the kind that saved it"
    groups = saved.get("param_groups")
    if not groups or "state" not in saved:
        return f"not a state of {name}: it has no param_groups or no state. {advice}"
    keys = set().union(*groups)
    if missing := [key for key in required if key not in keys]:
        return f"not a state of {name}: its param_groups have no {', '.join(missing)}. {advice}"
    used = {key: value for group in groups for key, value in group.items()}
    if unsupported_options(used, supported, name):
        unknown = (TORCH_OPTIONS | known_names()) - set(supported)
        excess = [key for key in used if key in unknown]
        return f"not a state of {name}: its param_groups have {', '.join(excess)}. {advice}"
    return None


class Options:
    """The hyperparameters of an optimizer that works on layers, and those of its groups.

    Args:
        name: The name of the optimizer.
        rule: The hyperparameters of its update rule; each group may replace them.
        algorithm: The hyperparameters of its algorithm; each group may replace those that are
            listed in `PER_GROUP` or `VARIABLE`.
        constants: Other values that all groups and states contain, such as the name of the rule.
    """

    def __init__(self, name: str, rule: Any, algorithm: Any, constants: Group):
        self._name, self._configs = name, (rule, algorithm)
        self._replaceable = {*vars(rule), *algorithm.PER_GROUP, *algorithm.VARIABLE}
        # The hyperparameters of the algorithm that must not change after a group has been added.
        self.fixed = [key for key in vars(algorithm) if key not in algorithm.VARIABLE]
        self.fixed += constants
        self._values: list[dict[str, Any]] = []  # the values of `fixed` in each group
        self.defaults: dict[str, Any] = {**vars(rule), **vars(algorithm), **constants}

    def check(self, group: Group) -> None:
        """Raise `HyperparameterError` if options of a group are invalid or would be ignored."""
        common = {k: v for k, v in self.defaults.items() if k not in self._replaceable}
        errors = differing_options(group, common, self._name)
        errors += unsupported_options(group, self.defaults, self._name)
        for config in self._configs:
            values = {k: group[k] for k in vars(config) if k in group and k in self._replaceable}
            lines = replace(config, **values).problems() if values else []
            errors += [f"{line} (in a parameter group)" for line in lines]
        if errors:
            raise HyperparameterError("\n".join(errors))

    def add(self, group: Group) -> None:
        """Note the values of a new group that must not change."""
        self._values.append({key: group[key] for key in self.fixed})

    def remove_last(self) -> None:
        """Forget the group that was added last."""
        self._values.pop()

    def check_unchanged(self, groups: Sequence[Group]) -> None:
        """Raise `HyperparameterError` if a value has changed that must not change."""
        for number, (group, values) in enumerate(zip(groups, self._values, strict=True)):
            if not values.items() <= group.items():
                raise HyperparameterError(
                    "\n".join(
                        f"{key} = {group.get(key)!r} in parameter group {number}: it was {value!r} "
                        "when the group was added, and cannot be changed afterwards. "
                        f"Set it back, or build a new {self._name}"
                        for key, value in values.items()
                        if group.get(key) != value
                    )
                )

    def check_state(self, saved: Mapping[str, Any]) -> None:
        """Raise `ValueError` if a saved state belongs to another kind of optimizer."""
        keys = {**self.defaults, "step": 0}
        if error := foreign_state(saved, keys, keys, self._name):
            raise ValueError(error)


def settings_errors(
    expected: Sequence[Group], saved: Sequence[Group], fixed: Iterable[str]
) -> list[str]:
    """Return one line for each hyperparameter in `fixed` whose saved value differs.

    Loading a state does not change these hyperparameters.
    """

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    errors: dict[str, None] = {}
    for group, saved_group in zip(expected, saved, strict=True):
        for name in fixed:
            value, saved_value = group[name], saved_group[name]
            if plain(saved_value) != plain(value):
                errors[
                    f"{name} = {value!r} in the optimizer, {saved_value!r} in the state: "
                    "build the optimizer with the value of the state"
                ] = None
    return list(errors)


def require_model(call: str, arguments: Sequence[Any], keywords: Group | None = None) -> None:
    """Raise `TypeError` unless the arguments of a call have one model and no other value.

    Args:
        call: The beginning of a correct call, such as `NysAct(model`.
        arguments: The positional arguments that belong to the model.
        keywords: The keyword arguments, which may contain `model`.
    """
    name = call.partition("(")[0]
    models = [*arguments, *(value for key, value in (keywords or {}).items() if key == "model")]
    if not models:
        raise TypeError(
            f"{name} needs the model as its first argument: {call}, lr=0.1). Parameter groups are "
            f"a keyword argument: {call}, params=...)"
        )
    if len(models) > 1:
        others = ", ".join(map(reprlib.repr, models[1:]))
        raise TypeError(
            f"{name} received {others} in addition to the model: pass hyperparameters by name, as in "
            f"{call}, lr=0.1)"
        )
    if not isinstance(models[0], nn.Module):
        value, kind = models[0], type(models[0]).__name__
        received = f"the class {value.__name__}" if isinstance(value, type) else f"a {kind}"
        raise TypeError(
            f"{name} needs the model, not {received}, as its first argument: {call}, lr=0.1). "
            f"Parameter groups are a keyword argument: {call}, params=...)"
        )


def describe_layers(
    layers: Sequence[str], skipped: Mapping[str, str], absent: Collection[str]
) -> list[str]:
    """Return lines with the preconditioned layers, and the skipped modules with the reasons.

    At most `LISTED` names are listed for each reason.

    Args:
        layers: The names of the preconditioned layers.
        skipped: The reasons by the names of the other modules.
        absent: Those of the other modules that have no parameter in this optimizer.
    """
    modules: dict[tuple[bool, str], list[str]] = {}
    for name, reason in skipped.items():
        modules.setdefault((name in absent, reason), []).append(name)
    lines = [
        f"Preconditioned layers ({len(layers)}): {_text(layers)}",
        *(
            f"Not {'in this optimizer' if outside else 'preconditioned'} ({len(names)}): "
            f"{_text(names)} ({reason})"
            for (outside, reason), names in modules.items()
        ),
    ]
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    return [textwrap.fill(line, WIDTH, subsequent_indent="    ", **options) for line in lines]


def _text(names: Sequence[str]) -> str:
    """Return names separated by commas; the name of the root module, "", becomes "the model"."""
    rest = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name or "the model" for name in names[:LISTED]) + rest
