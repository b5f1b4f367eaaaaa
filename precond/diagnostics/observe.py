"""Covariances of the inputs and output gradients of a model's layers, without an optimizer.

>>> with precond.observe(model) as observer:
...     loss_function(model(inputs), labels).backward()
>>> observer.covariances()["conv1"]  # [groups, p, p]

The observer uses the same layers and the same input rows as the optimizers. Like the optimizers, it
ignores forwards without gradients. All rows since the last `reset` have the same weight.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from precond.algorithm import Algorithm, LayerShape, Needs, Signals
from precond.banks import make_banks
from precond.capture import attach, detach
from precond.layers import find_layers
from precond.parts.linalg import Outcome
from precond.parts.statistics import KroneckerStatistic, output_gram


class _InputStatistics(Algorithm[KroneckerStatistic]):
    """An algorithm that only collects statistics of the inputs."""

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

    def precondition(
        self, state: KroneckerStatistic, gradients: Tensor, lr: float, overwrite: bool = False
    ) -> Tensor:
        return gradients


class _Statistics(_InputStatistics):
    """An algorithm that collects statistics of inputs and output gradients."""

    NEEDS: ClassVar[Needs] = Needs.BOTH


class Observer:
    """A collector of covariances of a model's layers; created by `precond.observe`."""

    def __init__(self, model: nn.Module, output_gradients: bool = False):
        self._layers, _ = find_layers(model)
        # One parameter group for all layers, because learning rates do not matter here.
        groups = {layer.weight: 0 for layer in self._layers}
        algorithm = _Statistics() if output_gradients else _InputStatistics()
        self._banks = make_banks(algorithm, self._layers, groups, wait=False)
        self._handles = attach(self._banks)
        weakref.finalize(self, detach, self._handles, self._banks)

    def covariances(self, of: str = "inputs") -> dict[str, Tensor]:
        """Return the covariance of each layer that was called since the last `reset`.

        Args:
            of: `inputs` for (1/N) sum a a^T, `[groups, p, p]`, over examples and positions, where
                the last row and column belong to the bias; or `output_gradients` for
                (1/B) sum g g^T, `[groups, o, o]`, summed over positions, where g is the gradient of
                each example's loss.
        """
        matrices = {}
        for bank in self._banks:
            average = copy.deepcopy(bank.state.inputs if of == "inputs" else bank.state.outputs)
            average.commit(decay=0.0)  # commits the copy; the bank continues to accumulate
            for name, slots in bank.slots.items():
                if average.weight[slots].all():
                    matrices[name] = average.mean()[slots]
        names = [layer.name for layer in self._layers if layer.name in matrices]
        return {name: matrices[name] for name in names}

    def norms(self, of: str = "inputs") -> dict[str, Tensor]:
        """Return the Frobenius norm of each covariance, `[groups]`."""
        matrices = self.covariances(of).items()
        return {name: torch.linalg.matrix_norm(matrix) for name, matrix in matrices}

    def spectra(self, of: str = "inputs") -> dict[str, Tensor]:
        """Return the eigenvalues of each covariance, descending, in float64.

        They are `[groups, p]` for inputs and `[groups, o]` for output gradients.
        """
        matrices = self.covariances(of).items()
        return {name: torch.linalg.eigvalsh(matrix.double()).flip(-1) for name, matrix in matrices}

    def reset(self) -> None:
        """Discard all data, as if no layer had been called. A closed observer stays closed."""
        for bank in self._banks:
            recording = bank.recording
            bank.reset()
            bank.recording = recording

    def close(self) -> None:
        """Remove the hooks. The covariances remain available."""
        detach(self._handles, self._banks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def observe(model: nn.Module, output_gradients: bool = False) -> Observer:
    """Observe a model's Linear and Conv2d layers until `close()`, or inside a `with` block.

    Args:
        model: The model, plain or compiled. Its parameters and outputs do not change.
        output_gradients: Also collect the gradients of the layers' outputs.
    """
    return Observer(model, output_gradients)
