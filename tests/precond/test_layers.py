"""The statistics of layers equal those of explicit rows and unfolded patches."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from reference import rows as explicit_rows
from torch import Tensor, nn

import precond
from precond.layers import Layer, find_layers
from precond.parts.rows import ConvRows
from precond.reasons import FROZEN

PLAIN = [
    {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "bias": bias,
    }
    for kernel, stride, padding, dilation, bias in product(
        [(1, 1), (3, 3), (2, 5)], [1, (2, 3)], [0, (1, 2)], [1, 2], [True, False]
    )
]
GROUPED = [
    {
        "kernel_size": kernel,
        "stride": stride,
        "padding": 1,
        "dilation": dilation,
        "bias": bias,
        "groups": groups,
    }
    for kernel, stride, dilation, bias, groups in product(
        [1, (3, 2)], [1, 2], [1, (2, 1)], [True, False], [2, 4]
    )
]
SAME = [
    {"kernel_size": kernel, "padding": "same", "dilation": dilation, "bias": bias}
    for kernel, dilation, bias in product([3, (2, 5)], [1, 2], [True, False])
]
MODES = [
    {
        "kernel_size": (3, 2),
        "stride": stride,
        "padding": padding,
        "padding_mode": mode,
        "bias": True,
        "groups": groups,
    }
    for mode, stride, padding, groups in product(
        ["circular", "reflect", "replicate"], [1, 2], [0, (2, 1)], [1, 2]
    )
] + [
    {"kernel_size": 3, "padding": "same", "padding_mode": "circular", "bias": False},
    {"kernel_size": 3, "padding": "valid", "bias": True},
]
# Large kernels: several rows of patches that are not in the output overlap the image, or a patch is
# as large as the image.
LARGE = [
    {"kernel_size": kernel, "padding": padding, "bias": bias, "groups": groups}
    for kernel, padding, bias, groups in product(
        [(5, 5), (4, 1), (11, 12)], [0, (2, 0), 4], [True, False], [1, 2]
    )
    if padding != (2, 0) or kernel != (4, 1)
]
CASES = PLAIN + GROUPED + SAME + MODES + LARGE
EVEN_SAME = "ignore:Using padding='same' with even kernel lengths:UserWarning"


def case_name(case: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in case.items())


def test_all_cases_exist_and_are_different():
    """With empty lists of cases, all other tests would pass."""
    assert len(PLAIN) == 48
    assert len({case_name(case) for case in CASES}) == len(CASES) > 100


@pytest.mark.filterwarnings(EVEN_SAME)
@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_convolution_equals_its_unfolded_patches(case, monkeypatch):
    """The number of rows, the Gram matrix and both sketches are equal."""
    # A low limit gives several chunks, of which the last is smaller.
    monkeypatch.setattr("precond.parts.rows.UNFOLD_ELEMENTS", 400)
    generator = torch.Generator().manual_seed(0)
    module = nn.Conv2d(4, 8, **case).double()
    x = torch.randn(3, 4, 11, 12, generator=generator, dtype=torch.float64)
    expected = explicit_rows(module, x)
    outputs = module(x).transpose(0, 1).flatten(1).T
    weights = module.weight.flatten(1)
    weights = weights if module.bias is None else torch.cat([weights, module.bias.unsqueeze(1)], 1)
    pairs = zip(expected, weights.chunk(module.groups), strict=True)
    by_rows = torch.cat([X @ w.T for X, w in pairs], 1)
    # This checks the explicit rows themselves: they give the outputs of the convolution.
    torch.testing.assert_close(by_rows, outputs, rtol=1e-12, atol=1e-12)

    layer = Layer.of("conv", module)
    rows = layer.rows(x, torch.float64)
    p = layer.shape.d_in
    assert (rows.count, p, layer.groups) == (*expected[0].shape, len(expected))
    r = min(4, p)
    omega = torch.randn(layer.groups, p, r, generator=generator, dtype=torch.float64)
    columns = torch.stack([torch.randperm(p, generator=generator)[:r] for _ in expected])
    columns[0, 0], columns[-1, -1] = p - 1, 0 if p > 1 else p - 1
    stack = torch.stack(expected)
    close = {"rtol": 1e-12, "atol": 1e-12 * rows.count}
    torch.testing.assert_close(rows.gram(), stack.mT @ stack, **close)
    torch.testing.assert_close(rows.sketch(omega), stack.mT @ (stack @ omega), **close)
    picked = torch.stack([X[:, ids] for X, ids in zip(expected, columns, strict=True)])
    torch.testing.assert_close(rows.sketch_columns(columns), stack.mT @ picked, **close)
    with monkeypatch.context() as patch:  # the implementation for GPUs
        patch.setattr(ConvRows, "_sliced", ConvRows._picked)
        torch.testing.assert_close(rows.sketch_columns(columns), stack.mT @ picked, **close)


def test_a_convolution_with_stride_1_forms_no_patches(monkeypatch):
    """Otherwise, the test above would compare patches with patches."""
    monkeypatch.setattr(ConvRows, "_patches", None)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    layer = Layer.of("conv", nn.Conv2d(4, 8, 3, padding=1, bias=False))
    assert layer.rows(x, x.dtype).gram().shape == (1, 36, 36)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 4, 5), (2, 3, 4, 5)], ids=str)
def test_a_linear_layer_equals_its_explicit_rows(shape, bias):
    """All leading axes are rows, and the bias column contains ones."""
    module = nn.Linear(5, 3, bias=bias).double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = Layer.of("linear", module)
    rows, (X,) = layer.rows(x, torch.float64), explicit_rows(module, x)
    p = 5 + bias
    omega = torch.randn(1, p, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    columns = torch.tensor([[p - 1, 0, 3]])
    assert (rows.count, layer.shape.d_in) == X.shape
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(rows.gram()[0], X.T @ X, **close)
    torch.testing.assert_close(rows.sketch(omega)[0], X.T @ X @ omega[0], **close)
    torch.testing.assert_close(rows.sketch_columns(columns)[0], X.T @ X[:, columns[0]], **close)


@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_is_a_linear_layer_over_tokens(bias):
    """The number of rows, the Gram matrix and both sketches are equal."""
    conv, linear = nn.Conv2d(6, 3, 1, bias=bias).double(), nn.Linear(6, 3, bias=bias).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = Layer.of("a", conv).rows(x, torch.float64)
    b = Layer.of("b", linear).rows(x.permute(0, 2, 3, 1), torch.float64)
    omega = torch.randn(
        1, 6 + bias, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    columns = torch.tensor([[5 + bias, 2, 0]])
    assert a.count == b.count
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(a.gram(), b.gram(), **close)
    torch.testing.assert_close(a.sketch(omega), b.sketch(omega), **close)
    torch.testing.assert_close(a.sketch_columns(columns), b.sketch_columns(columns), **close)


@pytest.mark.parametrize("name", ["foof", "nysact-s", "nysact-g"])
def test_a_pointwise_convolution_trains_as_a_linear_layer_over_tokens(name):
    """The weights are equal after some steps."""
    conv, linear = nn.Conv2d(6, 3, 1).double(), nn.Linear(6, 3).double()
    with torch.no_grad():
        conv.weight.copy_(linear.weight.view_as(conv.weight))
        conv.bias.copy_(linear.bias)
    extra = {} if name == "foof" else {"rank": 3}
    models = [nn.Sequential(conv), nn.Sequential(linear)]
    optimizers = [
        precond.build(name, model, damping=0.1, cov_interval=1, inv_interval=2, **extra)
        for model in models
    ]
    x = torch.randn(5, 2, 6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for batch in x:
        for model, optimizer, inputs in zip(
            models, optimizers, (batch, batch.permute(0, 2, 3, 1)), strict=True
        ):
            optimizer.zero_grad()
            (model(inputs).square() - model(inputs).sin()).mean().backward()
            optimizer.step()
    torch.testing.assert_close(conv.weight.flatten(1), linear.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(conv.bias, linear.bias, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 3),
        nn.Linear(4, 3, bias=False),
        nn.Conv2d(2, 3, (2, 3)),
        nn.Conv2d(4, 6, (2, 3), groups=2),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.Conv2d(4, 8, 3, groups=4),
    ],
    ids=repr,
)
def test_views_of_the_gradient_matrix_have_the_documented_order(module):
    """If dW and db are written into the views, each group's matrix is [dW.reshape(o, -1), db]."""
    layer = Layer.of("layer", module)
    stack = torch.full((layer.groups, layer.shape.d_out, layer.shape.d_in), torch.nan)
    views = layer.views(stack)
    assert views.keys() == layer.parameters.keys()
    expected = torch.arange(module.weight.numel(), dtype=stack.dtype).view(
        module.weight.shape[0], -1
    )
    assert views["weight"].shape == module.weight.shape
    views["weight"].copy_(expected.view_as(module.weight))
    if layer.bias:
        bias = -1 - torch.arange(len(expected), dtype=stack.dtype)
        views["bias"].copy_(bias)
        expected = torch.cat([expected, bias.unsqueeze(1)], 1)
    assert torch.equal(stack, torch.stack(expected.chunk(layer.groups)))


