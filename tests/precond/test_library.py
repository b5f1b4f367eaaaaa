"""Each optimizer of pytorch-optimizer by name equals the class of the package, bitwise."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
from precond import HyperparameterError, entries
from precond.peers import base, library
from precond.peers.seeded import Generators
from precond.registry import lookup, name_error
from trainables.workloads import resolve

pytest.importorskip(base.PACKAGE)
PREFIX = library.PREFIX
STILL = {"radam", "sara", "schedulefreeradam"}  # the first steps may change no weight
NAMES = [name for name in library.names() if library.refusal(name) is None]


class Net(nn.Module):
    """A convolution, two linear layers, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.hidden = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.head(torch.tanh(self.hidden(x)) * self.scale)


def make_model() -> Net:
    torch.manual_seed(0)
    return Net()


def closure_of(model: nn.Module, optimizer: Any, number: int) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        generator = torch.Generator().manual_seed(number)
        optimizer.zero_grad()
        x = torch.randn(6, 1, 2, 2, generator=generator)
        loss = F.cross_entropy(model(x), torch.randint(3, (6,), generator=generator))
        loss.backward()
        return loss

    return closure


def take_step(model: nn.Module, optimizer: Any, number: int) -> None:
    closure = closure_of(model, optimizer, number)
    if optimizer.needs_closure:
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def package_optimizer(name: str, model: nn.Module) -> Any:
    """Return an optimizer of the package's class, built as its documentation says."""
    kind = lookup(PREFIX + name).optimizer.__self__.kind  # type: ignore[attr-defined]
    with Generators(0, -1, []).exchanged():
        if name in library.SPLIT:
            return kind(library._split(model.parameters(), model))
        return kind(model if name == "adammini" else model.parameters())


def package_step(model: nn.Module, optimizer: Any, number: int, closure: bool) -> None:
    """Take a step of the package's class, with the random numbers of that step."""
    generators = Generators(0, number, list(model.parameters()))
    evaluate = closure_of(model, optimizer, number)
    if not closure:
        evaluate()
    with generators.exchanged():
        optimizer.step(generators.outside(evaluate)) if closure else optimizer.step()


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    for (name, p), q in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_by_name_equals_the_class_of_the_package(name):
    model, other = make_model(), make_model()
    optimizer, expected = precond.build(PREFIX + name, model), package_optimizer(name, other)
    torch.manual_seed(7)  # the global generator has no influence
    for number in range(3):
        take_step(model, optimizer, number)
        package_step(other, expected, number, optimizer.needs_closure)
    assert_equal(model, other)
    pairs = zip(model.parameters(), make_model().parameters(), strict=True)
    assert any(not torch.equal(p, q) for p, q in pairs) or name in STILL


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_by_name_resumes_bitwise_from_a_checkpoint(name):
    model = make_model()
    optimizer = precond.build(PREFIX + name, model)
    for number in range(3):
        take_step(model, optimizer, number)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    resumed = precond.build(PREFIX + name, other)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for number in range(3, 5):
        for net, it in ((model, optimizer), (other, resumed)):
            torch.manual_seed(hash((number, id(net))) % 1000)  # has no influence
            take_step(net, it, number)
    assert_equal(model, other)


def test_the_refused_optimizers_exist_and_give_their_reason():
    assert set(library.REFUSED) <= set(library.names())
    for name in set(library.names()) - set(NAMES):
        with pytest.raises(HyperparameterError) as error:
            precond.build(PREFIX + name, make_model())
        [line] = str(error.value).splitlines()
        assert line == f'optimizer = "{PREFIX}{name}": cannot be used here: {library.refusal(name)}'
    assert library.refusal("ranger21") == "its parameter num_iterations has no default"
    assert len(NAMES) > 100


def test_the_case_of_a_name_does_not_matter():
    optimizer = precond.build("PyTorch-Optimizer:Lion", make_model())
    assert isinstance(optimizer, lookup(f"{PREFIX}lion").optimizer.__self__.kind)  # type: ignore
    assert not name_error("PYTORCH-OPTIMIZER:lion") and name_error("pytorch-optimizer:lions")
    first, second = (resolve("digits/mlp", f"{PREFIX}{name}") for name in ("lion", "LION"))
    assert first.trial_key == second.trial_key
    assert first.optimizer == f"{PREFIX}lion"


