"""The public optimizers that this package implements.

Their signatures and docstrings are composed from the dataclasses of the hyperparameters. To change
an argument, edit only the dataclass. Editors and type checkers read the same text in
`optimizers.pyi`. `python tests/precond/test_signatures.py` generates that file, and a test checks
that it is up to date.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable
from inspect import Parameter
from itertools import starmap
from typing import Any, Literal, TypeVar, get_type_hints

from precond.algorithms import (
    ekfac,
    eva,
    foof,
    ggt,
    kbfgs,
    kfac,
    mfac,
    nysact,
    sketchysgd,
    skfac,
    steve,
)
from precond.groups import require_model
from precond.optimizer import Preconditioned
from precond.rules import DEFAULT, RULES
from precond.rules.kfe_adam import KFEAdamRule
from precond.rules.sgd import SGDRule

Class = TypeVar("Class", bound=type)
WIDTH = 96  # of the docstrings, without the indentation
DOCSTRING = """{summary}

The equations are in `{module}`.

Args:
    model: The model to train, plain or compiled.
    params: Parameter groups as in `torch.optim`. Default: one group of all trainable
        parameters.
{rule}{arguments}

Example:
    >>> optimizer = precond.{name}(model, {example})
{step}
"""
# `optimizers.pyi` has a signature for each rule.
RULE = f"""    rule: The update rule: {", ".join(RULES)}. The arguments below are those of
        `{DEFAULT}`; "Update rules" in `docs/algorithms.md` lists those of the other rules.
