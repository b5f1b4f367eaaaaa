"""Watch one bank: keep on the device what `measures.py` needs.

`docs/diagnostics.md` defines A, A^ and the probes z, and states how good the estimates are.
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
PROBES = 8
ITERATIONS = 20


class Clock:
    """Seconds spent on diagnostics: the device's on a GPU, the host's otherwise."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[torch.cuda.Event] = []

    def __enter__(self) -> None:
        self._mark(-1)

    def __exit__(self, *_: Any) -> None:
        self._mark(1)

    def read(self) -> float:
        """The seconds since the last call."""
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
    """The failures of each slot in a window, counted on the device, `[L]` int64 each.

    `dropped` counts the dropped updates of the statistics, before the window or until now.
    """

    def __init__(self, dropped: Tensor):
        self.failed, self.rescued, self.fallbacks = (torch.zeros_like(dropped) for _ in range(3))
        self._dropped = dropped

    def counts(self, dropped: Tensor) -> dict[str, Tensor]:
        """Return the counts by name."""
        counts = dropped - self._dropped, self.failed, self.rescued, self.fallbacks
        return dict(zip(COUNTS, counts, strict=True))


class Monitor:
    """Watch one bank: its algorithm, state and layers. `like` has the dtype and the device of the state."""

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
        # What the factors in use were made from, and of which slots that is known.
        self._used = {
            name: torch.zeros_like(matrix) for name, matrix in self._matrices(state).items()
        }
        self._known = like.new_zeros(len(names), dtype=torch.bool)
        self._staleness = like.new_full((len(names),), torch.nan, dtype=torch.float64)
        # Sum and number of what was measured.
        self._cosines, self._updates = (
            like.new_zeros(len(names), 2, dtype=torch.float64) for _ in range(2)
        )
        self._parameters = [p for layer in layers for p in layer.parameters.values()]
        owners = [number for number, layer in enumerate(layers) for _ in layer.parameters]
        self._owner = torch.tensor(owners, device=like.device)
        slots = [number for number, layer in enumerate(layers) for _ in layer.slot_names]
        self._layer_of_slot = torch.tensor(slots, device=like.device)
        self._before: list[Tensor] = []

    def record(self, slots: slice, rows: Rows | None) -> None:
        """See the inputs of one forward of one layer."""
        if self._products is not None and self._probes is not None and rows is not None:
            with self.clock:
                self._products.add(slots, rows.sketch(self._probes[slots]), rows.count)

    def commit(self, skipped: Tensor | None = None) -> None:
        """Make what was seen one update, as the statistics' commit does; nothing where `skipped` (on the device)."""
        if self._products is not None:
            with self.clock:
                if skipped is not None:
                    self._products.forget(skipped)
                self._products.commit(self._decay)

    def refreshed(self, state: Any, made: Tensor) -> None:
        """Take note of what the factors of the slots `made [L]` were just made from."""
        with self.clock:
            new = self._matrices(state)
            if self._products is not None:
                made = made & (self._products.weight > 0)
            self._staleness = torch.where(made & self._known, self._change(new), self._staleness)
            for name, old in self._used.items():
                old.copy_(linalg.select(made, new[name], old))
            self._known |= made

    def compare(self, directions: Tensor, gradients: Tensor, ok: Tensor) -> None:
        """Measure the cosine between directions and gradients `[L, o, p]`, where `ok [L]`."""
        if not self.measuring:
            return
        with self.clock:
            inner = (directions * gradients).sum((1, 2)).double()
            lengths = (
                torch.linalg.vector_norm(x, dim=(1, 2)).double() for x in (directions, gradients)
            )
            self._cosines += _observation(inner / torch.stack(list(lengths)).prod(0), ok)

    def before_update(self) -> None:
        """Keep the parameters."""
        with self.clock:
            self._before = [p.clone() for p in self._parameters]

    def after_update(self) -> None:
        """Measure how far they moved."""
        with self.clock:
            moved = self._lengths(torch._foreach_sub(self._parameters, self._before))
            ratio = moved / self._lengths(self._before)
            self._updates += _observation(ratio, moved > 0)[self._layer_of_slot]
            self._before = []

    def read(self) -> dict[str, Tensor]:
        """The measures by name, `[L]` in float64, nan where there is none; begins a window."""
        with self.clock:
            values = {name: torch.full_like(self._staleness, torch.nan) for name in MEASURES}
            values |= {
                name: torch.where(self._known, v.double(), torch.nan)
                for name, v in self._spectrum().items()
            }
            means = {"cosine": self._cosines, "update_over_weight": self._updates}
            values |= {
                name: total / number
                for name, (total, number) in ((n, s.T) for n, s in means.items())
            }
            values["staleness"] = self._staleness
            self._cosines, self._updates = (
                torch.zeros_like(self._cosines),
                torch.zeros_like(self._updates),
            )
            return values

    def tensors(self) -> dict[str, Tensor]:
        """Return all that the monitor keeps, `[L, ...]` by name."""
        tensors = {"known": self._known, "staleness": self._staleness}
        tensors |= {"cosines": self._cosines, "updates": self._updates}
        if self._products is not None:
            tensors |= named_tensors(self._products, "products.")
        return tensors | {f"used.{name}": matrix for name, matrix in self._used.items()}

    def _matrices(self, state: Any) -> dict[str, Tensor]:
        """Return the curvature by name, and the products of A with the probes, `[L, ...]`."""
        matrices = self._algorithm.curvature(state).tensors()
        return (
            matrices if self._products is None else {**matrices, "products": self._products.mean()}
        )

    def _change(self, new: dict[str, Tensor]) -> Tensor:
        """|A_new - A|_F / |A_new|_F, `[L]`."""
        if "inputs" in new:
            a = new["inputs"]
            return (
                torch.linalg.matrix_norm(a - self._used["inputs"]) / torch.linalg.matrix_norm(a)
            ).double()
        if self._probes is None:
            return torch.full_like(self._staleness, torch.nan)
        change = _mean_square((new["products"] - self._used["products"]).double())
        return (change / _square_norm(new, self._probes)).sqrt()

    def _spectrum(self) -> dict[str, Tensor]:
        """The measures of the factors in use, `[L]`."""
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
        """Norm of each layer's parameters together, `[layers]` in float64."""
        squares = torch.stack(torch._foreach_norm(list(tensors))).double().square()
        return (
            squares.new_zeros(len(self._layer_of_slot)).index_add_(0, self._owner, squares).sqrt()
        )


