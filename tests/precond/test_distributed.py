"""Two processes that share a batch train like one process with the whole batch, and agree bitwise.

Both processes run once for all tests: they execute the cases below in the same order and save their
results, which the tests compare.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
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
from tests import closures
from tests.composed import COMPOSED
from tests.states import by_name

# BATCH is larger than the number of inputs of the widest layer.
RANKS, STEPS, MIDWAY, BATCH = 2, 10, 5, 40
TOLERANCE = 1e-10
# The first statistics of SOAP have rank one, so that rounding errors decide their eigenvectors:
# shuffling a batch changes the weights by 1e-2.
ILL_CONDITIONED = {"soap"}
# Ten steps contain several updates, refreshes and draws; step 5 is between them. In some
# directions, softmax and LayerNorm make the gradient zero up to rounding; with a smaller eps, Adam
# would make steps of full length in these directions.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 4, "basis_interval": 4, "rank": 5},
    **{"lr": 0.02, "ema_decay": 0.8, "damping": 0.3, "eps": 1e-3},
}


class Net(nn.Module):
    """A convolution, tokens, and four layers of one shape.

    Of these four, one is never called, and one is called only if `sometimes` is True.
    """

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
    """An optimizer, and the division of a batch among the ranks.

    Attributes:
        build_first: Build the optimizer before the model is wrapped.
        sizes: Number of examples of each rank.
        parts: Number of micro-batches of each rank.
        skip_layer: Do not call one of the layers on rank 1.
    """

    optimizer: str
    options: dict[str, Any] = field(default_factory=dict)
    build_first: bool = False
    sizes: tuple[int, int] = (20, 20)
    parts: int = 1
    skip_layer: bool = False

    @property
    def steps(self) -> int:
        return STEPS if self in PLAIN else MIDWAY + 1

    def build(self, model: nn.Module) -> Any:
        defaults = precond.defaults(self.optimizer)
        known = {key: value for key, value in SETTINGS.items() if key in defaults}
        return precond.build(self.optimizer, model, **{**known, **self.options})

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self.options.items()]
        flags = dataclasses.fields(self)[2:]
        changed = [flag.name for flag in flags if getattr(self, flag.name) != flag.default]
        return " ".join([self.optimizer, *options, *changed])


# The optimizers of the extra `peers` are tested only if it is installed.
CARDS = {
    name: entry.card
    for name, entry in REGISTRY.items()
    if entry.package is None or find_spec(entry.package)
}
REFUSED = [name for name, card in CARDS.items() if card and "data parallel" in card.unsupported]
TYPES = {
    name: entry.optimizer for name, entry in REGISTRY.items() if isinstance(entry.optimizer, type)
}
PRECONDITIONED = {name: kind for name, kind in TYPES.items() if issubclass(kind, Preconditioned)}
PLAIN = [
    *(Case(name) for name in CARDS if name not in REFUSED and name not in PRECONDITIONED),
    Case("nysact-s"),
    Case("nysact-g"),
    Case("nysact-s", {"resample": "official", "shift": "official"}),
    Case("nysact-s", {"resample": "joint"}),
    Case("nysact-g", {"resample": "window"}, build_first=True),
    Case("foof", build_first=True),
    Case("foof", {"first_inverse": "skip"}),
    Case("kfac"),
    Case("kfac", {"damping_rule": "eigen", "init": "first"}, build_first=True),
    Case("kfac", {"sharing": "reduce", "g_scale": "official"}),
    Case("skfac"),
    Case("skfac", {"g_scale": "official"}, build_first=True),
    Case("kbfgs"),
    Case("kbfgs-l", {"memory": 5}, build_first=True),
    Case("eva"),
    Case("eva", {"g_scale": "official"}, build_first=True),
    Case("ekfac", {"second_moment": "per_example"}),
    Case("ekfac", {"second_moment": "running"}, build_first=True),
    Case("steve", {"second_moment": "minibatch", "factor_ema": 0.9}),
    Case("steve", {"second_moment": "per_example"}, build_first=True),
    Case("steve", {"on_refresh": "rotate_mv"}),
    *map(Case, COMPOSED),
]
# Uneven shares, micro-batches and missing layers, each alone and all together.
UNEVEN = [
    Case("kfac", sizes=(24, 16)),
    Case("kfac", parts=2),
    Case("kfac", skip_layer=True),
    *(
        replace(case, sizes=(24, 16), parts=2, skip_layer=True)
        for case in PLAIN
        if case.options
        and not {"factor_ema", "on_refresh", "init", "first_inverse"} & case.options.keys()
    ),
]
BY_NAME = {str(case): case for case in PLAIN + UNEVEN}
DENSE = {
    name: next(case for case in PLAIN if case.optimizer == name)
    for name, kind in PRECONDITIONED.items()
    if kind.algorithm_type.SHARED
}
MONITORED = [
    str(next(case for case in PLAIN if case.optimizer == name))
    for name in ("nysact-g", "foof", "kfac", "ekfac")
]


def make_model(outputs: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(outputs).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (BATCH,), generator=generator)


def accumulate_gradients(
    optimizer: Any,
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    parts: int,
    factor: float,
    **kwargs: bool,
) -> None:
    """Run a backward for each of `parts` micro-batches; the mean loss is multiplied by `factor`."""
    optimizer.grad_output_scale = factor / parts
    for part, (x, y) in enumerate(zip(*(tensor.chunk(parts) for tensor in data), strict=True)):
        delay_sum: Any = contextlib.nullcontext()
        if isinstance(model, DistributedDataParallel) and part < parts - 1:
            delay_sum = model.no_sync()
        with delay_sum:
            (F.cross_entropy(model(x, **kwargs), y) * factor / parts).backward()


def train_together(
    case: Case, rank: int, share: bool = True, monitor: bool = False
) -> dict[str, Any]:
    """Train as one rank, with or without shared refreshes.

    Returns:
        The weights and states of this rank midway and at the end, and its diagnostics.
    """
    model = make_model()
    optimizer = case.build(model) if case.build_first else None
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = optimizer or case.build(wrapped)
    for bank in getattr(optimizer, "_banks", []):
        bank.share = bank.share if share else None
    if monitor:
        optimizer.monitor()
    factor = case.sizes[rank] * RANKS / BATCH
    sometimes = not (case.skip_layer and rank == 1)
    results: dict[str, Any] = {}
    for step in range(case.steps):
        if step == MIDWAY:
            results["midway"] = copy_states(model, optimizer)
        optimizer.zero_grad()
        x, y = (tensor.split(case.sizes)[rank] for tensor in batch(step))
        evaluate = partial(
            *(accumulate_gradients, optimizer, wrapped, (x, y), case.parts, factor),
            sometimes=sometimes,
        )
        evaluate()
        closures.repeat(optimizer, evaluate)
        optimizer.step()
    results["end"] = copy_states(model, optimizer)
    results["table"] = dict(optimizer.diagnostics()) if monitor else {}
    return results


def train_alone(
    case: Case, start: dict[str, Any] | None = None, monitor: bool = False
) -> dict[str, Any]:
    """Train with the whole batch in one process, from the start or from a saved state.

    If rank 1 skips a layer, each batch has two parts, and the second part skips the layer.
    """
    model = make_model()
    optimizer = case.build(model)
    if start is not None:
        model.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
    if monitor:
        optimizer.monitor()
    for step in range(0 if start is None else MIDWAY, case.steps):
        optimizer.zero_grad()
        evaluate = partial(accumulate_shares, case, optimizer, model, step)
        evaluate()
        closures.repeat(optimizer, evaluate)
        optimizer.step()
    return {
        **copy_states(model, optimizer),
        "table": dict(optimizer.diagnostics()) if monitor else {},
    }


def accumulate_shares(case: Case, optimizer: Any, model: nn.Module, step: int) -> None:
    """Run a backward for the whole batch, or for the share of each rank if one skips a layer."""
    sizes = case.sizes if case.skip_layer else (BATCH,)
    parts = zip(*(tensor.split(sizes) for tensor in batch(step)), strict=True)
    for number, part in enumerate(parts):
        accumulate_gradients(
            optimizer, model, part, 1, sizes[number] / BATCH, sometimes=number == 0
        )


def copy_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


# ---------------------------------------------------------------------- the two processes


@contextlib.contextmanager
def count_decompositions() -> Iterator[list[int]]:
    """Record the numbers of matrices that are decomposed or inverted inside the `with` block."""
    counts: list[int] = []
    originals = {name: getattr(linalg, name) for name in ("_invert_by_cholesky", "eigenbasis")}

    def counting(name: str) -> Any:
        return lambda matrix, *args: counts.append(len(matrix)) or originals[name](matrix, *args)

    for name in originals:
        setattr(linalg, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in originals.items():
            setattr(linalg, name, function)


def collect_refusals(rank: int) -> dict[str, str]:
    """Return the errors for ranks that differ, and for optimizers without data parallelism."""
    differences: dict[str, Any] = {
        "shape": lambda: precond.FOOF(make_model(outputs=3 + rank)),
        "frozen": lambda: precond.FOOF(make_model().requires_grad_(rank == 0)),
        "optimizer": lambda: precond.build(("foof", "kfac")[rank], make_model()),
        "hyperparameter": lambda: precond.FOOF(make_model(), damping=1.0 + rank),
        "groups": lambda: precond.FOOF(model := make_model(), params=split_groups(model, rank)),
    }
    for name in REFUSED:
        differences[name] = lambda name=name: precond.build(
            name, DistributedDataParallel(make_model())
        )
    messages = {}
    for name, build in differences.items():
        try:
            build()
        except ValueError as error:
            messages[name] = str(error)
    return messages


def split_groups(model: Net, rank: int) -> list[dict[str, Any]]:
    """Return one group of all parameters, or on rank 1 a separate group for the head."""
    head = list(model.head.parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in head)]
    return [{"params": rest}, {"params": head}] if rank else [{"params": [*rest, *head]}]


def average_with_an_infinity(rank: int) -> MovingAverage:
    """Return a moving average of three slots after three updates.

    In the first update, slot 0 is not finite on rank 1. Only rank 0 adds to slots 1 and 2. The last
    update is empty.
    """
    average = MovingAverage.zeros(3, 2, like=torch.zeros(1))
    with collectives.active(Ranks(None, rank, RANKS)):
        average.add(slice(0, 1), torch.full((1, 2), torch.inf if rank else 1.0), 1)
        for slot in (1, 2):
            if rank == 0:
                average.add(slice(slot, slot + 1), torch.full((1, 2), 6.0), 3)
            average.commit(0.5)
        average.commit(0.5)
    return average


def wrapped_layer_names() -> list[str]:
    """Return the layer names of a model with an inner wrapper and a layer named "module"."""
    inner = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).double()
    holder = nn.ModuleDict(
        {"module": nn.Linear(2, 2).double(), "inner": DistributedDataParallel(inner)}
    )
    return list(by_name(precond.FOOF(holder).state_dict()))


def run_rank(rank: int, folder: str, selected: set[str]) -> None:
    """Run the selected cases as one rank, and save the results in the folder."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    early_optimizer = precond.FOOF(make_model())
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    try:
        early_optimizer.step()
        late_error = ""
    except RuntimeError as error:
        late_error = str(error)
    results: dict[str, Any] = {
        "late": late_error,
        "names": wrapped_layer_names(),
        "refusals": collect_refusals(rank),
    }
    results |= {"matrices": {}, "unshared": {}, "watched": {}}
    for name in (name for name in BY_NAME if name in selected):
        with count_decompositions() as counts:
            results[name] = train_together(BY_NAME[name], rank)
        results["matrices"][name] = sum(counts)
    for name in (str(case) for case in DENSE.values() if str(case) in selected):
        with count_decompositions() as counts:
            results["unshared"][name] = train_together(BY_NAME[name], rank, share=False)
        results["matrices"][name, "unshared"] = sum(counts)
    for name in (name for name in MONITORED if name in selected):
        results["watched"][name] = train_together(BY_NAME[name], rank, monitor=True)
    average = vars(average_with_an_infinity(rank)).items()
    results["poisoned"] = {key: value for key, value in average if value is not None}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Return the results of each rank, for the cases of the selected tests."""
    folder = tmp_path_factory.mktemp("ranks")
    items = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    selected = {item.callspec.params["name"] for item in items if hasattr(item, "callspec")}
    torch.multiprocessing.spawn(run_rank, (str(folder), selected), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


# ---------------------------------------------------------------------- the tests


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists, by path."""
    if not isinstance(tree, (dict, list)):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        key: leaf
        for name, value in items
        for key, leaf in leaves(value, f"{prefix}/{name}").items()
    }