def test_an_unknown_name_is_an_error_with_the_nearest_name():
    with pytest.raises(HyperparameterError, match=r'no such optimizer. Did you mean "lion"\?'):
        precond.defaults(f"{PREFIX}lionn")


def test_the_hyperparameters_are_those_of_the_signature():
    defaults = precond.defaults(f"{PREFIX}lion")
    assert defaults["lr"] == 1e-4 and defaults["betas"] == (0.9, 0.99)
    assert not {"foreach", "maximize"} & set(defaults)
    assert "clip_lambda" not in precond.defaults(f"{PREFIX}adopt")  # a function
    errors = precond.check(f"{PREFIX}lion", {"lr": "a", "weight_decay": None, "rho": 1})
    assert [line.partition(" ")[0] for line in errors] == ["rho:", "lr", "weight_decay"]


def test_values_that_the_package_refuses_are_an_error_before_the_training():
    [line] = precond.check(f"{PREFIX}lion", {"lr": -1.0}, make_model())
    assert line.startswith(f"{PREFIX}lion: NegativeLRError: ")
    with pytest.raises(HyperparameterError, match="NegativeLRError"):
        resolve("digits/cnn", f"{PREFIX}lion", {"lr": -1.0})


def test_a_trial_key_contains_the_version_of_the_package(monkeypatch):
    config = resolve("digits/mlp", f"{PREFIX}lion")
    assert config.numerics["package"] == library.version()
    entries.of_library.cache_clear()
    monkeypatch.setattr(library, "version", lambda: "5.0.0")
    assert resolve("digits/mlp", f"{PREFIX}lion").trial_key != config.trial_key
    entries.of_library.cache_clear()
    assert "package" not in resolve("digits/mlp", "lion").numerics


def test_a_step_does_not_change_gradients_or_global_generators():
    model = make_model()
    optimizer = precond.build(f"{PREFIX}kron", model, weight_decay=0.1, weight_decouple=False)
    closure_of(model, optimizer, 0)()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    before = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_the_random_numbers_differ_between_steps_and_seeds():
    draws = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        with Generators(seed, step, []).exchanged():
            draws.append((torch.rand(1).item(), random.random()))
    assert draws[0] == draws[3] and len(set(draws)) == 3


def test_a_closure_uses_the_global_generators():
    """The random numbers of dropout are those of the training, not those of the optimizer."""
    model = make_model()
    optimizer: Any = precond.build(f"{PREFIX}lbfgs", model)
    drawn = []

    def closure() -> Tensor:
        drawn.append(torch.rand(1).item())
        return closure_of(model, optimizer, 0)()

    torch.manual_seed(3)
    optimizer.step(closure)
    torch.manual_seed(3)
    assert drawn == [torch.rand(1).item() for _ in drawn]


def test_a_step_without_the_needed_closure_is_an_error():
    with pytest.raises(RuntimeError, match="pass a closure that returns the loss"):
        precond.build(f"{PREFIX}lbfgs", make_model()).step()


def test_names_without_the_package_are_an_error(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, base.PACKAGE, None)
    with pytest.raises(HyperparameterError, match=r"needs the package .*: pip install .\[peers\]"):
        library.find(f"{PREFIX}lion")


def _groups_of(model: nn.Module) -> dict[str, Any]:
    named, weight = list(model.named_parameters()), model[0].weight
    rest = [(name, p) for name, p in named if p is not weight]
    return {
        "names": iter(named),
        "iterators": [{"params": model.parameters()}],
        "iterators of names": [{"params": iter(named)}],
        "one tensor": [{"params": weight}, {"params": [p for _, p in rest]}],
        "one tensor and names": [{"params": [named[0]]}, {"params": iter(rest)}],
    }


@pytest.mark.parametrize("form", list(_groups_of(nn.Sequential(nn.Linear(3, 2)))))
def test_all_forms_of_parameter_groups_are_split_into_matrices_and_others(form):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    params = _groups_of(model)[form]
    optimizer = precond.build("pytorch-optimizer:muon", model, params=params)
    split = {p: group["use_muon"] for group in optimizer.param_groups for p in group["params"]}
    matrices = {model[0].weight, model[2].weight}
    assert split == {p: p in matrices for p in model.parameters()}


def test_an_empty_list_of_parameters_has_the_message_of_torch():
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        precond.build("pytorch-optimizer:muon", nn.Linear(3, 2), params=[])
