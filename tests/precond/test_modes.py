"""Training modes (`precond.algorithm.MODES`) give the same numbers as a plain loop.

An optimizer must refuse the modes that its card in the registry lists as unsupported. Data parallel
training is tested in test_distributed.py, `unscale_` and complex parameters in test_behaviours.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
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
from precond.registry import REGISTRY, lookup
from tests import closures
from tests.composed import COMPOSED
from tests.states import by_name

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
NAMES += COMPOSED
# With short intervals, a few steps include all kinds of steps.
SHORT = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 3, "interval": 3},
    **{"rank": 4, "damping": 0.3, "window": 4, "memory": 3},
}
LEARNING_RATES = {"mfac": 0.1}  # where the default is too small for the damping of `SHORT`
STEPS = 7


class Net(nn.Module):
    """A convolution, a normalisation, a layer that is called twice, and an in-place activation."""

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


def make_model(dtype: torch.dtype = torch.float64, wrap: Callable[..., Any] | None = None) -> Net:
    torch.manual_seed(0)
    return Net(wrap).to(dtype)


def build(name: str, model: nn.Module, **changed: Any) -> Any:
    defaults = precond.defaults(name)
    settings = SHORT | {"lr": LEARNING_RATES.get(name, defaults["lr"])} | changed
    known = {key: value for key, value in settings.items() if key in defaults}
    return precond.build(name, model, **known)


def batch(number: int, dtype: torch.dtype = torch.float64, size: int = 80) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 1, 8, 8, generator=generator).to(dtype)
    return x, torch.randint(3, (size,), generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.replace("_orig_mod.", ""): p.detach().clone() for name, p in model.named_parameters()
    }


def train(
    name: str, model: nn.Module, optimizer: Any, steps: range = range(STEPS)
) -> dict[str, Tensor]:
    """Train in a plain loop, and return the weights."""
    for number in steps:
        optimizer.zero_grad()
        closures.backward(optimizer, loss_of, model, number)
        optimizer.step()
    return weights(model)


def loss_of(model: nn.Module, number: int = 0) -> Tensor:
    x, y = batch(number, next(model.parameters()).dtype)
    return F.cross_entropy(model(x), y)


def plain_weights(name: str, **changed: Any) -> dict[str, Tensor]:
    model = make_model()
    return train(name, model, build(name, model, **changed))


def assert_close(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10
) -> None:
    start = weights(make_model())
    changed = [key for key in expected if not torch.equal(expected[key].double(), start[key])]
    assert changed, "nothing was trained"
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


def optimizers_with(mode: str, supported: bool = True) -> list[str]:
    """Return the optimizers that support a mode, or those that do not."""
    return [name for name in NAMES if (mode not in lookup(name).card.unsupported) == supported]


def test_cards_list_known_modes_only():
    """With each mode, at least 8 optimizers are tested."""
    assert {mode for name in NAMES for mode in lookup(name).card.unsupported} <= set(MODES)
    assert all(len(optimizers_with(mode)) >= 8 for mode in MODES)


# ---------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("name", optimizers_with("accumulation"))
def test_accumulated_micro_batches_equal_one_batch(name):
    """The losses of the two micro-batches are divided by 2, as in most training scripts."""
    model = make_model()
    optimizer = build(name, model)
    if isinstance(optimizer, Preconditioned):
        optimizer.grad_output_scale = 0.5

    def evaluate(number: int) -> None:
        for x, y in zip(*(part.chunk(2) for part in batch(number)), strict=True):
            precond.backward(F.cross_entropy(model(x), y) / 2, optimizer)

    for number in range(STEPS):
        optimizer.zero_grad()
        evaluate(number)
        closures.repeat(optimizer, partial(evaluate, number))
        optimizer.step()
    # In directions without gradient, SOAP divides rounding errors by rounding errors.
    assert_close(weights(model), plain_weights(name), tolerance=0.05 if name == "soap" else 1e-10)


@pytest.mark.parametrize("name", ["kfac", "eva", "ekfac"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_grad_output_scale_corrects_a_scaled_loss(name, as_tensor):
    """The factor of the loss is passed as a number or as a tensor."""
    model = make_model()
    optimizer = build(name, model)
    optimizer.grad_output_scale = torch.tensor(64.0, dtype=torch.float64) if as_tensor else 64.0
    for number in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(number)
        (64 * F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad /= 64
        optimizer.step()
    assert_close(weights(model), plain_weights(name))


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_running_moments_of_ekfac_contain_the_factor_of_the_gradients(factor):
    """S is computed from the gradients of the parameters, whatever `grad_output_scale` is.

    If they are divided by the scale, S is that of the mean loss.
    """
    moments = []
    for scale, divisor in ((1.0, 1.0), (8.0, factor)):
        model = make_model()
        optimizer = build("ekfac", model, second_moment="running", ema_decay=0.0)
        optimizer.grad_output_scale = scale
        x, y = batch(0)
        (scale * F.cross_entropy(model(x), y)).backward()
        for p in model.parameters():
            p.grad /= divisor
        optimizer.step()
        moments.append([bank.state.statistic.mean() for bank in optimizer._banks])
    for plain, scaled in zip(*moments, strict=True):
        torch.testing.assert_close(scaled, (8 / factor) ** 2 * plain)


# ---------------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("name", optimizers_with("checkpointing"))
def test_activation_checkpointing_does_not_change_the_training(name):
    """The repeated forward does not change the statistics."""
    model = make_model(wrap=lambda block, x: checkpoint(block, x, use_reentrant=False))
    assert_close(train(name, model, build(name, model)), plain_weights(name), tolerance=0.0)


PRECONDITIONED = [name for name in NAMES if isinstance(build(name, make_model()), Preconditioned)]
SCALABLE = [name for name in PRECONDITIONED if name in optimizers_with("GradScaler")]


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_reentrant_checkpointing_is_an_error_that_names_the_layer(name):
    """Reentrant checkpointing hides the first forward: a layer has gradients but no statistics."""
    model = make_model(wrap=lambda block, x: checkpoint(block, x, use_reentrant=True))
    optimizer = build(name, model)
    before = weights(model)
    closures.backward(optimizer, loss_of, model)
    with pytest.raises(RuntimeError, match=r"^hidden: .*use_reentrant=False"):
        optimizer.step()
    assert_equal(weights(model), before)


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        assert torch.equal(actual[key], value), f"{key} differs"


# ---------------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("name", optimizers_with("autocast"))
def test_autocast_trains_with_float32_statistics(name):
    """Statistics of bfloat16 activations are in float32 or float64, and the loss falls."""
    model = make_model(torch.float32)
    optimizer = build(name, model)
    x, y = batch(0, torch.float32, size=32)

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
            assert outputs.dtype == torch.bfloat16
            return F.cross_entropy(outputs.float(), y)

    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(closures.backward(optimizer, loss).item())
        optimizer.step()
    assert min(losses[-5:]) < 0.95 * losses[0]
    if isinstance(optimizer, Preconditioned):
        for layer, entry in by_name(optimizer.state_dict()).items():
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    message = f"{layer}.{key}: {value.dtype}"
                    assert value.dtype in (torch.float32, torch.float64), message


@pytest.mark.parametrize("name", optimizers_with("GradScaler"))
@pytest.mark.parametrize("unscaled_by_hand", [False, True])
def test_a_scaler_does_not_change_the_training(name, unscaled_by_hand):
    """The gradients may be unscaled and clipped before the step."""
    model, reference = make_model(), make_model()
    optimizer, reference_optimizer = build(name, model), build(name, reference)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(STEPS):
        x, y = batch(number)
        scaled = scaler.scale(F.cross_entropy(model(x), y))
        if isinstance(optimizer, Preconditioned):
            optimizer.grad_output_scale = scaler.scale(torch.ones((), dtype=torch.float64))
        optimizer.zero_grad()
        scaled.backward()
        reference_optimizer.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        if unscaled_by_hand:
            scaler.unscale_(optimizer)
            for m in (model, reference):
                nn.utils.clip_grad_norm_(m.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        reference_optimizer.step()
    assert_close(weights(model), weights(reference))


@pytest.mark.parametrize("name", SCALABLE)
@pytest.mark.parametrize("skipped_step", [0, 2, 3])
def test_a_step_that_the_scaler_skips_changes_nothing(name, skipped_step):
    """The optimizer decides on the device, without a synchronisation, that a step is skipped."""
    model = make_model()
    optimizer = build(name, model, cov_interval=1, inv_interval=1, basis_interval=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(5):
        x, y = batch(number)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if number == skipped_step:
            model.norm.bias.grad[0] = torch.inf  # the gradients of the layers are finite
            before = flatten_state(by_name(optimizer.state_dict())), weights(model)
        scaler.step(optimizer)
        scaler.update()
        if number == skipped_step:
            assert_equal(weights(model), before[1])
            after = flatten_state(by_name(optimizer.state_dict()))
            for key, value in after.items():
                old = before[0].get(key)
                same = not value.any() if old is None else torch.equal(old, value)
                assert same or counts_dropped(key), f"{key} changed"
    assert not torch.equal(weights(model)["head.weight"], before[1]["head.weight"])


@pytest.mark.parametrize("name", SCALABLE)
def test_a_skipped_first_step_does_not_affect_the_first_factor(name):
    """The first factor is computed in the next step, from the signals of that step alone."""
    results = []
    for skips in (True, False):
        model = make_model()
        optimizer = build(name, model, cov_interval=1, inv_interval=1, basis_interval=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for number in (0, 1, 2) if skips else (1, 2):
            x, y = batch(number)
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if number == 0:
                model.norm.bias.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        results.append(weights(model))
    assert_close(*results)


def flatten_state(state: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": torch.as_tensor(value).clone()
        for name, entry in state.items()
        for key, value in entry.items()
        if key != "recorded"
    }


def counts_dropped(key: str) -> bool:
    """Return True for counts of dropped updates, which a skipped step may change."""
    return key.endswith("dropped")


@pytest.mark.parametrize("name", optimizers_with("GradScaler", supported=False))
def test_other_methods_refuse_a_scaler(name):
    model = make_model()
    optimizer = build(name, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    precond.backward(scaler.scale(F.cross_entropy(model(batch(0)[0]), batch(0)[1])), optimizer)
    with pytest.raises(RuntimeError, match="does not support GradScaler"):
        scaler.step(optimizer)


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_a_closure_under_a_scaler_is_refused(name):
    """The gradients of the closure would not be scaled."""
    model = make_model()
    optimizer = build(name, model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(batch(0)[0]), batch(0)[1])).backward()
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(optimizer, lambda: None)


# ---------------------------------------------------------------------- compiled


def compile_model(
    model: nn.Module, backend: str = "aot_eager"
) -> tuple[Any, CompileCounterWithBackend]:
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter), counter


@pytest.mark.parametrize("name", optimizers_with("compile"))
def test_a_compiled_model_gives_the_same_weights_with_at_most_two_graphs(name):
    """One graph records statistics and the other does not; later steps do not recompile."""
    model, counter = compile_model(make_model())
    actual = train(name, model, build(name, model), range(3 * STEPS))
    reference = make_model()
    assert_close(actual, train(name, reference, build(name, reference), range(3 * STEPS)))
    assert counter.frame_count <= 2


def test_a_method_with_plain_steps_compiles_two_graphs():
    """Otherwise, the test above would pass if the hooks were never called."""
    model, counter = compile_model(make_model())
    train("nysact-s", model, build("nysact-s", model))
    assert counter.frame_count == 2


@pytest.mark.parametrize("name", ["nysact-s", "kfac", "ekfac"])
def test_a_compiled_model_can_use_checkpointing(name):
    """Checkpointing inside the graph is non-reentrant."""
    model, counter = compile_model(
        make_model(wrap=lambda block, x: checkpoint(block, x, use_reentrant=False))
    )
    assert_close(train(name, model, build(name, model)), plain_weights(name))
    assert counter.frame_count <= 2


def test_inductor_does_not_change_the_training():
    """Inductor reuses buffers and reorders operations; the numbers are equal up to rounding."""
    model, _ = compile_model(make_model(), "inductor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor warns if it finds no GPU
        actual = train("kfac", model, build("kfac", model))
    assert_close(actual, plain_weights("kfac"), tolerance=1e-8)


def test_equal_output_gradients_are_not_merged():
    """Two calls of a layer have equal output gradients; the compiler must keep both hooks."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.layer(x.flip(1))

    statistics = []
    for compiler in (lambda model: model, lambda model: compile_model(model)[0]):
        torch.manual_seed(0)
        model = compiler(Twice().double())
        optimizer = precond.KFAC(model, cov_interval=1, inv_interval=1)
        x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        F.cross_entropy(model(x), torch.arange(8) % 3).backward()
        optimizer.step()
        statistics.append(by_name(optimizer.state_dict())["layer"]["statistic.outputs.value"])
    torch.testing.assert_close(statistics[0], statistics[1], rtol=1e-12, atol=1e-12)
    assert statistics[0].any()


