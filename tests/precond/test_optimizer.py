"""The optimizer around an algorithm: its layers, its state, and the forwards that it records."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from reference import rows as explicit_rows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import precond
from tests.states import by_name


def net(width: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, width),
        nn.Tanh(),
        nn.Linear(width, 3),
    )


def batch(number: int = 0, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(size, 1, 8, 8, generator=generator), torch.randint(
        3, (size,), generator=generator
    )


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for number in range(steps):
        optimizer.zero_grad()
        x, y = batch(number)
        F.cross_entropy(model(x.to(next(model.parameters()).dtype)), y).backward()
        optimizer.step()


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a copy of every tensor of the state."""
    return {
        f"{name}/{key}": value.clone()
        for name, entry in by_name(optimizer.state_dict()).items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def assert_equal(
    first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 0.0
) -> None:
    assert first.keys() == second.keys()
    bounds = {"rtol": tolerance, "atol": tolerance}
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, **bounds, msg=lambda m, k=key: f"{k}: {m}")


# ---------------------------------------------------------------------- state_dict


def test_the_state_is_that_of_torch_with_names():
    """The keys are numbers, as `torch.distributed.checkpoint` expects; the groups have the names."""
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    optimizer = precond.NysAct(model, rank=2)
    model(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert set(by_name(state)) == {"0", "1.weight", "1.bias", "2"}
    keys = [{"momentum_buffer"} for _ in range(5)]
    keys[0], keys[4] = ({"momentum_buffer", "preconditioner"} for _ in range(2))
    assert [set(entry) for entry in state["state"].values()] == keys
    [group] = state["param_groups"]
    assert list(state["state"]) == group["params"] == [0, 1, 2, 3, 4]
    assert group["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight"]


def number_of(state, name):
    return state["param_groups"][0]["param_names"].index(name)


def remove_an_entry(state):
    del state["state"][number_of(state, "3.weight")]


def rename_a_parameter(state):
    state["param_groups"][0]["param_names"][number_of(state, "3.weight")] = "somewhere.else"


def change_the_width(state):
    number = number_of(state, "5.weight")
    other = precond.NysAct(net(width=7), rank=4).state_dict()
    state["state"][number] = other["state"][number]


def change_the_rank(state):
    state.update(precond.NysAct(net(), rank=5).state_dict())


def change_the_algorithm(state):
    state.update(precond.FOOF(net()).state_dict())


def change_the_groups(state):
    group = state["param_groups"][0]
    names, numbers = group["param_names"], group["params"]
    names[0], names[1], numbers[0], numbers[1] = names[1], names[0], numbers[1], numbers[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_an_entry, r"3\.weight: in the optimizer but not in the state"),
        (rename_a_parameter, r"3\.weight: in the optimizer but not in the state"),
        (rename_a_parameter, r"somewhere\.else: in the state but not in the optimizer"),
        (change_the_width, r"5\.weight: .* must have the shape \[1, 7, 4\], .* has \[1, 8, 4\]"),
        (change_the_rank, r"rank = 4 in the optimizer, 5 in the state"),
        (change_the_algorithm, r"^not a state of NysAct: its param_groups have no rank, "),
        (change_the_groups, r"param_groups"),
    ],
)
def test_a_state_that_does_not_match_is_an_error_and_changes_nothing(change, message):
    """The message names the entry that differs."""
    model = net()
    optimizer = precond.NysAct(model, rank=4)
    run(model, optimizer, 2)
    state = copy.deepcopy(optimizer.state_dict())
    run(model, optimizer, 2)
    before, groups = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert_equal(before, snapshot(optimizer))
    assert optimizer.steps == 4
    assert optimizer.state_dict()["param_groups"] == groups


