"""Update rules: what an optimizer does with the directions of its preconditioner.

`base.py` has the interface. Each rule is a file; `RULES` lists those that can follow any
preconditioner of layers, as in `precond.NysAct(model, rule="orthogonal")`.
"""

from __future__ import annotations

from precond.rules.adam import AdamRule
from precond.rules.base import Rule
from precond.rules.orthogonal import OrthogonalRule
from precond.rules.sgd import SGDRule
from precond.rules.sign import SignRule

DEFAULT = "sgd"
RULES: dict[str, type[Rule]] = {
    DEFAULT: SGDRule,
    "adam": AdamRule,
    "sign": SignRule,
    "orthogonal": OrthogonalRule,
}
