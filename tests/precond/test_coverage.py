"""`precond.coverage` counts the layers and parameters that are preconditioned.

The expected numbers are counted by hand; the comments show the sums.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precond
from precond import Coverage
from precond.optimizer import Preconditioned
from precond.registry import REGISTRY

INSTALLED = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
LAYERWISE = [
    name
    for name, entry in REGISTRY.items()
    if isinstance(entry.optimizer, type) and issubclass(entry.optimizer, Preconditioned)
]


class Classifier(nn.Module):
    """A classifier of texts with an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class Transformer(nn.Module):
    """A Transformer encoder with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Tied(nn.Module):
    """A language model whose embedding and head share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10)
        self.head.weight = self.embedding.weight


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5)
    )


MODELS = {
    # (4 + 1) x 5 + (5 + 1) x 3
    "MLP": (mlp, Coverage(2, 0, 43, 43)),
    # 3 x 3 x 3 x 8 + 8 and (8 + 1) x 5; the norm has 8 + 8
    "CNN with BatchNorm": (cnn, Coverage(2, 1, 224 + 45, 224 + 45 + 16)),
    # (32 + 1) x 4; the embedding has 20 x 16, the LSTM 4 x 32 x (16 + 32 + 2)
    "LSTM classifier": (Classifier, Coverage(1, 2, 132, 320 + 6400 + 132)),
    # 8 -> 16 -> 8 and the head 8 -> 3. The packed projections have 24 x 9, their output 8 x 9, and
    # the two norms 16 each
    "Transformer": (Transformer, Coverage(3, 4, 144 + 136 + 27, 144 + 136 + 27 + 216 + 72 + 32)),
    # (6 + 1) x 6; the shared weight 10 x 6 counts once, and the head has a bias
    "tied weights": (Tied, Coverage(1, 2, 42, 42 + 60 + 10)),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", LAYERWISE)
def test_the_numbers_equal_a_count_by_hand(name, kind, device):
    make, expected = MODELS[kind]
    with torch.device(device):
        model = make()
    ranks = {"rank": 2} if "rank" in precond.defaults(name) else {}
    optimizer = precond.build(name, model, **ranks)
    assert precond.coverage(optimizer) == expected
    assert expected.total == sum(p.numel() for p in model.parameters())


def test_separate_attention_increases_the_coverage():
    model = precond.separate_attention(Transformer())
    # the four projections are layers: 3 x 8 x 9 and 8 x 9
    assert precond.coverage(precond.KFAC(model)) == Coverage(7, 2, 307 + 216 + 72, 627)


def test_training_does_not_change_the_coverage_of_attention():
    """The output projection of MultiheadAttention is never called, which is known in advance."""
    model = Transformer()
    optimizer = precond.KFAC(model)
    before = optimizer.coverage(), optimizer.skipped_layers()
    model(torch.randn(6, 4, 8)).square().mean().backward()
    optimizer.step()
    assert (optimizer.coverage(), optimizer.skipped_layers()) == before


def test_an_attention_that_calls_its_output_projection_is_covered():
    class Attention(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Any:
            return self.out_proj(x)

    model = Attention(8, 2)
    assert precond.coverage(precond.KFAC(model)) == Coverage(1, 1, 72, 72 + 216)


def test_layers_whose_forward_was_never_recorded_are_not_covered_after_a_step():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
    optimizer = precond.NysAct(model, rank=2)
    assert precond.coverage(optimizer) == Coverage(2, 0, 30, 30)
    model["used"](torch.randn(6, 4)).square().mean().backward()
    optimizer.step()
    assert precond.coverage(optimizer) == Coverage(1, 1, 15, 30)


def test_frozen_parameters_are_not_counted():
    model = cnn()
    model[0].requires_grad_(False)
    optimizer = precond.FOOF(model)
    assert precond.coverage(optimizer) == Coverage(1, 1, 45, 45 + 16)
    model[0].requires_grad_(True)
    assert precond.coverage(optimizer) == Coverage(1, 1, 45, 45 + 16)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    assert precond.coverage(optimizer) == Coverage(2, 1, 269, 285)
    model[4].requires_grad_(False)
    assert precond.coverage(optimizer) == Coverage(1, 1, 224, 240)


def test_only_the_parameters_of_the_groups_are_counted():
    """Without the biases, and with a learning rate of zero, as at the start of a warm-up."""
    model = cnn()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    groups = [{"params": matrices[:1], "lr": 0.0}, {"params": matrices[1:]}]
    assert precond.coverage(precond.KFAC(model, params=groups)) == Coverage(2, 0, 256, 256)


def test_a_layer_whose_weight_is_frozen_counts_as_skipped_by_its_bias():
    model = mlp()
    model[0].weight.requires_grad_(False)
    assert precond.coverage(precond.KFAC(model)) == Coverage(1, 1, 18, 18 + 5)


@pytest.mark.parametrize("name", sorted(set(INSTALLED) - set(LAYERWISE)))
def test_optimizers_that_do_not_distinguish_layers_have_no_coverage(name):
    assert precond.coverage(precond.build(name, mlp())) is None


def test_subclasses_and_copies_have_the_coverage_of_the_original():
    class Mine(precond.NysAct):
        pass

    optimizer = Mine(cnn(), rank=2)
    assert precond.coverage(optimizer) == MODELS["CNN with BatchNorm"][1]
    assert precond.coverage(copy.deepcopy(optimizer)) == precond.coverage(optimizer)


def test_the_text_has_thousands_separators_and_the_share():
    text = "preconditions 1 of 3 layers, 132 of 6,852 parameters (1.9%)"
    assert str(Coverage(1, 2, 132, 6852)) == text
    assert Coverage(1, 2, 132, 6852).share == 132 / 6852


def test_the_text_has_the_singular_for_one_layer_and_one_parameter():
    assert str(Coverage(1, 0, 1, 1)) == "preconditions 1 of 1 layer, 1 of 1 parameter (100.0%)"


def test_the_share_of_no_parameters_is_zero():
    assert Coverage(0, 0, 0, 0).share == 0
