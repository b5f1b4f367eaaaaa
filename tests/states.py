"""States of optimizers by the names of layers and parameters."""

from collections.abc import Mapping
from typing import Any


def by_name(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entry of each layer, and of each parameter that belongs to no layer.

    A layer's entry has the algorithm's tensors, and the buffers of its weight and bias as
    "weight.momentum_buffer" and "bias.momentum_buffer".
    """
    entries = by_parameter(state_dict)
    layers = {
        name.removesuffix("weight").removesuffix("."): entry["preconditioner"]
        for name, entry in entries.items()
        if "preconditioner" in entry
    }
    named: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in layers.items()}
    for name, entry in entries.items():
        layer, _, key = name.rpartition(".")
        prefix = f"{key}." if layer in layers else ""
        target = named.setdefault(layer if layer in layers else name, {})
        target |= {prefix + key: value for key, value in entry.items() if key != "preconditioner"}
    return named


def by_parameter(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entry of each parameter by its name."""
    return {
        name: state_dict["state"].get(number, {})
        for group in state_dict["param_groups"]
        for number, name in zip(group["params"], group["param_names"], strict=True)
    }
