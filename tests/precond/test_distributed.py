"""T11: two processes that share a batch are one process with all of it, and they agree on every bit.

Both processes run once, everything below in the same order, and write down what came out; the tests compare.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import precond
from precond.distributed import shares
from precond.optimizer import Preconditioned
from precond.parts import collectives, linalg
from precond.parts.collectives import Ranks
from precond.parts.statistics import MovingAverage
from precond.registry import REGISTRY

RANKS, STEPS, MIDWAY, BATCH = 2, 10, 5, 40  # more examples than the widest layer has inputs
TOLERANCE = 1e-10
ILL_CONDITIONED = {
    "soap"
}  # the bases of its first, rank-one statistics hang on rounding: a shuffled batch changes 1e-2
# Several updates, refreshes and draws in ten steps; step 5 is between them. With a smaller eps, Adam makes steps of the
# rounding errors in directions without gradient, which softmax and LayerNorm have.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 4, "rank": 5},
    **{"lr": 0.02, "ema_decay": 0.8, "damping": 0.3, "eps": 1e-3},
}


class Net(nn.Module):
    """A convolution, tokens, four layers of one shape of which one is never called and one not always."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.tokens = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(27)
        self.hidden = nn.Linear(27, 6)
        self.layers = nn.ModuleDict(
            {name: nn.Linear(6, 6) for name in ("first", "module", "sometimes", "never")}
        )
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor, sometimes: bool = True) -> Tensor:
        x = self.tokens(torch.tanh(self.conv(x)).flatten(2).mT)
        x = torch.tanh(self.hidden(self.norm(x.flatten(1))))
        for name in ("first", "module", "sometimes") if sometimes else ("first", "module"):
            x = torch.tanh(self.layers[name](x))
        return self.head(x)


@dataclass(frozen=True)
class Case:
    """An optimizer, and how a batch is dealt out.

    Attributes:
        before: Whether the optimizer is built before the model is wrapped.
        sizes: Examples of each rank.
        parts: Micro-batches of each rank.
        apart: Whether rank 1 leaves a layer out.
    """

    optimizer: str
    options: dict[str, Any] = field(default_factory=dict)
    before: bool = False
    sizes: tuple[int, int] = (20, 20)
    parts: int = 1
    apart: bool = False

    @property
    def steps(self) -> int:
        return STEPS if self in PLAIN else MIDWAY + 1

    def build(self, model: nn.Module) -> Any:
        known = {
            key: value for key, value in SETTINGS.items() if key in precond.defaults(self.optimizer)
        }
        return precond.build(self.optimizer, model, **{**known, **self.options})

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.options.items()]
        words += [
            f.name for f in dataclasses.fields(self)[2:] if getattr(self, f.name) != f.default
        ]
        return " ".join([self.optimizer, *words])


# Without the extra `peers`, those that need it cannot be tried.
CARDS = {
    name: entry.card
    for name, entry in REGISTRY.items()
    if entry.package is None or find_spec(entry.package)
}
REFUSED = [name for name, card in CARDS.items() if card and "data parallel" in card.unsupported]
TYPES = {
    name: entry.optimizer for name, entry in REGISTRY.items() if isinstance(entry.optimizer, type)
}
OURS = {name: kind for name, kind in TYPES.items() if issubclass(kind, Preconditioned)}
PLAIN = [
    *(Case(name) for name in CARDS if name not in REFUSED and name not in OURS),
    Case("nysact-s"),
    Case("nysact-g"),
    Case("nysact-s", {"resample": "official", "shift": "official"}),
    Case("nysact-s", {"resample": "joint"}),
    Case("nysact-g", {"resample": "window"}, before=True),
    Case("foof", before=True),
    Case("foof", {"first_inverse": "skip"}),
    Case("kfac"),
    Case("kfac", {"damping_rule": "eigen", "init": "first"}, before=True),
    Case("kfac", {"sharing": "reduce", "g_scale": "official"}),
    Case("eva"),
    Case("eva", {"g_scale": "official"}, before=True),
    Case("ekfac", {"second_moment": "per_example"}),
    Case("ekfac", {"second_moment": "running"}, before=True),
    Case("steve", {"second_moment": "minibatch", "factor_ema": 0.9}),
    Case("steve", {"second_moment": "per_example"}, before=True),
    Case("steve", {"on_refresh": "rotate_mv"}),
]
# What makes the sums differ, each alone and all at once.
HARDER = [
    Case("kfac", sizes=(24, 16)),
    Case("kfac", parts=2),
    Case("kfac", apart=True),
    *(
        replace(case, sizes=(24, 16), parts=2, apart=True)
        for case in PLAIN
        if case.options
        and not {"factor_ema", "on_refresh", "init", "first_inverse"} & case.options.keys()
    ),
]
BY_NAME = {str(case): case for case in PLAIN + HARDER}
DENSE = {
    name: next(c for c in PLAIN if c.optimizer == name)
    for name, k in OURS.items()
    if k.algorithm_type.SHARED
}
WATCHED = [
    str(next(case for case in PLAIN if case.optimizer == name))
    for name in ("nysact-g", "foof", "kfac", "ekfac")
]