def test_a_momentum_of_another_shape_is_an_error():
    """Only the shape of the momentum depends on the number of outputs; the statistics do not."""
    models = [net(6), net(7)]
    optimizers = [precond.FOOF(model) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        run(model, optimizer)
    state = copy.deepcopy(optimizers[0].state_dict())
    number = number_of(state, "3.weight")
    state["state"][number] = optimizers[1].state_dict()["state"][number]
    before = snapshot(optimizers[0])
    with pytest.raises(ValueError, match=r"3\.weight: momentum_buffer"):
        optimizers[0].load_state_dict(state)
    assert_equal(before, snapshot(optimizers[0]))


def test_a_loaded_state_is_a_copy():
    """Two optimizers do not share memory after a load."""
    model, other = net(), net()
    optimizer, resumed = precond.FOOF(model), precond.FOOF(other)
    run(model, optimizer)
    resumed.load_state_dict(optimizer.state_dict())
    before = snapshot(resumed)
    run(model, optimizer, 2)
    assert_equal(before, snapshot(resumed))


# ---------------------------------------------------------------------- construction


def test_a_model_without_layers_is_an_error():
    """Without a layer to precondition, the optimizer would silently be SGD."""
    for model in (nn.LayerNorm(3), nn.Linear(3, 2).requires_grad_(False)):
        with pytest.raises(ValueError, match="no trainable Linear or Conv2d"):
            precond.FOOF(model)


def test_a_rank_above_the_widest_layer_is_an_error():
    """The message has the layer and the range; layer 3 has p = 37, from 36 inputs and the bias."""
    precond.NysAct(net(), rank=37)
    with pytest.raises(
        precond.HyperparameterError, match=r"rank = 38: the widest layer \(3\).*1\.\.37"
    ):
        precond.NysAct(net(), rank=38)


def test_parameters_of_another_model_are_an_error():
    """The message has the number of these parameters."""
    with pytest.raises(ValueError, match=r"2 tensors that the model does not have"):
        precond.FOOF(net(), params=nn.Linear(3, 2).parameters())


def test_parameters_outside_the_parameter_groups_are_not_trained():
    """A weight without its bias is preconditioned, as if the bias were frozen."""
    model = net()
    optimizer = precond.FOOF(model, params=[*model[0].parameters(), model[5].weight])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run(model, optimizer, 2)
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert moved == {"0.weight", "0.bias", "5.weight"}
    assert set(by_name(optimizer.state_dict())) == {"0", "5"}
    assert optimizer.preconditioned_layers() == ["0", "5"]


def test_tied_weights_follow_their_gradient():
    """A weight of two modules is not preconditioned.

    The inputs of each module describe only one part of its gradient.
    """
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 4),
            "hidden": nn.Linear(4, 4),
            "head": nn.Linear(4, 5, bias=False),
        }
    )
    model["head"].weight = model["embed"].weight
    optimizer = precond.FOOF(model, lr=0.1, momentum=0.0, weight_decay=0.0)
    assert set(by_name(optimizer.state_dict())) == {"embed.weight", "hidden"}
    tokens = torch.arange(5)
    F.cross_entropy(model["head"](model["hidden"](model["embed"](tokens))), tokens).backward()
    weight = model["embed"].weight
    expected = weight.detach() - 0.1 * weight.grad
    optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------- hooks


def test_forwards_of_a_deep_copied_model_are_not_recorded():
    """A copy, such as an averaged model, shares the hooks, but is not trained by the optimizer."""
    models = [net(), net()]
    optimizers = [precond.FOOF(model) for model in models]
    copied = copy.deepcopy(models[0])
    with torch.no_grad():
        copied[0].weight.mul_(3)
    copied(batch(9)[0])
    for model, optimizer in zip(models, optimizers, strict=True):
        run(model, optimizer)
    assert_equal(snapshot(optimizers[0]), snapshot(optimizers[1]))


def test_a_deleted_optimizer_removes_its_hooks_and_frees_its_memory():
    """The model still runs."""
    model = net()
    optimizer = precond.FOOF(model)
    run(model, optimizer)
    reference = weakref.ref(optimizer)
    buffer = weakref.ref(optimizer._banks[0].buffer)
    assert any(module._forward_hooks for module in model.modules())
    del optimizer
    gc.collect()
    assert reference() is None
    assert buffer() is None
    assert not any(module._forward_hooks for module in model.modules())
    model(batch()[0])