"""
STEP = """\
    >>> {backward}
    >>> optimizer.step()"""
STEP_WITH_CLOSURE = """\
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = loss_function(model(inputs), targets)
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure)"""


def explicit(
    *kinds: type,
    example: str,
    backward: str = "loss_function(model(inputs), targets).backward()",
    step: str = STEP,
) -> Callable[[Class], Class]:
    """Return a decorator that writes a class's signature and docstring.

    Args:
        *kinds: Dataclasses of hyperparameters, whose fields become the arguments.
        example: The arguments in the docstring's example.
        backward: The backward call in the docstring's example.
        step: The lines of a step in the docstring's example.
    """
    fields = [(field, kind) for kind in kinds for field in dataclasses.fields(kind)]
    descriptions = "\n".join(starmap(_description, fields))

    def decorate(cls: Any) -> Any:
        *shared, _ = inspect.signature(cls.__init__, eval_str=True).parameters.values()
        any_rule = kinds[0] is RULES[DEFAULT]
        shared = [argument for argument in shared if any_rule or argument.name != "rule"]

        def __init__(self: Any, *arguments: Any, **hyperparameters: Any) -> None:
            require_model(f"{type(self).__name__}(model", arguments, hyperparameters)
            super(cls, self).__init__(*arguments, **hyperparameters)

        initialise: Any = __init__
        initialise.__signature__ = inspect.Signature([*shared, *starmap(parameter_of, fields)])
        cls.__init__ = initialise
        texts = {"summary": cls.__doc__, "module": kinds[-1].__module__, "arguments": descriptions}
        texts["rule"] = RULE if any_rule else ""
        texts["step"] = step.format(backward=backward)
        cls.__doc__ = DOCSTRING.format(name=cls.__name__, example=example, **texts)
        return cls

    return decorate


def parameter_of(field: dataclasses.Field[Any], kind: type) -> Parameter:
    """Return the parameter of the signature for a field."""
    literal: Any = Literal
    choices = field.metadata["choices"]
    annotation = literal[choices] if choices else get_type_hints(kind)[field.name]
    return Parameter(
        field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation
    )


def _description(field: dataclasses.Field[Any], kind: type) -> str:
    """Return the lines of a field in the docstring: description (symbol; allowed values).

    The allowed values are omitted where the annotation contains them.
    """
    annotated = bool(field.metadata["choices"]) or isinstance(field.default, bool)
    allowed = "" if annotated else field.metadata["allowed"]
    notes = "; ".join(filter(None, (field.metadata["symbol"], allowed)))
    text = _attribute(field.name, kind).rstrip(".") + (f" ({notes})" if notes else "")
    line = f"    {field.name}: {text}."
    return textwrap.fill(line, WIDTH, subsequent_indent=8 * " ", break_on_hyphens=False)


def _attribute(name: str, kind: type) -> str:
    """Return the description of a field in the docstring of its dataclass, or of a base class."""
    for base in kind.__mro__:
        section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")[2]
        if text := re.search(rf"^    {name}: (.*(?:\n     .*)*)", section, re.MULTILINE):
            return " ".join(text[1].split())
    return ""


@explicit(SGDRule, foof.FOOF, example="lr=0.1")
class FOOF(Preconditioned, algorithm=foof.FOOF):
    """SGD preconditioned by the damped inverse of the input covariance (Benzing 2022)."""


@explicit(SGDRule, nysact.NysAct, example="lr=0.1, rank=10")
class NysAct(Preconditioned, algorithm=nysact.NysAct):
    """SGD preconditioned by a Nystrom approximation of the input covariance (Seung et al. 2024)."""


@explicit(SGDRule, kfac.KFAC, example="lr=0.1, damping=1.0")
class KFAC(Preconditioned, algorithm=kfac.KFAC):
    """SGD preconditioned by Kronecker-factored curvature (Martens and Grosse 2015)."""


@explicit(SGDRule, skfac.SKFAC, example="lr=0.1, damping=1.0")
class SKFAC(Preconditioned, algorithm=skfac.SKFAC):
    """SGD preconditioned by the Kronecker-factored curvature of one batch (Tang et al. 2021)."""


@explicit(SGDRule, kbfgs.KBFGS, example="lr=0.1, damping=0.3", step=STEP_WITH_CLOSURE)
class KBFGS(Preconditioned, algorithm=kbfgs.KBFGS):
    """SGD preconditioned by Kronecker-factored BFGS (Goldfarb et al. 2020)."""


@explicit(SGDRule, kbfgs.KBFGSL, example="lr=0.1, memory=100", step=STEP_WITH_CLOSURE)
class KBFGSL(Preconditioned, algorithm=kbfgs.KBFGSL):
    """SGD preconditioned by Kronecker-factored L-BFGS (Goldfarb et al. 2020)."""


@explicit(SGDRule, eva.Eva, example="lr=0.1")
class Eva(Preconditioned, algorithm=eva.Eva):
    """SGD preconditioned by rank-one curvature (Zhang et al. 2023)."""


@explicit(SGDRule, ekfac.EKFAC, example="lr=0.1, basis_interval=500")
class EKFAC(Preconditioned, algorithm=ekfac.EKFAC):
    """SGD preconditioned by second moments in KFAC's eigenbasis (George et al. 2018)."""


@explicit(KFEAdamRule, steve.STEVE, example="lr=1e-3, basis_interval=500")
class STEVE(Preconditioned, algorithm=steve.STEVE, rule=KFEAdamRule):
    """Adam in the eigenbasis of KFAC."""


@explicit(
    sketchysgd.Settings,
    example="lr=1e-3, rank=10",
    backward="optimizer.backward(loss_function(model(inputs), targets))",
)
class SketchySGD(sketchysgd.SketchySGD):
    """SGD preconditioned by a sketch of the whole model's Hessian (Frangella et al. 2024)."""


@explicit(ggt.Settings, example="lr=0.01, window=100")
class GGT(ggt.GGT):
    """SGD preconditioned by the inverse square root of the last gradients (Agarwal et al. 2019)."""


@explicit(mfac.Settings, example="lr=1e-3, window=128")
class MFAC(mfac.MFAC):
    """SGD preconditioned by the Fisher matrix of the last gradients (Frantar et al. 2021)."""
