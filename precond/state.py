"""The entries of an optimizer's state by name, and the check of a saved state.

A state has one entry for each layer and for each other parameter. An entry contains the tensors of
the algorithm and the buffers of the update rule. The name of a buffer starts with its parameter,
"weight." or "bias.", unless the parameter is not part of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from precond.bank import Bank
from precond.layers import Layer
from precond.rules import ParameterState


class Entries:
    """The entries of one optimizer by name.

    Args:
        layers: The preconditioned layers.
        bank_of: The bank of each layer.
        others: All other parameters.
    """

    def __init__(
        self, layers: Mapping[str, Layer], bank_of: Mapping[str, Bank], others: Mapping[str, Tensor]
    ):
        self._layers, self._bank_of = layers, bank_of
        # For each entry: its parameters, by the prefix of their buffers.
        self._parameters = {name: {"": parameter} for name, parameter in others.items()}
        for name, layer in layers.items():
            self._parameters[name] = {
                f"{key}.": parameter for key, parameter in layer.parameters.items()
            }

    def save(self, rule_state: ParameterState) -> dict[str, dict[str, Any]]:
        """Return all entries, with the rule's buffers from `rule_state`."""
        state: dict[str, dict[str, Any]] = {}
        for name, parameters in self._parameters.items():
            layer = self._layers.get(name)
            state[name] = {} if layer is None else self._bank_of[name].layer_state(layer)
            for prefix, parameter in parameters.items():
                for key, value in rule_state.get(parameter, {}).items():
                    state[name][prefix + key] = value
        return state

    def load(
        self, state: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Load the entries into the banks; yield each parameter with copies of its buffers."""
        for name, parameters in self._parameters.items():
            if name in self._layers:
                self._bank_of[name].load_layer_state(self._layers[name], state[name])
            for prefix, parameter in parameters.items():
                buffers = _buffers(state[name], prefix)
                # The step count of torch's Adam stays on the host, which reads it at each step.
                devices = {key: "cpu" if key == "step" else parameter.device for key in buffers}
                copies = {key: value.to(devices[key], copy=True) for key, value in buffers.items()}
                yield parameter, copies

    def mismatches(self, expected: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
        """Return one line for each difference between the optimizer's state and a saved state."""
        entries, saved_entries = expected["state"], saved["state"]
        missing = [name for name in entries if name not in saved_entries]
        unknown = [name for name in saved_entries if name not in entries]
        errors = [f"{name}: in the model but not in the state" for name in missing]
        errors += [f"{name}: in the state but not in the model" for name in unknown]
        for name, value in expected["algorithm"].items():
            saved_value = saved["algorithm"].get(name)
            if saved_value != value:
                errors.append(
                    f"{name} = {value!r} in the optimizer, {saved_value!r} in the state: "
                    "build the optimizer with the value of the state"
                )
        groups, saved_groups = (
            [group["params"] for group in state["param_groups"]] for state in (expected, saved)
        )
        if groups != saved_groups:
            errors.append(
                "param_groups: the parameters of the groups differ from those in the state"
            )
        for name in entries.keys() & saved_entries.keys():
            parameters, saved_entry = self._parameters[name], saved_entries[name]
            shapes = _algorithm_tensors(entries[name], parameters)
            for prefix, parameter in parameters.items():
                shapes |= {prefix + key: parameter for key in _buffers(saved_entry, prefix)}
            errors += _shape_mismatches(name, shapes, saved_entry)
        return errors


def _buffers(entry: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the rule's buffers of one parameter, by name."""
    return {
        key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)
    }


def _algorithm_tensors(entry: Mapping[str, Any], prefixes: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
    return {
        key: value
        for key, value in tensors.items()
        if not any(key.startswith(prefix) for prefix in prefixes)
    }


def _shape_mismatches(
    name: str, expected: Mapping[str, Tensor], saved: Mapping[str, Any]
) -> list[str]:
    """Return one line for each expected tensor that is missing or has a different shape.

    A saved scalar matches any shape.
    """
    errors = []
    for key, value in expected.items():
        shape = list(saved[key].shape) if isinstance(saved.get(key), Tensor) else "no such tensor"
        if shape not in ([], list(value.shape)):
            text = f"{key} must have the shape {list(value.shape)}, the state has {shape}"
            errors.append(f"{name}: {text}")
    return errors
