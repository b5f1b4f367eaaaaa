"""`separate_attention` gives the outputs, weights and gradients of `nn.MultiheadAttention`."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import precond
from precond.attention import SeparateAttention

BATCH, LENGTH, SOURCES, WIDTH, HEADS = 3, 4, 5, 6, 2


def build_attention(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, **options).double()
    for parameter in module.parameters():  # torch sets the biases to zero
        nn.init.normal_(parameter, std=0.5)
    return module


def random_tensor(*shape: int) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    )


def query_key_value(module: nn.MultiheadAttention) -> list[Tensor]:
    shapes = [(BATCH, LENGTH, WIDTH), (BATCH, SOURCES, module.kdim), (BATCH, SOURCES, module.vdim)]
    tensors = [random_tensor(*shape) for shape in shapes]
    return tensors if module.batch_first else [x.transpose(0, 1) for x in tensors]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the parameters by the names of the separate layers."""
    by_name = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    if isinstance(module, nn.MultiheadAttention):
        for kind in ("weight", "bias"):
            packed = by_name.pop(f"in_proj_{kind}", None)
            if packed is not None:
                for x, part in zip("qkv", packed.chunk(3), strict=True):
                    by_name[f"{x}_proj.{kind}"] = part
        for x in "qkv":
            if f"{x}_proj_weight" in by_name:
                by_name[f"{x}_proj.weight"] = by_name.pop(f"{x}_proj_weight")
    return by_name


def assert_equals_separate(
    module: nn.MultiheadAttention, arguments: list[Tensor], **options
) -> None:
    """Compare outputs, weights and all gradients of a module and of its separate version."""
    results = []
    for variant in (module, precond.separate_attention(copy.deepcopy(module))):
        variant.zero_grad()
        xs = [x.clone().requires_grad_() for x in arguments]
        output, weights = variant(*xs, **options)
        (output.square().sum() + (0 if weights is None else weights[..., 0].sum())).backward()
        results.append((output, weights, [x.grad for x in xs], gradients(variant)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.ones(LENGTH, SOURCES, dtype=torch.bool).triu(2)},
    "float": {"attn_mask": random_tensor(LENGTH, SOURCES)},
    "per head": {"attn_mask": random_tensor(BATCH * HEADS, LENGTH, SOURCES)},
    "causal": {
        "attn_mask": torch.ones(LENGTH, SOURCES, dtype=torch.bool).triu(1),
        "is_causal": True,
    },
    "padding": {"key_padding_mask": torch.arange(SOURCES) >= torch.tensor([[5], [3], [4]])},
    "both": {
        "attn_mask": torch.ones(LENGTH, SOURCES, dtype=torch.bool).triu(2),
        "key_padding_mask": torch.arange(SOURCES) >= torch.tensor([[5], [3], [4]]),
    },
    "both float": {
        "attn_mask": random_tensor(LENGTH, SOURCES),
        "key_padding_mask": random_tensor(BATCH, SOURCES),
    },
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_every_kind_of_mask_is_supported(mask, need_weights):
    assert_equals_separate(
        build_attention(batch_first=True),
        query_key_value(build_attention(batch_first=True)),
        need_weights=need_weights,
        **MASKS[mask],
    )


@pytest.mark.parametrize(
    ("batch_first", "bias", "widths"),
    list(itertools.product([True, False], [True, False], [{}, {"kdim": 7, "vdim": 3}])),
)
def test_layouts_biases_and_widths_are_supported(batch_first, bias, widths):
    module = build_attention(batch_first=batch_first, bias=bias, **widths)
    assert_equals_separate(module, query_key_value(module), average_attn_weights=False)
    assert_equals_separate(module.eval(), query_key_value(module))


def test_inputs_without_batch_axis_are_supported():
    module = build_attention()
    arguments = [
        random_tensor(LENGTH, WIDTH),
        random_tensor(SOURCES, WIDTH),
        random_tensor(SOURCES, WIDTH),
    ]
    assert_equals_separate(module, arguments, key_padding_mask=torch.arange(SOURCES) >= 3)
    assert_equals_separate(
        module, arguments, need_weights=False, attn_mask=random_tensor(LENGTH, SOURCES)
    )


def test_dropout_is_applied_only_in_training():
    module = precond.separate_attention(build_attention(dropout=0.5, batch_first=True))
    x = random_tensor(BATCH, LENGTH, WIDTH)
    for need_weights in (True, False):
        first, second = (module.train()(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (module.eval()(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_encoder_gives_the_same_outputs(training):
    """In evaluation without gradients, torch's encoder does not call the attention's forward."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().train(training)
    separate = precond.separate_attention(copy.deepcopy(model))
    x, padding = (
        random_tensor(BATCH, SOURCES, WIDTH),
        torch.arange(SOURCES) >= torch.tensor([[5], [3], [4]]),
    )
    with torch.set_grad_enabled(training):
        expected = model(x, src_key_padding_mask=padding)[~padding]
        actual = separate(x, src_key_padding_mask=padding)[~padding]
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_each_attention_module_is_replaced_once():
    """Replacement is in place, also in containers, and preserves sharing and frozen weights."""
    shared, inner = build_attention(), build_attention()
    inner.in_proj_weight.requires_grad_(False)
    model = nn.ModuleDict({"a": shared, "b": shared, "list": nn.ModuleList([inner])})
    weight = inner.out_proj.weight
    assert precond.separate_attention(model) is model
    assert model["a"] is model["b"]
    replaced = model["list"][0]
    assert isinstance(replaced, SeparateAttention)
    assert replaced.out_proj.weight is weight
    assert not replaced.q_proj.weight.requires_grad
    assert replaced.q_proj.bias.requires_grad
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def test_all_four_projections_are_preconditioned():
    """`nn.MultiheadAttention` has only one Linear layer, `out_proj`, and never calls it."""
    model = precond.separate_attention(build_attention(batch_first=True).float())
    with precond.observe(model) as observer:
        x = random_tensor(BATCH, LENGTH, WIDTH).float()
        model(x, x, x)
    assert set(observer.covariances()) == {"q_proj", "k_proj", "v_proj", "out_proj"}


def test_the_error_lists_all_unsupported_options():
    model = nn.ModuleList(
        [build_attention(add_bias_kv=True), build_attention(add_zero_attn=True), build_attention()]
    )
    with pytest.raises(ValueError) as error:
        precond.separate_attention(model)
    assert str(error.value) == "0: add_bias_kv is not supported\n1: add_zero_attn is not supported"
    assert isinstance(model[2], nn.MultiheadAttention)
    with pytest.raises(ValueError, match="requires a mask: pass it as attn_mask"):
        precond.separate_attention(build_attention())(
            *query_key_value(build_attention()), is_causal=True
        )