def test_a_model_with_an_optimizer_can_be_pickled():
    """A model can be saved, or sent to a worker, while it is being trained."""
    model = net()
    optimizer = precond.FOOF(model)
    restored = pickle.loads(pickle.dumps(model))
    restored(batch()[0])
    run(model, optimizer)
    assert optimizer.steps == 1


def test_a_layer_called_by_keyword_is_recorded():
    """`layer(input=x)` is recorded like `layer(x)`."""

    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    model = ByKeyword()
    optimizer = precond.FOOF(model)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(
        optimizer._banks[0].state.statistic.average.mean()[0], torch.ones(4, 4)
    )


class Checkpointed(nn.Module):
    def __init__(self, layers: nn.Sequential, use: bool) -> None:
        super().__init__()
        self.layers, self.use = layers, use

    def forward(self, x: Tensor) -> Tensor:
        if not self.use:
            return self.layers(x)
        x = self.layers[0](x)
        return checkpoint(self.layers[1:], x, use_reentrant=False)


@pytest.mark.parametrize("name", ["foof", "nysact-s"])
def test_a_recomputed_forward_is_not_recorded_twice(name):
    """If it were recorded twice, the micro-batch with checkpointing would have too much weight."""
    states = []
    for use in (True, False):
        model = Checkpointed(net().double(), use)
        optimizer = precond.build(name, model, cov_interval=1, inv_interval=1, damping=0.1)
        for number in range(3):
            optimizer.zero_grad()
            x, y = batch(number)
            for inputs, labels, checkpointed in ((x[:5], y[:5], use), (x[5:], y[5:], False)):
                model.use = checkpointed
                (F.cross_entropy(model(inputs.double()), labels, reduction="sum") / 8).backward()
            optimizer.step()
        states.append(snapshot(optimizer) | dict(model.state_dict()))
    assert_equal(*states)


# ---------------------------------------------------------------------- statistics


@pytest.mark.parametrize("name", ["foof", "nysact-s", "nysact-g"])
def test_micro_batches_give_the_statistics_of_one_batch(name):
    """The statistics count rows, not calls, so the micro-batches may have different sizes."""
    results = []
    for parts in ([8], [3, 5]):
        model = net().double()
        optimizer = precond.build(name, model, cov_interval=1, inv_interval=2, damping=0.1)
        for number in range(3):
            optimizer.zero_grad()
            x, y = batch(number)
            for inputs, labels in zip(x.double().split(parts), y.split(parts), strict=True):
                (F.cross_entropy(model(inputs), labels, reduction="sum") / 8).backward()
            optimizer.step()
        results.append(snapshot(optimizer) | dict(model.state_dict()))
    assert_equal(*results, tolerance=1e-10)
    statistics = [
        {k: v for k, v in result.items() if "statistic.average" in k} for result in results
    ]
    assert_equal(*statistics, tolerance=1e-12)


def test_a_layer_called_twice_counts_both_calls():
    """The covariance is over the rows of both calls."""
    layer = nn.Linear(3, 3).double()
    optimizer = precond.FOOF(layer, lr=1e-300)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = layer(x)
    layer(hidden).sum().backward()
    optimizer.step()
    (X,) = explicit_rows(layer, torch.cat([x, hidden.detach()]))
    mean = optimizer._banks[0].state.statistic.average.mean()[0]
    torch.testing.assert_close(mean, X.T @ X / 8, rtol=1e-12, atol=1e-12)


def test_a_bias_without_gradient_counts_as_zero():
    """In G = [dW, db], db is then 0, not the value of an earlier step."""
    layer = nn.Linear(3, 2).double()
    optimizer = precond.FOOF(layer, lr=1.0, momentum=0.0, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64) + 1
    for absent in (False, True):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        layer.bias.grad = None if absent else layer.bias.grad
        before = layer.weight.detach().clone()
        optimizer.step()
    (X,) = explicit_rows(layer, x)
    G = torch.cat([layer.weight.grad, torch.zeros(2, 1, dtype=x.dtype)], 1)
    D = G @ torch.linalg.inv(X.T @ X / 4 + torch.eye(4, dtype=x.dtype))
    torch.testing.assert_close(before - layer.weight.detach(), D[:, :-1], rtol=1e-9, atol=1e-10)


