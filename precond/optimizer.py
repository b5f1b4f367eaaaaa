"""The base class of the optimizers: it runs an algorithm and an update rule in `step`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from precond import groups
from precond.algorithm import Algorithm, Needs
from precond.bank import Bank, make_banks, share_refresh, update
from precond.capture import attach, check_forwards, detach
from precond.diagnostics import measures as diagnostics
from precond.diagnostics.monitor import Clock
from precond.directions import Directions
from precond.distributed import check_alike, describe, ranks_of
from precond.hessian import evaluate
from precond.hyperparameters import HyperparameterError, make
from precond.layers import (
    Layer,
    default_batch_first,
    find_layers,
    parameter_names,
    plain_modules,
)
from precond.parts.collectives import active
from precond.rules import Directed, Rule, SGDRule
from precond.saving import Saved
from precond.scaling import LossScale, Undo
from precond.state import PRECONDITIONER, Entries


class Preconditioned(Saved):
    """Base class of the package's optimizers: an update rule along preconditioned gradients.

    The gradients of Linear and Conv2d layers are preconditioned. The same rule updates every other
    trainable parameter along its plain gradient. These are the parameters of all other modules,
    weights shared by two modules, and layers whose forward is never called. A subclass names its
    algorithm: `class Mine(Preconditioned, algorithm=MyAlgorithm)`. Without this argument, the
    subclass inherits the algorithm.

    In data parallel training, statistics are summed over the ranks of the model's
    DistributedDataParallel, or over all ranks if the model is not wrapped. Each rank must build the
    optimizer after `init_process_group`, and must take the same steps. The model may be wrapped
    before or after the optimizer is built. If the ranks have different numbers of examples, set
    `grad_output_scale`.

    The preconditioners have the dtype and the device of the weights at construction, at least
    float32. After `model.double()`, load the optimizer's own state to convert them, as in torch.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as in `torch.optim`, to give some parameters other values of the
            rule's hyperparameters (such as `lr` and `weight_decay`), or another `damping`. Default:
            one group of all trainable parameters of the model.
        **hyperparameters: The hyperparameters of the rule (`SGDRule` by default) and of the
            algorithm, by name.

    Raises:
        HyperparameterError: Values are out of range or names are unknown. The message has one line
            for each, with the allowed range or the known names.
        ValueError: The model has no trainable Linear or Conv2d, or the ranks' models differ.
    """

    algorithm_type: ClassVar[type[Algorithm[Any]]]
    rule_type: ClassVar[type[Rule]] = SGDRule
    _step_supports_amp_scaling = True  # `step`, not GradScaler, unscales gradients and skips steps

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
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ):
        groups.refuse_other_arguments(type(self).__name__, (model,))
        self._ranks, self._names = ranks_of(model), parameter_names(model)
        if lazy := [n for p, n in self._names.items() if isinstance(p, nn.UninitializedParameter)]:
            raise ValueError(
                f"{', '.join(lazy)}: not initialised. Run a forward of the model, which initialises "
                "lazy modules, before you build the optimizer"
            )
        check_alike(self._ranks, {"optimizer": type(self).__name__, **describe(self._names)})
        rule, algorithm = make(self.rule_type, self.algorithm_type, values=hyperparameters)
        self.rule: Rule = rule
        self.algorithm: Algorithm[Any] = algorithm
        self._has_output_scale = False  # True if `grad_output_scale` has been set
        self._model = model
        layers, self._skipped = find_layers(model)
        self._require_layers(layers)
        self._options = groups.Options(type(self).__name__, rule, algorithm)
        trainable = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trainable if params is None else params, self._options.defaults)
        self._clear()
        group_of = self._index_groups()
        self._install(self._new_banks(group_of), group_of)
        self._require_layers(self._layers)

    def _require_layers(self, layers: Collection[Any]) -> None:
        """Raise `ValueError` if there is no layer, with the reason for each skipped module."""
        if not layers:
            reasons = "".join(
                f"\n  {n or 'the model'}: {reason}" for n, reason in self._skipped.items()
            )
            raise ValueError(
                "the model has no trainable Linear or Conv2d layer, so there is nothing to "
                f"precondition: use a plain optimizer such as torch.optim.SGD{reasons}"
            )

    def _clear(self) -> None:
        """Create empty collections of the layers, their banks and their hooks."""
        self._layers: dict[str, Layer] = {}
        self._banks: list[Bank] = []
        self._handles: list[RemovableHandle] = []
        weakref.finalize(self, detach, self._handles, self._banks)

    @property
    def steps(self) -> int:
        """The number of steps so far. The groups contain it, as `step`."""
        return self.param_groups[0]["step"]

    @steps.setter
    def steps(self, value: int) -> None:
        for group in self.param_groups:
            group["step"] = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters of the model, such as those of layers that were frozen so far.

        Raises:
            ValueError: A parameter does not belong to the model, or the optimizer already has it, or
                another parameter had its name when the optimizer was built.
            HyperparameterError: A value is invalid, or would be ignored.
        """
        built = "_banks" in vars(self)  # False in the constructor
        groups.require_dictionary(param_group)
        self._options.check(param_group)
        steps = self.steps if built else 0
        if built:
            self._names = self._current_names()
        super().add_param_group(param_group)
        self.param_groups[-1]["step"] = steps
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
                f"params has {len(foreign)} tensors that the model does not have, with the shapes "
                f"{foreign}: pass parameters of the model"
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

    def preconditioned_layers(self) -> list[str]:
        """Return the names of the layers whose gradients are preconditioned."""
        skipped = self.skipped_layers()
        names = plain_modules(self._model)
        return [name for name in names if name in self._layers and name not in skipped]

    def skipped_layers(self) -> dict[str, str]:
        """Return the modules whose parameters follow their gradient, each with the reason.

        After the first step, these include layers whose forward has never been recorded, such as
        the output projection of `nn.MultiheadAttention`.
        """
        unseen = {layer.name for bank in self._banks for layer in bank.unseen()}
        unusable = {name: text for bank in self._banks for name, text in bank.unusable.items()}
        reasons = {name: text for name, text in unusable.items() if name in unseen}
        absent = dict.fromkeys(unseen, "its forward has not been recorded") if self.steps else {}
        skipped = {**self._skipped, **absent, **reasons}
        return {name: skipped[name] for name in plain_modules(self._model) if name in skipped}

    @property
    def batch_first(self) -> bool | None:
        """False if the inputs of Linear layers are `[positions, batch, d_in]`, else True.

        A module with an attribute `batch_first`, such as `nn.MultiheadAttention` or `nn.LSTM`,
        declares the order for the layers inside and beside it. This property applies to all other
        layers. Its default is None (unknown) if any module of the model has `batch_first=False`,
        else True. With None, methods that use output gradients raise an error in a forward of such
        a layer if its input has more than two axes. Set this property before the first forward.
        """
        return self._banks[0].batch_first

    @batch_first.setter
    def batch_first(self, value: bool | None) -> None:
        for bank in self._banks:
            bank.batch_first = value

    @property
    def same_examples(self) -> bool:
        """True if the calls of a layer in one backward have the same examples (the default).

        For example, several modules that share a layer call it with the same examples. Set this
        property to False if the examples differ, for example if a GAN's discriminator is called
        with a real and with a generated batch; the loss must be the mean over the examples of all
        calls. Calls with different numbers of examples are always treated as different examples.
        Only methods that use output gradients depend on this property.
        """
        return self._banks[0].forwards.same_examples

    @same_examples.setter
    def same_examples(self, value: bool) -> None:
        for bank in self._banks:
            bank.forwards.same_examples = value

    @property
    def grad_output_scale(self) -> float | Tensor:
        """The factor by which the loss is scaled in the backward.

        Methods that use output gradients divide them by this factor. The default 1.0 is correct if
        each loss is the mean over the batch of its backward. Otherwise, set the product of those
        factors that apply:

        * under `torch.amp.GradScaler`: the scale, as the tensor
          `scaler.scale(torch.ones((), device=...))`, so that the host does not wait for the device.
          If this property has never been set, `step` divides by the scale itself, and
          `scaler.unscale_` before `step` is an error, because it hides the scale from `step`
        * if each of c accumulated losses is divided by c: 1 / c
        * if the ranks have different numbers of examples: local examples x ranks / all examples
        """
        return self._banks[0].grad_output_scale

    @grad_output_scale.setter
    def grad_output_scale(self, scale: float | Tensor) -> None:
        self._has_output_scale = True
        for bank in self._banks:
            bank.grad_output_scale = scale

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the forwards in this block from the statistics."""
        before = [bank.recording for bank in self._banks]
        try:
            for bank in self._banks:
                bank.recording = False
            yield
        finally:
            for bank, recording in zip(self._banks, before, strict=True):
                bank.recording = recording

    def monitor(self, on: bool = True) -> Clock | None:
        """Start or stop computing the measures that `diagnostics` returns.

        Returns:
            A clock that measures the time of these computations, or None if `on` is False.
        """
        return diagnostics.watch(self._banks, on)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, dict[str, float | None]]:
        """Return the measures and counts of each layer since the last call.

        `docs/diagnostics.md` defines them. Without a monitor, the measures are None.
        """
        table = diagnostics.read(self._banks)
        return {name: table[name] for name in self._layers}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and discard the statistics that belong to them.

        See `torch.optim.Optimizer.zero_grad`. Gradients that are set to None in another way, as by
        `model.zero_grad()`, are noticed in the next backward. Gradients that are set to zero in
        another way are not noticed.
        """
        for bank in self._banks:
            bank.forwards.discard(bank.layers)
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the statistics and factors when due, then the parameters.

        Args:
            closure: Evaluates the model and returns the loss, as in `torch.optim`.

        Returns:
            The closure's loss, or None.
        """
        scale = LossScale.of(self)
        if closure is not None and scale is not None:
            raise RuntimeError(
                "a closure cannot be used under GradScaler, because its loss is not scaled: "
                "call step() without a closure"
            )
        loss = evaluate(closure)
        self._follow_groups()
        for bank in self._banks:
            bank.forwards.finish(bank.layers)
        check_forwards(self._banks, self.algorithm.statistics_due(self.steps))
        if scale is not None:
            self._remove_loss_scale(scale)
        monitors = diagnostics.due(self._banks, self.steps)
        skipped = None if scale is None else scale.skipped
        with active(self._ranks):
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
        """Use the hyperparameters of the groups."""
        self._options.check_unchanged(self.param_groups)
        for bank in self._banks:
            bank.follow(self.param_groups[bank.group])

    def _rebuild(self, banks: list[Bank]) -> None:
        """Attach the banks of a copy to its model."""
        self._ranks, self._names = ranks_of(self._model), parameter_names(self._model)
        self._clear()
        self._layers |= {layer.name: layer for bank in banks for layer in bank.layers}
        group_of = {p: i for i, group in enumerate(self.param_groups) for p in group["params"]}
        self._install(banks, group_of)
        self._schedule_recording()

    def _after_load(self) -> None:
        """Make the buffers, the banks and the recording agree with a loaded state."""
        self._directions = Directions(self._banks)  # the banks have new buffers
        self._add_buffers()
        self._follow_groups()
        self._schedule_recording()
