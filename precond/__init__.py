"""Preconditioned optimizers for PyTorch.

>>> optimizer = precond.NysAct(model, lr=0.1, rank=10)

Each optimizer is a `torch.optim.Optimizer` that is built from the model. The package requires only
torch. Most of the optimizers in `peers/` also require pytorch-optimizer, which is imported when the
first of them is built. Start reading in `algorithm.py`.

Imports go in one direction (`->` means "imports"): registry -> optimizers -> optimizer ->
assembly -> controls -> {saving, directions, state, capture, closures, bank, rules, distributed,
diagnostics} -> layers -> algorithm -> parts, and algorithms -> {algorithm, parts}. Further,
{controls, saving, diagnostics} -> layer_coverage, layers -> reasons, and auditing -> registry ->
{entries, peers}. The names below are imported on first use, so that `precond.hyperparameters` can be
imported without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precond import registry
    from precond.attention import separate_attention
    from precond.auditing.compare import audit
    from precond.closures import needs_closure
    from precond.diagnostics.observe import observe
    from precond.evaluation import evaluating
    from precond.hessian import backward
    from precond.hyperparameters import HyperparameterError
    from precond.layer_coverage import Coverage, coverage
    from precond.optimizers import (
        EKFAC,
        FOOF,
        GGT,
        KBFGS,
        KBFGSL,
        KFAC,
        MFAC,
        SKFAC,
        STEVE,
        Eva,
        NysAct,
        SketchySGD,
    )
    from precond.registry import available, build, check, defaults

__all__ = [
    "EKFAC", "FOOF", "GGT", "KBFGS", "KBFGSL", "KFAC", "MFAC", "SKFAC", "STEVE", "Coverage", "Eva",
    "HyperparameterError", "NysAct", "SketchySGD", "audit", "available", "backward", "build", "check",
    "coverage", "defaults", "evaluating", "needs_closure", "observe", "registry", "separate_attention",
]  # fmt: skip

_OPTIMIZERS = (
    "EKFAC", "FOOF", "GGT", "KBFGS", "KBFGSL", "KFAC", "MFAC", "SKFAC", "STEVE", "Eva", "NysAct",
    "SketchySGD",
)  # fmt: skip
_MODULES = {
    **dict.fromkeys(_OPTIMIZERS, "optimizers"),
    **dict.fromkeys(("available", "build", "check", "defaults"), "registry"),
    "Coverage": "layer_coverage",
    "HyperparameterError": "hyperparameters",
    "audit": "auditing.compare",
    "backward": "hessian",
    "coverage": "layer_coverage",
    "needs_closure": "closures",
    "evaluating": "evaluation",
    "observe": "diagnostics.observe",
    "separate_attention": "attention",
}

if not TYPE_CHECKING:  # a type checker that sees this function accepts any name

    def __getattr__(name: str) -> Any:
        if name == "registry":
            return importlib.import_module("precond.registry")
        if name not in _MODULES:
            raise AttributeError(f"module 'precond' has no attribute {name!r}")
        module = importlib.import_module(f"precond.{_MODULES[name]}")
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
