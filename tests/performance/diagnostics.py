"""What watching costs: training steps with and without a monitor, in turn, on digits and on a small convolutional net.

    python tests/performance/diagnostics.py [OPTIMIZER ...]

Not a test. Blocks of steps in the order ABBA, two models that start alike, the first round discarded; the median of the
rounds' ratios of CPU seconds, which other processes disturb least, and the extremes. `self` is the share that the
monitor's own clock finds, `read` a call of `diagnostics()`, which comes once an epoch and is in neither.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import precond
import precond.diagnostics.monitor
from trainables.models.small import digits_cnn

ROUNDS, STEPS = 5, 50  # 50 steps: each interval of the defaults once or more
BATCH = 64


def conv_net() -> nn.Sequential:
    """16 x 16 colour images; inputs of 28, 289, 577 and 577."""
    sizes = [(3, 32, 1), (32, 64, 2), (64, 64, 2), (64, 64, 1)]
    convolutions = [
        m for a, b, s in sizes for m in (nn.Conv2d(a, b, 3, s, 1), nn.BatchNorm2d(b), nn.ReLU())
    ]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits/cnn": (digits_cnn, (1, 8, 8)),
    "conv net": (conv_net, (3, 16, 16)),
}


def seconds(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> float:
    """Of a block of steps."""
    start = time.process_time()
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.process_time() - start


def measure(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> str:
    """One line: the ratio, the time of a reading, and the clock's share."""
    x, y = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
    pairs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = make()
        pairs.append((model, precond.build(name, model)))
    plain, watched = pairs
    clock = watched[1].monitor()  # type: ignore[attr-defined]
    ratios, shares, readings = [], [], []
    for _ in range(ROUNDS):
        clock.read()
        a, b, c, d = (seconds(*pair, x, y) for pair in (plain, watched, watched, plain))
        shares.append(clock.read() / (b + c))
        ratios.append((b + c) / (a + d) - 1)
        start = time.process_time()
        watched[1].diagnostics()  # type: ignore[attr-defined]
        readings.append(time.process_time() - start)
    low, middle, high = min(ratios[1:]), statistics.median(ratios[1:]), max(ratios[1:])
    step = a / STEPS
    return (
        f"{1000 * step:6.2f} ms/step   {middle:+6.1%} [{low:+.1%}, {high:+.1%}]   self {statistics.median(shares):5.1%}"
        f"   read {statistics.median(readings) / step:5.2f} steps"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    precond.diagnostics.monitor.time.perf_counter = time.process_time  # the clock's too
    for case, (make, shape) in CASES.items():
        for name in sys.argv[1:] or ("nysact-s", "nysact-g", "foof", "kfac", "eva"):
            print(f"{case:11} {name:9} {measure(name, make, shape)}", flush=True)
