"""The public optimizers have explicit, typed signatures for `help`, editors and type checkers.

`precond/optimizers.py` composes the signatures from the dataclasses of the hyperparameters. To
change an argument, edit only the dataclass, and then run `python tests/precond/test_signatures.py`,
which writes the signatures to the stub `precond/optimizers.pyi`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import os
import pickle
import pydoc
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

import precond
from precond.algorithms import steve
from precond.optimizer import Preconditioned
from precond.optimizers import parameter_of
from precond.registry import REGISTRY
from precond.rules import DEFAULT, RULES
from precond.rules.kfe_adam import KFEAdamRule

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "precond" / "optimizers.pyi"
REGENERATE = "python tests/precond/test_signatures.py"
WIDTH = 98
PUBLIC = [
    *("FOOF", "NysAct", "KFAC", "SKFAC", "KBFGS", "KBFGSL", "Eva", "EKFAC", "STEVE", "SketchySGD"),
    *("GGT", "MFAC"),
]
HEADER = f'''"""The public optimizers, with the arguments of their update rule and algorithm.

Do not edit: `{REGENERATE}` generates this file from
`precond/optimizers.py`, and a test checks that it is up to date. In a docstring, the parentheses
after an argument contain its symbol in the paper and the allowed values.
"""

from collections.abc import Iterable
from typing import Any, Literal, overload

from torch import Tensor, nn

from precond.algorithms import ggt, mfac, sketchysgd
from precond.optimizer import Preconditioned

# fmt: off
'''


# ---------------------------------------------------------------------- the generator


def parameter(p: inspect.Parameter) -> str:
    """Return a hyperparameter as text for the signature."""
    choices = get_args(p.annotation) if isinstance(p.default, str) else ()
    quoted = [json.dumps(choice) for choice in choices]
    kind = f"Literal[{', '.join(quoted)}]" if quoted else inspect.formatannotation(p.annotation)
    kind = kind.replace("torch.Tensor", "Tensor")
    return f"{p.name}: {kind} = {json.dumps(p.default) if quoted else repr(p.default)}"


def wrapped(items: list[str]) -> str:
    """Return the items, separated by commas, in lines of at most `WIDTH` characters."""
    lines, blank = [""], " " * 8
    for item in items:
        if lines[-1] and len(blank + lines[-1] + item) > WIDTH:
            lines.append("")
        lines[-1] += f"{item}, "
    return "\n".join(blank + line.rstrip() for line in lines)


def class_text(name: str) -> str:
    """Return the class as text."""
    kind = getattr(precond, name)
    module = kind.__base__.__module__.rpartition(".")[2]
    base = "Preconditioned" if issubclass(kind, Preconditioned) else f"{module}.{name}"
    hyperparameters = [*inspect.signature(kind).parameters.values()][2:]
    head = [f"\n\nclass {name}({base}):"]
    head.append(textwrap.indent(f'"""{inspect.getdoc(kind)}\n"""\n', "    "))
    if hyperparameters[0].name != "rule":
        return "\n".join([*head, constructor([parameter(p) for p in hyperparameters])])
    for rule in [*(rule for rule in RULES if rule != DEFAULT), DEFAULT]:
        chosen = f'rule: Literal["{rule}"]' + (f' = "{rule}"' if rule == DEFAULT else "")
        fields = rule_parameters(kind, rule)
        head.append(f"    @overload\n{constructor([chosen, *map(parameter, fields)])}")
    return "\n".join(head)


def constructor(hyperparameters: list[str]) -> str:
    """Return the text of a constructor with these hyperparameters."""
    shared = ["self", "model: nn.Module", "*", "params: Iterable[Any] | None = None"]
    return f"    def __init__(\n{wrapped(shared + hyperparameters)}\n    ) -> None: ..."


def rule_parameters(kind: Any, rule: str) -> list[inspect.Parameter]:
    """Return the hyperparameters of an optimizer with another update rule."""
    kinds = RULES[rule], kind.algorithm_type
    return [parameter_of(field, k) for k in kinds for field in dataclasses.fields(k)]


def file_text() -> str:
    """Return the contents of the stub file."""
    return HEADER + "\n".join(map(class_text, PUBLIC)) + "\n"


# ---------------------------------------------------------------------- the tests


def test_the_stub_is_up_to_date():
    assert FILE.read_text() == file_text(), f"run {REGENERATE}"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_stub_equals_the_class(name):
    """The stub has the signature and the docstring that `help` prints for the class."""
    namespace: dict[str, Any] = {}
    # The last constructor of a class is that of the default rule.
    text = FILE.read_text().replace("    @overload\n", "")
    text = text.replace(f'rule: Literal["{DEFAULT}"]', "rule: str")
    exec(compile(text, FILE, "exec", dont_inherit=True), namespace)
    stub, kind = namespace[name], getattr(precond, name)
    assert str(inspect.signature(stub)).removesuffix(" -> None") == str(inspect.signature(kind))
    assert inspect.signature(stub).parameters == inspect.signature(kind).parameters
    assert inspect.getdoc(stub) == inspect.getdoc(kind)
    text = pydoc.plain(pydoc.render_doc(kind))
    assert all(line.strip() in text for line in inspect.getdoc(stub).splitlines())
    assert f"__init__(self, {str(inspect.signature(kind)).removeprefix('(')}" in text


def test_every_public_optimizer_is_generated():
    """The registry has no public class that is not in the stub."""
    classes = {entry.optimizer for entry in REGISTRY.values() if inspect.isclass(entry.optimizer)}
    assert classes == {getattr(precond, name) for name in PUBLIC}
    assert set(PUBLIC) < set(precond.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_signature_has_the_fields_of_the_dataclasses(name):
    """Hyperparameters are keyword-only, have the same defaults, and reach the optimizer."""
    kind: Any = getattr(precond, name)
    kinds = next(entry.kinds for entry in REGISTRY.values() if entry.optimizer is kind)
    fields = {field.name: field for k in kinds for field in dataclasses.fields(k)}
    model, params, *rest = inspect.signature(kind).parameters.values()
    rest = [p for p in rest if p.name != "rule"]
    assert (model.name, params.name) == ("model", "params")
    assert {p.name: p.default for p in rest} == {
        key: field.default for key, field in fields.items()
    }
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    assert all(
        get_args(p.annotation) == fields[p.name].metadata["choices"]
        for p in rest
        if isinstance(p.default, str)
    )
    values = {"lr": 0.25, "rank": 3, "damping": 0.5, "eps": 1e-3}
    values |= {"window": 7}
    changed = {key: value for key, value in values.items() if key in fields}
    optimizer: Any = kind(nn.Linear(4, 4), **changed)
    settings = getattr(optimizer, "settings", None) or optimizer.algorithm
    for key, value in changed.items():
        assert (optimizer.param_groups[0][key] if key == "lr" else getattr(settings, key)) == value


@pytest.mark.parametrize("name", PUBLIC)
def test_the_docstring_describes_every_argument(name):
    """The decorated class can also be pickled and copied."""
    kind = getattr(precond, name)
    section = inspect.getdoc(kind).partition("Args:\n")[2].partition("\n\nExample:")[0]
    lines = [line for line in section.splitlines() if not line.startswith(" " * 8)]
    described = dict(line.strip().split(": ", 1) for line in lines)
    assert list(described) == list(inspect.signature(kind).parameters) and all(described.values())
    assert pickle.loads(pickle.dumps(kind)) is kind and copy.deepcopy(kind) is kind


def test_a_subclass_may_have_another_signature():
    class Mine(precond.NysAct):
        def __init__(self, model: nn.Module, width: int):
            super().__init__(model, rank=width)

    assert list(inspect.signature(Mine).parameters) == ["model", "width"]
    optimizer: Any = Mine(nn.Linear(4, 4), 2)
    assert optimizer.algorithm.rank == 2


def test_an_unknown_argument_is_an_error():
    misspelt: Any = {"rnak": 10}
    message = r'^rnak: unknown hyperparameter\. Did you mean "rank"'
    with pytest.raises(precond.HyperparameterError, match=message):
        precond.NysAct(nn.Linear(4, 4), **misspelt)


def test_a_subclass_inherits_the_algorithm():
    class Mine(precond.STEVE):
        pass

    optimizer = Mine(nn.Linear(4, 4), eps=1e-3)
    assert isinstance(optimizer.rule, KFEAdamRule)
    assert isinstance(optimizer.algorithm, steve.STEVE) and optimizer.algorithm.eps == 1e-3


SNIPPET = """
import precond
from torch import nn, optim

