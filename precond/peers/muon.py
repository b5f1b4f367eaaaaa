"""Muon for matrices, and AdamW for all other parameters; torch does the arithmetic of both.

The matrices are the weights of Linear and Conv2d layers, except those that an Embedding shares. The
weight of a convolution is flattened to `[out, in * kernel height * kernel width]`. Muon makes the
singular values of a direction nearly equal. This is meaningful for linear maps between layers, but
not for biases, for the scales of normalisations, and for the rows of an embedding, which are used
one by one. These parameters follow AdamW, with another learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import _muon
from torch.optim.adamw import adamw

from precond.algorithm import Card
from precond.groups import require_model, scalar_lr
from precond.hyperparameters import make
from precond.rules.orthogonal import OrthogonalRule
from precond.scaling import evaluate
from precond.standalone import NO_COMPLEX, Standalone

NUMERICS = 1
COEFFICIENTS = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
Settings = OrthogonalRule  # the hyperparameters are those of the rule `orthogonal`

CARD = Card(
    paper="Jordan et al. 2024",
    cost="ns_steps (4opk + 2k^3), k = min(o, p)",
    memory="none for matrices, 1 for each other element",
    deviations="the weight of the output layer follows Muon, too",
    unsupported=NO_COMPLEX,
)


class Muon(Standalone):
    """Muon for the weights of Linear and Conv2d layers, and AdamW for all other parameters.

    Args:
        model: The model. Its layers decide which parameters are matrices.
        params: Parameter groups as in `torch.optim`. Default: one group of all trainable
            parameters.
        **hyperparameters: The fields of `Settings`.

    Raises:
        HyperparameterError: Lists every value out of range, with the range, and every unknown name.
    """

    NAME = "Muon"

    def __init__(
        self, model: nn.Module, *, params: Iterable[Any] | None = None, **hyperparameters: Any
    ):
        require_model("Muon(model", (model,))
        [settings] = make(Settings, values=hyperparameters)
        self._model = model
        trainable = [p for p in model.parameters() if p.requires_grad]
        # The value of `lr` for which `adam_lr` is not scaled.
        values = {**vars(settings), "base_lr": float(settings.lr)}
        super().__init__(trainable if params is None else params, values)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; the layers of the model decide which of them are matrices."""
        self._matrices = matrices(self._model)
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.requires_grad:  # the state has the same keys before and after the first step
                self._add_state(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update the parameters.

        Args:
            closure: Computes the gradients and returns the loss, as in `torch.optim`.

        Returns:
            The loss that the closure returned, or None without a closure.
        """
        loss = evaluate(closure)
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            self._orthogonalize(group, [p for p in used if p in self._matrices])
            self._adam(group, [p for p in used if p not in self._matrices])
        return loss

    def _orthogonalize(self, group: Mapping[str, Any], parameters: list[Tensor]) -> None:
        """Take a step of torch's Muon."""
        buffers = [self._buffer(p, "momentum_buffer") for p in parameters]
        matrices = [p.flatten(1) for p in parameters]
        _muon.muon(
            matrices,
            [p.grad.flatten(1) for p in parameters if p.grad is not None],
            buffers,
            lr=scalar_lr(group),  # type: ignore[arg-type]
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            ns_coefficients=COEFFICIENTS,
            eps=_muon.EPS,
            ns_steps=group["ns_steps"],
            adjust_lr_fn=group["adjust_lr"],
            has_complex=False,
        )
        for p, matrix in zip(parameters, matrices, strict=True):
            if matrix.data_ptr() != p.data_ptr():  # `flatten` has copied a channels-last weight
                p.copy_(matrix.view(p.shape))

    def _adam(self, group: Mapping[str, Any], parameters: list[Tensor]) -> None:
        """Take a step of torch's AdamW."""
        lr, base = scalar_lr(group), group["base_lr"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [self._buffer(p, "exp_avg") for p in parameters],
            [self._buffer(p, "exp_avg_sq") for p in parameters],
            [],
            [self._add_state(p)["step"] for p in parameters],
            amsgrad=False,
            beta1=group["adam_betas"][0],
            beta2=group["adam_betas"][1],
            lr=group["adam_lr"] * (lr / base if base else float(lr != 0)),
            weight_decay=group["weight_decay"],
            eps=group["adam_eps"],
            maximize=False,
        )

    def _add_state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter; create it if necessary."""
        if parameter in self._matrices:
            self._buffer(parameter, "momentum_buffer")
        else:
            self.state[parameter].setdefault("step", torch.zeros(()))
            self._buffer(parameter, "exp_avg")
            self._buffer(parameter, "exp_avg_sq")
        return self.state[parameter]

    def _buffer(self, parameter: Tensor, name: str) -> Tensor:
        """Return a buffer in the dtype of a parameter; create it with zeros if necessary."""
        value = self.state[parameter].get(name)
        if value is None:
            value = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            value = value.flatten(1) if name == "momentum_buffer" else value
        self.state[parameter][name] = value = value.to(parameter.dtype)
        return value


def build(model: nn.Module, **options: Any) -> Muon:
    """Build the optimizer; `registry.build` describes the arguments."""
    return Muon(model, **options)


def matrices(model: nn.Module) -> set[Tensor]:
    """Return the weights of Linear and Conv2d layers that no Embedding shares."""
    modules = list(model.modules())
    embeddings = {module.weight for module in modules if isinstance(module, nn.Embedding)}
    layers = [module for module in modules if isinstance(module, (nn.Linear, nn.Conv2d))]
    return {layer.weight for layer in layers} - embeddings
