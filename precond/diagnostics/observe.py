"""What a model's layers see, without an optimizer: covariances of inputs and of output gradients, by layer.

>>> with precond.observe(model) as seen:
...     loss_function(model(inputs), labels).backward()
>>> seen.covariances()["conv1"]  # [groups, p, p]

It is the optimizers' way of seeing: the same layers, rows and forwards (those of a training step: a forward without
gradients leaves no trace). Every row since `reset` has the same weight.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from precond.algorithm import Algorithm, LayerShape, Needs, Signals
from precond.bank import make_banks
from precond.capture import attach, detach
from precond.layers import find_layers
from precond.parts.linalg import Outcome
from precond.parts.statistics import KroneckerStatistic, output_gram


class _InputStatistics(Algorithm[KroneckerStatistic]):
    """An algorithm that only collects statistics."""

    NUMERICS: ClassVar[int] = 1

    def statistics_due(self, step: int) -> bool:
        return True

    def refresh_due(self, step: int) -> bool:
        return False

    def new_state(
        self, shape: LayerShape, layers: Sequence[str], like: Tensor
    ) -> KroneckerStatistic:
        d_out = shape.d_out if self.NEEDS is Needs.BOTH else 0
        return KroneckerStatistic.zeros(len(layers), d_out, shape.d_in, like)

    def accumulate(self, state: KroneckerStatistic, slots: slice, signals: Signals) -> None:
        if signals.inputs is not None:
            state.inputs.add(slots, signals.inputs.gram(), signals.inputs.count)
        if (g := signals.output_gradients) is not None:
            state.outputs.add(slots, output_gram(g), g.shape[1])

    def refresh(self, state: KroneckerStatistic) -> Outcome:
        return Outcome.of(state.inputs.weight > 0)

    def precondition(self, state: KroneckerStatistic, gradients: Tensor, lr: float) -> Tensor:
        return gradients


class _Statistics(_InputStatistics):
    """The same for inputs and output gradients."""

    NEEDS: ClassVar[Needs] = Needs.BOTH


class Observer:
    """Covariances of what a model's layers have seen; made by `precond.observe`."""

    def __init__(self, model: nn.Module, output_gradients: bool = False):
        self._layers = find_layers(model)
        # One group for all: there are no learning rates here.
        groups = {layer.module.weight: 0 for layer in self._layers}
        algorithm = _Statistics() if output_gradients else _InputStatistics()
        self._banks = make_banks(algorithm, self._layers, groups)
        self._handles = attach(self._banks)
        weakref.finalize(self, detach, self._handles, self._banks)

    def covariances(self, of: str = "inputs") -> dict[str, Tensor]:
        """A for each layer seen since `reset`, with the bias's row and column of ones last.

        Args:
            of: `inputs`: (1/N) sum a a^T, `[groups, p, p]`, over examples and positions; or `output_gradients`:
                (1/B) sum g g^T, `[groups, o, o]`, summed over positions, for each example's own loss.
        """
        matrices = {}
        for bank in self._banks:
            average = copy.deepcopy(bank.state.inputs if of == "inputs" else bank.state.outputs)
            average.commit(decay=0.0)  # of the copy; the bank's own sums go on
            seen = {
                name: slots for name, slots in bank.slots.items() if average.weight[slots].all()
            }
            matrices |= {name: average.mean()[slots] for name, slots in seen.items()}
        return {
            layer.name: matrices[layer.name] for layer in self._layers if layer.name in matrices
        }

    def norms(self, of: str = "inputs") -> dict[str, Tensor]:
        """Frobenius norm of each covariance, `[groups]`."""
        return {
            name: torch.linalg.matrix_norm(matrix) for name, matrix in self.covariances(of).items()
        }

    def spectra(self, of: str = "inputs") -> dict[str, Tensor]:
        """Eigenvalues of each covariance in float64, `[groups, p]`, the largest first."""
        matrices = self.covariances(of).items()
        return {name: torch.linalg.eigvalsh(matrix.double()).flip(-1) for name, matrix in matrices}

    def reset(self) -> None:
        """Forget everything seen."""
        for bank in self._banks:
            bank.reset()

    def close(self) -> None:
        """See nothing more; what was seen stays."""
        detach(self._handles, self._banks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def observe(model: nn.Module, output_gradients: bool = False) -> Observer:
    """Watch a model's Linear and Conv2d layers until `close()`, or for a `with` block.

    Args:
        model: The model, plain or compiled; nothing in it changes.
        output_gradients: Whether to watch the gradients of the layers' outputs, too.
    """
    return Observer(model, output_gradients)
