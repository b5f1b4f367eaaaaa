"""Hessian products through attention, without a choice of kernels by the user."""

from __future__ import annotations

import copy
import gc
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import precond

NAMES = ["sketchysgd", *(["adahessian"] if find_spec("pytorch_optimizer") else [])]


class Attention(nn.Module):
    """A custom module that calls `F.scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.packed(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Checkpointed(Attention):
    """Attention that is computed a second time, in the backward."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)  # type: ignore[return-value]


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


MODELS: dict[str, Any] = {
    "encoder": encoder,
    "separate": lambda: precond.separate_attention(encoder()),
    "custom": lambda: nn.Sequential(nn.Linear(8, 8), Attention()),
    "checkpointed": lambda: nn.Sequential(nn.Linear(8, 8), Checkpointed()),
}


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind]()


def inputs() -> Tensor:
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))


def kernels() -> list[bool]:
    backend = torch.backends.cuda
    return [
        backend.flash_sdp_enabled(),
        backend.mem_efficient_sdp_enabled(),
        backend.math_sdp_enabled(),
    ]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_attention_trains_as_with_the_plain_operations(name, kind):
    """The reference selects the plain operations around forward and backward.

    The optimizer selects them only inside the forward: afterwards, the kernels are as before.
    """
    models, before = [], kernels()
    for plain in (False, True):
        model = make(kind)
        options = {"interval": 1} if name == "sketchysgd" else {}
        optimizer: Any = precond.build(name, model, lr=0.01, **options)
        for _ in range(2):
            optimizer.zero_grad()
            if plain:
                with sdpa_kernel(SDPBackend.MATH):
                    precond.backward(model(inputs()).square().mean(), optimizer)
            else:
                precond.backward(model(inputs()).square().mean(), optimizer)
                assert kernels() == before
            optimizer.step()
        models.append(model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(models[0].parameters()), next(make(kind).parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_the_model_may_be_called_alone(name):
    model: Any = make("custom")
    optimizer: Any = precond.build(name, model)
    precond.backward(model[1](inputs()).square().mean(), optimizer)
    optimizer.step()


def test_the_fused_kernels_are_used_where_no_hessian_is_needed():
    """In an evaluation, between two sketches, in a copy, and after the optimizer is deleted."""
    model: Any = make("custom")
    used: list[list[bool]] = []
    model[1].out.register_forward_hook(lambda *_: used.append(kernels()))
    fused, plain = kernels(), [False, False, True]
    optimizer: Any = precond.SketchySGD(model, interval=2)
    optimizer.backward(model(inputs()).square().mean())
    with torch.no_grad():
        model(inputs())
    copy.deepcopy(model)(inputs())
    optimizer.step()
    model(inputs()).square().mean().backward()
    optimizer.step()
    model(inputs())
    del optimizer
    gc.collect()
    model(inputs())
    assert used == [plain, fused, fused, fused, plain, fused]


@pytest.mark.parametrize("inside", [True, False])
def test_a_forward_that_fails_restores_the_kernels(inside):
    """The error is raised by the attention, or by a hook of the user before the forward."""
    model: Any = make("custom")
    optimizer = precond.SketchySGD(model)
    before = kernels()
    if inside:
        with pytest.raises(RuntimeError):
            model(torch.randn(4, 5, 7))
    else:

        def fail(*_: Any) -> None:
            raise ValueError

        handle = model[1].register_forward_pre_hook(fail)
        with pytest.raises(ValueError):
            model(inputs())
        handle.remove()
    assert kernels() == before
    optimizer.backward(model(inputs()).square().mean())
    optimizer.step()
    assert kernels() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_may_be_frozen_and_trained_again_during_training(name):
    """A frozen layer does not move."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer: Any = precond.build(name, model, weight_decay=0.1)
    for number in range(6):
        frozen = 0 < number < 4
        model[0].requires_grad_(not frozen)
        optimizer.zero_grad()
        before = model[0].weight.clone()
        x = inputs()[:, number % 5].double()
        precond.backward(F.cross_entropy(model(x), torch.arange(4) % 3), optimizer)
        optimizer.step()
        assert torch.equal(before, model[0].weight) == frozen
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_random_signs_of_a_parameter_do_not_depend_on_frozen_parameters():
    """With AdaHessian, the second parameter moves as if the first parameter were not frozen."""
    pytest.importorskip("pytorch_optimizer")
    ends = []
    for freeze in (False, True):
        torch.manual_seed(0)
        model = nn.ParameterList([torch.randn(3), torch.randn(4)])
        optimizer: Any = precond.build("adahessian", model)
        for number in range(4):
            model[0].requires_grad_(not (freeze and number > 1))
            optimizer.zero_grad()
            value = model[0].square().sum() + model[1].pow(4).sum() + model[1].sum().square()
            precond.backward(value, optimizer)
            optimizer.step()
        ends.append(model[1].detach())
    assert torch.equal(*ends)