def make(outputs: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(outputs).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (BATCH,), generator=generator)


def accumulate(
    optimizer: Any,
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    parts: int,
    factor: float,
    **kwargs: bool,
) -> None:
    """Backward through equal micro-batches, whose mean loss is multiplied by a factor."""
    optimizer.grad_output_scale = factor / parts
    for part, (x, y) in enumerate(zip(*(tensor.chunk(parts) for tensor in data), strict=True)):
        quiet = (
            model.no_sync()
            if isinstance(model, DistributedDataParallel) and part < parts - 1
            else None
        )
        with quiet or contextlib.nullcontext():
            (F.cross_entropy(model(x, **kwargs), y) * factor / parts).backward()


def train_together(
    case: Case, rank: int, share: bool = True, watch: bool = False
) -> dict[str, Any]:
    """One rank's part of the training, sharing refreshes or not; its weights and state midway and at the end."""
    model = make()
    optimizer = case.build(model) if case.before else None
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = optimizer or case.build(wrapped)
    for bank in getattr(optimizer, "_banks", []):
        bank.share = bank.share if share else None
    if watch:
        optimizer.monitor()
    factor = case.sizes[rank] * RANKS / BATCH
    found = {}
    for step in range(case.steps):
        if step == MIDWAY:
            found["midway"] = copied(model, optimizer)
        optimizer.zero_grad()
        x, y = (tensor.split(case.sizes)[rank] for tensor in batch(step))
        accumulate(
            optimizer, wrapped, (x, y), case.parts, factor, sometimes=not (case.apart and rank == 1)
        )
        optimizer.step()
    return {
        **found,
        "end": copied(model, optimizer),
        "table": optimizer.diagnostics() if watch else {},
    }


def train_alone(
    case: Case, start: dict[str, Any] | None = None, watch: bool = False
) -> dict[str, Any]:
    """One process with all of the batch, from the start or from a state midway; in two parts if they differ."""
    model = make()
    optimizer = case.build(model)
    if start is not None:
        model.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
    if watch:
        optimizer.monitor()
    for step in range(0 if start is None else MIDWAY, case.steps):
        optimizer.zero_grad()
        sizes = case.sizes if case.apart else (BATCH,)
        for number, part in enumerate(
            zip(*(tensor.split(sizes) for tensor in batch(step)), strict=True)
        ):
            accumulate(optimizer, model, part, 1, sizes[number] / BATCH, sometimes=number == 0)
        optimizer.step()
    return {**copied(model, optimizer), "table": optimizer.diagnostics() if watch else {}}