def top_eigenvalue(matrix: Tensor) -> Tensor:
    """Largest eigenvalue of positive semi-definite matrices `[L, d, d]`, `[L]`; never above it but for rounding.

    The best of a subspace after 20 iterations: what it lacks is below (lambda_9 / lambda_1)^40 of it.
    """
    width = matrix.shape[-1]
    basis = _signs([f"top {width}"], width, matrix).expand(len(matrix), -1, -1)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(matrix @ basis).Q
    values, _, _ = linalg.eigh(linalg.symmetrize(basis.mT @ (matrix @ basis)))
    return values.amax(-1)


def _signs(names: Sequence[str], width: int, like: Tensor) -> Tensor:
    """Random signs, `[L, width, PROBES]`, the same on every device and rank."""
    generators = [torch.Generator().manual_seed(seed_of(0, f"probes {name}", 0)) for name in names]
    drawn = [torch.randint(0, 2, (width, PROBES), generator=g) for g in generators]
    return torch.stack(drawn).to(like) * 2 - 1


def _square_norm(matrices: dict[str, Tensor], probes: Tensor) -> Tensor:
    """|A|_F^2 `[L]`: mean |A z|^2, with A^ as a control variate where it is near A."""
    root, products = matrices["low_rank"].double(), matrices["products"].double()
    approximate = root @ (root.mT @ probes.double())
    plain, known = _mean_square(products), torch.linalg.matrix_norm(root.mT @ root).square()
    near = _mean_square(products - approximate) < known / 4
    return torch.where(near, known + plain - _mean_square(approximate), plain)


def _mean_square(products: Tensor) -> Tensor:
    """Mean of |M z|^2, `[L]`, an unbiased estimate of |M|_F^2, for M z `[L, p, k]`."""
    return products.square().sum(1).mean(1)


def _observation(values: Tensor, ok: Tensor) -> Tensor:
    """What one step adds to a sum and a number, `[L, 2]`: nothing where the value is not ok or not finite."""
    ok = ok & values.isfinite()
    return torch.stack([torch.where(ok, values, 0), ok.to(values.dtype)], 1)
