"""The saved state of an optimizer, and the check of a state before it is loaded.

As in `torch.optim`, a state has an entry for each parameter, by its number in `param_groups`. The
entry of a layer's weight also contains the algorithm's tensors for the layer, under the key
`preconditioner`. `param_groups` contains the names of the parameters, under `param_names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from precond.bank import Bank
from precond.layers import Layer
from precond.rules.base import ParameterState

PRECONDITIONER = "preconditioner"
NAMES = "param_names"
Groups = Sequence[Mapping[str, Any]]  # torch's param_groups


class Entries:
    """The entries of the state of one optimizer.

    Args:
        bank_of: The bank of each preconditioned layer, by the layer's name.
        names: The names of the parameters.
    """

    def __init__(self, bank_of: Mapping[str, Bank], names: Mapping[Tensor, str]):
        self._names = names
        self._parameters = {name: parameter for parameter, name in names.items()}
        self._layers: dict[str, tuple[Layer, Bank]] = {}  # by the name of the weight
        for bank in bank_of.values():
            for layer in bank.layers:
                self._layers[names[layer.weight]] = layer, bank

    def is_layer(self, parameter: Tensor) -> bool:
        """Return True if the parameter is the weight of a preconditioned layer."""
        return self._names[parameter] in self._layers

    def save(self, groups: Groups, rule_state: ParameterState) -> dict[str, Any]:
        """Return the state, with the rule's buffers from `rule_state`."""
        state: dict[int, dict[str, Any]] = {}
        saved_groups = []
        for group in groups:
            names = [self._names[parameter] for parameter in group["params"]]
            numbers = list(range(len(state), len(state) + len(names)))
            for number, parameter in zip(numbers, group["params"], strict=True):
                state[number] = dict(rule_state.get(parameter, {}))
            saved_groups.append({**group, "params": numbers, NAMES: names})
            for number, name in zip(numbers, names, strict=True):
                if name in self._layers:
                    state[number][PRECONDITIONER] = self._save_layer(name, rule_state)
        return {"state": state, "param_groups": saved_groups}

    def _save_layer(self, name: str, rule_state: ParameterState) -> dict[str, Any]:
        """Return the algorithm's part of the entry of a weight."""
        layer, bank = self._layers[name]
        return {**bank.layer_state(layer), "buffers": _count_buffers(layer, rule_state)}

    def load(
        self, entries: Mapping[str, Mapping[str, Any]], groups: Groups
    ) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Load entries by name into the banks; yield each parameter with copies of its buffers."""
        for group in groups:
            for parameter in group["params"]:
                name = self._names[parameter]
                entry = entries.get(name, {})
                if name in self._layers and PRECONDITIONER in entry:
                    layer, bank = self._layers[name]
                    bank.load_layer_state(layer, _flat(entry[PRECONDITIONER]))
                yield parameter, {key: _like(parameter, key, v) for key, v in _buffers(entry)}

    def read(
        self, groups: Groups, rule_state: ParameterState, saved: Mapping[str, Any]
    ) -> tuple[dict[str, Mapping[str, Any]], list[Mapping[str, Any]], list[str]]:
        """Return the entries of a saved state by name, its groups, and one line for each error."""
        saved_groups = list(saved["param_groups"])
        names = [[self._names[parameter] for parameter in group["params"]] for group in groups]
        saved_names = [_names(group) for group in saved_groups]
        if None in saved_names:  # A state from another program may lack names: use the positions.
            counts = list(map(len, names))
            saved_counts = [len(group["params"]) for group in saved_groups]
            if counts != saved_counts:
                text = f"{counts} in the optimizer, {saved_counts} in the state"
                return {}, [], [f"param_groups: the numbers of parameters differ: {text}"]
            saved_names = names
        known = [name for group in names for name in group]
        known_saved = [name for group in saved_names for name in group or ()]
        absent = [name for name in known if name not in known_saved]
        excess = [name for name in known_saved if name not in known]
        errors = [f"{name}: in the optimizer but not in the state" for name in absent]
        errors += [f"{name}: in the state but not in the optimizer" for name in excess]
        if not errors and names != saved_names:
            errors = ["param_groups: the parameters of the groups differ from those in the state"]
        if errors:
            return {}, saved_groups, errors
        keys = [key for group in saved_groups for key in group["params"]]
        entries = {
            name: saved["state"][key]
            for name, key in zip(known, keys, strict=True)
            if key in saved["state"]
        }
        for name, parameter in ((name, self._parameters[name]) for name in known):
            # `torch.distributed.checkpoint` saves no entries of frozen parameters, and may omit
            # empty entries.
            if name not in entries and parameter.requires_grad and rule_state[parameter]:
                errors.append(f"{name}: in the optimizer but not in the state")
        for name, entry in entries.items():
            errors += self._shape_errors(name, entry)
        return entries, saved_groups, errors + self._absent_buffers(entries)

    def _shape_errors(self, name: str, entry: Mapping[str, Any]) -> list[str]:
        """Return one line for each tensor of an entry that is missing or has another shape.

        A saved scalar matches any shape.
        """
        parameter = self._parameters[name]
        expected = {key: parameter for key, value in _buffers(entry) if isinstance(value, Tensor)}
        actual: Mapping[str, Any] = entry
        if name in self._layers:
            layer, bank = self._layers[name]
            state = bank.layer_state(layer)
            expected |= {key: value for key, value in state.items() if isinstance(value, Tensor)}
            actual = {**entry, **_flat(entry.get(PRECONDITIONER, {}))}
        errors = []
        for key, value in expected.items():
            tensor = actual.get(key)
            shape = list(tensor.shape) if isinstance(tensor, Tensor) else "no such tensor"
            if shape not in ([], list(value.shape)):
                text = f"{key} must have the shape {list(value.shape)}, the state has {shape}"
                errors.append(f"{name}: {text}")
        return errors

    def _absent_buffers(self, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return one line for each layer whose buffers were saved, but are missing in the state.

        STEVE's rule creates buffers for a layer only when the layer follows its gradient in a step.
        If a program loads only those tensors that a new optimizer has, these buffers are missing.
        """
        errors = []
        for name, entry in entries.items():
            saved = _flat(entry.get(PRECONDITIONER, {})).get("buffers", 0)
            if name in self._layers and saved:
                parameters = self._layers[name][0].parameters.values()
                names = [self._names[parameter] for parameter in parameters]
                present = sum(len(list(_buffers(entries.get(key, {})))) for key in names)
                frozen = any(key not in entries for key in names)
                if present < saved and not frozen:
                    errors.append(f"{name}: the state lacks the buffers of its update rule")
        return errors


