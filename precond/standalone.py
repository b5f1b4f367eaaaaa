"""The base class of the optimizers that do not work on layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

from torch import Tensor

from precond.groups import (
    differing_options,
    foreign_state,
    require_dictionary,
    settings_errors,
    unsupported_options,
)
from precond.hyperparameters import HyperparameterError
from precond.shared import Copyable

NO_COMPLEX = {"complex parameters": "the method is defined for real matrices"}


class Standalone(Copyable):
    """An optimizer that refuses options which it would ignore, and that can be copied."""

    NAME: ClassVar[str]  # the name in messages
    FIXED: ClassVar[tuple[str, ...]] = ()  # hyperparameters that are the same in all groups
    COMPLETE_ENTRIES: ClassVar[bool] = False  # True if no later step adds an entry to the state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters.

        Raises:
            HyperparameterError: The group has options that would be ignored.
            ValueError: The optimizer does not support one of the parameters.
        """
        require_dictionary(param_group)
        if errors := self._option_errors(param_group):
            raise HyperparameterError("\n".join(errors))
        super().add_param_group(param_group)
        kinds = filter(None, map(self._unsupported_kind, self.param_groups[-1]["params"]))
        if kind := next(kinds, None):
            self.param_groups.pop()
            advice = "omit them from params, and train them with another optimizer"
            raise ValueError(f"{self.NAME} does not support {kind}: {advice}")

    def _option_errors(self, param_group: dict[str, Any]) -> list[str]:
        """Return one line for each option of a group that would be ignored."""
        fixed = {name: self.defaults[name] for name in self.FIXED}
        errors = differing_options(param_group, fixed, self.NAME)
        return errors + unsupported_options(param_group, self.defaults, self.NAME)

    def _unsupported_kind(self, parameter: Tensor) -> str | None:
        """Return the kind of a parameter that the optimizer does not support, or None."""
        return "complex parameters" if parameter.is_complex() else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as in `torch.optim`.

        Raises:
            ValueError: The state belongs to another kind of optimizer, or has other values of
                hyperparameters that cannot be loaded.
        """
        state_dict = state_dict.copy()
        hooks = self._optimizer_load_state_dict_pre_hooks
        for hook in hooks.values():
            result = hook(self, state_dict)
            state_dict = state_dict if result is None else result
        groups = self._checked_groups(state_dict)
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()  # they have been called
        old = self.state, self.param_groups
        try:
            super().load_state_dict({**state_dict, "param_groups": groups})
        finally:
            self._optimizer_load_state_dict_pre_hooks = hooks
        self._keep_containers(*old)

    def _keep_containers(self, state: dict[Tensor, Any], groups: list[dict[str, Any]]) -> None:
        """Move a loaded state into the containers that wrappers share with the optimizer."""
        state.clear()
        state.update(self.state)
        groups[:] = self.param_groups
        self.state, self.param_groups = state, groups  # type: ignore[assignment]

    def _checked_groups(self, saved: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the groups of a saved state, which must match this optimizer.

        The values of `FIXED` are added where they are missing, as in states of version 0.1.
        """
        fixed = {name: self.defaults[name] for name in self.FIXED}
        required = [name for name in self.defaults if name not in fixed]
        if error := foreign_state(saved, required, self.defaults, self.NAME):
            raise ValueError(error)
        known = set().union(*self.state.values())
        unknown = set().union(*saved["state"].values()) - known
        complete = fixed or self.COMPLETE_ENTRIES
        if complete and known and unknown:  # before the first step, nothing may be known
            text = f"its entries have {', '.join(sorted(unknown))}"
            raise ValueError(f"not a state of {self.NAME}: {text}, which {self.NAME} does not use")
        groups = [
            {**group, **{key: value for key, value in fixed.items() if key not in group}}
            for group in saved["param_groups"]
        ]
        if errors := settings_errors(len(groups) * [fixed], groups, fixed):
            raise ValueError("\n".join(errors))
        return groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, without the option `differentiable` that torch adds to `defaults`."""
        defaults = dict(state.get("defaults", {}))
        super().__setstate__(state)
        self.defaults = defaults or self.defaults