model = nn.Linear(4, 4)
precond.NysAct(model, rnak=10)  # error
precond.NysAct(model, rank=10)
precond.NysAct(model, rank="10")  # error
precond.NysAct(model, sketch="columns")  # error
precond.NysAct(model, sketch="gaussian")
precond.KFAC(model, kl_clip=None, params=model.parameters())
precond.NoSuchOptimizer(model)  # error
optimizer: optim.Optimizer = precond.build("foof", model, lr=0.1)
with precond.observe(model) as seen:
    seen.covariances().keys()


class Mine(precond.NysAct):
    pass


Mine(model, lr=0.1)
Mine(model, learning_rate=0.1)  # error
raise precond.HyperparameterError(precond.registry.REGISTRY["foof"].numerics)
"""


def test_a_type_checker_sees_the_signatures(tmp_path):
    """The type checker reports errors in exactly the lines that are marked."""
    (tmp_path / "snippet.py").write_text(SNIPPET)
    config = {
        "include": ["snippet.py"],
        "extraPaths": [str(ROOT)],
        "reportMissingModuleSource": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    reported = {
        line["range"]["start"]["line"] for line in json.loads(run.stdout)["generalDiagnostics"]
    }
    assert reported == {
        number for number, line in enumerate(SNIPPET.splitlines()) if line.endswith("# error")
    }
    assert (ROOT / "precond" / "py.typed").exists()
    assert '"*.pyi"' in (ROOT / "pyproject.toml").read_text()


def test_hyperparameters_are_imported_without_torch():
    """Help texts and checks of names must be fast; `precond` imports its names on first use."""
    code = """
import sys, precond
from precond.hyperparameters import nearest
from precond import HyperparameterError

assert "torch" not in sys.modules
assert set(precond.__all__) <= set(dir(precond))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    with pytest.raises(AttributeError, match="NysActt"):
        _ = precond.NysActt


if __name__ == "__main__":
    FILE.write_text(file_text())
    print(f"{len(PUBLIC)} optimizers in {FILE.name}")
