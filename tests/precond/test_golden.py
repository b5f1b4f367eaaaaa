"""Golden numbers: the arithmetic of an optimizer may change only together with its NUMERICS.

NUMERICS is a part of a trial's key, so results of the old and the new arithmetic are never mixed; this test makes sure
that it is raised. `golden.json` has, for every registered optimizer and every option that has named values (or is a
flag), one at a time, how far each parameter went in 20 float64 steps. Regenerate:
`python tests/precond/test_golden.py`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import precond
from precond.hyperparameters import choice
from precond.registry import REGISTRY, lookup

# The arithmetic of an optimizer of another package is that of the version that pyproject.toml names.
NAMES = [name for name, entry in REGISTRY.items() if entry.package is None]
FILE = Path(__file__).with_name("golden.json")
REGENERATE = "run python tests/precond/test_golden.py"
TOLERANCE = 1e-9
STEPS = 20
# Set where the optimizer has them: several updates and refreshes in 20 steps, a sketch, layers no wider than the rank.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 6, "basis_interval": 6, "interval": 6},
    **{"rank": 5, "ema_decay": 0.8, "damping": 0.3},
}
BATCH = 40  # more than the 28 inputs of the widest layer: a null space would have any basis, and so any numbers

Golden = dict[str, dict[str, Any]]  # optimizer -> {"numerics": version, "cases": {case: distances}}


def net() -> nn.Module:
    """Eight parameters: a convolution, a sketched linear layer, a normalisation without curvature, a narrow layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4), nn.LayerNorm(4), nn.Tanh(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


def cases(name: str) -> dict[str, dict[str, Any]]:
    """The defaults, and each named option or flag at each other value it may take, alone."""
    found: dict[str, dict[str, Any]] = {"defaults": {}}
    defaults = precond.defaults(name)
    for field in (field for kind in lookup(name).kinds for field in dataclasses.fields(kind)):
        for value in values(field):
            if value != defaults[field.name] and not precond.check(name, {field.name: value}):
                found[f"{field.name}={value}"] = {field.name: value}
    return found


def values(field: dataclasses.Field[Any]) -> list[Any]:
    """What a flag or a choice may be; nothing for numbers."""
    if isinstance(field.default, bool):
        return [False, True]
    words = field.metadata["allowed"].removeprefix("one of ").split(", ")
    return words if choice(*words).metadata["allowed"] == field.metadata["allowed"] else []


def distances(name: str, options: dict[str, Any]) -> list[float]:
    """The norm of each parameter's way from its start."""
    model, start = net(), net()
    defaults = precond.defaults(name)
    settings = {key: value for key, value in SETTINGS.items() if key in defaults}
    optimizer = precond.build(name, model, **{**settings, **options})
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (BATCH,), generator=generator)
        optimizer.zero_grad()
        precond.backward(F.cross_entropy(model(x), y), optimizer)
        optimizer.step()
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return [float(f"{(p - q).norm().item():.12g}") for p, q in pairs]


def problem(name: str, case: str, now: list[float], golden: Golden) -> str | None:
    """What is wrong between the numbers of a case and the stored ones, and what to do."""
    numerics = lookup(name).numerics
    stored = golden.get(name, {"numerics": numerics, "cases": {}})
    if stored["numerics"] != numerics:
        return f"NUMERICS of {name} is {numerics}, the stored numbers are of {stored['numerics']}: {REGENERATE}"
    if case not in stored["cases"]:
        return f"no stored numbers of {name}, {case}: {REGENERATE}"
    if now == pytest.approx(stored["cases"][case], rel=TOLERANCE, abs=0):
        return None
    return (
        f"numbers moved but NUMERICS did not: raise NUMERICS of {name} and {REGENERATE}\n"
        f"{case}: stored {stored['cases'][case]}\nnow {now}"
    )


def load() -> Golden:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def everything() -> Golden:
    """The numbers of now, of every optimizer."""
    return {
        name: {
            "numerics": lookup(name).numerics,
            "cases": {case: distances(name, options) for case, options in cases(name).items()},
        }
        for name in NAMES
    }


ALL = [(name, case) for name in NAMES for case in cases(name)]


