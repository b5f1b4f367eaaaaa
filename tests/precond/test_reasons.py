"""The reasons of layers that are not trained, and the advice of the constructor."""

from __future__ import annotations

import pytest
from torch import nn

import precond
from precond.reasons import UNCALLED


def test_a_model_whose_weights_are_frozen_says_how_to_build_the_optimizer():
    """There is no optimizer yet, so the advice names none of its methods."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).requires_grad_(False)
    advice = "call weight.requires_grad_() before you build the optimizer"
    for plain in (False, True):
        model[1].requires_grad_(plain)
        with pytest.raises(ValueError, match="no trainable Linear or Conv2d layer") as error:
            precond.NysAct(model)
        text = str(error.value)
        assert advice in text and "add_param_group" not in text
        assert ("torch.optim.SGD" in text) == plain  # a frozen model has nothing to train
    model[0].weight.requires_grad_()
    assert precond.NysAct(model, rank=2).preconditioned_layers() == ["0"]


def test_params_without_a_weight_say_to_pass_one():
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="params has no weight") as error:
        precond.NysAct(model, params=[model.bias])
    text = str(error.value)
    assert "pass the weight of such a layer in params" in text and "add_param_group" not in text


@pytest.mark.parametrize("frozen", [True, False])
def test_untrained_layers_that_cannot_be_preconditioned_have_this_reason(frozen):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.plain = (nn.Linear(4, 4) for _ in range(3))
            self.last.weight = self.first.weight
            self.attention = nn.MultiheadAttention(4, 2)

    model = Tied()
    for layer in (model.first, model.last, model.attention.out_proj):
        layer.requires_grad_(not frozen)
    optimizer = precond.KFAC(model, params=None if frozen else model.plain.parameters())
    reasons = optimizer.skipped_layers()
    assert reasons["first"] == reasons["last"] == "its weight or bias belongs to several modules"
    assert reasons["attention.out_proj"] == UNCALLED
