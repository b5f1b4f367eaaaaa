"""The base class of the optimizers that precondition layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precond import groups
from precond.algorithm import Algorithm, Needs
from precond.assembly import Assembled
from precond.banks import update
from precond.capture import check_forwards
from precond.closures import SecondPass, require_closure
from precond.diagnostics import measures as diagnostics
from precond.directions import Directions
from precond.distributed import check_alike, describe, ranks_of
from precond.hyperparameters import HyperparameterError, make, nearest
from precond.layers import find_layers, parameter_names
from precond.parts.collectives import active
from precond.reasons import UNFREEZE, USE_PLAIN
from precond.rules import DEFAULT, RULES
from precond.rules.base import Directed, Rule
from precond.scaling import HandlesScale, LossScale, Undo


class Preconditioned(HandlesScale, Assembled):
    """Base class of the optimizers that precondition layers.

    The gradients of Linear and Conv2d layers are preconditioned, and an update rule is applied to
    the results. The same rule updates every other trainable parameter along its plain gradient.
    These are the parameters of all other modules, weights shared by two modules, and layers whose
    forward is never called. A subclass names its algorithm: `class Mine(Preconditioned,
    algorithm=MyAlgorithm)`. Without this argument, the subclass inherits the algorithm.

    Any rule of `precond.rules.RULES` can follow the preconditioner, unless the subclass has its own
    rule.

    In data parallel training, statistics are summed over the ranks of the model's
    DistributedDataParallel, or over all ranks if the model is not wrapped. Each rank must build the
    optimizer after `init_process_group`, and must take the same steps. The model may be wrapped
    before or after the optimizer is built. If the ranks have different numbers of examples, set
    `grad_output_scale`.

    The preconditioners have the dtype and the device of the weights at construction, at least
    float32. After `model.double()`, call `optimizer.load_state_dict(optimizer.state_dict())` to
    convert them.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`, to give some parameters other values of the
            rule's hyperparameters (such as `lr` and `weight_decay`), or another `damping`. Default:
            one group of all trainable parameters of the model.
        rule: The name of the update rule, a key of `RULES`.
        **hyperparameters: The hyperparameters of the rule and of the algorithm, by name.

    Raises:
        HyperparameterError: Values are out of range or names are unknown. The message has one line
            for each, with the allowed range or the known names.
        ValueError: The model has no trainable Linear or Conv2d, `params` has no weight of one, or
            the ranks' models differ.
    """

    algorithm_type: ClassVar[type[Algorithm[Any]]]
    rule_type: ClassVar[type[Rule]] = RULES[DEFAULT]

    def __init_subclass__(
        cls,
        algorithm: type[Algorithm[Any]] | None = None,
        rule: type[Rule] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init_subclass__(**keywords)
        if algorithm is not None:
            cls.algorithm_type = algorithm
        if rule is not None:
            cls.rule_type = rule

    def __init__(
        self,
        model: nn.Module,
        *,
        params: Iterable[Any] | None = None,
        rule: str = DEFAULT,
        **hyperparameters: Any,
    ):
        groups.require_model(f"{type(self).__name__}(model", (model,))
        self._ranks, self._names = ranks_of(model), parameter_names(model)
        if lazy := [n for p, n in self._names.items() if isinstance(p, nn.UninitializedParameter)]:
            raise ValueError(
                f"{', '.join(lazy)}: not initialised. Run a forward of the model, which initialises "
                "lazy modules, before you build the optimizer"
            )
        check_alike(
            self._ranks, {"optimizer": type(self).__name__, "rule": rule, **describe(self._names)}
        )
        kinds = self.rule_named(rule), self.algorithm_type
        self.rule: Rule
        self.rule, algorithm = make(*kinds, values=hyperparameters)
        self.algorithm: Algorithm[Any] = algorithm
        self._model = model
        layers, self._skipped = find_layers(model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        self._require_layers(
            layers,
            "the model has no trainable Linear or Conv2d layer",
            USE_PLAIN if trainable else UNFREEZE,
        )
        constants = {} if rule == DEFAULT else {"rule": rule}
        self._options = groups.Options(type(self).__name__, self.rule, algorithm, constants)
        super().__init__(trainable if params is None else params, dict(self._options.defaults))
        self._clear()
        group_of = self._index_groups()
        self._install(self._new_banks(group_of), group_of)
        self._require_layers(
            self._layers,
            "params has no weight of a Linear or Conv2d layer",
            f"pass the weight of such a layer in params, or {USE_PLAIN}",
        )

    @property
    def needs_closure(self) -> bool:
        """True if `step` evaluates the model a second time, so that it needs a closure."""
        return self.algorithm.SECOND_PASS

    @classmethod
    def rule_named(cls, name: str) -> type[Rule]:
        """Return the class of an update rule.

        Raises:
            HyperparameterError: The name is unknown, or the optimizer has its own rule.
        """
        if name == DEFAULT:
            return cls.rule_type
        if name not in RULES:
            raise HyperparameterError(f'rule = "{name}": unknown.{nearest(name, RULES)}')
        if cls.rule_type is not RULES[DEFAULT]:
            raise HyperparameterError(
                f'rule = "{name}": {cls.__name__} has its own update rule. Remove rule'
            )
        return RULES[name]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and discard the statistics that belong to them.

        See `torch.optim.Optimizer.zero_grad`. Gradients that are set to None in another way, as by
        `model.zero_grad()`, are noticed in the next backward or step. Gradients that are set to zero in
        another way are not noticed.
        """
        for bank in self._banks:
            bank.forwards.discard(bank.layers)
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the statistics and factors when due, then the parameters.

        Args:
            closure: Evaluates the model and returns the loss, as in `torch.optim`. Required if
                `needs_closure` is True.

        Returns:
            The closure's loss, or None.
        """
        scale = LossScale.of(self)
        if closure is not None and scale is not None:
            raise RuntimeError(
                "a closure cannot be used under GradScaler, because its loss is not scaled: "
                "call step() without a closure"
            )
        second = None
        if self.needs_closure:
            require_closure(type(self).__name__, closure, scale is not None)
            second = SecondPass(self._model, self._banks, self._ranks)
        loss = self._evaluate(closure)
        self._follow_groups()
        for bank in self._banks:
            bank.forwards.drop(bank.layers)
            bank.forwards.finish(bank.layers)
        check_forwards(self._banks, self.algorithm.statistics_due(self.steps))
        if scale is not None:
            self._remove_loss_scale(scale)
        monitors = diagnostics.due(self._banks, self.steps)
        skipped = None if scale is None else scale.skipped
        with active(self._ranks):
            if second is not None:
                second.end_first()
            update(self._banks, self.algorithm.refresh_due(self.steps), skipped)
            self._directions.compute(self.param_groups, self.algorithm.clip, scale)
        parameters = [p for group in self.param_groups for p in group["params"]]
        undo = None if skipped is None else Undo(parameters, self.state)
        unseen = {
            p for bank in self._banks for layer in bank.unseen() for p in layer.parameters.values()
        }
        for group in self.param_groups:
            self._descend(group, unseen, scale)
        if skipped is not None and undo is not None:
            undo.restore_where(skipped)
        for monitor in monitors:
            monitor.after_update()
        self.steps += 1
        self._schedule_recording()
        if second is not None:
            second.run(partial(self._evaluate, closure))
        return loss

    def _remove_loss_scale(self, scale: LossScale) -> None:
        """Remove the scale of the loss from the output gradients of this step."""
        needed = self.algorithm.NEEDS is not Needs.INPUTS and not self._has_output_scale
        if not needed or not any(bank.forwards.added for bank in self._banks):
            return
        if scale.inverse is None:
            raise RuntimeError(
                "scaler.unscale_ was called before step(), so the scale of the output gradients is "
                "not known: set optimizer.grad_output_scale = scaler.scale(torch.ones((), "
                "device=...)) before each backward"
            )
        for bank in self._banks:
            bank.rescale_outputs(scale.inverse)

    def _schedule_recording(self) -> None:
        """Decide which banks record the next forwards. A bank without a factor always records."""
        due = self.algorithm.statistics_due(self.steps)
        for bank in self._banks:
            bank.recording = due or not bank.has_factor

    def _descend(self, group: dict[str, Any], unseen: set[Tensor], scale: LossScale | None) -> None:
        """Update one parameter group by the rule.

        `unseen` contains the parameters of layers without statistics, which follow their gradients.
        """
        layers: Directed = ([], [])
        others: Directed = ([], [])
        group = {**group, "lr": groups.scalar_lr(group)}
        lr = group["lr"] if self.rule.CONTAINS_LR else None
        for p in group["params"]:
            if p.grad is not None:
                view = None if p in unseen else self._directions.of(p, self.param_groups, lr)
                target, direction = (others, p.grad) if view is None else (layers, view)
                target[0].append(p)
                target[1].append(direction if direction.dtype == p.dtype else direction.to(p.dtype))
        if scale is not None and others[0]:
            others = others[0], scale.unscale(others[1])
        if layers[0] or others[0]:
            self.rule.descend(group, layers, others, self.state)

    def _follow_groups(self) -> None:
        """Check the hyperparameters of the groups, and pass them to the banks."""
        self._options.check_unchanged(self.param_groups)
        for bank in self._banks:
            bank.follow(self.param_groups[bank.group])

    def _after_load(self) -> None:
        """Make the buffers, the banks and the recording agree with a loaded state."""
        self._directions = Directions(self._banks)  # the banks have new buffers
        self._add_buffers()
        self._follow_groups()
        self._schedule_recording()