def freeze(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        getattr(module, name).requires_grad_(False)
    return module


def test_frozen_parameters_are_not_preconditioned():
    """A frozen weight excludes the layer; with a frozen bias, the rows have no bias column."""
    layers, skipped = find_layers(freeze(nn.Linear(3, 2), "weight"))
    assert (layers, skipped) == ([], {"": FROZEN})
    [layer], _ = find_layers(freeze(nn.Linear(3, 2), "bias"))
    assert (layer.shape.d_in, list(layer.parameters)) == (3, ["weight"])
    rows: Tensor = layer.rows(torch.ones(4, 3), torch.float32).gram()
    assert rows.shape == (1, 3, 3)


@pytest.mark.parametrize("kind", ["gram", "sketch", "sketch_columns"])
@pytest.mark.parametrize("module", [nn.Linear(3, 2), nn.Conv2d(3, 2, 2)], ids=repr)
def test_an_empty_batch_has_no_rows(module, kind):
    """PyTorch allows batches of size 0. The sums are zero."""
    layer = Layer.of("layer", module)
    shape = (0, 3) if isinstance(module, nn.Linear) else (0, 3, 4, 4)
    rows = layer.rows(torch.zeros(shape), torch.float32)
    p = layer.shape.d_in
    arguments = {
        "gram": [],
        "sketch": [torch.ones(1, p, 2)],
        "sketch_columns": [torch.tensor([[0, p - 1]])],
    }
    total = getattr(rows, kind)(*arguments[kind])
    assert rows.count == 0
    assert total.shape[1] == p
    assert not total.any()


def test_one_image_without_batch_axis_is_a_batch_of_one():
    """Conv2d accepts inputs of shape `[channels, height, width]`."""
    layer = Layer.of("conv", nn.Conv2d(2, 3, 3))
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    image, batch = (layer.rows(inputs, torch.float32) for inputs in (x, x.unsqueeze(0)))
    assert torch.equal(image.gram(), batch.gram())
