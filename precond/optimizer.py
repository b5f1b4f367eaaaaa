"""When to do what: the torch optimizer around an algorithm and an update rule."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precond.algorithm import Algorithm
from precond.bank import make_banks, share_refresh, update
from precond.capture import attach, check_forwards, detach
from precond.diagnostics import measures as diagnostics
from precond.diagnostics.monitor import Clock
from precond.distributed import check_alike, describe, in_force, ranks_of
from precond.hyperparameters import HyperparameterError, make
from precond.layers import find_layers, parameter_names
from precond.rules import Directed, Rule, SGDRule
from precond.scaling import LossScale, Undo
from precond.state import buffers, mismatches


class Preconditioned(torch.optim.Optimizer):
    """Base of the package's optimizers: an update rule along preconditioned gradients.

    Linear and Conv2d layers are preconditioned; every other trainable parameter follows its gradient by the same rule
    (normalisation, embeddings, bare parameters, weights shared by two modules, and layers whose forward is never
    called). Subclasses name their algorithm: `class FOOF(Preconditioned, algorithm=foof.FOOF)`.

    In data parallel training, statistics are sums over the ranks of the model's DistributedDataParallel, or over all
    there are. Each rank builds the optimizer after `init_process_group`, before or after it wraps the model, and makes
    the same steps. Shards of unequal size need `grad_output_scale`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as `torch.optim` takes them, to give some parameters another `lr`, `momentum`,
            `nesterov`, `weight_decay` or `decoupled`. Default: all trainable parameters of the model, in one group.
        **hyperparameters: Those of the rule (`SGDRule` unless stated) and of the algorithm, by name.

    Raises:
        HyperparameterError: Names every value out of range, with the range, and every unknown name.
        ValueError: The model has no trainable Linear or Conv2d, or the ranks' models differ.
    """

    algorithm_type: ClassVar[type[Algorithm]]
    rule_type: ClassVar[type[Rule]]
    _step_supports_amp_scaling = True  # torch.amp.GradScaler leaves unscaling and skipping to `step`

    def __init_subclass__(cls, algorithm: type[Algorithm], rule: type[Rule] = SGDRule) -> None:
        cls.algorithm_type, cls.rule_type = algorithm, rule
        fields = [f for kind in (rule, algorithm) for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=nn.Module),
                inspect.Parameter("params", keyword, default=None),
                *(inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type) for f in fields),
            ]
        )

    def __init__(self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any):
        self._ranks, self._names = ranks_of(model), parameter_names(model)
        check_alike(self._ranks, {"optimizer": type(self).__name__, **describe(self._names)})
        rule, algorithm = make(self.rule_type, self.algorithm_type, values=hyperparameters)
        layers = find_layers(model)
        if not layers:
            raise ValueError("the model has no trainable Linear or Conv2d layer, so there is nothing to precondition")
        if wrong := algorithm.model_problems({layer.name: layer.shape for layer in layers}):
            raise HyperparameterError("\n".join(wrong))
        self.rule: Rule = rule
        self.algorithm: Algorithm = algorithm
        self.steps = 0
        trainable = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trainable if params is None else params, dataclasses.asdict(rule))
        group_of = {p: index for index, group in enumerate(self.param_groups) for p in group["params"]}
        if strangers := [tuple(p.shape) for p in group_of if p not in self._names]:
            raise ValueError(f"params has {len(strangers)} tensors that the model does not have: shapes {strangers}")
        ours = [layer for layer in layers if all(p in group_of for p in layer.parameters.values())]
        self._layers = {layer.name: layer for layer in ours}
        groups = {f"parameter group of {self._names[p]}": index for p, index in group_of.items()}
        check_alike(self._ranks, {**dataclasses.asdict(rule), **dataclasses.asdict(algorithm), **groups})
        self._banks = make_banks(algorithm, ours, group_of)
        share_refresh(self._banks, self._ranks)
        self._bank_of = {layer.name: bank for bank in self._banks for layer in bank.layers}
        # Parameter -> where its gradient goes and its direction comes from; fixed, because the buffers are.
        self._views: dict[Tensor, Tensor] = {
            layer.parameters[key]: view
            for name, layer in self._layers.items()
            for key, view in self._bank_of[name].views(layer).items()
        }
        # Name of each entry in the state -> its parameters, by the prefix of their buffers.
        self._entries = {self._names[p]: {"": p} for p in group_of if p not in self._views}
        self._entries |= {n: {f"{key}.": p for key, p in layer.parameters.items()} for n, layer in self._layers.items()}
        # What rules may read beside the group's own settings.
        self._settings = dataclasses.asdict(algorithm)
        # Parameters in another group than their layer's weight -> that of the weight.
        self._weight_group = {
            p: self._bank_of[layer.name].group
            for layer in ours
            for p in layer.parameters.values()
            if group_of[p] != self._bank_of[layer.name].group
        }
        self._handles = attach(self._banks)
        weakref.finalize(self, detach, self._handles, self._banks)

    @property
    def grad_output_scale(self) -> float | Tensor:
        """What the loss is multiplied by before its backward, for the methods that use output gradients.

        1.0 when the loss is the mean over the batch of that backward. The scaler's scale under `torch.amp.GradScaler`
        (as a tensor: `scaler.scale(torch.ones((), device=...))`, which is not read), 1 / c when each of c accumulated
        losses is divided by c, local examples x ranks / all examples for unequal shards; or the product of these.
        """
        return self._banks[0].grad_output_scale

    @grad_output_scale.setter
    def grad_output_scale(self, scale: float | Tensor) -> None:
        for bank in self._banks:
            bank.grad_output_scale = scale

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forwards in this block leave no trace in the statistics."""
        before = [bank.recording for bank in self._banks]
        try:
            for bank in self._banks:
                bank.recording = False
            yield
        finally:
            for bank, recording in zip(self._banks, before, strict=True):
                bank.recording = recording

    def monitor(self, on: bool = True) -> Clock | None:
        """Start keeping the measures that `diagnostics` returns, or stop; returns a clock of what that costs."""
        return diagnostics.watch(self._banks, on)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, dict[str, float | None]]:
        """Each layer's measures and counts since the last call (`diagnostics.py`); without a monitor only counts."""
        found = diagnostics.read(self._banks)
        return {name: found[name] for name in self._layers}

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
            raise RuntimeError("a closure cannot be used under GradScaler, which runs it unscaled: call step() without")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_forwards(self._banks, any(p.grad is not None for p in self._views))
        refresh = self.algorithm.refresh_due(self.steps)
        measuring = diagnostics.due(self._banks, self.steps)
        with in_force(self._ranks):
            update(self._banks, refresh, None if scale is None else scale.skipped)
            self._precondition(scale)
        undo = None if scale is None else Undo((p for g in self.param_groups for p in g["params"]), self.state)
        unseen = {p for bank in self._banks for layer in bank.unseen() for p in layer.parameters.values()}
        for group in self.param_groups:
            self._descend(group, unseen, scale)
        if scale is not None and undo is not None:
            undo.where(scale.skipped)
        for monitor in measuring:
            monitor.after_update()
        self.steps += 1
        self._schedule_recording()
        return loss

    def _schedule_recording(self) -> None:
        """Decide what the next forward records; a bank without a factor records each until it has one."""
        due = self.algorithm.statistics_due(self.steps)
        for bank in self._banks:
            bank.recording = due or not bank.has_factor

    def _precondition(self, scale: LossScale | None) -> None:
        """Gather the gradients into the banks' buffers and make directions of them."""
        pairs = [(view, p.grad) for p, view in self._views.items()]
        if absent := [view for view, gradient in pairs if gradient is None]:
            torch._foreach_zero_(absent)
            self._mark_absent()
        present = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if present:
            torch._foreach_copy_([view for view, _ in present], [gradient for _, gradient in present])
        clip = self.algorithm.clip
        products = []
        for bank in self._banks:
            if scale is not None:
                scale.spoil(bank.buffer)
            lr = self.param_groups[bank.group]["lr"]
            inner = bank.precondition(lr, measure=clip is not None)
            if inner is not None:
                products.append(inner * lr**2)
        if clip is not None and products:
            self._clip(clip, products)

    def _mark_absent(self) -> None:
        """Layers without any gradient are nan in the buffers; they stay as they are."""
        for name, layer in self._layers.items():
            if all(p.grad is None for p in layer.parameters.values()):
                bank = self._bank_of[name]
                bank.buffer[bank.slots[name]] = torch.nan

    def _clip(self, bound: float, products: list[Tensor]) -> None:
        """Scale all directions by min(1, sqrt(kappa / |s|)), s = sum of lr^2 <D, G>, without reading the device."""
        s = torch.stack(products).sum().abs()
        factor = torch.where(s > bound, (bound / s).sqrt(), 1)
        for bank in self._banks:
            bank.rescale(factor)

    def _descend(self, group: dict[str, Any], unseen: set[Tensor], scale: LossScale | None) -> None:
        """Hand one parameter group to the rule; parameters without gradient stay, unseen layers follow theirs."""
        layers: Directed = ([], [])
        others: Directed = ([], [])
        for p in group["params"]:
            if p.grad is not None:
                view = None if p in unseen else self._direction(p, group["lr"])
                kind, direction = (others, p.grad) if view is None else (layers, view)
                kind[0].append(p)
                kind[1].append(direction if direction.dtype == p.dtype else direction.to(p.dtype))
        if scale is not None and others[0]:
            others = others[0], scale.unscale(others[1])
        if layers[0] or others[0]:
            self.rule.descend({**self._settings, **group}, layers, others, self.state)

    def _direction(self, parameter: Tensor, lr: float) -> Tensor | None:
        """The parameter's direction, if it has one, with the learning rate of its own group where it contains one."""
        view = self._views.get(parameter)
        if view is None or not self.rule.CONTAINS_LR or parameter not in self._weight_group:
            return view
        contained = self.param_groups[self._weight_group[parameter]]["lr"]
        return view * (lr / contained if contained else 0.0)

    # ------------------------------------------------------------------ state_dict, by layer and parameter name

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Everything needed to go on bit for bit, keyed by name, so that it outlives the module objects.

        Returns:
            `state`: an entry for each layer (the algorithm's tensors, and the momentum of weight and bias) and for each
            other parameter; `param_groups` as torch has them, with names; `algorithm`: its hyperparameters; `steps`;
            `monitor`, where there is one.
        """
        state: dict[str, dict[str, Any]] = {}
        for name, parameters in self._entries.items():
            layer = self._layers.get(name)
            state[name] = {} if layer is None else self._bank_of[name].layer_state(layer)
            for prefix, parameter in parameters.items():
                state[name] |= {prefix + key: value for key, value in self.state.get(parameter, {}).items()}
        groups = [{**g, "params": [self._names[p] for p in g["params"]]} for g in self.param_groups]
        algorithm = dataclasses.asdict(self.algorithm)
        parts = {"state": state, "param_groups": groups, "algorithm": algorithm, "steps": self.steps}
        return {**parts, **diagnostics.state(self._banks)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Take over a state that `state_dict` returned, for a model with the same names and shapes.

        Raises:
            ValueError: A layer, parameter or hyperparameter differs; one line for each, and nothing is changed.
        """
        if wrong := mismatches(self.state_dict(), state_dict, self._entries):
            raise ValueError("this state does not fit the optimizer:\n" + "\n".join(wrong))
        state = state_dict["state"]
        for bank in self._banks:
            bank.reset()
        for name, parameters in self._entries.items():
            if name in self._layers:
                self._bank_of[name].load_layer_state(self._layers[name], state[name])
            for prefix, parameter in parameters.items():
                saved = buffers(state[name], prefix)
                self.state[parameter] = {
                    # The count of torch's Adam is read by the host at each step.
                    key: value.to("cpu" if key == "step" else parameter.device, copy=True)
                    for key, value in saved.items()
                }
        diagnostics.load_state(self._banks, state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self.steps = state_dict["steps"]
        self._schedule_recording()
