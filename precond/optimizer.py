"""When to do what: the torch optimizer around an algorithm, with SGD's momentum and weight decay after it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from precond.algorithm import Algorithm
from precond.bank import make_banks
from precond.capture import Capture
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
        self._layers = [layer for layer in layers if all(p in ours for p in layer.parameters.values())]
        self._banks = make_banks(algorithm, self._layers)
        self._bank_of = {layer.name: bank for bank in self._banks for layer in bank.layers}
        # Parameter -> where its gradient goes and its direction comes from; fixed, because the buffers are.
        self._views: dict[Tensor, Tensor] = {
            layer.parameters[name]: view
            for layer in self._layers
            for name, view in self._bank_of[layer.name].views(layer).items()
        }
        bank_of = self._bank_of
        self._capture = Capture(self._layers, lambda layer, x: bank_of[layer.name].record(layer, x))

    def paused(self) -> AbstractContextManager[None]:
        """Forwards in this block leave no trace in the statistics."""
        return self._capture.paused()

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
        if self._capture.recording:
            for bank in self._banks:
                bank.update(refresh=self.algorithm.refresh_due(self.steps))
        self._precondition()
        for group in self.param_groups:
            self._descend(group)
        self.steps += 1
        self._capture.recording = self._statistics_due()
        return loss

    def _statistics_due(self) -> bool:
        """Whether the next forward is recorded; until each bank has a factor, all are."""
        due = self.algorithm.statistics_due(self.steps) or self.algorithm.refresh_due(self.steps)
        return due or not all(bank.has_factor for bank in self._banks)

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
        directions = [self._views.get(p, p.grad) for p in params]
        dtypes = zip(directions, params, strict=True)
        directions = [d if d.dtype == p.dtype else d.to(p.dtype) for d, p in dtypes]
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
        state: dict[str, Any] = {self._names[p]: dict(self.state.get(p, {})) for p in self._fallback_parameters()}
        for layer in self._layers:
            entry = self._bank_of[layer.name].layer_state(layer)
            for name, parameter in layer.parameters.items():
                entry |= {f"{name}.{key}": value for key, value in self.state.get(parameter, {}).items()}
            state[layer.name] = entry
        groups = [{**g, "params": [self._names[p] for p in g["params"]]} for g in self.param_groups]
        return {
            "state": state,
            "param_groups": groups,
            "algorithm": dataclasses.asdict(self.algorithm),
            "steps": self.steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Take over a state that `state_dict` returned, for a model with the same names and shapes.

        Raises:
            ValueError: A layer, parameter or hyperparameter differs; one line for each, and nothing is changed.
        """
        if wrong := self._mismatches(state_dict):
            raise ValueError("this state does not fit the optimizer:\n" + "\n".join(wrong))
        state = state_dict["state"]
        for layer in self._layers:
            self._bank_of[layer.name].load_layer_state(layer, state[layer.name])
            for name, parameter in layer.parameters.items():
                self._load_momentum(parameter, state[layer.name].get(f"{name}.momentum_buffer"))
        for parameter in self._fallback_parameters():
            self._load_momentum(parameter, state[self._names[parameter]].get("momentum_buffer"))
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self.steps = state_dict["steps"]
        self._capture.recording = self._statistics_due()

    def _mismatches(self, state_dict: dict[str, Any]) -> list[str]:
        """One line for each way in which a state is not this optimizer's."""
        mine = self.state_dict()
        theirs = state_dict["state"]
        wrong = [f"{name}: in the model, not in the state" for name in mine["state"] if name not in theirs]
        wrong += [f"{name}: in the state, not in the model" for name in theirs if name not in mine["state"]]
        for name, value in mine["algorithm"].items():
            saved = state_dict["algorithm"].get(name)
            if saved != value:
                wrong.append(f"{name} = {value!r} here, {saved!r} in the state: build the optimizer with that")
        if [g["params"] for g in mine["param_groups"]] != [g["params"] for g in state_dict["param_groups"]]:
            wrong.append("param_groups: other parameters than in the state")
        for name in mine["state"].keys() & theirs.keys():
            wrong += _shape_mismatches(name, mine["state"][name], theirs[name])
        return wrong

    def _fallback_parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p not in self._views]

    def _load_momentum(self, parameter: Tensor, value: Tensor | None) -> None:
        if value is None:
            self.state.pop(parameter, None)
        else:
            self.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)


def _shape_mismatches(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """One line for each tensor of one entry whose shape differs; momentum may be absent on either side."""
    return [
        f"{name}: {key} must be {list(value.shape)}, the state has "
        f"{list(theirs[key].shape) if isinstance(theirs.get(key), Tensor) else 'nothing'}"
        for key, value in mine.items()
        if isinstance(value, Tensor) and not key.endswith("momentum_buffer")
        if not isinstance(theirs.get(key), Tensor) or theirs[key].shape != value.shape
    ]
