"""Schedule-Free AdamW trains at y and is evaluated at x, an average of z."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond.peers import base, library

pytest.importorskip(base.PACKAGE)


def make_model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    return nn.Sequential(*layers).to(dtype)


def take_steps(model: nn.Module, optimizer: Any, numbers: range) -> None:
    dtype = next(model.parameters()).dtype
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        optimizer.zero_grad()
        x = torch.randn(8, 4, generator=generator).to(dtype)
        F.cross_entropy(model(x), torch.randint(3, (8,), generator=generator)).backward()
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_schedule_free_equals_its_recursion():
    """z <- z - lr g / sqrt(v), x <- (1 - c) x + c z, y = (1 - beta_1) z + beta_1 x."""
    model = make_model()
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}
    optimizer = precond.build("schedulefree-adamw", model, warmup_steps=3, **options)
    z = [p.detach().clone() for p in model.parameters()]
    x, v, total, largest = [t.clone() for t in z], [torch.zeros_like(t) for t in z], 0.0, 0.0
    for step in range(1, 7):
        y = weights(model)
        take_steps(model, optimizer, range(step, step + 1))
        lr = 0.01 * min(1.0, step / 3)
        largest = max(largest, lr)
        total += largest**2
        c = largest**2 / total
        for i, p in enumerate(model.parameters()):
            v[i] = 0.9 * v[i] + 0.1 * p.grad.square()
            direction = p.grad / ((v[i] / (1 - 0.9**step)).sqrt() + 1e-8) + 0.1 * y[i]
            z[i] = z[i] - lr * direction
            x[i] = (1 - c) * x[i] + c * z[i]
            expected = 0.2 * z[i] + 0.8 * x[i]
            torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-9)
        with precond.evaluating(optimizer):
            for p, average in zip(model.parameters(), x, strict=True):
                torch.testing.assert_close(p.detach(), average, rtol=1e-6, atol=1e-9)


def test_an_evaluation_does_not_change_the_training():
    results = []
    for evaluate in (False, True):
        model = make_model(torch.float32)
        optimizer = precond.build("schedulefree-adamw", model)
        for number in range(6):
            take_steps(model, optimizer, range(number, number + 1))
            if evaluate:
                before = weights(model)
                with precond.evaluating(optimizer):
                    assert not torch.equal(before[0], weights(model)[0]) or number == 0
        results.append(weights(model))
    assert_same(*results)


def test_the_weights_of_the_training_return_after_an_error():
    model = make_model()
    optimizer = precond.build("schedulefree-adamw", model)
    take_steps(model, optimizer, range(3))
    before = weights(model)
    with pytest.raises(ZeroDivisionError), precond.evaluating(optimizer):
        raise ZeroDivisionError
    assert_same(before, weights(model))
    take_steps(model, optimizer, range(3, 4))


def test_nested_evaluations_and_the_eval_mode_change_nothing():
    model = make_model()
    optimizer: Any = precond.build("schedulefree-adamw", model)
    take_steps(model, optimizer, range(3))
    with precond.evaluating(optimizer):
        average = weights(model)
        with precond.evaluating(optimizer):
            assert_same(average, weights(model))
        assert_same(average, weights(model))
    optimizer.eval()
    with precond.evaluating(optimizer):
        assert_same(average, weights(model))
    assert_same(average, weights(model))


@pytest.mark.parametrize("name", ["sgd", "foof", "psgd-kron"])
def test_other_optimizers_have_one_set_of_weights(name):
    model = make_model()
    optimizer = precond.build(name, model)
    take_steps(model, optimizer, range(2))
    before = weights(model)
    with precond.evaluating(optimizer):
        assert_same(before, weights(model))


def test_optimizers_of_the_library_have_the_switch_too():
    model = make_model()
    optimizer = precond.build(f"{library.PREFIX}schedulefreesgd", model)
    take_steps(model, optimizer, range(4))
    before = weights(model)
    with precond.evaluating(optimizer):
        assert not torch.equal(before[0], weights(model)[0])
    assert_same(before, weights(model))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_state_of_either_mode_resumes_bitwise(mode):
    model = make_model(torch.float32)
    optimizer: Any = precond.build("schedulefree-adamw", model)
    take_steps(model, optimizer, range(4))
    getattr(optimizer, mode)()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = make_model(torch.float32)
    resumed: Any = precond.build("schedulefree-adamw", other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for net, it in ((model, optimizer), (other, resumed)):
        it.train()
        take_steps(net, it, range(4, 8))
    assert_same(weights(model), weights(other))
    assert_same(
        [optimizer.state[p]["z"] for p in model.parameters()],
        [resumed.state[p]["z"] for p in other.parameters()],
    )


def test_a_step_in_eval_mode_is_an_error_that_changes_nothing():
    model = make_model()
    optimizer: Any = precond.build("schedulefree-adamw", model)
    take_steps(model, optimizer, range(2))
    optimizer.eval()
    before = copy.deepcopy((weights(model), optimizer.state_dict()))
    with pytest.raises(RuntimeError, match=r"in eval mode, .*: call optimizer.train\(\)"):
        optimizer.step()
    assert_same(before[0], weights(model))
    assert before[1]["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_statistics_of_a_batch_normalisation_belong_to_the_training():
    model = make_model()
    optimizer = precond.build("schedulefree-adamw", model)
    take_steps(model, optimizer, range(3))
    before = {name: b.clone() for name, b in model.named_buffers()}
    with precond.evaluating(optimizer):
        assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


def test_an_average_needs_a_positive_first_beta():
    with pytest.raises(precond.HyperparameterError, match=r"the first number must be in \(0, 1\)"):
        precond.build("schedulefree-adamw", make_model(), betas=(0.0, 0.9))