def copied(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


# ---------------------------------------------------------------------- what the two processes do


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """How many matrices are decomposed or inverted in this block."""
    counts, kept = [], {name: getattr(linalg, name) for name in ("damped_inverse", "eigenbasis")}

    def counting(name: str) -> Any:
        return lambda matrix, *args: counts.append(len(matrix)) or kept[name](matrix, *args)

    for name in kept:
        setattr(linalg, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in kept.items():
            setattr(linalg, name, function)


def refusals(rank: int) -> dict[str, str]:
    """What is said when the ranks differ in something, and by the optimizers that cannot do it."""
    differences: dict[str, Any] = {
        "shape": lambda: precond.FOOF(make(outputs=3 + rank)),
        "frozen": lambda: precond.FOOF(make().requires_grad_(rank == 0)),
        "optimizer": lambda: precond.build(("foof", "kfac")[rank], make()),
        "hyperparameter": lambda: precond.FOOF(make(), damping=1.0 + rank),
        "groups": lambda: precond.FOOF(model := make(), params=groups(model, rank)),
    }
    for name in REFUSED:
        differences[name] = lambda name=name: precond.build(name, DistributedDataParallel(make()))
    found = {}
    for name, build in differences.items():
        try:
            build()
        except ValueError as error:
            found[name] = str(error)
    return found


def groups(model: Net, rank: int) -> list[dict[str, Any]]:
    """All parameters, the head's in another group on rank 1."""
    head = list(model.head.parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in head)]
    return [{"params": rest}, {"params": head}] if rank else [{"params": [*rest, *head]}]


def poisoned(rank: int) -> MovingAverage:
    """An average after three updates: slot 0 is not finite on rank 1; rank 0 alone sees slots 1 and 2; one is empty."""
    average = MovingAverage.zeros(3, 2, like=torch.zeros(1))
    with collectives.active(Ranks(None, rank, RANKS)):
        average.add(slice(0, 1), torch.full((1, 2), torch.inf if rank else 1.0), 1)
        for slot in (1, 2):
            if rank == 0:
                average.add(slice(slot, slot + 1), torch.full((1, 2), 6.0), 3)
            average.commit(0.5)
        average.commit(0.5)
    return average


def names() -> list[str]:
    """Of a model with a wrapper in it, and a part that is called as what a wrapper is around."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).double()
    holder = nn.ModuleDict(
        {"module": nn.Linear(2, 2).double(), "inner": DistributedDataParallel(inner)}
    )
    return list(precond.FOOF(holder).state_dict()["state"])


def work(rank: int, folder: str, wanted: set[str]) -> None:
    """All that one process does, of the cases those that are wanted; a failure ends it, and so the other."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    early = precond.FOOF(make())
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    try:
        early.step()
        late = ""
    except RuntimeError as error:
        late = str(error)
    found: dict[str, Any] = {
        "late": late,
        "names": names(),
        "refusals": refusals(rank),
        "matrices": {},
        "whole": {},
    }
    for name in (name for name in BY_NAME if name in wanted):
        with counted() as counts:
            found[name] = train_together(BY_NAME[name], rank)
        found["matrices"][name] = sum(counts)
    for name in (str(case) for case in DENSE.values() if str(case) in wanted):
        with counted() as counts:
            found["whole"][name] = train_together(BY_NAME[name], rank, share=False)
        found["matrices"][name, "whole"] = sum(counts)
    found["watched"] = {
        name: train_together(BY_NAME[name], rank, watch=True) for name in WATCHED if name in wanted
    }
    found["poisoned"] = {
        key: value for key, value in vars(poisoned(rank)).items() if value is not None
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each rank found, in the cases of the tests that run."""
    folder = tmp_path_factory.mktemp("ranks")
    items = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    wanted = {item.callspec.params["name"] for item in items if hasattr(item, "callspec")}
    torch.multiprocessing.spawn(work, (str(folder), wanted), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


# ---------------------------------------------------------------------- what must come out


def leaves(found: Any, prefix: str = "") -> dict[str, Any]:
    """The tensors and numbers of nested dictionaries and lists."""
    if not isinstance(found, (dict, list)):
        return {prefix: found}
    items = found.items() if isinstance(found, dict) else enumerate(found)
    return {
        key: leaf
        for name, value in items
        for key, leaf in leaves(value, f"{prefix}/{name}").items()
    }


def assert_equal(first: Any, second: Any) -> None:
    """Bit for bit."""
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = (
            torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        )
        assert same, f"{key} differs"


def assert_close(first: Any, second: Any) -> None:
    """The weights."""
    for key, value in second["model"].items():
        torch.testing.assert_close(
            first["model"][key], value, rtol=TOLERANCE, atol=TOLERANCE, msg=key
        )


@pytest.mark.parametrize("name", BY_NAME)
def test_two_ranks_are_one_process_with_the_whole_batch(ranks, name):
    alone = train_alone(BY_NAME[name])
    assert_equal(ranks[0][name], ranks[1][name])
    if BY_NAME[name].optimizer not in ILL_CONDITIONED:
        assert_close(ranks[0][name]["end"], alone)
    together = ranks[0][name]["end"]["optimizer"]["state"]
    flags = {
        key: value
        for key, value in leaves(alone["optimizer"]["state"]).items()
        if isinstance(value, bool)
    }
    assert all(leaves(together)[key] == value for key, value in flags.items())
    if BY_NAME[name].optimizer in OURS:
        assert flags["/layers.sometimes/recorded"]
        assert not flags["/layers.never/recorded"]


@pytest.mark.parametrize("name", [str(case) for case in PLAIN])
def test_one_process_goes_on_where_two_ranks_were(ranks, name):
    assert_close(train_alone(BY_NAME[name], ranks[0][name]["midway"]), ranks[0][name]["end"])


def test_every_optimizer_of_dense_factors_is_found():
    assert [*DENSE] == ["foof", "kfac", "ekfac", "steve"]


@pytest.mark.parametrize("name", [str(case) for case in DENSE.values()])
def test_a_refresh_is_shared_and_changes_nothing(ranks, name):
    """By cost: the widest of the nine matrices outweighs the others."""
    shared, whole = ([rank["matrices"][key] for rank in ranks] for key in (name, (name, "whole")))
    assert whole[0] == whole[1] > 0
    assert shared == [whole[0] // 9, whole[0] * 8 // 9]
    for rank in ranks:
        assert_equal(rank[name], rank["whole"][name])


def test_the_dearest_slots_go_first_and_to_the_rank_with_the_least_to_do():
    found = [shares([(1, 1.0), (3, 8.0), (1, 9.0)], Ranks(None, rank, 3)) for rank in range(3)]
    assert found == [
        [slice(0, 0), slice(0, 0), slice(0, 1)],
        [slice(0, 0), slice(0, 2), slice(1, 1)],
        [slice(0, 1), slice(2, 3), slice(1, 1)],
    ]


def test_what_one_rank_adds_or_spoils_it_does_for_all(ranks):
    assert_equal(ranks[0]["poisoned"], ranks[1]["poisoned"])
    average = ranks[0]["poisoned"]
    assert average["value"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert average["weight"].tolist() == [0, 0.5, 0.5]
    assert average["dropped"].tolist() == [1, 0, 0]


def test_ranks_that_differ_are_refused(ranks):
    expected = {
        "shape": "head.weight is [3, 6] float64 on rank 0, [4, 6] float64 on rank 1",
        "frozen": "conv.weight is [4, 1, 3, 3] float64 on rank 0, [4, 1, 3, 3] float64 frozen on rank 1",
        "optimizer": "optimizer is FOOF on rank 0, KFAC on rank 1",
        "hyperparameter": "damping is 1.0 on rank 0, 2.0 on rank 1",
        "groups": "parameter group of head.weight is 0 on rank 0, 1 on rank 1",
    }
    advice = "Build the same model and optimizer on every rank"
    for rank in ranks:
        said = {name: text for name, text in rank["refusals"].items() if name not in REFUSED}
        assert said == {
            name: f"the ranks differ: {text}. {advice}" for name, text in expected.items()
        }
        assert all(
            "does not support DistributedDataParallel" in rank["refusals"][name] for name in REFUSED
        )


def test_every_optimizer_is_tried_or_refuses():
    assert {case.optimizer for case in PLAIN} | {*REFUSED} == {*CARDS}
    assert len(OURS) >= 7


def test_an_optimizer_from_before_there_were_ranks_is_refused(ranks):
    assert "Build the optimizer after torch.distributed.init_process_group" in ranks[0]["late"]


def test_wrappers_leave_no_trace_in_names(ranks):
    assert ranks[0]["names"] == ["inner.1.weight", "inner.1.bias", "module", "inner.0"]


@pytest.mark.parametrize("name", WATCHED)
def test_diagnostics_are_those_of_the_whole_batch(ranks, name):
    """The same on both ranks, whoever made the factors; and neither is disturbed."""
    first, second = (found["watched"][name] for found in ranks)
    assert first["table"] == second["table"]
    assert_equal(first["end"]["model"], ranks[0][name]["end"]["model"])
    for layer, row in train_alone(BY_NAME[name], watch=True)["table"].items():
        for key, value in row.items():
            expected = value if value is None else pytest.approx(value, rel=1e-5, abs=1e-9)
            assert first["table"][layer][key] == expected, f"{layer}: {key}"
    assert all(
        row["stable_rank"] for layer, row in first["table"].items() if layer != "layers.never"
    )
