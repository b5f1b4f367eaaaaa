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
        ("foof:lr=0.1, lr=0.2", "foof:lr=0.1, lr=0.2: lr has two values, but needs one"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import sys\nsys.exit(0)", "raised an error: RuntimeError: it exits with code 0"),
        ("def make(params): raise SystemExit(0)", "RuntimeError: it exits with code 0"),
        ("def make(): pass", "its first argument must be the parameters or the model"),
        ("def make(*, lr=0.1): pass", "its first argument must be the parameters or the model"),
        ("def make(**values): pass", "its first argument must be the parameters or the model"),
        ("make = dict", "ValueError: no signature found"),
        ("x = '\udcff'", "cannot be read: SyntaxError"),
        ("\0", "cannot be read: "),
    ],
)
def test_an_invalid_file_is_one_line(capsys, tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert main(["audit", f"{path}:make", SGD]) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out


def test_an_optimizer_that_exits_in_its_step_is_an_error(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "class Exits(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        raise SystemExit(0)\n"
    )
    assert main(["audit", SGD, f"{path}:Exits"]) == 2
    assert "RuntimeError: it exits with code 0" in capsys.readouterr().err


def test_the_output_of_a_file_is_not_a_part_of_the_report(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "print('loaded')\n"
        "def make(params):\n"
        "    print('built')\n"
        "    return torch.optim.SGD(params, lr=0.1)\n"
    )
    assert main(["audit", f"{path}:make", f"{path}:make", "--steps", "2", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["equal"] and "loaded" in output.err and "built" in output.err


def test_annotations_of_a_file_are_evaluated_as_in_an_import(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def make(params, lr: float = 0.1):\n"
        "    return torch.optim.SGD(params, lr=make.__annotations__['lr'](lr))\n"
    )
    assert precond.audit(f"{path}:make", "torch.optim.SGD:lr=0.1", steps=2).equal


def test_an_unknown_hyperparameter_lists_the_known_ones_in_their_order(capsys):
    assert main(["audit", "torch.optim.SGD:rate=1", SGD]) == 2
    assert "Known: lr, momentum, dampening, weight_decay" in capsys.readouterr().err
    assert main(["audit", f"{planted('no_optimizer')}:rate=1", SGD]) == 2
    assert "rate: unknown hyperparameter. Known: lr\n" in capsys.readouterr().err


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
