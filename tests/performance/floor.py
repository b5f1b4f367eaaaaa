"""Compare the additional time of a statistics step with its floor, the required operations' time.

    python tests/performance/floor.py [nysact-s | nysact-g | foof] [--threads N] [--clock wall|cpu]

For each convolution of ResNet-32 at batch size 128, the operations that the statistic requires are
timed and counted: the weight gradient of r output channels (NysAct-S), also a forward with r filters
(NysAct-G), or the k (2k - 1) correlations of the channels (FOOF). Their total time and rate are
printed with the difference between a statistics step and a plain step of the optimizer. Both are
measured in turns on the same machine.
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
# A call to time, and its number of multiplications and additions.
Operation = tuple[Callable[[], object], float]


def operations(name: str, x: Tensor, conv: nn.Conv2d) -> list[Operation]:
    """Return the operations that the statistic of a layer with the input `x` requires."""
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
    required: list[Operation] = [
        (lambda: conv2d_weight(x, (RANK, channels, k, k), y, *geometry), count)
    ]
    if name == "nysact-g":
        filters = torch.randn(RANK, channels, k, k)
        required.append((lambda: F.conv2d(x, filters, None, *geometry), count))
    return required


def main() -> None:
    """Print the floor, its rate and the additional time of a statistics step."""
    parser = argparse.ArgumentParser(
        description="Compare the additional time of a statistics step with its floor."
    )
    parser.add_argument(
        "optimizer", nargs="?", default="nysact-s", choices=("nysact-s", "nysact-g", "foof")
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting("cifar10/resnet32", 128, torch.device("cpu"), False, {}, None)
    contestant, batch = setting.contestant(options.optimizer), setting.batch()
    clock = CLOCKS[options.clock]
    inputs: list[tuple[Tensor, nn.Conv2d]] = []

    def record(module: nn.Module, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        inputs.append((arguments[0].detach().clone(), module))

    convolutions = [m for m in contestant.model.modules() if isinstance(m, nn.Conv2d)]
    hooks = [module.register_forward_hook(record) for module in convolutions]
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
    gflop, added = sum(count for _, count in parts) / 1e9, 1e3 * difference
    rate = f"{gflop:.2f} GFLOP in {1e3 * floor:.0f} ms: {gflop / floor:.1f} GFLOP/s"
    print(f"{len(parts)} operations, {rate}")
    print(f"a statistics step adds {added:.0f} ms: {difference / floor:.2f} times the floor")


if __name__ == "__main__":
    main()
