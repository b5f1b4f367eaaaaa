"""Golden numbers: the arithmetic of an optimizer may change only together with its NUMERICS.

NUMERICS is part of a trial's key, so that results of different arithmetic are never mixed. These
tests fail if the arithmetic changes but NUMERICS does not. `golden.json` contains the distance of
each parameter from its initial value after 20 float64 steps, for each registered optimizer with its
defaults, and with each value of each choice or flag alone. To regenerate the file, run `python
tests/precond/test_golden.py`.
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

# Optimizers of other packages are left out: pyproject.toml fixes their version.
NAMES = [name for name, entry in REGISTRY.items() if entry.package is None]
FILE = Path(__file__).with_name("golden.json")
REGENERATE = "run python tests/precond/test_golden.py"
TOLERANCE = 1e-9
STEPS = 20
# Used if the optimizer has these hyperparameters. The 20 steps contain several updates and
# refreshes; some layers are sketched, others are not wider than the rank.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 6, "basis_interval": 6, "interval": 6},
    **{"rank": 5, "ema_decay": 0.8, "damping": 0.3},
}
# More than the 28 inputs of the widest layer, because the basis of a null space is not determined.
BATCH = 40

Golden = dict[str, dict[str, Any]]  # optimizer -> {"numerics": version, "cases": {case: distances}}


def net() -> nn.Module:
    """Return a convolution, a sketched linear layer, a normalisation and a narrow layer."""
    torch.manual_seed(0)
    features = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten()
    head = nn.Linear(27, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*features, *head).double()


def cases(name: str) -> dict[str, dict[str, Any]]:
    """Return the defaults, and each other value of each choice or flag, alone."""
    options: dict[str, dict[str, Any]] = {"defaults": {}}
    defaults = precond.defaults(name)
    for field in (field for kind in lookup(name).kinds for field in dataclasses.fields(kind)):
        for value in values(field):
            if value != defaults[field.name] and not precond.check(name, {field.name: value}):
                options[f"{field.name}={value}"] = {field.name: value}
    return options


def values(field: dataclasses.Field[Any]) -> list[Any]:
    """Return the allowed values of a flag or choice; an empty list for numbers."""
    if isinstance(field.default, bool):
        return [False, True]
    words = field.metadata["allowed"].removeprefix("one of ").split(", ")
    return words if choice(*words).metadata["allowed"] == field.metadata["allowed"] else []


def distances(name: str, options: dict[str, Any]) -> list[float]:
    """Train, and return the distance of each parameter from its initial value."""
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
    """Compare the numbers of a case with the stored ones; return an error and advice, or None."""
    numerics = lookup(name).numerics
    stored = golden.get(name, {"numerics": numerics, "cases": {}})
    if stored["numerics"] != numerics:
        return (
            f"NUMERICS of {name} is {numerics}, but the stored numbers have {stored['numerics']}: "
            f"{REGENERATE}"
        )
    if case not in stored["cases"]:
        return f"no stored numbers of {name}, {case}: {REGENERATE}"
    if now == pytest.approx(stored["cases"][case], rel=TOLERANCE, abs=0):
        return None
    return (
        f"numbers changed but NUMERICS did not: raise NUMERICS of {name} and {REGENERATE}\n"
        f"{case}: stored {stored['cases'][case]}\nnow {now}"
    )


def load() -> Golden:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def everything() -> Golden:
    """Return the present numbers of all optimizers."""
    return {
        name: {
            "numerics": lookup(name).numerics,
            "cases": {case: distances(name, options) for case, options in cases(name).items()},
        }
        for name in NAMES
    }


ALL = [(name, case) for name in NAMES for case in cases(name)]


@pytest.mark.parametrize(("name", "case"), ALL, ids=[f"{name} {case}" for name, case in ALL])
def test_the_numbers_equal_the_golden_numbers(name, case):
    """A change of the arithmetic needs a new NUMERICS, or one key would have different results."""
    error = problem(name, case, distances(name, cases(name)[case]), load())
    assert error is None, error


def test_the_file_contains_no_removed_cases():
    """After an option is renamed, the file must not contain its old name."""
    stored = {(name, case) for name, entry in load().items() for case in entry["cases"]}
    assert stored <= set(ALL), f"{REGENERATE}: {sorted(stored - set(ALL))} do not exist any more"


def test_all_options_have_a_case_and_an_effect():
    """Each option changes the numbers, so that each case tests something."""
    assert set(cases("sgd")) == {"defaults", "nesterov=True"}
    assert {"resample=window", "shift=official", "sketch=gaussian", "decoupled=True"} <= set(
        cases("nysact-s")
    )
    golden = load()
    for name, entry in golden.items():
        numbers = list(entry["cases"].values())
        assert all(len(row) == 8 and min(row) > 0 for row in numbers), name
        assert len({tuple(row) for row in numbers}) == len(numbers), f"equal cases of {name}"


@pytest.mark.parametrize("name", ["sgd", "foof", "nysact-s"])
def test_a_small_change_of_the_arithmetic_is_an_error(name, monkeypatch):
    """`problem` reports a changed coefficient, a missing case and another NUMERICS."""
    golden = load()
    changed = distances(name, {"momentum": 0.9 * (1 + 1e-7)})
    error = problem(name, "defaults", changed, golden)
    assert error is not None and error.startswith(
        f"numbers changed but NUMERICS did not: raise NUMERICS of {name} "
        "and run python tests/precond/test_golden.py"
    )
    now = golden[name]["cases"]["defaults"]
    assert problem(name, "defaults", now, golden) is None
    assert "no stored numbers" in (problem(name, "no such case", now, golden) or "")
    assert "no stored numbers" in (problem(name, "defaults", now, {}) or "")
    monkeypatch.setitem(golden, name, {**golden[name], "numerics": golden[name]["numerics"] + 1})
    assert (problem(name, "defaults", now, golden) or "").endswith(REGENERATE)


def test_regenerating_does_not_hide_a_change(monkeypatch, tmp_path):
    """Changed numbers are refused with the same NUMERICS, and written with a new NUMERICS."""
    now = load()["sgd"]
    old_numbers = {"defaults": [2 * value for value in now["cases"]["defaults"]]}
    older = {"numerics": now["numerics"], "cases": old_numbers}
    assert refused({"sgd": now}, {"sgd": older})
    assert not refused({"sgd": {**now, "numerics": now["numerics"] + 1}}, {"sgd": older})
    assert not refused({"sgd": now}, {"sgd": now})
    assert not refused({"sgd": now}, {})


def refused(now: Golden, stored: Golden) -> list[str]:
    """Return one line for each case whose numbers changed with the same NUMERICS."""
    return [
        f"{name}, {case}: numbers changed but NUMERICS did not: raise NUMERICS of {name}"
        for name, entry in stored.items()
        if name in now and now[name]["numerics"] == entry["numerics"]
        for case, numbers in entry["cases"].items()
        if case in now[name]["cases"]
        and now[name]["cases"][case] != pytest.approx(numbers, rel=TOLERANCE, abs=0)
    ]


def regenerate() -> int:
    """Write `golden.json`, unless a case changed with the same NUMERICS; return an exit code."""
    now, stored = everything(), load()
    if errors := refused(now, stored):
        print("\n".join(errors), file=sys.stderr)
        return 1
    # Keep the digits of unchanged cases, so that a diff shows only real changes.
    for name, entry in now.items():
        if name in stored and stored[name]["numerics"] == entry["numerics"]:
            rows = stored[name]["cases"]
            entry["cases"] |= {case: rows[case] for case in rows if case in entry["cases"]}
    FILE.write_text(json.dumps(now, indent=1).replace("\n    ", " ").replace("\n   ]", "]") + "\n")
    count = sum(len(entry["cases"]) for entry in now.values())
    print(f"{count} cases of {len(now)} optimizers in {FILE.name}")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(regenerate())