def assert_bitwise_equal(first: Any, second: Any) -> None:
    """Compare tensors and other values in two nested states, tensors bitwise."""
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        assert same, f"{key} differs"


def assert_close(first: Any, second: Any) -> None:
    """Compare the weights of two results."""
    close = {"rtol": TOLERANCE, "atol": TOLERANCE}
    for key, value in second["model"].items():
        torch.testing.assert_close(first["model"][key], value, **close, msg=key)


@pytest.mark.parametrize("name", BY_NAME)
def test_two_ranks_equal_one_process_with_the_whole_batch(ranks, name):
    alone = train_alone(BY_NAME[name])
    assert_bitwise_equal(ranks[0][name], ranks[1][name])
    if BY_NAME[name].optimizer not in ILL_CONDITIONED:
        assert_close(ranks[0][name]["end"], alone)
    if BY_NAME[name].optimizer in PRECONDITIONED:
        together = by_name(ranks[0][name]["end"]["optimizer"])
        flags = {
            key: value
            for key, value in leaves(by_name(alone["optimizer"])).items()
            if isinstance(value, bool)
        }
        assert all(leaves(together)[key] == value for key, value in flags.items())
        assert flags["/layers.sometimes/recorded"]
        assert not flags["/layers.never/recorded"]


@pytest.mark.parametrize("name", [str(case) for case in PLAIN])
def test_one_process_resumes_from_the_state_of_two_ranks(ranks, name):
    assert_close(train_alone(BY_NAME[name], ranks[0][name]["midway"]), ranks[0][name]["end"])


