"""The construction of an optimizer: the layers of a model, grouped into banks with hooks."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from precond import groups
from precond.bank import Bank
from precond.banks import make_banks, share_refresh
from precond.capture import attach, detach
from precond.controls import Controls
from precond.counts import counted
from precond.directions import Directions
from precond.distributed import check_alike, ranks_of
from precond.hyperparameters import HyperparameterError
from precond.layers import default_batch_first, find_layers, parameter_names
from precond.parts.collectives import Ranks
from precond.reasons import WHEN_BUILDING
from precond.shared import Shared, values_of
from precond.state import PRECONDITIONER, Entries


class Assembled(Controls):
    """The part of an optimizer that groups the layers of its model into banks."""

    _ranks = Shared[Ranks | None]()
    _names = Shared[dict[Tensor, str]]()
    _handles = Shared[list[RemovableHandle]]()
    _bank_of = Shared[dict[str, Bank]]()
    _directions = Shared[Directions]()

    def _schedule_recording(self) -> None:
        """Decide which banks record the next forwards."""
        raise NotImplementedError

    def _require_layers(self, layers: Collection[Any], error: str, advice: str) -> None:
        """Raise `ValueError` if there is no layer, with the reason for each skipped module.

        Args:
            layers: The layers that can be preconditioned.
            error: The beginning of the message.
            advice: What the user can do.
        """
        if not layers:
            reasons = "".join(
                f"\n  {name or 'the model'}: {WHEN_BUILDING.get(reason, reason)}"
                for name, reason in self._skipped.items()
            )
            raise ValueError(f"{error}, so there is nothing to precondition: {advice}{reasons}")

    def _clear(self) -> None:
        """Create empty collections of the layers, their banks and their hooks."""
        self._layers, self._banks, self._handles = {}, [], []
        weakref.finalize(values_of(self), detach, self._handles, self._banks)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters of the model, such as those of layers that were frozen so far.

        Raises:
            ValueError: A parameter does not belong to the model, or the optimizer already has it, or
                another parameter had its name when the optimizer was built.
            HyperparameterError: A value is invalid, or would be ignored.
        """
        built = hasattr(self, "_banks")  # False in the constructor
        groups.require_dictionary(param_group)
        self._options.check(param_group)
        steps = self.steps if built else 0
        if built:
            self._names = self._current_names()
        super().add_param_group(param_group)
        self.param_groups[-1]["step"] = steps
        self.rule.prepare(self.param_groups[-1])
        self._options.add(self.param_groups[-1])
        if not built:
            return
        try:
            group_of = self._index_groups()
            banks = self._new_banks(group_of)
        except ValueError:
            self.param_groups.pop()
            self._options.remove_last()
            raise
        self._install(banks, group_of)

    def _current_names(self) -> dict[Tensor, str]:
        """Return the names of the parameters, including those of layers that are new."""
        names = {**parameter_names(self._model), **self._names}
        before = set(self._names.values())
        if replaced := [n for p, n in names.items() if p not in self._names and n in before]:
            raise ValueError(
                f"{', '.join(replaced)}: other parameters had these names when the optimizer was "
                "built. Build a new optimizer after layers of the model were replaced or renamed"
            )
        return names

    def _index_groups(self) -> dict[Tensor, int]:
        """Return the index of each parameter's group, which must be the same on all ranks."""
        group_of = {
            p: index for index, group in enumerate(self.param_groups) for p in group["params"]
        }
        if foreign := [tuple(p.shape) for p in group_of if p not in self._names]:
            raise ValueError(
                f"params has {counted(len(foreign), 'tensor')} that the model does not have, with "
                f"shape {', '.join(map(str, foreign))}: pass parameters of the model"
            )
        places = {f"parameter group of {self._names[p]}": index for p, index in group_of.items()}
        check_alike(self._ranks, {**self.defaults, **places})
        return group_of

    def _new_banks(self, group_of: Mapping[Tensor, int]) -> list[Bank]:
        """Return banks for the layers that have none."""
        layers, skipped = find_layers(self._model, group_of)
        self._skipped = {name: text for name, text in skipped.items() if name not in self._layers}
        new = [layer for layer in layers if layer.name not in self._layers]
        shapes = {layer.name: layer.shape for layer in [*self._layers.values(), *new]}
        if shapes and (errors := self.algorithm.model_problems(shapes)):
            raise HyperparameterError("\n".join(errors))
        self._layers |= {layer.name: layer for layer in new}
        banks = make_banks(self.algorithm, new, group_of, groups=self.param_groups)
        for bank in banks:
            bank.batch_first = default_batch_first(self._model)
            if self._banks:
                bank.batch_first = self._banks[0].batch_first
                bank.grad_output_scale = self._banks[0].grad_output_scale
                bank.forwards.same_examples = self._banks[0].forwards.same_examples
        return banks

    def _install(self, banks: list[Bank], group_of: Mapping[Tensor, int]) -> None:
        """Attach new banks, and map the parameters to views, entries and buffers."""
        share_refresh(self.algorithm, banks, self._ranks)
        self._banks += banks
        self._handles += attach(banks)
        self._bank_of = {layer.name: bank for bank in self._banks for layer in bank.layers}
        self._directions = Directions(self._banks)
        self._entries = Entries(self._bank_of, {p: self._names[p] for p in group_of})
        self._add_buffers()

    def _add_buffers(self) -> None:
        """Create the buffers of the rule that do not exist yet.

        `torch.distributed.checkpoint` reads from `state` which entries a parameter has. If `state`
        were empty, it would call `step` with gradients of zero.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if self._entries.is_layer(parameter):
                    state.setdefault(PRECONDITIONER, {})  # the banks have the tensors
                if parameter.requires_grad:
                    in_layer = parameter in self._directions.views
                    new = self.rule.new_buffers(group, parameter, in_layer)
                    self.state[parameter] = {**new, **state}

    def _rebuild(self, banks: list[Bank]) -> None:
        """Attach the banks of a copy to its model."""
        self._ranks = ranks_of(self._model)
        self._names = {**parameter_names(self._model), **self._names}
        self._clear()
        self._layers |= {layer.name: layer for bank in banks for layer in bank.layers}
        group_of = {p: i for i, group in enumerate(self.param_groups) for p in group["params"]}
        self._install(banks, group_of)
        self._schedule_recording()
