"""Modules that are not a plain Linear or Conv2d follow their gradient.

`skipped_layers` gives the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import precond
from precond.optimizer import Preconditioned
from precond.reasons import FROZEN
from precond.registry import REGISTRY
from tests import closures

NAMES = [
    name
    for name, entry in REGISTRY.items()
    if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
]
WIDTH = 6


class OtherForward(nn.Linear):
    """A Linear that scales its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for 2 x."""
        return F.linear(2 * x, self.weight, self.bias)


class TupleOutput(nn.Linear):
    """A Linear with a second output."""

    def forward(self, x: Tensor) -> Any:
        """Return the output and None."""
        return super().forward(x), None


class KeywordInput(nn.Linear):
    """A Linear whose input has another name."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the output."""
        return F.linear(hidden_states, self.weight, self.bias)


class SameForward(nn.Linear):
    """A subclass that only adds an attribute."""

    extra = 1


class Adapter(nn.Module):
    """A frozen Linear with a trainable low-rank update, as in LoRA."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down = nn.Linear(WIDTH, 2, bias=False)
        self.up = nn.Linear(2, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both."""
        return self.base(x) + self.up(self.down(x))


def patched() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.forward = lambda x: F.linear(3 * x, layer.weight, layer.bias)  # type: ignore[method-assign]
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


FORWARD, COMPUTED = "its forward is not that of Linear", "computed from other tensors"
# Module -> the skipped modules and a part of the reason, by the name inside the module.
MODULES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "another forward": (lambda: OtherForward(WIDTH, WIDTH), {"": FORWARD}),
    "a tuple as output": (lambda: TupleOutput(WIDTH, WIDTH), {"": FORWARD}),
    "a keyword as input": (lambda: KeywordInput(WIDTH, WIDTH), {"": FORWARD}),
    "a patched forward": (patched, {"": FORWARD}),
    "the same forward": (lambda: SameForward(WIDTH, WIDTH), {}),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)), {"": COMPUTED}),
    "old weight_norm": (old_weight_norm, {"": COMPUTED}),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
        {"": COMPUTED},
    ),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)), {"": COMPUTED}),
    "pruned": (
        lambda: prune.l1_unstructured(nn.Linear(WIDTH, WIDTH), "weight", 0.3),
        {"": COMPUTED},
    ),
    "an adapter": (Adapter, {"base": FROZEN}),
    "scripted": (
        lambda: torch.jit.script(nn.Linear(WIDTH, WIDTH)),
        {"": "is not a Linear or Conv2d layer"},
    ),
    "a normalisation": (
        lambda: nn.LayerNorm(WIDTH),
        {"": "LayerNorm is not a Linear or Conv2d layer"},
    ),
}


class Net(nn.Module):
    """A module between two Linear layers."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.middle = module
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = torch.tanh(self.first(x))
        x = self.middle(hidden_states=x) if type(self.middle) is KeywordInput else self.middle(x)
        return self.last(torch.tanh(x[0] if isinstance(x, tuple) else x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("name", NAMES)
def test_skipped_modules_follow_their_gradient_and_have_a_reason(name, kind):
    make, reasons = MODULES[kind]
    torch.manual_seed(0)
    model = Net(make())
    settings = {"lr": 0.1, "weight_decay": 0.0, "rank": 2, "momentum": 0.0, "fallback": "sgd"}
    known = {key: value for key, value in settings.items() if key in precond.defaults(name)}
    optimizer = precond.build(name, model, **known)
    x, y = torch.randn(32, WIDTH), torch.randint(3, (32,))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    closures.classify(optimizer, model, x, y)
    optimizer.step()

    skipped = optimizer.skipped_layers()
    expected = {f"middle.{key}".rstrip("."): reason for key, reason in reasons.items()}
    assert set(skipped) - {"middle.parametrizations.weight"} == set(expected), skipped
    assert all(reason in skipped[key] for key, reason in expected.items())
    assert {"first", "last"} <= set(optimizer.preconditioned_layers())
    for key, p in model.named_parameters():
        if p.grad is not None and key.rpartition(".")[0] in skipped:
            torch.testing.assert_close(before[key] - p.detach(), 0.1 * p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        (nn.MultiheadAttention(4, 2), "call precond.separate_attention(model) before you build"),
        (nn.LSTM(4, 4), "write the cell with Linear layers"),
        (nn.GRUCell(4, 4), "write the cell with Linear layers"),
        (nn.Conv1d(4, 4, 3), "a Conv2d with a kernel of height 1"),
    ],
)
def test_the_reason_says_how_the_weights_can_be_preconditioned(module, advice):
    kind = type(module).__name__
    optimizer = precond.KFAC(nn.ModuleDict({"module": module, "plain": nn.Linear(4, 3)}))
    reason = optimizer.skipped_layers()["module"]
    assert reason.startswith(f"{kind} is not a Linear or Conv2d layer; ") and advice in reason


def test_an_attention_with_another_forward_has_no_advice():
    class Attention(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Any:
            return self.out_proj(x)

    optimizer = precond.KFAC(Attention(4, 2))
    assert optimizer.skipped_layers() == {"": "Attention is not a Linear or Conv2d layer"}


def test_a_convolution_that_pads_in_its_forward_is_skipped():
    """TensorFlow's "same" padding: the rows of a plain Conv2d would not be those of the layer."""

    class SamePadding(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.pad(x, [0, 1, 0, 1]), self.weight, self.bias, self.stride)

    model = nn.Sequential(SamePadding(2, 4, 3, stride=2), nn.Flatten(), nn.Linear(64, 3))
    optimizer = precond.EKFAC(model)
    model(torch.randn(8, 2, 8, 8)).square().mean().backward()
    optimizer.step()
    assert optimizer.skipped_layers() == {"0": "its forward is not that of Conv2d"}


