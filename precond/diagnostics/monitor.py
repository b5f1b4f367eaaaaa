"""The monitor of one bank, which accumulates measurements on the device; `measures.py` reads them.

`docs/diagnostics.md` defines the covariance A, its approximation A^ and the probes z, and gives the
accuracy of the estimates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from precond.algorithm import Algorithm
from precond.layers import Layer
from precond.parts import linalg
from precond.parts.rows import Rows
from precond.parts.sketches import seed_of
from precond.parts.stacks import named_tensors
from precond.parts.statistics import MovingAverage

MEASURES = (
    "stable_rank",
    "top_over_damping",
    "residual",
    "staleness",
    "cosine",
    "update_over_weight",
)
COUNTS = ("dropped", "failed", "rescued", "fallbacks")
PROBES = 8  # random vectors z per slot
ITERATIONS = 20  # of the subspace iteration for the largest eigenvalue


class Clock:
    """A clock of the time spent on diagnostics: device time on a GPU, host time otherwise."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[torch.cuda.Event] = []

    def __enter__(self) -> None:
        self._mark(-1)

    def __exit__(self, *_: Any) -> None:
        self._mark(1)

    def read(self) -> float:
        """Return the seconds spent since the last call."""
        if self._events:
            self._events[-1].synchronize()
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            self._seconds = sum(start.elapsed_time(end) for start, end in pairs) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _mark(self, sign: int) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._seconds += sign * time.perf_counter()


class Tally:
    """Counts of the failures of each slot in a window, on the device, `[L]` in int64."""

    def __init__(self, dropped: Tensor):
        """Start a window; `dropped` is the number of dropped updates before it."""
        self.failed, self.rescued, self.fallbacks = (torch.zeros_like(dropped) for _ in range(3))
        self._dropped = dropped

    def counts(self, dropped: Tensor) -> dict[str, Tensor]:
        """Return the counts by name; `dropped` is the number of dropped updates until now."""
        counts = dropped - self._dropped, self.failed, self.rescued, self.fallbacks
        return dict(zip(COUNTS, counts, strict=True))


