"""Saving, loading, copying and printing an optimizer.

A copy, by `copy.deepcopy`, `pickle` or `torch.save`, includes a copy of the model. The copy has its
own banks, and its hooks are attached to the layers of the copied model. As in `torch.optim`, the
user's hooks are not copied. Gradients are not copied, and neither are the forwards that belong to
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from precond.algorithm import Algorithm
from precond.bank import Bank
from precond.diagnostics import measures
from precond.groups import Options, describe_layers, settings_errors
from precond.layer_coverage import Coverage
from precond.layers import plain_modules
from precond.parts.stacks import named_tensors
from precond.rules.base import Rule
from precond.shared import Copyable, Shared
from precond.state import NAMES, Entries, upgraded

BANK_ATTRIBUTES = ("grad_output_scale", "batch_first", "unusable")


class Saved(Copyable):
    """The part of an optimizer that saves, loads, copies and prints it."""

    COPIED = ("_names", "_skipped", "_has_output_scale")
    rule: Rule
    algorithm: Algorithm[Any]
    _model: nn.Module
    _options: Options
    _banks = Shared[list[Bank]]()
    _entries = Shared[Entries]()

    def _rebuild(self, banks: list[Bank]) -> None:
        """Attach the banks of a copy to its model."""
        raise NotImplementedError

    def _after_load(self) -> None:
        """Make all other attributes agree with a loaded state."""
        raise NotImplementedError

    def preconditioned_layers(self) -> list[str]:
        """Return the names of the layers whose gradients are preconditioned."""
        raise NotImplementedError

    def skipped_layers(self) -> dict[str, str]:
        """Return the modules whose parameters follow their gradient, each with the reason."""
        raise NotImplementedError

    def coverage(self) -> Coverage:
        """Return the numbers of layers and parameters that are preconditioned."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Return everything that is needed to resume bitwise.

        Returns:
            `state` and `param_groups`, as in `torch.optim`. The entry of a layer's weight also has
            the algorithm's tensors for the layer, under the key `preconditioner`; each group also
            has the names of its parameters (`param_names`) and the number of steps (`step`). With
            a monitor, there is a third item, `monitor`.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state = self._entries.save(self.param_groups, self.state)
        state |= measures.state(self._banks)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            result = post_hook(self, state)
            state = state if result is None else result
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a state that `state_dict` returned, for a model with the same names and shapes.

        Raises:
            ValueError: The state belongs to another kind of optimizer, or a layer, parameter or
                hyperparameter differs. The message has one line for each difference, and the
                optimizer is unchanged.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            result = pre_hook(self, state_dict)
            state_dict = state_dict if result is None else result
        self._load(state_dict)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _load(self, saved: Mapping[str, Any]) -> None:
        saved = upgraded(saved)
        self._options.check_state(saved)
        groups, fixed = self.param_groups, self._options.fixed
        entries, saved_groups, errors = self._entries.read(groups, self.state, saved)
        if len(saved_groups) == len(groups):
            errors += settings_errors(groups, saved_groups, fixed)
        if errors:
            raise ValueError("the state does not match the optimizer:\n" + "\n".join(errors))
        for bank in self._banks:
            bank.reset()
        for parameter, buffers in self._entries.load(entries, groups):
            self.state[parameter] = buffers
        measures.load_state(self._banks, saved)
        for group, saved_group in zip(groups, saved_groups, strict=True):
            kept = {"params", *fixed, *(() if NAMES in group else (NAMES,))}
            group.update({key: value for key, value in saved_group.items() if key not in kept})
        self._after_load()

    def __getstate__(self) -> dict[str, Any]:
        """Return the contents of a copy, which include the model."""
        return {**super().__getstate__(), "banks": _snapshot(self._banks)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, and attach it to its model."""
        state = dict(state)
        banks = state.pop("banks", None)
        super().__setstate__(state)
        if banks is not None:  # None if a program passes only `state` and `param_groups`
            self._rebuild(_restored(banks, self.algorithm, self.param_groups))

    def __repr__(self) -> str:
        """Return the hyperparameters, the coverage, and the preconditioned and skipped layers."""
        text = super().__repr__()
        if not hasattr(self, "_entries"):  # printed, for example by a debugger, while it is built
            return text
        skipped = self.skipped_layers()
        lines = describe_layers(self.preconditioned_layers(), skipped, self._absent(skipped))
        coverage = f"{str(self.coverage()).capitalize()} in this optimizer"
        return "\n".join([text.removesuffix(")").rstrip("\n"), coverage, *lines, ")"])

    def _absent(self, names: Iterable[str]) -> set[str]:
        """Return those modules that have parameters, but none in this optimizer."""
        included = {p for group in self.param_groups for p in group["params"]}
        modules = plain_modules(self._model)
        owned = {name: set(modules[name].parameters()) for name in names}
        return {name for name, tensors in owned.items() if tensors and not tensors & included}


def _snapshot(banks: Sequence[Bank]) -> dict[str, Any]:
    """Return what `_restored` needs to create equal banks."""
    monitors = measures.state(banks)
    for entry in monitors.get("monitor", {}).values():
        entry |= {key: tensor.clone() for key, tensor in entry.items()}
    return {"banks": [_snapshot_of(bank) for bank in banks], **monitors}


def _snapshot_of(bank: Bank) -> dict[str, Any]:
    unseen = {layer.name for layer in bank.unseen()}
    return {
        "layers": bank.layers,
        "group": bank.group,
        "tensors": dict(named_tensors(bank.state)),
        "recorded": {layer.name: layer.name not in unseen for layer in bank.layers},
        "has_factor": bank.has_factor,
        "same_examples": bank.forwards.same_examples,
        "attributes": {name: getattr(bank, name) for name in BANK_ATTRIBUTES},
    }


@torch.no_grad()
def _restored(
    saved: Mapping[str, Any], algorithm: Algorithm[Any], groups: Sequence[Mapping[str, Any]]
) -> list[Bank]:
    """Return new banks with the state of a snapshot, for the parameter groups `groups`."""
    banks = []
    for entry in saved["banks"]:
        bank = Bank(algorithm.for_group(groups[entry["group"]]), entry["layers"], entry["group"])
        for layer in bank.layers:
            slots = bank.slots[layer.name]
            state = {name: tensor[slots] for name, tensor in entry["tensors"].items()}
            flags = {"recorded": entry["recorded"][layer.name], "has_factor": entry["has_factor"]}
            bank.load_layer_state(layer, {**state, **flags})
        bank.forwards.same_examples = entry["same_examples"]
        for name, value in entry["attributes"].items():
            setattr(bank, name, value)
        banks.append(bank)
    if "monitor" in saved:
        measures.watch(banks, on=True)
    measures.load_state(banks, saved)
    return banks