def upgraded(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a state of version 0.1, whose keys are names of layers, to the current layout.

    Any other state is returned unchanged.
    """
    if "algorithm" not in saved:
        return saved
    old, state, groups = saved["state"], {}, []
    for group in saved["param_groups"]:
        for name in group["params"]:
            layer, _, key = name.rpartition(".")
            if name in old:
                state[name] = dict(old[name])
                continue
            prefix = f"{key}."
            state[name] = {
                k.removeprefix(prefix): v for k, v in old[layer].items() if k.startswith(prefix)
            }
            if key == "weight":
                state[name][PRECONDITIONER] = {
                    k: v for k, v in old[layer].items() if not k.startswith(("weight.", "bias."))
                }
        groups.append({**group, **saved["algorithm"], "step": saved["steps"]})
    return {**saved, "state": state, "param_groups": groups}


def _names(group: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the parameters of a saved group, or None if it has only numbers."""
    if NAMES in group:
        return list(group[NAMES])
    names = list(group["params"])
    return names if all(isinstance(name, str) for name in names) else None


def _buffers(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rule's buffers of an entry, by name."""
    return ((key, value) for key, value in entry.items() if key != PRECONDITIONER)


def _count_buffers(layer: Layer, rule_state: ParameterState) -> int:
    """Return the number of buffers that the rule has for the parameters of a layer."""
    entries = (rule_state.get(parameter, {}) for parameter in layer.parameters.values())
    return sum(len(list(_buffers(entry))) for entry in entries)


def _like(parameter: Tensor, key: str, value: Any) -> Any:
    """Return a copy of a buffer with the dtype and device of its parameter, as torch does."""
    if not isinstance(value, Tensor):
        return value
    if key == "step":  # the step count of torch's Adam, which the host reads at each step
        return value.to("cpu", copy=True)
    if value.is_floating_point() and parameter.is_floating_point():
        return value.to(parameter.device, parameter.dtype, copy=True)
    return value.to(parameter.device, copy=True)


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary, with the keys joined by dots.

    This is necessary because `torch.distributed.checkpoint` splits keys at their dots.
    """
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