@pytest.mark.parametrize(
    ("layer", "reason", "advice"),
    [
        (
            nn.Linear(4, 3, dtype=torch.complex64),
            "its parameters are complex64",
            "use a plain optimizer such as torch.optim.SGD",
        ),
        (
            nn.Linear(4, 3).requires_grad_(False),
            "its weight did not require a gradient",
            "no parameter of the model requires a gradient: call requires_grad_() on those to train",
        ),
    ],
)
def test_parameters_that_cannot_be_preconditioned_have_a_reason(layer, reason, advice):
    model = nn.ModuleDict({"layer": layer, "plain": nn.Linear(4, 3)})
    optimizer = precond.KFAC(model, params=model["plain"].parameters())
    assert optimizer.skipped_layers()["layer"].startswith(reason)
    with pytest.raises(ValueError, match=r"nothing to precondition") as error:
        precond.KFAC(layer)
    first, second = str(error.value).splitlines()
    assert advice in first and second.startswith(f"  the model: {reason.replace('did', 'does')}")


def test_a_frozen_layer_and_a_layer_that_another_optimizer_trains_have_different_reasons():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    model[1].requires_grad_(False)
    optimizer = precond.FOOF(model, params=model[0].parameters())
    reasons = optimizer.skipped_layers()
    assert reasons["1"].startswith("its weight did not require a gradient when the optimizer was")
    assert reasons["2"].startswith("its weight is not in the parameters of this optimizer")
    assert all("add_param_group" in reason for reason in reasons.values())
    for layer in (model[1], model[2]):  # the advice is correct
        optimizer.add_param_group({"params": layer.requires_grad_().parameters()})
    assert (optimizer.preconditioned_layers(), optimizer.skipped_layers()) == (["0", "1", "2"], {})


def test_parameters_without_a_layer_are_an_error_that_names_params():
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"^params has no weight of a Linear or Conv2d.*\n  0: .*"):
        precond.FOOF(model, params=model[1].parameters())


def test_lazy_parameters_are_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"1\.weight, 1\.bias: not initialised"):
        precond.KFAC(model)
    model(torch.ones(2, 4))
    precond.KFAC(model)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_of_width_zero_is_skipped():
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 0))
    optimizer = precond.KFAC(model)
    model(torch.randn(4, 6)).sum().backward()
    assert optimizer.skipped_layers() == {"1": "its parameters are empty"}


@pytest.mark.parametrize("first", [True, False])
def test_hooks_of_the_user_that_replace_the_output_change_nothing(first):
    """The optimizer sees the output of the layer itself, whichever hook was registered first."""

    def step(hook: bool, factor: float) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(WIDTH, 3).double()
        if hook and first:
            layer.register_forward_hook(lambda module, args, output: 2 * output)
        optimizer = precond.KFAC(layer)
        if hook and not first:
            layer.register_forward_hook(lambda module, args, output: 2 * output)
        x = torch.randn(16, WIDTH, dtype=torch.float64)
        F.cross_entropy(factor * layer(x), torch.arange(16) % 3).backward()
        optimizer.step()
        return layer.weight.detach()

    torch.testing.assert_close(step(True, 1.0), step(False, 2.0), rtol=1e-12, atol=1e-12)


def test_transforms_of_torch_func_are_not_recorded():
    """Gradients of single examples by `vmap`: the layers follow their gradient."""
    model = nn.Linear(WIDTH, 3)
    optimizer = precond.KFAC(model)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (x,)).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    assert gradients(parameters, torch.randn(5, WIDTH))["weight"].shape == (5, 3, WIDTH)
    assert "torch.func" in optimizer.skipped_layers()[""]


def test_nested_inputs_follow_the_gradient():
    model = nn.Linear(WIDTH, 3)
    optimizer = precond.FOOF(model)
    parts = [torch.randn(2, WIDTH), torch.randn(3, WIDTH)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    sum(part.sum() for part in model(nested).unbind()).backward()
    assert "nested" in optimizer.skipped_layers()[""]
