"""When to do what: the torch optimizer around an algorithm, with SGD's momentum and weight decay after it."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from precond.algorithm import Algorithm
from precond.bank import make_banks
from precond.capture import attach
from precond.hyperparameters import HyperparameterError, flag, fraction, make, non_negative, positive, problems
from precond.layers import find_layers


@dataclass(frozen=True, kw_only=True)
class SGDStep:
    """What happens after preconditioning: d = D + weight_decay w; m <- momentum m + d; w <- w - lr m.

    Attributes:
        lr: Learning rate.
        momentum: Heavy ball, without dampening.
        nesterov: Step along d + momentum m instead of m.
        weight_decay: Decay, not preconditioned.
        decoupled: Shrink the weights by lr x weight_decay instead of adding the decay to the direction (AdamW).
    """

    lr: float = positive(0.1)  # eta
    momentum: float = fraction(0.9)  # mu
    nesterov: bool = flag(False)
    weight_decay: float = non_negative(5e-4)
    decoupled: bool = flag(False)

    def problems(self) -> list[str]:
        """One line for each value out of range."""
        wrong = problems(self)
        if self.nesterov is True and self.momentum == 0:
            wrong.append("nesterov = True: needs momentum > 0")
        return wrong


class Preconditioned(torch.optim.Optimizer):
    """Base of the package's optimizers: SGD along preconditioned gradients.

    Linear and Conv2d layers are preconditioned; every other trainable parameter follows its gradient with the same
    momentum and decay (normalisation, embeddings, bare parameters, weights shared by two modules, and layers whose
    forward is never called). Subclasses name their algorithm: `class FOOF(Preconditioned, algorithm=foof.FOOF)`.

    Args:
        model: The model to train, plain or compiled.
        params: Parameter groups as `torch.optim` takes them, to give some parameters another `lr`, `momentum`,
            `nesterov`, `weight_decay` or `decoupled`. Default: all trainable parameters of the model, in one group.
        **hyperparameters: Those of `SGDStep` and of the algorithm, by name.

    Raises:
        HyperparameterError: Names every value out of range, with the range, and every unknown name.
        ValueError: The model has no trainable Linear or Conv2d.
    """

    algorithm_type: ClassVar[type[Algorithm]]

    def __init_subclass__(cls, algorithm: type[Algorithm]) -> None:
        cls.algorithm_type = algorithm
        keywords = [f for kind in (SGDStep, algorithm) for f in dataclasses.fields(kind)]
        kind = inspect.Parameter.KEYWORD_ONLY
        cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=nn.Module),
                inspect.Parameter("params", kind, default=None),
                *(inspect.Parameter(f.name, kind, default=f.default, annotation=f.type) for f in keywords),
            ]
        )

    def __init__(self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any):
        step, algorithm = make(SGDStep, self.algorithm_type, values=hyperparameters)
        layers = find_layers(model)
        if not layers:
            raise ValueError("the model has no trainable Linear or Conv2d layer, so there is nothing to precondition")
        if wrong := algorithm.model_problems({layer.name: layer.shape for layer in layers}):
            raise HyperparameterError("\n".join(wrong))
        self.algorithm: Algorithm = algorithm
        self.steps = 0
        super().__init__(
            params if params is not None else [p for p in model.parameters() if p.requires_grad],
            dataclasses.asdict(step),
        )
        self._names = {p: name.replace("_orig_mod.", "") for name, p in model.named_parameters()}
        ours = {p for group in self.param_groups for p in group["params"]}
        if strangers := [tuple(p.shape) for p in ours if p not in self._names]:
            raise ValueError(f"params has {len(strangers)} tensors that the model does not have: shapes {strangers}")
        ours_whole = [layer for layer in layers if all(p in ours for p in layer.parameters.values())]
        self._layers = {layer.name: layer for layer in ours_whole}
        self._banks = make_banks(algorithm, ours_whole)
        self._bank_of = {layer.name: bank for bank in self._banks for layer in bank.layers}
        # Parameter -> where its gradient goes and its direction comes from; fixed, because the buffers are.
        self._views: dict[Tensor, Tensor] = {
            layer.parameters[key]: view
            for name, layer in self._layers.items()
            for key, view in self._bank_of[name].views(layer).items()
        }
        # Name in the state -> its parameters, by the key of their momentum.
        fallback = [p for group in self.param_groups for p in group["params"] if p not in self._views]
        self._entries: dict[str, dict[str, Tensor]] = {self._names[p]: {"momentum_buffer": p} for p in fallback}
        for name, layer in self._layers.items():
            self._entries[name] = {f"{key}.momentum_buffer": p for key, p in layer.parameters.items()}
        self._handles = attach(self._banks)
        weakref.finalize(self, _remove_all, self._handles)

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the statistics and factors when due, then the parameters.

        Args:
            closure: Evaluates the model and returns the loss, as in `torch.optim`.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        refresh = self.algorithm.refresh_due(self.steps)
        for bank in self._banks:
            bank.update(refresh)
        self._precondition()
        for group in self.param_groups:
            self._descend(group)
        self.steps += 1
        self._schedule_recording()
        return loss

    def _schedule_recording(self) -> None:
        """Decide what the next forward records; a bank without a factor records each until it has one."""
        due = self.algorithm.statistics_due(self.steps)
        for bank in self._banks:
            bank.recording = due or not bank.has_factor

    def _precondition(self) -> None:
        """Gather the gradients into the banks' buffers and make directions of them."""
        pairs = [(view, p.grad) for p, view in self._views.items()]
        if absent := [view for view, gradient in pairs if gradient is None]:
            torch._foreach_zero_(absent)
        present = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if present:
            torch._foreach_copy_([view for view, _ in present], [gradient for _, gradient in present])
        for bank in self._banks:
            bank.precondition()

    def _descend(self, group: dict[str, Any]) -> None:
        """Momentum, weight decay and the step for one parameter group; parameters without gradient stay."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        directions = self._directions(params, 0 if group["decoupled"] else decay)
        if group["decoupled"] and decay:
            torch._foreach_mul_(params, 1 - lr * decay)
        if momentum:
            buffers = [self._momentum_buffer(p) for p in params]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, directions)
            directions = torch._foreach_add(directions, buffers, alpha=momentum) if group["nesterov"] else buffers
        torch._foreach_add_(params, directions, alpha=-lr)

    def _directions(self, params: list[Tensor], decay: float) -> list[Tensor]:
        """The direction of each parameter, plus the coupled decay. The gradients themselves are never changed."""
        found = [(p, self._views.get(p, p.grad)) for p in params]
        directions = [d if d.dtype == p.dtype else d.to(p.dtype) for p, d in found if d is not None]
        return list(torch._foreach_add(directions, params, alpha=decay)) if decay else directions

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    # ------------------------------------------------------------------ state_dict, by layer and parameter name

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Everything needed to go on bit for bit, keyed by name, so that it outlives the module objects.

        Returns:
            `state`: an entry for each layer (the algorithm's tensors, and the momentum of weight and bias) and for each
            other parameter; `param_groups` as torch has them, with names; `algorithm`: its hyperparameters; `steps`.
        """
        state: dict[str, dict[str, Any]] = {}
        for name, parameters in self._entries.items():
            layer = self._layers.get(name)
            state[name] = {} if layer is None else self._bank_of[name].layer_state(layer)
            state[name] |= {key: self.state[p]["momentum_buffer"] for key, p in parameters.items() if p in self.state}
        groups = [{**g, "params": [self._names[p] for p in g["params"]]} for g in self.param_groups]
        algorithm = dataclasses.asdict(self.algorithm)
        return {"state": state, "param_groups": groups, "algorithm": algorithm, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Take over a state that `state_dict` returned, for a model with the same names and shapes.

        Raises:
            ValueError: A layer, parameter or hyperparameter differs; one line for each, and nothing is changed.
        """
        if wrong := self._mismatches(state_dict):
            raise ValueError("this state does not fit the optimizer:\n" + "\n".join(wrong))
        state = state_dict["state"]
        for bank in self._banks:
            bank.reset()
        for name, parameters in self._entries.items():
            if name in self._layers:
                self._bank_of[name].load_layer_state(self._layers[name], state[name])
            for key, parameter in parameters.items():
                self.state.pop(parameter, None)
                if key in state[name]:
                    self._momentum_buffer(parameter).copy_(state[name][key])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self.steps = state_dict["steps"]
        self._schedule_recording()

    def _mismatches(self, state_dict: dict[str, Any]) -> list[str]:
        """One line for each way in which a state is not this optimizer's."""
        mine, theirs = self.state_dict(), state_dict["state"]
        wrong = [f"{name}: in the model, not in the state" for name in mine["state"] if name not in theirs]
        wrong += [f"{name}: in the state, not in the model" for name in theirs if name not in mine["state"]]
        for name, value in mine["algorithm"].items():
            saved = state_dict["algorithm"].get(name)
            if saved != value:
                wrong.append(f"{name} = {value!r} here, {saved!r} in the state: build the optimizer with that")
        if [g["params"] for g in mine["param_groups"]] != [g["params"] for g in state_dict["param_groups"]]:
            wrong.append("param_groups: other parameters than in the state")
        for name, entry in mine["state"].items():
            wrong += _shape_mismatches(name, entry | self._entries[name], theirs.get(name, entry))
        return wrong


def _shape_mismatches(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """One line for each tensor of an entry whose shape differs; momentum may be absent, before the first step."""
    wrong = []
    for key, value in mine.items():
        if not isinstance(value, Tensor) or (key not in theirs and key.endswith("momentum_buffer")):
            continue
        found = list(theirs[key].shape) if isinstance(theirs.get(key), Tensor) else "nothing"
        if found != list(value.shape):
            wrong.append(f"{name}: {key} must be {list(value.shape)}, the state has {found}")
    return wrong


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