def test_the_groups_of_a_convolution_are_separate():
    """Each group has a covariance of its channels only, and a separate gradient matrix."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    optimizer = precond.FOOF(conv, lr=1.0, momentum=0.0, weight_decay=0.0, damping=0.5)
    conv(x).square().sum().backward()
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    optimizer.step()
    weight_step, bias_step = weight - conv.weight.detach(), bias - conv.bias.detach()
    bounds = {"rtol": 1e-9, "atol": 1e-10}
    for group, X in enumerate(explicit_rows(conv, x)):
        rows = slice(3 * group, 3 * group + 3)
        G = torch.cat([conv.weight.grad[rows].flatten(1), conv.bias.grad[rows].unsqueeze(1)], 1)
        D = G @ torch.linalg.inv(X.T @ X / len(X) + 0.5 * torch.eye(19, dtype=X.dtype))
        torch.testing.assert_close(weight_step[rows].flatten(1), D[:, :-1], **bounds)
        torch.testing.assert_close(bias_step[rows], D[:, -1], **bounds)


def test_statistics_are_updated_every_cov_interval_steps():
    """The first update is at step 0."""
    model = net()
    optimizer = precond.FOOF(model, cov_interval=3, inv_interval=6, ema_decay=0.5)
    weights = []
    for _ in range(7):
        run(model, optimizer)
        weights.append(optimizer._banks[0].state.statistic.average.weight.item())
    assert weights == [0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.875]


def test_an_unused_layer_does_not_change_the_statistics_interval():
    """A bank without a forward must not make every step a statistics step."""
    model = nn.ModuleDict({"used": nn.Linear(3, 4), "unused": nn.Linear(5, 6)})
    optimizer = precond.FOOF(model, cov_interval=5, ema_decay=0.5)
    for number in range(4):
        optimizer.zero_grad()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        model["used"](x).sum().backward()
        optimizer.step()
    assert by_name(optimizer.state_dict())["used"]["statistic.average.weight"].item() == 0.5


def test_a_layer_first_called_later_is_preconditioned_from_then_on():
    """Before its first call, the layer has no gradient and does not change."""
    model = nn.ModuleDict({"early": nn.Linear(3, 4), "late": nn.Linear(5, 6)}).double()
    optimizer = precond.FOOF(
        model, lr=1.0, momentum=0.0, weight_decay=0.0, cov_interval=2, inv_interval=2
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        optimizer.zero_grad()
        x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        loss = model["early"](x[:, :3]).sum()
        if step >= 2:
            loss = loss + model["late"](x).square().sum()
        loss.backward()
        before = model["late"].weight.detach().clone()
        optimizer.step()
        moved = before - model["late"].weight.detach()
        if step < 2:
            assert not moved.any()
        if step == 2:
            (X,) = explicit_rows(model["late"], x)
            G = torch.cat([model["late"].weight.grad, model["late"].bias.grad.unsqueeze(1)], 1)
            D = G @ torch.linalg.inv(X.T @ X / 8 + torch.eye(6, dtype=X.dtype))
            torch.testing.assert_close(moved, D[:, :-1], rtol=1e-9, atol=1e-10)


def test_an_empty_batch_changes_no_statistics():
    """A rank may have no examples in a step."""

    def statistics(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        return {key: value for key, value in snapshot(optimizer).items() if "statistic" in key}

    for name in ("foof", "nysact-g"):
        model = net()
        optimizer = precond.build(name, model, cov_interval=1, weight_decay=0.0, momentum=0.0)
        run(model, optimizer)
        before = statistics(optimizer)
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer.zero_grad()
        model(torch.zeros(0, 1, 8, 8)).sum().backward()
        optimizer.step()
        assert_equal(before, statistics(optimizer))
        assert_equal(weights, dict(model.state_dict()))


# ---------------------------------------------------------------------- models and options


RANK = {"nysact-s": {"rank": 2}}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.hidden = nn.Linear(8, 8)  # shares a bank with the attention's output projection
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(self.embed(x)))
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize("name", ["foof", "nysact-s"])
def test_attention_trains_and_its_output_projection_keeps_its_gradient(name):
    """`nn.MultiheadAttention` never calls the forward of `out_proj`, so its hook never runs."""
    torch.manual_seed(0)
    model = Attention()
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "damping": 0.5}
    optimizer = precond.build(name, model, **settings, **RANK.get(name, {}))
    assert optimizer._bank_of["hidden"] is optimizer._bank_of["attention.out_proj"]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 5, 3, generator=generator), torch.randint(2, (16,), generator=generator)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        projection, head = model.attention.out_proj, model.head
        expected = [
            p.detach() - 0.1 * p.grad for p in (projection.weight, projection.bias, head.weight)
        ]
        optimizer.step()
        for p, value in zip((projection.weight, projection.bias), expected, strict=False):
            torch.testing.assert_close(p.detach(), value, rtol=0, atol=1e-7)
        assert not torch.allclose(head.weight.detach(), expected[2], rtol=0, atol=1e-7)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("option", ["nesterov", "decoupled", "plain"])
def test_momentum_and_decay_equal_those_of_torch(option):
    """Parameters that are not preconditioned follow `torch.optim.SGD`.

    Decoupled weight decay is not added to the momentum.
    """
    model, expected = (
        nn.ModuleDict({"norm": nn.LayerNorm(4), "layer": nn.Linear(4, 2)}).double()
        for _ in range(2)
    )
    settings = {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}
    flags = {} if option == "plain" else {option: True}
    optimizer = precond.FOOF(model, **settings, **flags)
    sgd = torch.optim.SGD(
        expected["norm"].parameters(),
        lr=0.1,
        momentum=0.8,
        weight_decay=0.0 if option == "decoupled" else 0.3,
        nesterov=option == "nesterov",
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for p, q in zip(model["norm"].parameters(), expected["norm"].parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            q.grad = p.grad.clone()
        optimizer.step()
        if option == "decoupled":
            with torch.no_grad():
                for q in expected["norm"].parameters():
                    q.mul_(1 - 0.1 * 0.3)
        sgd.step()
        for p, q in zip(model["norm"].parameters(), expected["norm"].parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)


def test_weight_decay_is_not_preconditioned():
    """With zero gradients, the weights follow momentum and weight decay, whatever P is."""
    model = net().double()
    optimizer = precond.FOOF(model, lr=0.1, momentum=0.5, weight_decay=0.2, damping=0.01)
    weight = model[3].weight.detach().clone()
    momentum = torch.zeros_like(weight)
    for number in range(3):
        optimizer.zero_grad()
        (0 * model(batch(number)[0].double())).sum().backward()
        optimizer.step()
        momentum = 0.5 * momentum + 0.2 * weight
        weight = weight - 0.1 * momentum
    torch.testing.assert_close(model[3].weight.detach(), weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["foof", "nysact-s", "nysact-g"])
def test_a_half_precision_model_has_float32_statistics(name):
    """The weights stay bfloat16."""
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 2)).bfloat16()
    optimizer = precond.build(name, model)
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    model(x).square().mean().backward()
    optimizer.step()
    for bank in optimizer._banks:
        assert bank.state.statistic.average.value.dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())


def test_test_matrices_depend_only_on_seed_and_layer_name():
    """Other layers of the model have no influence."""

    def omega(model: nn.Module, name: str, **options) -> Tensor:
        optimizer = precond.NysAct(model, sketch="gaussian", rank=3, **options)
        return by_name(optimizer.state_dict())[name]["statistic.sketch.omega"]

    pair = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 4)})
    single = nn.ModuleDict({"b": nn.Linear(6, 4)})
    assert torch.equal(omega(pair, "b"), omega(single, "b"))
    assert not torch.allclose(omega(pair, "a"), omega(pair, "b"))
    assert not torch.allclose(omega(single, "b"), omega(single, "b", seed=1))