class Monitor:
    """The measurements of one bank; `like` has the dtype and the device of the bank's state."""

    def __init__(
        self,
        algorithm: Algorithm[Any],
        state: Any,
        layers: Sequence[Layer],
        like: Tensor,
        clock: Clock,
    ):
        self.measuring = False
        self.clock = clock
        self._algorithm = algorithm
        names = [name for layer in layers for name in layer.slot_names]
        curvature = algorithm.curvature(state)
        self._damping, self._decay = curvature.damping, curvature.decay
        self._probes, self._products = None, None
        if curvature.low_rank is not None:
            self._probes = _signs(names, curvature.low_rank.shape[1], like)
            self._products = MovingAverage.zeros(*self._probes.shape, like=like)
        # The matrices from which the factors in use were computed, and a mask of the slots for
        # which they are known.
        matrices = self._matrices(state)
        self._used = {name: torch.zeros_like(matrix) for name, matrix in matrices.items()}
        self._known = like.new_zeros(len(names), dtype=torch.bool)
        self._staleness = like.new_full((len(names),), torch.nan, dtype=torch.float64)
        # Sum and number of the measured values of each slot, `[L, 2]`.
        sums = (like.new_zeros(len(names), 2, dtype=torch.float64) for _ in range(2))
        self._cosines, self._updates = sums
        self._parameters = [p for layer in layers for p in layer.parameters.values()]
        owners = [number for number, layer in enumerate(layers) for _ in layer.parameters]
        self._owner = torch.tensor(owners, device=like.device)
        slots = [number for number, layer in enumerate(layers) for _ in layer.slot_names]
        self._layer_of_slot = torch.tensor(slots, device=like.device)
        self._before: list[Tensor] = []

    def record(self, slots: slice, rows: Rows) -> None:
        """Add the inputs of one forward of one layer."""
        if self._products is not None and self._probes is not None:
            with self.clock:
                self._products.add(slots, rows.sketch(self._probes[slots]), rows.count)

    def discard(self, slots: slice) -> None:
        """Discard what was added to some slots since the last commit."""
        if self._products is not None:
            self._products.discard(slots)

    def commit(self, skipped: Tensor | None = None) -> None:
        """Update the averages with the inputs of this step, as `commit` of the statistics does.

        If `skipped` (a bool on the device) is True, the inputs are discarded instead.
        """
        if self._products is not None:
            with self.clock:
                if skipped is not None:
                    self._products.forget(skipped)
                self._products.commit(self._decay)

    def refreshed(self, state: Any, ok: Tensor) -> None:
        """Store the matrices from which new factors were computed, in the slots `ok [L]`."""
        with self.clock:
            new = self._matrices(state)
            if self._products is not None:
                ok = ok & (self._products.weight > 0)
            self._staleness = torch.where(ok & self._known, self._change(new), self._staleness)
            for name, old in self._used.items():
                old.copy_(linalg.select(ok, new[name], old))
            self._known |= ok

    def compare(self, directions: Tensor, gradients: Tensor, ok: Tensor) -> None:
        """Measure the cosine of directions and gradients `[L, o, p]` in the slots `ok [L]`."""
        if not self.measuring:
            return
        with self.clock:
            inner = (directions * gradients).sum((1, 2)).double()
            lengths = (
                torch.linalg.vector_norm(x, dim=(1, 2)).double() for x in (directions, gradients)
            )
            self._cosines += _observation(inner / torch.stack(list(lengths)).prod(0), ok)

    def before_update(self) -> None:
        """Copy the parameters."""
        with self.clock:
            self._before = [p.clone() for p in self._parameters]

    def after_update(self) -> None:
        """Measure the relative change of the parameters since `before_update`."""
        with self.clock:
            change = self._lengths(torch._foreach_sub(self._parameters, self._before))
            ratio = change / self._lengths(self._before)
            self._updates += _observation(ratio, change > 0)[self._layer_of_slot]
            self._before = []

    def read(self) -> dict[str, Tensor]:
        """Return the measures by name, and start a new window.

        Each measure is `[L]` in float64, and nan in slots without a value.
        """
        with self.clock:
            values = {name: torch.full_like(self._staleness, torch.nan) for name in MEASURES}
            for name, measure in self._spectrum().items():
                values[name] = torch.where(self._known, measure.double(), torch.nan)
            values["cosine"] = self._cosines[:, 0] / self._cosines[:, 1]
            values["update_over_weight"] = self._updates[:, 0] / self._updates[:, 1]
            values["staleness"] = self._staleness
            self._cosines = torch.zeros_like(self._cosines)
            self._updates = torch.zeros_like(self._updates)
            return values

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the monitor, `[L, ...]`, by name."""
        tensors = {"known": self._known, "staleness": self._staleness}
        tensors |= {"cosines": self._cosines, "updates": self._updates}
        if self._products is not None:
            tensors |= named_tensors(self._products, "products.")
        return tensors | {f"used.{name}": matrix for name, matrix in self._used.items()}

    def _matrices(self, state: Any) -> dict[str, Tensor]:
        """Return the tensors of the curvature by name, and the products of A with the probes."""
        matrices = self._algorithm.curvature(state).tensors()
        if self._products is not None:
            matrices["products"] = self._products.mean()
        return matrices

    def _change(self, new: dict[str, Tensor]) -> Tensor:
        """Return |A_new - A|_F / |A_new|_F, `[L]`."""
        if "inputs" in new:
            a = new["inputs"]
            change = torch.linalg.matrix_norm(a - self._used["inputs"])
            return (change / torch.linalg.matrix_norm(a)).double()
        if self._probes is None:
            return torch.full_like(self._staleness, torch.nan)
        change = _mean_square((new["products"] - self._used["products"]).double())
        return (change / _square_norm(new, self._probes)).sqrt()

    def _spectrum(self) -> dict[str, Tensor]:
        """Return the measures of the factors in use, `[L]` each."""
        used, values, top = self._used, {}, self._used.get("top")
        if "inputs" in used:
            top = top_eigenvalue(used["inputs"])
            values["stable_rank"] = used["inputs"].diagonal(dim1=1, dim2=2).sum(1) / top
        if self._probes is not None:
            root, z = used["low_rank"].double(), self._probes.double()
            eigenvalues = root.square().sum(1)
            top = eigenvalues.amax(1)
            error = used["products"].double() - root @ (root.mT @ z)
            values["stable_rank"] = (eigenvalues.sum(1) + (z * error).sum(1).mean(1)) / top
            values["residual"] = (_mean_square(error) / _square_norm(used, self._probes)).sqrt()
        if "outputs" in used and top is not None:
            top = top * top_eigenvalue(used["outputs"])
        if top is not None and self._damping is not None:
            values["top_over_damping"] = top / self._damping
        return values

    def _lengths(self, tensors: Iterable[Tensor]) -> Tensor:
        """Return the norm of all parameters of each layer, in float64, indexed by layer."""
        squares = torch.stack(torch._foreach_norm(list(tensors))).double().square()
        sums = squares.new_zeros(len(self._layer_of_slot)).index_add_(0, self._owner, squares)
        return sums.sqrt()


def top_eigenvalue(matrix: Tensor) -> Tensor:
    """Return the largest eigenvalues `[L]` of positive semi-definite matrices `[L, d, d]`.

    The method is a subspace iteration with 8 vectors and 20 iterations. Up to rounding, the result
    is never too large, and its relative error is of the order (lambda_9 / lambda_1)^40.
    """
    width = matrix.shape[-1]
    basis = _signs([f"top {width}"], width, matrix).expand(len(matrix), -1, -1)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ basis).Q
    values, _, _ = linalg.eigh(linalg.symmetrize(basis.mT @ (matrix @ basis)))
    return values.amax(-1)


def _signs(names: Sequence[str], width: int, like: Tensor) -> Tensor:
    """Return random signs `[L, width, PROBES]`, which are equal on all devices and ranks."""
    generators = [torch.Generator().manual_seed(seed_of(0, f"probes {name}", 0)) for name in names]
    drawn = [torch.randint(0, 2, (width, PROBES), generator=g) for g in generators]
    return torch.stack(drawn).to(like) * 2 - 1


def _square_norm(matrices: dict[str, Tensor], probes: Tensor) -> Tensor:
    """Return an estimate of |A|_F^2, `[L]`: the mean of |A z|^2.

    In slots where A^ is near A, A^ serves as a control variate.
    """
    root, products = matrices["low_rank"].double(), matrices["products"].double()
    approximate = root @ (root.mT @ probes.double())
    plain, known = _mean_square(products), torch.linalg.matrix_norm(root.mT @ root).square()
    near = _mean_square(products - approximate) < known / 4
    return torch.where(near, known + plain - _mean_square(approximate), plain)


def _mean_square(products: Tensor) -> Tensor:
    """Return the mean of |M z|^2, `[L]`, for products M z `[L, p, k]`: it estimates |M|_F^2."""
    return products.square().sum(1).mean(1)


def _observation(values: Tensor, ok: Tensor) -> Tensor:
    """Return `[L, 2]`, to add to the sums and the numbers of measured values: each value, and 1.

    Both are zero where `ok` is False or the value is not finite.
    """
    ok = ok & values.isfinite()
    return torch.stack([torch.where(ok, values, 0), ok.to(values.dtype)], 1)
