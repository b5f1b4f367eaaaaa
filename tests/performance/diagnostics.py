"""Measure the time that an optimizer's diagnostics add to training steps.

    python tests/performance/diagnostics.py [OPTIMIZER ...]

This is not a test. Two models with equal initial weights, one of them (B) with a monitor, are
trained in blocks of steps in the order A B B A, on the digits and with a small convolutional
network. The additional CPU time of B is printed as the median, the smallest and the largest value
over all rounds except the first. CPU time is used because other processes disturb it least. `self`
is the monitor's own measurement of its share of the time. `read` is the time of a call of
`diagnostics()`, which a trial makes once per epoch and which the other two values do not include.
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

ROUNDS, STEPS = 5, 50  # 50 steps include each default interval at least once
BATCH = 64


def conv_net() -> nn.Sequential:
    """Return a network whose convolutions have 27, 288, 576 and 576 inputs, and a bias."""
    layers: list[nn.Module] = []
    for channels, filters, stride in [(3, 32, 1), (32, 64, 2), (64, 64, 2), (64, 64, 1)]:
        layers.append(nn.Conv2d(channels, filters, 3, stride, 1))
        layers += [nn.BatchNorm2d(filters), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits/cnn": (digits_cnn, (1, 8, 8)),
    "conv net": (conv_net, (3, 16, 16)),
}


def seconds(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> float:
    """Return the CPU seconds of a block of steps."""
    start = time.process_time()
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.process_time() - start


def measure(name: str, build_model: Callable[[], nn.Module], shape: tuple[int, ...]) -> str:
    """Return one line: a step's time, its increase, the monitor's own measurement, `read`."""
    x, y = torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))
    pairs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build_model()
        pairs.append((model, precond.build(name, model)))
    plain, monitored = pairs
    clock = monitored[1].monitor()  # type: ignore[attr-defined]
    ratios, shares, readings = [], [], []
    for _ in range(ROUNDS):
        clock.read()
        a, b, c, d = (seconds(*pair, x, y) for pair in (plain, monitored, monitored, plain))
        shares.append(clock.read() / (b + c))
        ratios.append((b + c) / (a + d) - 1)
        start = time.process_time()
        monitored[1].diagnostics()  # type: ignore[attr-defined]
        readings.append(time.process_time() - start)
    ratio, low, high = statistics.median(ratios[1:]), min(ratios[1:]), max(ratios[1:])
    step, share, reading = a / STEPS, statistics.median(shares), statistics.median(readings)
    return (
        f"{1000 * step:6.2f} ms/step   {ratio:+6.1%} [{low:+.1%}, {high:+.1%}]   self {share:5.1%}"
        f"   read {reading / step:5.2f} steps"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    precond.diagnostics.monitor.time.perf_counter = time.process_time  # CPU time in the monitor
    for case, (build_model, shape) in CASES.items():
        for name in sys.argv[1:] or ("nysact-s", "nysact-g", "foof", "kfac", "eva"):
            print(f"{case:11} {name:9} {measure(name, build_model, shape)}", flush=True)
