"""K-BFGS and K-BFGS(L), compared with a literal implementation for one process and dense layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.parts import bfgs
from precond.parts.bfgs import DenseBFGS, LimitedBFGS
from tests.states import by_name

NAMES = ["kbfgs", "kbfgs-l"]
DAMPING, BETA, LR, MOMENTUM = 0.1, 0.9, 0.3, 0.9


class Net(nn.Module):
    """Two layers of one shape with a normalisation and dropout between them, and a head."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.second(x)))


def make_model(**options: Any) -> Any:
    torch.manual_seed(0)
    return Net(**options).double()


def batch(number: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (size,), generator=generator)


def build(name: str, model: nn.Module, **values: Any) -> Any:
    return precond.build(name, model, **{"lr": LR, "damping": DAMPING, **values})


def closure_of(model: nn.Module, optimizer: Any, number: int) -> Callable[[], Tensor]:
    x, y = batch(number)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return closure


def train(model: nn.Module, optimizer: Any, numbers: range) -> list[float]:
    return [optimizer.step(closure_of(model, optimizer, n)).item() for n in numbers]


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------- the whole algorithm


def bfgs_update(h: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Return the BFGS update of one matrix in the form of the textbooks."""
    left = torch.eye(len(s), dtype=s.dtype) - torch.outer(s, y) / (s @ y)
    return left @ h @ left.T + torch.outer(s, s) / (s @ y)


class Reference:
    """K-BFGS for one linear layer, with the quantities and the order of the paper."""

    def __init__(self, layer: nn.Linear):
        self.layer = layer
        o, p = layer.out_features, layer.in_features + 1
        self.a, self.weight = torch.zeros(p, p).double(), 0.0
        self.h_a: Tensor | None = None
        self.h_g = torch.eye(o).double()
        self.s, self.y, self.momentum = (torch.zeros(o).double() for _ in range(3))
        self.momentum = torch.zeros(o, p).double()

    def first_pass(self, inputs: Tensor) -> Tensor:
        """Update A, and return the direction of the current gradient."""
        rows = torch.cat([inputs, torch.ones(len(inputs), 1).double()], 1)
        self.mean_input = rows.mean(0)
        self.a = BETA * self.a + (1 - BETA) * rows.T @ rows / len(rows)
        self.weight = BETA * self.weight + 1 - BETA
        self.damped = self.a / self.weight + DAMPING**0.5 * torch.eye(len(self.a)).double()
        if self.h_a is None:
            self.h_a = self.damped.inverse()
        weight, bias = self.layer.weight.grad, self.layer.bias.grad
        assert weight is not None and bias is not None
        return self.h_g @ torch.cat([weight, bias[:, None]], 1) @ self.h_a

    def second_pass(self, outputs: list[Tensor], gradients: list[Tensor]) -> None:
        """Update H_g and H_a; the tensors `[B, o]` are those of the two passes."""
        assert self.h_a is not None
        self.s = BETA * self.s + (1 - BETA) * (outputs[0] - outputs[1]).mean(0)
        self.y = BETA * self.y + (1 - BETA) * (gradients[0] - gradients[1]).mean(0)
        s, y, epsilon = self.s, self.y, DAMPING**0.5
        hy = self.h_g @ y
        if s @ y <= 0.2 * y @ hy:
            theta = 0.8 * (y @ hy) / (y @ hy - s @ y)
            s = theta * s + (1 - theta) * hy
        if s @ y <= epsilon * s @ s:
            theta = (1 - epsilon) * (s @ s) / (s @ s - s @ y)
            y = theta * y + (1 - theta) * s
        if s @ y > 1e-4 * (s @ s) * gradients[0].mean(0).norm():
            self.h_g = bfgs_update(self.h_g, s, y)
        s_a = self.h_a @ self.mean_input
        self.h_a = bfgs_update(self.h_a, s_a, self.damped @ s_a)


def reference_pass(model: Any, number: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Evaluate a batch; return inputs, outputs and the examples' output gradients of each layer."""
    x, y = batch(number)
    layers = [model.first, model.second, model.head]
    inputs, outputs = [], []
    for layer in layers:
        inputs.append(x.detach())
        x = layer(x)
        x.retain_grad()
        outputs.append(x)
        x = torch.tanh(x) if layer is not model.head else x
    model.zero_grad()
    F.cross_entropy(x, y).backward()
    return inputs, [h.detach() for h in outputs], [len(y) * h.grad for h in outputs]


def test_steps_equal_those_of_a_literal_implementation():
    """H_g, H_a and the weights are equal after each of several steps."""
    model, expected = make_model(), make_model()
    optimizer = build("kbfgs", model, momentum=MOMENTUM, weight_decay=0.0)
    references = [Reference(m) for m in (expected.first, expected.second, expected.head)]
    for number in range(12):
        train(model, optimizer, range(number, number + 1))
        inputs, *first = reference_pass(expected, number)
        directions = [r.first_pass(x) for r, x in zip(references, inputs, strict=True)]
        with torch.no_grad():
            for reference, direction in zip(references, directions, strict=True):
                reference.momentum = MOMENTUM * reference.momentum + direction
                reference.layer.weight -= LR * reference.momentum[:, :-1]
                reference.layer.bias -= LR * reference.momentum[:, -1]
        _, *second = reference_pass(expected, number)
        for index, reference in enumerate(references):
            reference.second_pass(
                *(
                    [before[index], after[index]]
                    for before, after in zip(first, second, strict=True)
                )
            )
        assert_close(dict(model.named_parameters()), dict(expected.named_parameters()))
        state = by_name(optimizer.state_dict())
        for name, reference in zip(("first", "second", "head"), references, strict=True):
            assert_close(state[name]["factor.outputs.matrix"][0], reference.h_g, 1e-8)
            assert_close(state[name]["factor.inputs.matrix"][0], reference.h_a, 1e-8)
    assert all(not torch.equal(r.h_g, torch.eye(len(r.h_g)).double()) for r in references)


def test_convolutions_sum_output_gradients_and_average_outputs_over_positions():
    """A convolution with one pixel per position is a linear layer that is called for each pixel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2)).double()
    optimizer = build("kbfgs", model)
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    outputs, gradients = [], []

    def closure() -> Tensor:
        optimizer.zero_grad()
        h = model[0](x)
        h.retain_grad()
        loss = model[2](torch.tanh(model[1](h))).square().mean(1).mean()
        loss.backward()
        outputs.append(h.detach().mean((0, 2, 3)))
        gradients.append(8 * h.grad.sum((2, 3)).mean(0))
        return loss

    optimizer.step(closure)
    [state] = [bank.state for bank in optimizer._banks if bank.layers[0].name == "0"]
    assert_close(state.s.mean()[0], outputs[0] - outputs[1])
    assert_close(state.y.mean()[0], gradients[0] - gradients[1])


# ---------------------------------------------------------------------- BFGS


def random_pairs(length: int, width: int, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    s, y = torch.randn(2, length, width, generator=generator, dtype=torch.float64)
    return s, y


def curved_pairs(length: int, width: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return pairs (s, C s) for a positive definite C."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(length, width, width, generator=generator, dtype=torch.float64)
    c = root @ root.mT / width + 0.5 * torch.eye(width)
    pairs = []
    for number in range(count):
        s, _ = random_pairs(length, width, number)
        pairs.append((s, (c @ s.unsqueeze(2)).squeeze(2)))
    return pairs


def inverses(length: int, width: int, memory: int = 40) -> list[Any]:
    like = torch.zeros((), dtype=torch.float64)
    return [
        DenseBFGS.identity(length, width, like),
        LimitedBFGS.empty(length, memory, width, like),
    ]


def matrix_of(h: Any, width: int) -> Tensor:
    return h.apply(torch.eye(width, dtype=torch.float64).expand(3, -1, -1))


@pytest.mark.parametrize("kind", [0, 1], ids=["dense", "limited"])
def test_each_update_fulfils_the_secant_equation_of_its_pair(kind):
    h = inverses(3, 5)[kind]
    for s, y in curved_pairs(3, 5, 20):
        h.update(s, y, torch.ones(3, dtype=torch.bool))
        assert_close(h.apply(y.unsqueeze(2)).squeeze(2), s)


@pytest.mark.parametrize("kind", [0, 1], ids=["dense", "limited"])
def test_the_inverse_is_positive_definite_after_updates_with_bad_curvature(kind):
    """s^T y of the random pairs is negative in half of the cases; one slot gets nan and zeros."""
    h = inverses(3, 5, memory=10)[kind]
    for number in range(200):
        s, y = random_pairs(3, 5, number)
        if number % 7 == 0:
            y[1], s[2] = torch.nan, 0.0
        s, y = bfgs.double_damping(h, s, y, bound=0.3)
        h.update(s, y, bfgs.usable(s, y, torch.ones(3, dtype=torch.float64)))
    matrix = matrix_of(h, 5)
    assert_close(matrix, matrix.mT)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_double_damping_bounds_the_curvature_of_a_pair():
    """A pair that fulfils both conditions does not change."""
    h = inverses(3, 5)[0]
    h.matrix *= 0.5
    for number in range(50):
        s, y = random_pairs(3, 5, number)
        new_s, new_y = bfgs.double_damping(h, s, y, bound=0.3)
        curvature = (new_s * new_y).sum(1) / new_s.square().sum(1)
        assert (curvature >= 0.3 - 1e-12).all()
        half = 0.5 * y.square().sum(1)
        moved = (new_s * y).sum(1)
        assert (moved >= 0.2 * half - 1e-12).all()
        good = ((s * y).sum(1) > 0.2 * half) & ((s * y).sum(1) > 0.3 * s.square().sum(1))
        assert torch.equal(new_s[good], s[good]) and torch.equal(new_y[good], y[good])


def test_limited_memory_equals_the_dense_recursion_until_pairs_are_dropped():
    dense, limited = inverses(3, 5, memory=12)
    ok = torch.tensor([True, True, True])
    for number, (s, y) in enumerate(curved_pairs(3, 5, 12)):
        ok[1] = number % 3 != 0  # the slots have different numbers of pairs
        for h in (dense, limited):
            h.update(s, y, ok)
        assert_close(matrix_of(limited, 5), matrix_of(dense, 5))
    s, y = curved_pairs(3, 5, 13)[-1]
    for h in (dense, limited):
        h.update(s, y, torch.ones(3, dtype=torch.bool))
    assert not torch.allclose(matrix_of(limited, 5)[0], matrix_of(dense, 5)[0], rtol=1e-4)


def test_updates_with_the_damped_covariance_converge_to_its_inverse():
    """A is constant, and the directions are random."""
    h = inverses(3, 5)[0]
    for s, y in curved_pairs(3, 5, 200):
        h.update(s, y, torch.ones(3, dtype=torch.bool))
    root = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = root @ root.mT / 5 + 0.5 * torch.eye(5)
    assert_close(h.matrix, c.inverse(), 1e-6)


def test_the_input_factor_stays_the_inverse_of_a_constant_damped_covariance():
    model = make_model()
    optimizer = build("kbfgs", model)
    train(model, optimizer, 5 * [0])  # type: ignore[arg-type]
    x = torch.cat([batch(0)[0], torch.ones(16, 1).double()], 1)
    damped = x.T @ x / 16 + DAMPING**0.5 * torch.eye(7).double()
    matrix = by_name(optimizer.state_dict())["first"]["factor.inputs.matrix"][0]
    assert_close(matrix, damped.inverse())


def test_limited_memory_gives_the_same_training_as_the_dense_method():
    models = [make_model(), make_model()]
    for name, model in zip(NAMES, models, strict=True):
        train(model, build(name, model, lr=0.05), range(15))
    assert_close(*(dict(model.named_parameters()) for model in models))
    model = make_model()
    train(model, build("kbfgs-l", model, lr=0.05, memory=3), range(15))
    assert not torch.allclose(model.first.weight, models[0].first.weight, rtol=1e-4)


# ---------------------------------------------------------------------- the second pass


def test_a_step_without_a_closure_is_one_line_that_shows_the_closure():
    model = make_model()
    optimizer = build("kbfgs", model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        RuntimeError, match=r"^KBFGS evaluates .*def closure\(\).*backward"
    ) as error:
        optimizer.step()
    assert "\n" not in str(error.value)
    assert_close(model.state_dict(), before, 0.0)
    assert precond.needs_closure(optimizer)
    assert not precond.needs_closure(precond.build("kfac", model))
    assert not precond.needs_closure(torch.optim.SGD(model.parameters()))


def test_the_second_pass_draws_the_same_masks_and_leaves_the_generator_as_the_first():
    model = make_model(dropout=0.5)
    optimizer = build("kbfgs", model)
    masks: list[Tensor] = []
    model.dropout.register_forward_hook(lambda module, args, output: masks.append(output == 0))
    torch.manual_seed(5)
    closure_of(model, optimizer, 0)()
    expected = torch.rand(3)
    torch.manual_seed(5)
    optimizer.step(closure_of(model, optimizer, 0))
    assert torch.equal(torch.rand(3), expected)
    assert len(masks) == 3 and masks[0].any()
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[1], masks[2])


def test_the_second_pass_does_not_change_running_statistics():
    model, reference = make_model(norm=True), make_model(norm=True)
    optimizer = build("kbfgs", model)
    optimizer.step(closure_of(model, optimizer, 0))
    reference(batch(0)[0])
    assert_close(dict(model.norm.named_buffers()), dict(reference.norm.named_buffers()), 0.0)
    assert model.norm.num_batches_tracked == 1


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_gradients_after_a_step_are_those_of_the_first_pass(set_to_none):
    """The closure may also write zeros and new gradients into the same memory."""
    model, reference = make_model(), make_model()
    optimizer = build("kbfgs", model)
    kept = {p: torch.zeros_like(p) for p in model.parameters()}
    x, y = batch(0)

    def closure() -> Tensor:
        for p, gradient in kept.items():
            p.grad = gradient.zero_() if not set_to_none else None
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    expected = F.cross_entropy(reference(x), y)
    expected.backward()
    assert loss.item() == expected.item()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)


def test_a_closure_that_evaluates_only_once_is_an_error():
    model = make_model()
    optimizer = build("kbfgs", model)
    calls = iter([closure_of(model, optimizer, 0), lambda: torch.zeros(())])
    with pytest.raises(RuntimeError, match="those of 1 backward, but the closure ran 0"):
        optimizer.step(lambda: next(calls)())


def test_an_error_in_the_second_pass_restores_gradients_and_recording():
    model, reference = make_model(), make_model()
    optimizer, other = build("kbfgs", model), build("kbfgs", reference)
    first = closure_of(model, optimizer, 0)

    def fail() -> Tensor:
        optimizer.zero_grad()
        F.cross_entropy(model(batch(7)[0]), batch(7)[1]).backward()
        raise ValueError("out of memory")

    calls = iter([first, fail])
    with pytest.raises(ValueError, match="out of memory"):
        optimizer.step(lambda: next(calls)())
    other.step(closure_of(reference, other, 0))
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)
    assert all(not bank.in_second_pass and bank.recording for bank in optimizer._banks)
    state, expected = (by_name(o.state_dict())["first"] for o in (optimizer, other))
    assert_close(state["statistic.value"], expected["statistic.value"], 0.0)
    train(model, optimizer, range(1, 3))


def test_a_second_pass_that_is_not_finite_changes_no_factor():
    model = make_model()
    optimizer = build("kbfgs", model)
    train(model, optimizer, range(3))
    before = copy.deepcopy(by_name(optimizer.state_dict())["head"]["factor.outputs.matrix"])
    closure, calls = closure_of(model, optimizer, 3), []

    def diverge() -> Tensor:
        calls.append(0)
        if len(calls) == 1:
            return closure()
        loss = model(batch(3)[0] * torch.inf).sum()
        loss.backward()
        return loss

    optimizer.step(diverge)
    after = by_name(optimizer.state_dict())["head"]
    assert torch.equal(after["factor.outputs.matrix"], before)
    assert after["s.value"].isfinite().all() and after["y.value"].isfinite().all()


def test_accumulation_inside_the_closure_equals_one_batch():
    model, reference = make_model(), make_model()
    optimizer, other = build("kbfgs", model), build("kbfgs", reference)
    optimizer.grad_output_scale = 0.5

    for number in range(5):
        x, y = batch(number)

        def closure(x: Tensor = x, y: Tensor = y) -> float:
            optimizer.zero_grad()
            total = 0.0
            for inputs, targets in zip(x.chunk(2), y.chunk(2), strict=True):
                loss = F.cross_entropy(model(inputs), targets) / 2
                loss.backward()
                total += loss.item()
            return total

        optimizer.step(closure)
        other.step(closure_of(reference, other, number))
    assert_close(dict(model.named_parameters()), dict(reference.named_parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_has_the_same_losses(name):
    model = make_model(norm=True)
    optimizer = build(name, model)
    train(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    losses = train(model, optimizer, range(4, 9))
    other = make_model(norm=True)
    resumed = build(name, other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(other, resumed, range(4, 9)) == losses
    assert_close(other.state_dict(), model.state_dict(), 0.0)


def test_the_damping_is_at_most_one():
    [line] = precond.check("kbfgs", {"damping": 1.5})
    assert line == "damping = 1.5: must be a number in (0, 1]"
