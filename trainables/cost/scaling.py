"""`python -m trainables.cost.scaling`: measure the costs in Table 1 of the NysAct paper.

Each part of NysAct-S and FOOF is timed for one layer in float32: for several widths p (the number
of inputs) at rank 10, and for several ranks r at p = 1152. The time is the median of several calls;
a call before them is discarded. The measured exponent is the slope of log time over log size in the
upper half of the sizes, where the leading term dominates. For comparison, the same slope is
computed for the number of operations in closed form, where a multiplication and an addition count
as two. The machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from precond.parts import linalg
from precond.parts.factors import Dense, LowRank
from precond.parts.nystrom import low_rank_factor
from precond.parts.rows import LinearRows
from precond.parts.sketches import ColumnSketch
from trainables.cost.contestants import timed
from trainables.cost.files import hardware, results_folder
from trainables.files import write_atomically

WIDTHS = (64, 144, 288, 576, 1152, 2304, 4608)
RANKS = (5, 10, 20, 40, 80)
RANK, WIDTH = 10, 1152  # the rank while the width varies, and the width while the rank varies
OUTPUTS, ROWS = 64, 1024  # outputs of the layer, and rows of its input
DAMPING = 1.0


# Takes p, r and the device; returns the call to time.
Prepare = Callable[[int, int, torch.device], Callable[[], Any]]


@dataclass(frozen=True)
class Part:
    """A part of an algorithm.

    Attributes:
        prepare: Returns the call to time for p, r and a device.
        operations: Returns the number of operations for p and r, in closed form.
        over_rank: True if the cost depends on r.
    """

    prepare: Prepare
    operations: Callable[[int, int], float]
    over_rank: bool


def _rows(p: int, device: torch.device) -> LinearRows:
    generator = torch.Generator().manual_seed(p)
    return LinearRows(
        torch.randn(ROWS, p, generator=generator).to(device), bias=False, examples=ROWS
    )


def _sketch(p: int, r: int, device: torch.device) -> ColumnSketch:
    return ColumnSketch.draw(["layer"], p, r, seed=0, like=torch.empty(0, device=device))


def _nysact_statistics(p: int, r: int, device: torch.device) -> Callable[[], Any]:
    rows, sketch = _rows(p, device), _sketch(p, r, device)
    return lambda: rows.sketch_columns(sketch.columns)


def _nysact_refresh(p: int, r: int, device: torch.device) -> Callable[[], Any]:
    sketch = _sketch(p, r, device)
    c = _rows(p, device).sketch_columns(sketch.columns) / ROWS
    return lambda: low_rank_factor(c, sketch, DAMPING)


def _foof_refresh(p: int, r: int, device: torch.device) -> Callable[[], Any]:
    a = _rows(p, device).gram() / ROWS
    return lambda: linalg.damped_inverse(a, DAMPING)


def _apply(factor: Dense | LowRank, p: int, device: torch.device) -> Callable[[], Any]:
    gradients = torch.randn(1, OUTPUTS, p, device=device)
    return lambda: factor.solve(gradients)


def _nysact_apply(p: int, r: int, device: torch.device) -> Callable[[], Any]:
    return _apply(LowRank(torch.randn(1, p, r, device=device), DAMPING), p, device)


def _foof_apply(p: int, r: int, device: torch.device) -> Callable[[], Any]:
    return _apply(Dense(torch.randn(1, p, p, device=device)), p, device)


PARTS = {
    "nysact-s statistics": Part(_nysact_statistics, lambda p, r: 2 * ROWS * p * r, True),
    "nysact-s refresh": Part(_nysact_refresh, lambda p, r: 5 * p * r**2 + 10 * r**3, True),
    "nysact-s apply": Part(_nysact_apply, lambda p, r: 4 * OUTPUTS * p * r, True),
    "foof statistics": Part(
        lambda p, r, device: _rows(p, device).gram, lambda p, r: 2 * ROWS * p**2, False
    ),
    "foof refresh": Part(_foof_refresh, lambda p, r: p**3, False),
    "foof apply": Part(_foof_apply, lambda p, r: 2 * OUTPUTS * p**2, False),
}


def measure(
    device: torch.device, widths: Sequence[int] = WIDTHS, ranks: Sequence[int] = RANKS
) -> dict[str, Any]:
    """Return the seconds, operations and exponents of every part, over p and over r.

    Parts whose cost does not depend on r are measured over p only.
    """
    over_width = {
        name: _sweep(part, [(p, RANK) for p in widths], 0, device) for name, part in PARTS.items()
    }
    ranked = {name: part for name, part in PARTS.items() if part.over_rank}
    over_rank = {
        name: _sweep(part, [(WIDTH, r) for r in ranks], 1, device) for name, part in ranked.items()
    }
    return {
        "p": over_width,
        "r": over_rank,
        "rank": RANK,
        "width": WIDTH,
        "outputs": OUTPUTS,
        "rows": ROWS,
    }


def _sweep(
    part: Part, sizes: Sequence[tuple[int, int]], varied: int, device: torch.device
) -> dict[str, Any]:
    seconds = [_seconds(part.prepare(p, r, device), device) for p, r in sizes]
    operations = [part.operations(p, r) for p, r in sizes]
    x = [size[varied] for size in sizes]
    return {
        "sizes": x,
        "seconds": seconds,
        "operations": operations,
        "exponent": exponent(x, seconds),
        "closed_form_exponent": exponent(x, operations),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the least-squares slope of log value over log size in the upper half of the sizes."""
    half = len(sizes) // 2
    x, y = ([math.log(number) for number in part[half:]] for part in (sizes, values))
    return statistics.linear_regression(x, y).slope


def _seconds(call: Callable[[], Any], device: torch.device, least: float = 0.1) -> float:
    """Return the median seconds of at least five calls that take at least `least` seconds in all.

    At most 1000 calls are timed, even if they take less.
    """
    call()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < least and len(times) < 1000):
        times.append(timed(call, device))
    return statistics.median(times)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the exponents and write `scaling.json` to the folder of this hardware."""
    program = "python -m trainables.cost.scaling"
    description = "Measure the cost of NysAct-S and FOOF for several layer widths and ranks."
    parser = argparse.ArgumentParser(prog=program, description=description)
    add = parser.add_argument
    add("--threads", type=int, default=2, help="CPU threads of torch [default: %(default)s]")
    add(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="cpu, cuda or cuda:N [default: the GPU if there is one]",
    )
    add(
        "--out",
        type=Path,
        default=Path(os.environ.get("PRECOND_OUT", "outputs")),
        metavar="DIR",
        help="the output folder [default: $PRECOND_OUT or outputs]",
    )
    options = parser.parse_args(arguments)
    if options.threads < 1:
        print(f"error: --threads {options.threads}: must be an integer >= 1", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        result = {
            **measure(options.device),
            "hardware": hardware(options.device),
            "threads": options.threads,
        }
    folder = results_folder(options.out, options.device, options.threads)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scaling.json", json.dumps(result, indent=1).encode())
    for axis in ("p", "r"):
        for name, sweep in result[axis].items():
            closed = sweep["closed_form_exponent"]
            print(f"{name:20} {axis}^{sweep['exponent']:.2f}   closed form {axis}^{closed:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
