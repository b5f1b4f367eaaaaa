"""Tests that every mutant can be planted in the sources.

`make mutants` also runs the test of each mutant, which takes minutes.
"""

from pathlib import Path

import pytest
from mutants.catalogue import SUFFIXES, Mutant, MutantError, Sources, load

ROOT = Path(__file__).parents[1]
SOURCES = {
    "precond/parts/sums.py": "class Sum:\n  @property\n  def value(self):\n    return self.a + self.b\n",
    "precond/rules.py": "RATE = 1\n\n\ndef step(x):\n    return x - RATE\n\n\nvalue = 2\n",
    "precond/bank.py": "def step(x):\n    return x + 1  # ascent\n",
    "precond/limits.yaml": "rate: 1\n",
    "tests/test_sums.py": "def test_sum():\n    assert True\n",
}


def plant(function: str, old: str, new: str, test: str = "test_sum"):
    return Sources(SOURCES).plant(Mutant("precond/parts", "a bug", function, old, new, test))


def test_every_mutant_can_be_planted_in_the_sources():
    files = {
        str(path.relative_to(ROOT)): path.read_text()
        for folder in ("precond", "trainables", "studies", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES
    }
    sources, errors = Sources(files), []
    for mutant in load():
        try:
            sources.plant(mutant)
        except MutantError as error:
            errors.append(f"{mutant}\n    {error}")
    assert not errors, "\n".join(errors)


def test_replacement_changes_only_its_function():
    result = plant("Sum.value", "self.b", "self.a", "test_sum[1-a]")
    assert result.file == "precond/parts/sums.py"
    assert result.source == SOURCES["precond/parts/sums.py"].replace("self.b", "self.a")
    assert result.node == "tests/test_sums.py::test_sum[1-a]"
    assert plant("RATE", "1", "2").source == SOURCES["precond/rules.py"].replace("= 1", "= 2")
    assert plant("bank:step", "+", "-").file == "precond/bank.py"
    assert plant("rules:", "RATE = 1", "RATE = 2").file == "precond/rules.py"
    assert plant("limits.yaml:", "1", "2").source == "rate: 2\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("Sum.values", "self.b", "self.a"), "0 definitions in precond/, not 1"),
        (("step", "x", "y"), "not 1: precond/rules.py:4, precond/bank.py:1"),
        (("Sum.value", "self.", "other."), "2 times"),
        (("Sum.value", "self.c", "self.a"), "contains 'self.c' 0 times"),
        (("bank:step", "# ascent", "# descent"), "does not change the code"),
        (("limits.yaml:", "1", "1  # one"), "does not change the code"),
        (("bank:step", "x + 1", "x +"), "not valid Python"),
        (("bank:step", "x + 1", "x - 1", "test_difference"), "test_difference: 0 definitions"),
    ],
)
def test_mutant_that_cannot_be_planted_is_an_error(fields: tuple[str, ...], message: str):
    with pytest.raises(MutantError, match=message):
        plant(*fields)
