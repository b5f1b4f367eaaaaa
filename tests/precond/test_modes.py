"""Ways of training that are not a plain loop: each must give every registered optimizer the numbers of one.

What an optimizer's card lists as unsupported must be refused instead. Data parallel training is in test_distributed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import precond
from precond.algorithm import MODES
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
# Statistics, factors and bases come due within a few steps, and with them every kind of step.
SHORT = {
    "cov_interval": 2,
    "inv_interval": 4,
    "basis_interval": 3,
    "interval": 3,
    "rank": 4,
    "damping": 0.3,
}
STEPS = 7


class Net(nn.Module):
    """A convolution, layers of one shape of which one is called twice, normalisation, an in-place activation."""

    def __init__(self, wrap: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(64)
        self.hidden = nn.Linear(64, 12)
        self.twice = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.conv(x)).flatten(1))
        x = self.block(x) if self.wrap is None else self.wrap(self.block, x)
        return self.head(x)

    def block(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(x))
        return torch.relu_(self.twice(torch.tanh(self.twice(x))) + 0.5)


def make(dtype: torch.dtype = torch.float64, wrap: Callable[..., Any] | None = None) -> Net:
    torch.manual_seed(0)
    return Net(wrap).to(dtype)


def build(name: str, model: nn.Module, **changed: Any) -> Any:
    defaults = precond.defaults(name)
    return precond.build(
        name, model, **{k: v for k, v in (SHORT | changed).items() if k in defaults}
    )


def batch(number: int, dtype: torch.dtype = torch.float64, size: int = 80) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(size, 1, 8, 8, generator=generator).to(dtype), torch.randint(
        3, (size,), generator=generator
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.replace("_orig_mod.", ""): p.detach().clone() for name, p in model.named_parameters()
    }


def train(
    name: str, model: nn.Module, optimizer: Any, steps: range = range(STEPS)
) -> dict[str, Tensor]:
    """The plain loop."""
    for number in steps:
        optimizer.zero_grad()
        x, y = batch(number, next(model.parameters()).dtype)
        precond.backward(F.cross_entropy(model(x), y), optimizer)
        optimizer.step()
    return weights(model)


def plain(name: str, **changed: Any) -> dict[str, Tensor]:
    model = make()
    return train(name, model, build(name, model, **changed))


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10
) -> None:
    start = weights(make())
    assert any(not torch.equal(expected[key].double(), start[key]) for key in expected), (
        "nothing was trained"
    )
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


def names(mode: str, supported: bool = True) -> list[str]:
    """Those that support a mode, or those that do not."""
    return [name for name in NAMES if (mode not in REGISTRY[name].card.unsupported) == supported]


def test_modes_are_those_of_the_cards():
    """And something is tested in each."""
    assert {mode for name in NAMES for mode in REGISTRY[name].card.unsupported} <= set(MODES)
    assert all(len(names(mode)) >= 12 for mode in MODES)


# ---------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("name", names("accumulation"))
def test_accumulated_micro_batches_equal_one_batch(name):
    """c = 2, each loss divided by c, as most training scripts do."""
    model = make()
    optimizer = build(name, model)
    if isinstance(optimizer, Preconditioned):
        optimizer.grad_output_scale = 0.5
    for number in range(STEPS):
        optimizer.zero_grad()
        for x, y in zip(*(part.chunk(2) for part in batch(number)), strict=True):
            precond.backward(F.cross_entropy(model(x), y) / 2, optimizer)
        optimizer.step()
    # SOAP divides directions along which there has been no gradient, but for rounding, by that rounding.
    assert_close(weights(model), plain(name), tolerance=0.05 if name == "soap" else 1e-10)


@pytest.mark.parametrize("name", ["kfac", "eva", "ekfac"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_scale_of_the_loss_can_be_undone(name, as_tensor):
    """`grad_output_scale` is what the loss was multiplied by; a tensor is not read."""
    model = make()
    optimizer = build(name, model)
    optimizer.grad_output_scale = torch.tensor(64.0, dtype=torch.float64) if as_tensor else 64.0
    for number in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(number)
        (64 * F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad /= 64
        optimizer.step()
    assert_close(weights(model), plain(name))


# ---------------------------------------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("name", names("checkpointing"))
def test_activation_checkpointing_changes_nothing(name):
    """The repeated forward leaves no trace."""
    model = make(wrap=lambda block, x: checkpoint(block, x, use_reentrant=False))
    assert_close(train(name, model, build(name, model)), plain(name), tolerance=0.0)


OURS = [name for name in NAMES if isinstance(build(name, make()), Preconditioned)]


@pytest.mark.parametrize("name", OURS)
def test_reentrant_checkpointing_is_refused_by_name(name):
    """It hides the first forward, so there are gradients without statistics."""
    model = make(wrap=lambda block, x: checkpoint(block, x, use_reentrant=True))
    optimizer = build(name, model)
    before = weights(model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    with pytest.raises(RuntimeError, match=r"^hidden: .*use_reentrant=False"):
        optimizer.step()
    assert_equal(weights(model), before)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        assert torch.equal(found[key], value), f"{key} differs"


# ---------------------------------------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("name", names("autocast"))
def test_autocast_trains_with_float32_statistics(name):
    """bfloat16 activations and output gradients are summed in float32, and the loss falls."""
    model = make(torch.float32)
    optimizer = build(name, model)
    x, y = batch(0, torch.float32, size=32)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
            loss = F.cross_entropy(outputs.float(), y)
        assert outputs.dtype == torch.bfloat16
        precond.backward(loss, optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.95 * losses[0]
    if isinstance(optimizer, Preconditioned):
        for name, entry in optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                floating = isinstance(value, Tensor) and value.is_floating_point()
                assert not floating or value.dtype in (torch.float32, torch.float64), (
                    f"{name}.{key}: {value.dtype}"
                )


@pytest.mark.parametrize("name", names("GradScaler"))
@pytest.mark.parametrize("unscaled_by_hand", [False, True])
def test_a_scaler_changes_nothing(name, unscaled_by_hand):
    """Not even when gradients are clipped in between, which needs them unscaled."""
    model, clipped = make(), make()
    optimizer, other = build(name, model), build(name, clipped)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(STEPS):
        x, y = batch(number)
        scaled = scaler.scale(F.cross_entropy(model(x), y))
        if isinstance(optimizer, Preconditioned):
            optimizer.grad_output_scale = scaler.scale(torch.ones((), dtype=torch.float64))
        optimizer.zero_grad()
        scaled.backward()
        other.zero_grad()
        F.cross_entropy(clipped(x), y).backward()
        if unscaled_by_hand:
            scaler.unscale_(optimizer)
            for m in (model, clipped):
                nn.utils.clip_grad_norm_(m.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        other.step()
    assert_close(weights(model), weights(clipped))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_a_step_that_the_scaler_skips_leaves_no_trace(name, bad):
    """Neither in parameters nor in any state, although the host never learns of it; the first steps are such steps."""
    model = make()
    optimizer = build(name, model, cov_interval=1, inv_interval=1, basis_interval=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(5):
        x, y = batch(number)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if number == bad:
            model.norm.bias.grad[0] = torch.inf  # in no layer: theirs are finite
            before = flat(optimizer.state_dict()["state"]), weights(model)
        scaler.step(optimizer)
        scaler.update()
        if number == bad:
            assert_equal(weights(model), before[1])
            after = flat(optimizer.state_dict()["state"])
            for key, value in after.items():
                old = before[0].get(key)
                same = not value.any() if old is None else torch.equal(old, value)
                assert same or draws(key), f"{key} changed"
    assert not torch.equal(weights(model)["head.weight"], before[1]["head.weight"])


def flat(state: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    return {
        f"{n}.{k}": torch.as_tensor(v).clone()
        for n, e in state.items()
        for k, v in e.items()
        if k != "recorded"
    }


def draws(key: str) -> bool:
    """Whether an entry may change in a skipped step: counters of what was left out."""
    return key.endswith("dropped")


@pytest.mark.parametrize("name", names("GradScaler", supported=False))
def test_a_scaler_is_refused_where_it_would_scale_the_hessian(name):
    """In one line."""
    model = make()
    optimizer = build(name, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    precond.backward(scaler.scale(F.cross_entropy(model(batch(0)[0]), batch(0)[1])), optimizer)
    with pytest.raises(RuntimeError, match="does not support GradScaler"):
        scaler.step(optimizer)


@pytest.mark.parametrize("name", OURS)
def test_a_closure_under_a_scaler_is_refused(name):
    """Its gradients would not be scaled."""
    model = make()
    optimizer = build(name, model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(batch(0)[0]), batch(0)[1])).backward()
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(optimizer, lambda: None)


# ---------------------------------------------------------------------------------------------- compiled


def compiled(model: nn.Module, backend: str = "aot_eager") -> tuple[Any, CompileCounterWithBackend]:
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter), counter


@pytest.mark.parametrize("name", names("compile"))
def test_a_compiled_model_trains_the_same_in_two_graphs(name):
    """One with what is recorded and one without; statistics steps come and go without compiling again."""
    model, counter = compiled(make())
    found = train(name, model, build(name, model), range(3 * STEPS))
    reference = make()
    assert_close(found, train(name, reference, build(name, reference), range(3 * STEPS)))
    assert counter.frame_count <= 2


def test_most_methods_make_both_graphs():
    """Or the test above would hold for hooks that never fire."""
    model, counter = compiled(make())
    train("nysact-s", model, build("nysact-s", model))
    assert counter.frame_count == 2


@pytest.mark.parametrize("name", ["nysact-s", "kfac", "ekfac"])
def test_a_compiled_model_may_checkpoint(name):
    """Non-reentrant, inside the graph."""
    model, counter = compiled(make(wrap=lambda block, x: checkpoint(block, x, use_reentrant=False)))
    assert_close(train(name, model, build(name, model)), plain(name))
    assert counter.frame_count <= 2


def test_inductor_keeps_what_is_recorded():
    """Its kernels reuse buffers and reorder; the numbers are the same up to rounding."""
    model, _ = compiled(make(), "inductor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its search for a GPU
        found = train("kfac", model, build("kfac", model))
    assert_close(found, plain("kfac"), tolerance=1e-8)


def test_a_twin_gradient_is_not_merged():
    """Two calls whose output gradients are one tensor: a compiler that took them for equal would drop one."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(x.flip(1))

    found = []
    for compiler in (lambda model: model, lambda model: compiled(model)[0]):
        torch.manual_seed(0)
        model = compiler(Twice().double())
        optimizer = precond.KFAC(model, cov_interval=1, inv_interval=1)
        x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        F.cross_entropy(model(x), torch.arange(8) % 3).backward()
        optimizer.step()
        found.append(optimizer.state_dict()["state"]["layer"]["statistic.outputs.value"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    assert found[0].any()


@pytest.mark.parametrize("name", names("compile", supported=False))
def test_compiled_models_are_refused_where_a_second_backward_is_needed(name):
    """By torch."""
    model, _ = compiled(make())
    optimizer = build(name, model)
    with pytest.raises(RuntimeError, match="double backward"):
        precond.backward(F.cross_entropy(model(batch(0)[0]), batch(0)[1]), optimizer)


# ---------------------------------------------------------------------------------------------- what cannot be right


@pytest.mark.parametrize("name", OURS)
def test_gradients_without_any_forward_are_an_error(name):
    """Here the model had been compiled, and had run, before there were hooks to compile."""
    model, _ = compiled(make())
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    model.zero_grad()
    optimizer = build(name, model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    with pytest.raises(RuntimeError, match=r"no forward .*torch\.compiler\.reset\(\)"):
        optimizer.step()


def test_gradient_clipping_before_the_step_is_seen():
    """Gradients are read in `step`."""
    found = []
    for bound in (1e-3, 1e6):
        model = make()
        optimizer = build("foof", model, momentum=0.0, weight_decay=0.0)
        before = weights(model)
        F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimizer.step()
        found.append(
            {
                key: (value - before[key]) / min(1.0, bound / norm)
                for key, value in weights(model).items()
            }
        )
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", OURS)
def test_steps_do_not_synchronise(name):
    """A plain step and a statistics step read nothing from the device."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU: only CUDA can say whether the host waited")
    model = make(torch.float32).cuda()
    optimizer = build(name, model, cov_interval=2, inv_interval=100, basis_interval=100)
    x, y = (part.cuda() for part in batch(0, torch.float32))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