@pytest.mark.parametrize(("name", "case"), ALL, ids=[f"{name} {case}" for name, case in ALL])
def test_the_numbers_are_those_of_their_numerics(name, case):
    """A change of arithmetic without a new NUMERICS would mix incomparable results under one key."""
    wrong = problem(name, case, distances(name, cases(name)[case]), load())
    assert wrong is None, wrong


def test_nothing_is_stored_that_is_gone():
    """A renamed option would otherwise leave its numbers behind."""
    stored = {(name, case) for name, entry in load().items() for case in entry["cases"]}
    assert stored <= set(ALL), f"{REGENERATE}: {sorted(stored - set(ALL))} are gone"


def test_the_options_are_found():
    """And each changes the numbers: a case that equals the defaults would guard nothing."""
    assert set(cases("sgd")) == {"defaults", "nesterov=True"}
    assert {"resample=window", "shift=official", "sketch=gaussian", "decoupled=True"} <= set(
        cases("nysact-s")
    )
    golden = load()
    for name, entry in golden.items():
        numbers = list(entry["cases"].values())
        assert all(len(row) == 8 and min(row) > 0 for row in numbers), name
        assert len({tuple(row) for row in numbers}) == len(numbers), (
            f"two cases of {name} are the same"
        )


@pytest.mark.parametrize("name", ["sgd", "foof", "nysact-s"])
def test_a_small_change_of_the_arithmetic_is_noticed(name, monkeypatch):
    """Whether it is in a coefficient or in a version; so the test above can fail."""
    golden = load()
    moved = distances(name, {"momentum": 0.9 * (1 + 1e-7)})
    wrong = problem(name, "defaults", moved, golden)
    assert wrong is not None and wrong.startswith(
        f"numbers moved but NUMERICS did not: raise NUMERICS of {name} and run python tests/precond/test_golden.py"
    )
    now = golden[name]["cases"]["defaults"]
    assert problem(name, "defaults", now, golden) is None
    assert "no stored numbers" in (problem(name, "no such case", now, golden) or "")
    assert "no stored numbers" in (problem(name, "defaults", now, {}) or "")
    monkeypatch.setitem(golden, name, {**golden[name], "numerics": golden[name]["numerics"] + 1})
    assert (problem(name, "defaults", now, golden) or "").endswith(REGENERATE)


def test_regenerating_does_not_hide_a_change(monkeypatch, tmp_path):
    """Numbers that moved under the same NUMERICS are refused, those of a new NUMERICS are written."""
    golden = load()
    stored = golden["sgd"]["cases"]["defaults"]
    older = {
        "numerics": golden["sgd"]["numerics"],
        "cases": {"defaults": [2 * value for value in stored]},
    }
    assert refused({"sgd": golden["sgd"]}, {"sgd": older})
    assert not refused(
        {"sgd": {**golden["sgd"], "numerics": older["numerics"] + 1}}, {"sgd": older}
    )
    assert not refused({"sgd": golden["sgd"]}, {"sgd": golden["sgd"]})
    assert not refused({"sgd": golden["sgd"]}, {})


def refused(now: Golden, stored: Golden) -> list[str]:
    """One line for each case whose numbers moved under the same NUMERICS."""
    return [
        f"{name}, {case}: numbers moved but NUMERICS did not: raise NUMERICS of {name}"
        for name, entry in stored.items()
        if name in now and now[name]["numerics"] == entry["numerics"]
        for case, numbers in entry["cases"].items()
        if case in now[name]["cases"]
        and now[name]["cases"][case] != pytest.approx(numbers, rel=TOLERANCE, abs=0)
    ]


def regenerate() -> int:
    """Write `golden.json`, unless a case moved under the same NUMERICS."""
    now, stored = everything(), load()
    if wrong := refused(now, stored):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    # Cases that did not move keep their digits, so that a diff shows only what changed.
    for name, entry in now.items():
        if name in stored and stored[name]["numerics"] == entry["numerics"]:
            entry["cases"] |= {
                case: row for case, row in stored[name]["cases"].items() if case in entry["cases"]
            }
    FILE.write_text(json.dumps(now, indent=1).replace("\n    ", " ").replace("\n   ]", "]") + "\n")
    print(
        f"{sum(len(entry['cases']) for entry in now.values())} cases of {len(now)} optimizers in {FILE.name}"
    )
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(regenerate())
