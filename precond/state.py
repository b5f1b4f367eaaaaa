"""The entries of an optimizer's state by name, and the check that a saved state fits an optimizer.

A state has an entry for each layer and each other parameter. An entry holds the algorithm's tensors, and the buffers of
the update rule under the prefix of their parameter ("weight.", "bias.", none for a parameter outside of layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from precond.bank import Bank
from precond.layers import Layer
from precond.rules import ParameterState


class Entries:
    """The entries of one optimizer by name: of its layers, each in a bank, and of its other parameters."""

    def __init__(
        self, layers: Mapping[str, Layer], bank_of: Mapping[str, Bank], others: Mapping[str, Tensor]
    ):
        self._layers, self._bank_of = layers, bank_of
        # Name of the entry -> its parameters, by the prefix of their buffers.
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
                state[name] |= {
                    prefix + key: value for key, value in rule_state.get(parameter, {}).items()
                }
        return state

    def load(
        self, state: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Copy the entries into the banks, and yield copies of the rule's buffers for each parameter."""
        for name, parameters in self._parameters.items():
            if name in self._layers:
                self._bank_of[name].load_layer_state(self._layers[name], state[name])
            for prefix, parameter in parameters.items():
                # The host reads the step count of torch's Adam at each step.
                buffers = _buffers(state[name], prefix)
                devices = {key: "cpu" if key == "step" else parameter.device for key in buffers}
                yield (
                    parameter,
                    {key: value.to(devices[key], copy=True) for key, value in buffers.items()},
                )

    def mismatches(self, expected: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
        """Return one line for each difference between a saved state and the optimizer's own `expected` state."""
        mine, theirs = expected["state"], saved["state"]
        errors = [f"{name}: in the model, not in the state" for name in mine if name not in theirs]
        errors += [f"{name}: in the state, not in the model" for name in theirs if name not in mine]
        for name, value in expected["algorithm"].items():
            other = saved["algorithm"].get(name)
            if other != value:
                errors.append(
                    f"{name} = {value!r} here, {other!r} in the state: build the optimizer with that"
                )
        if [g["params"] for g in expected["param_groups"]] != [
            g["params"] for g in saved["param_groups"]
        ]:
            errors.append("param_groups: other parameters than in the state")
        for name in mine.keys() & theirs.keys():
            parameters = self._parameters[name]
            shapes = _algorithm_tensors(mine[name], parameters)
            for prefix, parameter in parameters.items():
                shapes |= {prefix + key: parameter for key in _buffers(theirs[name], prefix)}
            errors += _shape_mismatches(name, shapes, theirs[name])
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
    """Return one line for each expected tensor that is missing or has another shape; scalars fit everything."""
    errors = []
    for key, value in expected.items():
        shape = list(saved[key].shape) if isinstance(saved.get(key), Tensor) else "nothing"
        if shape not in ([], list(value.shape)):
            errors.append(f"{name}: {key} must be {list(value.shape)}, the state has {shape}")
    return errors
