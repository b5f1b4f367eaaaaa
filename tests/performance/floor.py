"""The floor of a statistics step: what its unavoidable operations take here, one by one, and what the step adds really.

    python tests/performance/floor.py [nysact-s | nysact-g | foof] [--threads N] [--clock wall|cpu]

For each convolution of ResNet-32 at batch size 128 the one operation that the statistic cannot do without is timed by
itself, with its operations counted: the weight gradient of r output channels (NysAct-S), that and a forward with r
filters (NysAct-G), the k (2k - 1) correlations of the channels (FOOF). Their sum, with its rate, stands beside the
difference between a statistics step and a plain one of the optimizer, in turns on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from trainables.cost.benchmark import CLOCKS, Setting
from trainables.cost.contestants import PLAIN, STATISTICS

RANK, ROUNDS = 10, 7
Operation = tuple[
    Callable[[], object], float
]  # what is timed, and its multiplications and additions


def operations(name: str, x: Tensor, conv: nn.Conv2d) -> list[Operation]:
    """What the statistic of one layer consists of at least."""
    _, channels, height, width = x.shape
    k, geometry = conv.kernel_size[0], (conv.stride, conv.padding)
    y = torch.randn(len(x), RANK, *(n // conv.stride[0] for n in (height, width)))
    positions = y[:, 0].numel()
    if name == "foof":
        padded, taps = F.pad(x, (0, 0, 0, k - 1)), k * (2 * k - 1)
        size = channels, channels, k, 2 * k - 1
        call = lambda: conv2d_weight(padded, size, x, 1, (0, k - 1))  # type: ignore[arg-type]  # noqa: E731
        return [(call, 2.0 * x[:, 0].numel() * channels**2 * taps)]
    count = 2.0 * positions * RANK * channels * k * k
    found: list[Operation] = [
        (lambda: conv2d_weight(x, (RANK, channels, k, k), y, *geometry), count)
    ]
    if name == "nysact-g":
        filters = torch.randn(RANK, channels, k, k)
        found.append((lambda: F.conv2d(x, filters, None, *geometry), count))
    return found


def main() -> None:
    """Print the floor, the rate and the measured difference."""
    parser = argparse.ArgumentParser(description="The floor of a statistics step.")
    parser.add_argument(
        "optimizer", nargs="?", default="nysact-s", choices=("nysact-s", "nysact-g", "foof")
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting("cifar10/resnet32", 128, torch.device("cpu"), False, {}, None)
    contestant, batch, clock = (
        setting.contestant(options.optimizer),
        setting.batch(),
        CLOCKS[options.clock],
    )
    inputs: list[tuple[Tensor, nn.Conv2d]] = []
    hooks = [
        module.register_forward_hook(
            lambda m, args, _: inputs.append((args[0].detach().clone(), m))
        )
        for module in contestant.model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    contestant.model(batch[0])
    for hook in hooks:
        hook.remove()
    parts = [
        operation for x, conv in inputs for operation in operations(options.optimizer, x, conv)
    ]
    contestant.warm_up(batch)
    kinds = {kind.name: kind for kind in contestant.kinds}
    floors, differences = [], []
    for _ in range(ROUNDS):
        start = clock()
        for call, _count in parts:
            call()
        floors.append(clock() - start)
        seconds = {
            name: contestant.seconds(kinds[name], batch, 1, clock) for name in (PLAIN, STATISTICS)
        }
        differences.append(seconds[STATISTICS] - seconds[PLAIN])
    floor, difference = statistics.median(floors), statistics.median(differences)
    total = sum(count for _, count in parts)
    print(
        f"{len(parts)} operations, {total / 1e9:.2f} GFLOP in {1e3 * floor:.0f} ms: {total / floor / 1e9:.1f} GFLOP/s"
    )
    print(
        f"a statistics step adds {1e3 * difference:.0f} ms: {difference / floor:.2f} times the floor"
    )


if __name__ == "__main__":
    main()
