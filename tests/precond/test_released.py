"""The authors' own classes train like the as-released variants.

`make test-peers NYSACT=PATH` runs these tests with a checkout of the repository hseung88/nysact,
which is not a part of this repository. `tests/reference/released.py` is a transcription of its code
that is always tested.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_oracles import largest_difference, omegas
from torch import Tensor, nn

import precond
from trainables.cost.contestants import Contestant
from trainables.cost.released import OPTIMIZERS_FILE, RELEASED, build_released
from trainables.recipes.nysact import AS_RELEASED

CHECKOUT = os.environ.get("NYSACT")
STEPS = 25
RULE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
SETTINGS = {"cov_interval": 2, "inv_interval": 6, "damping": 0.1, "rank": 6}

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not CHECKOUT, reason="needs NYSACT=PATH, a checkout of the repository hseung88/nysact"
    ),
    # The hooks of the released classes are deprecated, or run without an input that requires a
    # gradient.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Make float64 the default, because the released code creates tensors of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def checkout() -> Path:
    path = Path(str(CHECKOUT)).resolve()
    assert (path / OPTIMIZERS_FILE).is_file(), (
        f"NYSACT={CHECKOUT}: must be a checkout of the repository hseung88/nysact"
    )
    return path


def make_net() -> nn.Module:
    """Return a net with strides, padding, a missing bias, a normalisation, and a narrow layer."""
    torch.manual_seed(0)
    features = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Tanh()
    body = nn.Conv2d(4, 3, 3, padding=1, bias=False), nn.Tanh(), nn.Flatten()
    head = nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*features, *body, *head)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return batches of 16 examples: the released Eva uses only the first 16 of a batch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 16, 2, 6, 6, generator=generator)
    return list(zip(x, torch.randint(3, (STEPS, 16), generator=generator), strict=True))


def settings_of(name: str) -> dict[str, Any]:
    """Return the hyperparameters of the as-released variant."""
    settings = SETTINGS | AS_RELEASED[name] | RULE
    if name == "kfac":
        # The released KFAC has no weight decay in its first 20 * cov_interval steps.
        settings |= {"damping": SETTINGS["damping"], "weight_decay": 0.0}
    return {key: value for key, value in settings.items() if key in precond.defaults(name)}


def make_released(name: str, model: nn.Module, checkout: Path) -> Contestant:
    """Return the authors' optimizer of a model, with the same hyperparameters."""
    settings = settings_of(name)
    contestant = build_released(name, model, settings, checkout)
    optimizer: Any = contestant.optimizer
    optimizer.param_groups[0].update({key: settings[key] for key in RULE})
    if name == "eva":
        optimizer._preconditioner.param_groups[0]["lr"] = settings["lr"]
    if name == "foof":
        # The released FOOF divides the average, which starts at I, by 1 - beta^k, where k counts
        # the calls of all layers. In a deep model, this is 1.
        optimizer.emastep = 10**6
    return contestant


class Draws:
    """The test matrices of this project's optimizer, which replace those of the released code.

    In the released code, each layer calls `torch.randperm` or `torch.randn` in its forward.
    """

    def __init__(self, matrices: list[Tensor]):
        self._matrices = iter(matrices)

    def randperm(self, width: int, **_: Any) -> Tensor:
        """Return indices of which the first are the columns of the next test matrix."""
        columns = next(self._matrices).argmax(0)
        return torch.cat([columns, torch.zeros(width - len(columns), dtype=columns.dtype)])

    def randn(self, width: int, rank: int) -> Tensor:
        """Return a matrix that becomes the next test matrix when it is divided by sqrt(width)."""
        matrix = next(self._matrices)
        assert matrix.shape == (width, rank)
        return matrix * width**0.5


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_class_trains_like_the_as_released_variant(name, checkout, monkeypatch):
    """The weights agree after 25 steps, with five refreshes."""
    model, expected = make_net(), make_net()
    optimizer = precond.build(name, model, **settings_of(name))
    contestant = make_released(name, expected, checkout)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with monkeypatch.context() as patch:
            draws = Draws([matrix for [matrix] in omegas(optimizer).values()])
            patch.setattr(torch, "randperm", draws.randperm)
            patch.setattr(torch, "randn", draws.randn)
            contestant.train(x, y)
        optimizer.step()
    assert largest_difference(model, expected) < 1e-9
    assert largest_difference(expected, make_net()) > 1e-2, "nothing was trained"


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_class_differs_from_the_corrected_variant(name, checkout):
    """Otherwise, the test above would not test the options of the as-released variant."""
    options = AS_RELEASED[name].keys() - {"damping"}
    settings = {key: value for key, value in settings_of(name).items() if key not in options}
    model, expected = make_net(), make_net()
    optimizer = precond.build(name, model, **settings)
    contestant = make_released(name, expected, checkout)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        contestant.train(x, y)
        optimizer.step()
    assert largest_difference(model, expected) > 1e-3
