"""An optimizer's results may change only together with NUMERICS, the version of its arithmetic.

NUMERICS is part of a trial's key, so that results of different arithmetic are never mixed. These
tests fail if the results change but NUMERICS does not. `golden.json` contains the distance of
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
from torch import nn

import precond
from precond.hyperparameters import choice
from precond.registry import REGISTRY, lookup
from tests import closures
from tests.composed import COMPOSED

# Optimizers of other packages are not tested: pyproject.toml fixes their versions. The sums of
# Muon's iteration are bfloat16, so they differ between processors.
NAMES = [name for name, entry in REGISTRY.items() if entry.package is None and name != "muon"]
NAMES += COMPOSED
FILE = Path(__file__).with_name("golden.json")
REGENERATE = "run python tests/precond/test_golden.py"
TOLERANCE = 1e-9
STEPS = 20
# Used if the optimizer has these hyperparameters. The 20 steps contain several updates and
# refreshes; some layers are sketched, others are not wider than the rank.
SETTINGS = {
    **{"cov_interval": 2, "inv_interval": 6, "basis_interval": 6, "interval": 6},
    **{"rank": 5, "ema_decay": 0.8, "damping": 0.3, "window": 8},
}
# More than the 28 inputs of the widest layer, so that no covariance has a null space, in which
# eigenvectors would depend on rounding.
BATCH = 40

Golden = dict[str, dict[str, Any]]  # optimizer -> {"numerics": version, "cases": {case: distances}}


def make_net() -> nn.Module:
    """Return a convolution, a sketched linear layer, a normalisation and a narrow layer."""
    torch.manual_seed(0)
    features = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten()
    head = nn.Linear(27, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*features, *head).double()


def cases(name: str) -> dict[str, dict[str, Any]]:
    """Return the options of each case: none, or one choice or flag that is not the default."""
    options: dict[str, dict[str, Any]] = {"defaults": {}}
    defaults = precond.defaults(name)
    for field in (field for kind in lookup(name).kinds for field in dataclasses.fields(kind)):
        for value in allowed_values(field):
            if value != defaults[field.name] and not precond.check(name, {field.name: value}):
                options[f"{field.name}={value}"] = {field.name: value}
    return options


def allowed_values(field: dataclasses.Field[Any]) -> list[Any]:
    """Return the allowed values of a flag or choice; an empty list for numbers."""
    if isinstance(field.default, bool):
        return [False, True]
    words = field.metadata["allowed"].removeprefix("one of ").split(", ")
    return words if choice(*words).metadata["allowed"] == field.metadata["allowed"] else []


def distances(name: str, options: dict[str, Any]) -> list[float]:
    """Train, and return the distance of each parameter from its initial value."""
    model, start = make_net(), make_net()
    defaults = precond.defaults(name)
    settings = {key: value for key, value in SETTINGS.items() if key in defaults}
    optimizer = precond.build(name, model, **{**settings, **options})
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (BATCH,), generator=generator)
        optimizer.zero_grad()
        closures.classify(optimizer, model, x, y)
        optimizer.step()
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    return [float(f"{(p - q).norm().item():.12g}") for p, q in pairs]


def compare_with_golden(name: str, case: str, current: list[float], golden: Golden) -> str | None:
    """Compare the numbers of a case with the stored numbers; return an error message or None."""
    numerics = lookup(name).numerics
    stored = golden.get(name, {"numerics": numerics, "cases": {}})
    if stored["numerics"] != numerics:
        return (
            f"NUMERICS of {name} is {numerics}, but the stored numbers have {stored['numerics']}: "
            f"{REGENERATE}"
        )
    if case not in stored["cases"]:
        return f"no stored numbers of {name}, {case}: {REGENERATE}"
    if current == pytest.approx(stored["cases"][case], rel=TOLERANCE, abs=0):
        return None
    return (
        f"numbers changed but NUMERICS did not: raise NUMERICS of {name} and {REGENERATE}\n"
        f"{case}: stored {stored['cases'][case]}\nnow {current}"
    )


def load_golden() -> Golden:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def compute_all() -> Golden:
    """Compute the numbers of all cases."""
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
    """With the same NUMERICS, different results would have the same key."""
    error = compare_with_golden(name, case, distances(name, cases(name)[case]), load_golden())
    assert error is None, error


def test_golden_json_contains_no_removed_cases():
    """A renamed option must not remain in the file under its old name."""
    stored = {(name, case) for name, entry in load_golden().items() for case in entry["cases"]}
    assert stored <= set(ALL), f"{REGENERATE}: {sorted(stored - set(ALL))} do not exist any more"


def test_each_option_has_a_case_and_changes_the_numbers():
    assert set(cases("sgd")) == {"defaults", "nesterov=True"}
    assert {"resample=window", "shift=official", "sketch=gaussian", "decoupled=True"} <= set(
        cases("nysact-s")
    )
    golden = load_golden()
    for name, entry in golden.items():
        numbers = list(entry["cases"].values())
        assert all(len(row) == 8 and min(row) > 0 for row in numbers), name
        assert len({tuple(row) for row in numbers}) == len(numbers), f"equal cases of {name}"


@pytest.mark.parametrize("name", ["sgd", "foof", "nysact-s"])
def test_a_relative_change_of_a_coefficient_by_1e_7_is_an_error(name, monkeypatch):
    """A missing case and a different NUMERICS are errors, too."""
    golden = load_golden()
    changed = distances(name, {"momentum": 0.9 * (1 + 1e-7)})
    error = compare_with_golden(name, "defaults", changed, golden)
    assert error is not None and error.startswith(
        f"numbers changed but NUMERICS did not: raise NUMERICS of {name} "
        "and run python tests/precond/test_golden.py"
    )
    current = golden[name]["cases"]["defaults"]
    assert compare_with_golden(name, "defaults", current, golden) is None
    assert "no stored numbers" in (compare_with_golden(name, "no such case", current, golden) or "")
    assert "no stored numbers" in (compare_with_golden(name, "defaults", current, {}) or "")
    monkeypatch.setitem(golden, name, {**golden[name], "numerics": golden[name]["numerics"] + 1})
    assert (compare_with_golden(name, "defaults", current, golden) or "").endswith(REGENERATE)


def test_regenerating_requires_a_new_numerics_for_changed_numbers(monkeypatch, tmp_path):
    current = load_golden()["sgd"]
    old_numbers = {"defaults": [2 * value for value in current["cases"]["defaults"]]}
    older = {"numerics": current["numerics"], "cases": old_numbers}
    assert changes_without_new_numerics({"sgd": current}, {"sgd": older})
    assert not changes_without_new_numerics(
        {"sgd": {**current, "numerics": current["numerics"] + 1}}, {"sgd": older}
    )
    assert not changes_without_new_numerics({"sgd": current}, {"sgd": current})
    assert not changes_without_new_numerics({"sgd": current}, {})


def changes_without_new_numerics(current: Golden, stored: Golden) -> list[str]:
    """Return one line for each case whose numbers changed with the same NUMERICS."""
    return [
        f"{name}, {case}: numbers changed but NUMERICS did not: raise NUMERICS of {name}"
        for name, entry in stored.items()
        if name in current and current[name]["numerics"] == entry["numerics"]
        for case, numbers in entry["cases"].items()
        if case in current[name]["cases"]
        and current[name]["cases"][case] != pytest.approx(numbers, rel=TOLERANCE, abs=0)
    ]


def regenerate() -> int:
    """Write `golden.json`, unless numbers changed without NUMERICS; return an exit code."""
    current, stored = compute_all(), load_golden()
    if errors := changes_without_new_numerics(current, stored):
        print("\n".join(errors), file=sys.stderr)
        return 1
    # Keep the digits of unchanged cases, so that a diff shows only real changes.
    for name, entry in current.items():
        if name in stored and stored[name]["numerics"] == entry["numerics"]:
            rows = stored[name]["cases"]
            entry["cases"] |= {case: rows[case] for case in rows if case in entry["cases"]}
    FILE.write_text(
        json.dumps(current, indent=1).replace("\n    ", " ").replace("\n   ]", "]") + "\n"
    )
    count = sum(len(entry["cases"]) for entry in current.values())
    print(f"{count} cases of {len(current)} optimizers in {FILE.name}")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(regenerate())
