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