def test_all_optimizers_with_dense_factors_are_tested():
    assert [*DENSE] == ["foof", "kfac", "skfac", "ekfac", "steve"]


@pytest.mark.parametrize("name", [str(case) for case in DENSE.values()])
def test_sharing_a_refresh_does_not_change_the_results(ranks, name):
    """One rank refreshes only the widest of nine slots, which costs more than the other eight."""
    shared = [rank["matrices"][name] for rank in ranks]
    unshared = [rank["matrices"][name, "unshared"] for rank in ranks]
    assert unshared[0] == unshared[1] > 0
    assert shared == [unshared[0] // 9, unshared[0] * 8 // 9]
    for rank in ranks:
        assert_bitwise_equal(rank[name], rank["unshared"][name])


def test_the_most_expensive_slots_go_to_the_rank_with_the_least_work():
    slots = [shares([(1, 1.0), (3, 8.0), (1, 9.0)], Ranks(None, rank, 3)) for rank in range(3)]
    assert slots == [
        [slice(0, 0), slice(0, 0), slice(0, 1)],
        [slice(0, 0), slice(0, 2), slice(1, 1)],
        [slice(0, 1), slice(2, 3), slice(1, 1)],
    ]


def test_an_average_includes_the_sums_and_infinities_of_all_ranks(ranks):
    assert_bitwise_equal(ranks[0]["poisoned"], ranks[1]["poisoned"])
    average = ranks[0]["poisoned"]
    assert average["value"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert average["weight"].tolist() == [0, 0.5, 0.5]
    assert average["dropped"].tolist() == [1, 0, 0]


def test_ranks_that_differ_are_refused(ranks):
    expected = {
        "shape": "head.weight is [3, 6] float64 on rank 0, [4, 6] float64 on rank 1",
        "frozen": "conv.weight is [4, 1, 3, 3] float64 on rank 0, "
        "[4, 1, 3, 3] float64 frozen on rank 1",
        "optimizer": "optimizer is FOOF on rank 0, KFAC on rank 1",
        "hyperparameter": "damping is 1.0 on rank 0, 2.0 on rank 1",
        "groups": "parameter group of head.weight is 0 on rank 0, 1 on rank 1",
    }
    advice = "Build the same model and optimizer on every rank"
    for rank in ranks:
        messages = rank["refusals"]
        for name, difference in expected.items():
            assert messages[name] == f"the ranks differ: {difference}. {advice}"
        assert messages.keys() == {*expected, *REFUSED}
        for name in REFUSED:
            assert "does not support DistributedDataParallel" in messages[name]


def test_every_optimizer_is_tested_or_refuses_data_parallelism():
    assert {case.optimizer for case in PLAIN} | {*REFUSED} == {*CARDS, *COMPOSED}
    assert len(PRECONDITIONED) >= 7


def test_an_optimizer_built_before_init_process_group_is_refused(ranks):
    assert "Build the optimizer after torch.distributed.init_process_group" in ranks[0]["late"]


def test_layer_names_do_not_contain_the_names_of_wrappers(ranks):
    assert ranks[0]["names"] == ["module", "inner.0", "inner.1.weight", "inner.1.bias"]


@pytest.mark.parametrize("name", MONITORED)
def test_diagnostics_equal_those_of_the_whole_batch(ranks, name):
    """The diagnostics are equal on both ranks, and do not change the training."""
    first, second = (rank["watched"][name] for rank in ranks)
    assert first["table"] == second["table"]
    assert_bitwise_equal(first["end"]["model"], ranks[0][name]["end"]["model"])
    for layer, row in train_alone(BY_NAME[name], monitor=True)["table"].items():
        for key, value in row.items():
            expected = value if value is None else pytest.approx(value, rel=1e-5, abs=1e-9)
            assert first["table"][layer][key] == expected, f"{layer}: {key}"
    assert all(
        row["stable_rank"] for layer, row in first["table"].items() if layer != "layers.never"
    )