@pytest.mark.parametrize("name", optimizers_with("compile", supported=False))
def test_hessian_methods_refuse_compiled_models(name):
    model, _ = compile_model(make_model())
    optimizer = build(name, model)
    with pytest.raises(RuntimeError, match="double backward"):
        closures.classify(optimizer, model, batch(0)[0], batch(0)[1])


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_gradients_without_a_recorded_forward_are_an_error(name):
    """In the first or a later step, statistics are due, but the only forward ran in `paused()`."""
    model = make_model()
    optimizer = build(name, model)
    for steps in (0, 3):
        train(name, model, optimizer, range(steps))
        while not optimizer.algorithm.statistics_due(optimizer.steps):
            train(name, model, optimizer, range(1))
        optimizer.zero_grad()
        with optimizer.paused():
            closures.backward(optimizer, loss_of, model)
        with pytest.raises(RuntimeError, match=r"no forward .*torch\.compiler\.reset\(\)"):
            optimizer.step()


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_a_model_that_was_compiled_before_the_optimizer_is_recorded(name):
    model, _ = compile_model(make_model())
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    model.zero_grad()
    optimizer = build(name, model)
    closures.backward(optimizer, loss_of, model)
    optimizer.step()
    assert all(bank.filled for bank in optimizer._banks)


def test_the_step_uses_gradients_that_were_clipped_after_the_backward():
    changes = []
    for bound in (1e-3, 1e6):
        model = make_model()
        optimizer = build("foof", model, momentum=0.0, weight_decay=0.0)
        before = weights(model)
        F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), bound)
        optimizer.step()
        factor, after = min(1.0, bound / norm), weights(model)
        changes.append({key: (after[key] - before[key]) / factor for key in after})
    for key, value in changes[0].items():
        torch.testing.assert_close(value, changes[1][key], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_steps_do_not_synchronise(name):
    """The host does not wait for the device in a plain step or a statistics step."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: only CUDA reports synchronisations")
    model = make_model(torch.float32).cuda()
    optimizer = build(name, model, cov_interval=2, inv_interval=100, basis_interval=100)
    x, y = (part.cuda() for part in batch(0, torch.float32))

    def step() -> None:
        optimizer.zero_grad()
        closures.classify(optimizer, model, x, y)
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
