"""The *peers*: optimizers of other packages, for comparison. Each has its own file.

The packages do the arithmetic. Thin subclasses give the peers this project's hyperparameter names
and the guarantees of every registered optimizer: gradients are not changed, random draws are
seeded, and a run resumes bitwise from a loaded state. `library.py` gives access by name to all
other optimizers of pytorch-optimizer. `muon.py` uses torch instead of this package. The modules of
this folder must not import the registry, which imports them. Only this folder imports
pytorch-optimizer, and only when it is first needed.

To add a peer, write a file with the dataclass of its hyperparameters, its card and a `Peer`, and
add the `Peer` to `PEERS`.
"""

from __future__ import annotations

from torch.optim import Optimizer

from precond.peers import (
    adahessian,
    adopt,
    grafted_shampoo,
    lion,
    psgd_kron,
    schedulefree,
    shampoo,
    soap,
    sophia,
)
from precond.peers.base import PACKAGE, Peer

__all__ = ["PACKAGE", "PEERS", "Peer"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        shampoo.PEER,
        soap.PEER,
        adahessian.PEER,
        grafted_shampoo.PEER,
        lion.PEER,
        adopt.PEER,
        sophia.PEER,
        psgd_kron.PEER,
        schedulefree.PEER,
    )
}
"""The peers that need pytorch-optimizer, by registered name."""


def __getattr__(name: str) -> type[Optimizer]:
    """Return the class of a peer, which `pickle` finds by its name."""
    for peer in PEERS.values():
        if peer.class_name == name:
            return peer.optimizer_class()
    raise AttributeError(f"module 'precond.peers' has no attribute {name!r}")
