"""`python -m precond audit`: descriptions of optimizers, output, exit codes, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import precond
from precond.__main__ import main
from precond.auditing.catalogue import CATALOGUE
from precond.auditing.sides import AuditError, split

FILE = Path(__file__).with_name("planted.py")
SGD = "torch.optim.SGD:lr=0.1,momentum=0.9,weight_decay=0.05"


def planted(name: str) -> str:
    return f"{FILE}:{name}"


def test_the_command_prints_the_report_and_returns_1_for_a_difference(capsys):
    assert main(["audit", SGD, f"{SGD},nesterov=True", "--steps", "4"]) == 1
    text = capsys.readouterr().out
    assert "A and B first differ in step 1. " in text and "* Nesterov momentum" in text
    assert main(["audit", SGD, SGD, "--steps", "4"]) == 0
    assert "A and B are equal in 4 steps" in capsys.readouterr().out


def test_the_result_can_be_printed_as_json(capsys):
    assert main(["audit", SGD, f"{SGD},nesterov=True", "--steps", "4", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["first"]["step"] == 1 and not result["equal"]
    (explanation,) = result["explanations"]
    assert explanation["differences"][0]["convention"] == "nesterov"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("nyscat-s", 'optimizer = "nyscat-s": unknown. Did you mean "nysact-s"?'),
        ("foof:damping=-1", "foof:damping=-1: damping = -1: must be a finite number > 0"),
        ("foof:damping", 'optimizer = "foof:damping": unknown.'),
        ("foof:lr=0.1,,", "'' must be written as name=value"),
        ("torch.optim.Adamw", '"torch.optim.Adamw": unknown. Did you mean "AdamW"?'),
        ("torch.optim.AdamW:rate=1", "rate: unknown hyperparameter."),
        ("torch.optim.AdamW:lr=-1", "ValueError: Invalid learning rate: -1"),
        ("missing.py:Adam", "missing.py: cannot be read: FileNotFoundError"),
        (planted("Adan"), 'has no class or function "Adan". Did you mean "Adam"?'),
        (planted("Broken"), "RuntimeError: broken on purpose"),
        (planted("no_optimizer"), "must return a torch.optim.Optimizer, but returned float"),
    ],
)
def test_an_invalid_side_is_one_line(capsys, description, message):
    assert main(["audit", SGD, description]) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out


@pytest.mark.parametrize("option", [{"steps": 1}, {"steps": 2.5}, {"tolerance": 0.0}])
def test_invalid_options_are_refused(option):
    with pytest.raises(AuditError, match="must be"):
        precond.audit(SGD, SGD, **option)


def test_descriptions_are_split_into_a_name_and_values():
    assert split("sgd") == ("sgd", {})
    assert split("a:lr=0.1,betas=(0.9, 0.99),nesterov=true,mode=fast") == (
        "a",
        {"lr": 0.1, "betas": (0.9, 0.99), "nesterov": True, "mode": "fast"},
    )
    assert split("library:Lion:lr=1e-3") == ("library:Lion", {"lr": 1e-3})


def test_the_example_of_the_page_is_the_output_of_the_command(capsys, monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    command, _, expected = (
        page.partition("$ python -m precond ")[2].partition("```")[0].partition("\n")
    )
    (tmp_path / "my_adam.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    heading = "Relative difference"  # below it, the last digits depend on the machine
    assert capsys.readouterr().out.partition(heading)[0] == expected.partition(heading)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["my_adam.py"]


def test_the_page_has_a_row_for_each_convention():
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    for convention in CATALOGUE.values():
        assert f"| {convention.title} | {'; '.join(convention.choices.values())} |" in page
