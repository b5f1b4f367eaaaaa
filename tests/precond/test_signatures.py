"""The public optimizers have explicit, typed signatures: what `help`, an editor and a type checker see.

`precond/optimizers.py` is generated from the hyperparameter dataclasses, which are the only place to edit an argument.
Regenerate: `python tests/precond/test_signatures.py`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import precond
from precond.algorithms import ekfac, eva, foof, kfac, nysact, sketchysgd, steve
from precond.registry import REGISTRY
from precond.rules import KFEAdamRule, SGDRule

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "precond" / "optimizers.py"
REGENERATE = "python tests/precond/test_signatures.py"
WIDTH = 118
HEADER = f'''"""The public optimizers, with explicit signatures: the arguments of an update rule and of an algorithm.

Do not edit: `{REGENERATE}` generates this file from the hyperparameter
dataclasses, and a test compares the two. In a docstring, parentheses at the end of an argument hold
its symbol in the paper and the allowed values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from precond.algorithms import ekfac, eva, foof, kfac, nysact, sketchysgd, steve
from precond.optimizer import Preconditioned
from precond.rules import KFEAdamRule

# fmt: off
'''


@dataclass(frozen=True)
class Public:
    """One public class: the dataclasses of its arguments, its bases, its first line, the arguments of its example."""

    kinds: tuple[type, ...]
    bases: str
    summary: str
    example: str
    backward: str = "loss_function(model(inputs), targets).backward()"


def preconditioned(algorithm: type, summary: str, example: str, rule: type = SGDRule) -> Public:
    module = algorithm.__module__.rpartition(".")[2]
    bases = f"Preconditioned, algorithm={module}.{algorithm.__name__}"
    bases += "" if rule is SGDRule else f", rule={rule.__name__}"
    return Public((rule, algorithm), bases, summary, example)


PUBLIC = {
    "FOOF": preconditioned(
        foof.FOOF, "SGD preconditioned by the damped inverse of the input covariance (Benzing 2022)", "lr=0.1"
    ),
    "NysAct": preconditioned(
        nysact.NysAct, "SGD preconditioned by a Nystrom approximation of the input covariance (Seung et al. 2024)",
        "lr=0.1, rank=10",
    ),
    "KFAC": preconditioned(
        kfac.KFAC, "SGD preconditioned by Kronecker-factored curvature (Martens and Grosse 2015)",
        "lr=0.1, damping=1.0",
    ),
    "Eva": preconditioned(eva.Eva, "SGD preconditioned by rank-one curvature (Zhang et al. 2023)", "lr=0.1"),
    "EKFAC": preconditioned(
        ekfac.EKFAC, "SGD preconditioned by second moments in KFAC's eigenbasis (George et al. 2018)",
        "lr=0.1, basis_interval=500",
    ),
    "STEVE": preconditioned(
        steve.STEVE, "Adam in the eigenbasis of KFAC", "lr=1e-3, basis_interval=500", KFEAdamRule
    ),
    "SketchySGD": Public(
        (sketchysgd.Settings,), "sketchysgd.SketchySGD",
        "SGD preconditioned by a sketch of the whole model's Hessian (Frangella et al. 2024)",
        "lr=1e-3, rank=10", "optimizer.backward(loss_function(model(inputs), targets))",
    ),
}  # fmt: skip


# ---------------------------------------------------------------------- the generator


def attributes(kind: type) -> dict[str, str]:
    """The text of each field, from the `Attributes` of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = (inspect.cleandoc(vars(base).get("__doc__") or "") + "\n").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE):
            texts[name] = " ".join(text.split())
    return texts


def arguments(public: Public) -> dict[str, tuple[dataclasses.Field[Any], str]]:
    """Each argument: its field, and its text."""
    return {f.name: (f, attributes(kind)[f.name]) for kind in public.kinds for f in dataclasses.fields(kind)}


def description(field: dataclasses.Field[Any], text: str) -> str:
    """The argument's line in the docstring."""
    chosen = bool(field.metadata["choices"]) or isinstance(field.default, bool)
    notes = "; ".join(filter(None, (field.metadata["symbol"], "" if chosen else field.metadata["allowed"])))
    return f"{field.name}: {text.rstrip('.')}{f' ({notes})' if notes else ''}."


def parameter(field: dataclasses.Field[Any]) -> str:
    """The argument in the signature."""
    choices = ", ".join(f'"{choice}"' for choice in field.metadata["choices"])
    default = f'"{field.default}"' if choices else repr(field.default)
    return f"{field.name}: {f'Literal[{choices}]' if choices else field.type} = {default}"


def wrapped(items: list[str], indent: int) -> str:
    """Items with commas, as many as fit into a line."""
    lines, blank = [""], " " * indent
    for item in items:
        if lines[-1] and len(blank + lines[-1] + item) > WIDTH:
            lines.append("")
        lines[-1] += f"{item}, "
    return "\n".join(blank + line.rstrip() for line in lines)


def written(name: str, public: Public) -> str:
    """The class as text."""
    fields = arguments(public)
    described = [
        "model: The model to train, plain or compiled.",
        "params: Parameter groups as in `torch.optim`. Default: one group of all trainable parameters.",
        *(description(*argument) for argument in fields.values()),
    ]
    blank = " " * 8
    args = [
        textwrap.fill(line, WIDTH, initial_indent=blank, subsequent_indent=blank + "    ", break_on_hyphens=False)
        for line in described
    ]
    signature = ["self", "model: nn.Module", "*", "params: Iterable[Any] | None = None"]
    signature += [parameter(field) for field, _ in fields.values()]
    forwarded = ["model", "params=params", *(f"{field}={field}" for field in fields)]
    return "\n".join(
        [
            f"\n\nclass {name}({public.bases}):",
            f'    """{public.summary}.\n',
            f"    The equations are in `{public.kinds[-1].__module__}`.\n",
            "    Args:",
            *args,
            "\n    Example:",
            f"{blank}>>> optimizer = precond.{name}(model, {public.example})",
            f"{blank}>>> {public.backward}",
            f"{blank}>>> optimizer.step()",
            '    """\n',
            f"    def __init__(\n{wrapped(signature, 8)}\n    ):",
            f"{blank}super().__init__(\n{wrapped(forwarded, 12)}\n{blank})",
        ]
    )


def generated() -> str:
    """The whole file."""
    return HEADER + "\n".join(written(name, public) for name, public in PUBLIC.items()) + "\n"


# ---------------------------------------------------------------------- the tests


def test_the_committed_file_is_what_the_generator_writes():
    assert FILE.read_text() == generated(), f"run {REGENERATE}"


def test_every_public_optimizer_is_generated():
    """From the registry, so that a new one is not forgotten."""
    classes = {entry.optimizer for entry in REGISTRY.values() if inspect.isclass(entry.optimizer)}
    assert classes == {getattr(precond, name) for name in PUBLIC}
    assert set(PUBLIC) < set(precond.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_signature_is_that_of_the_dataclasses(name):
    """Every hyperparameter with its default, keyword-only; and the values arrive."""
    kind, fields = getattr(precond, name), arguments(PUBLIC[name])
    model, params, *rest = inspect.signature(kind).parameters.values()
    assert (model.name, params.name) == ("model", "params")
    assert {p.name: p.default for p in rest} == {key: field.default for key, (field, _) in fields.items()}
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    values = {"lr": 0.25, "rank": 3, "damping": 0.5, "eps": 1e-3}
    changed = {key: value for key, value in values.items() if key in fields}
    optimizer: Any = kind(nn.Linear(4, 4), **changed)
    settings = getattr(optimizer, "settings", None) or optimizer.algorithm
    for key, value in changed.items():
        assert (optimizer.param_groups[0][key] if key == "lr" else getattr(settings, key)) == value


def test_a_subclass_has_the_algorithm_of_its_parent():
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
    """And nothing but the marked lines is an error."""
    (tmp_path / "snippet.py").write_text(SNIPPET)
    config = {"include": ["snippet.py"], "extraPaths": [str(ROOT)], "reportMissingModuleSource": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    reported = {line["range"]["start"]["line"] for line in json.loads(run.stdout)["generalDiagnostics"]}
    assert reported == {number for number, line in enumerate(SNIPPET.splitlines()) if line.endswith("# error")}
    assert (ROOT / "precond" / "py.typed").exists()


def test_hyperparameters_are_imported_without_torch():
    """Help texts and checks of names must be fast; `precond` imports its names on first use."""
    code = "import sys, precond; from precond.hyperparameters import nearest; from precond import HyperparameterError\n"
    check = "sys.exit(1 if 'torch' in sys.modules or not set(precond.__all__) <= set(dir(precond)) else 0)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code + check], env=environment).returncode == 0
    with pytest.raises(AttributeError, match="NysActt"):
        _ = precond.NysActt


if __name__ == "__main__":
    FILE.write_text(generated())
    print(f"{len(PUBLIC)} optimizers in {FILE.name}")
