"""Models: parameter counts of the reference implementations, and the shortcuts of the ResNets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainables.models import small


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Parameter counts in the NysAct paper's code (cifar10/models/resnet_cifar.py) with 10 classes, for
# shortcuts A and B (`option='B'` of that code).
CIFAR_RESNETS = {
    "resnet20": (269_722, 272_474),
    "resnet32": (464_154, 466_906),
    "resnet110": (1_727_962, 1_730_714),
}


@pytest.mark.parametrize(("name", "counts"), CIFAR_RESNETS.items(), ids=CIFAR_RESNETS)
def test_cifar_resnets_have_the_parameter_counts_of_the_papers_code(
    name: str, counts: tuple[int, int]
):
    build = getattr(small, name)
    assert (count_parameters(build()), count_parameters(build(shortcut="B"))) == counts
    assert count_parameters(build(100)) == counts[0] + 90 * 65


def test_shortcut_a_subsamples_and_pads_both_sides():
    """The NysAct paper's code pads `x[:, :, ::2, ::2]` with `planes // 4` channels on each side."""
    x = torch.randn(2, 16, 8, 8)
    block = small.resnet20().stages[1][0]
    expected = torch.cat([torch.zeros(2, 8, 4, 4), x[:, :, ::2, ::2], torch.zeros(2, 8, 4, 4)], 1)
    assert block.shortcut(x).equal(expected)
    nn.init.zeros_(block.norm2.weight)
    assert block(x).equal(F.relu(expected))


@pytest.mark.parametrize(
    ("size", "inputs"), [(8, 512), (13, 1568), (16, 512), (28, 512), (30, 800)]
)
def test_the_classifier_of_cnn_has_few_inputs_at_every_size(size: int, inputs: int):
    model = small.digits_cnn(16, 10, 1, size)
    assert model[-1].in_features == inputs and model(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_vectors_are_images_of_one_pixel():
    vectors = torch.randn(4, 6)
    for model in (small.autoencoder(6, 1), small.linear(3, 6), small.digits_mlp(8, 3, 6, 1)):
        assert model(vectors).equal(model(vectors[:, :, None, None]))
    assert small.autoencoder(6, 1)(vectors).shape == vectors.shape
    assert small.linear(3, 2, 4)(torch.zeros(5, 2, 4, 4)).shape == (5, 3)
