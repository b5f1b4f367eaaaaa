"""Measure the time of `optimizer.step()` relative to SGD, without a forward and a backward.

    python -m trainables.cost.steps imagenet/resnet50 --optimizers sgd,adamw,nysact-s

The gradients are random, and all steps are plain: they apply the preconditioners, but they update
neither statistics nor factors. SGD and the other optimizers are timed in turns, so that a change of
the machine's speed affects all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import torch

from precond.registry import name_error
from trainables.cost.benchmark import CLOCKS
from trainables.cost.contestants import Batch, Clock, Contestant, build, device_of, timed
from trainables.cost.intervals import FEWEST, median
from trainables.workloads import unknown_workload, workload

BASE = "sgd"


def contestant(name: str, path: str, device: torch.device) -> tuple[Contestant, Batch]:
    """Return an optimizer whose factors exist, a model with random gradients, and its batch.

    Args:
        name: Name of the optimizer.
        path: The workload, as `DATASET/MODEL`.
        device: The device of the model.
    """
    definition = workload(path)
    settings = definition.settings({})
    torch.manual_seed(0)
    model = definition.build(settings).to(device).train()
    inputs, targets = definition.random_batch(2, settings)
    result = build(name, model, {}, foreach=None)
    result.task = definition.task
    batch = inputs.to(device), targets.to(device)
    result.train(*batch)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return result, batch


def measure(
    names: Sequence[str], path: str, device: torch.device, blocks: int, clock: Clock
) -> Mapping[str, list[float]]:
    """Return the seconds of a plain step of SGD and of each optimizer in each block.

    The order within a block is reversed in every second block. The first block is discarded.
    """
    contestants = {name: contestant(name, path, device) for name in dict.fromkeys((BASE, *names))}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for block in range(blocks + 1):
        for name in list(contestants)[:: -1 if block % 2 else 1]:
            contender, batch = contestants[name]
            contender.place(contender.kinds[0].place)
            step = contender.optimizer.step
            seconds[name].append(timed(step, device_of(batch), clock))  # type: ignore[arg-type]
    return {name: times[1:] for name, times in seconds.items()}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print a line for each optimizer; return 0, or 2 if the command is invalid."""
    options = _parse(arguments)
    if errors := _errors(options):
        print("\n".join(f"error: {error}" for error in errors), file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    seconds = measure(
        options.optimizers, options.workload, options.device, options.blocks, CLOCKS[options.clock]
    )
    for name, times in seconds.items():
        ratio = median([time / base for time, base in zip(times, seconds[BASE], strict=True)])
        interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
        shortest = min(times) / min(seconds[BASE])
        print(
            f"{name:24} {1e3 * median(times).median:8.1f} ms  {ratio.median:.2f} {interval} x {BASE}"
            f"  (shortest {1e3 * min(times):.1f} ms, {shortest:.2f} x)"
        )
    return 0


def _errors(options: argparse.Namespace) -> list[str]:
    errors = [unknown] if (unknown := unknown_workload(options.workload)) else []
    errors += filter(None, map(name_error, options.optimizers))
    if options.blocks < FEWEST:
        errors.append(f"--blocks {options.blocks}: must be an integer >= {FEWEST}, for an interval")
    if options.threads < 1:
        errors.append(f"--threads {options.threads}: must be an integer >= 1")
    return errors


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    program = "python -m trainables.cost.steps"
    description = "Measure the time of optimizer.step() relative to SGD, with random gradients."
    parser = argparse.ArgumentParser(prog=program, description=description)
    add = parser.add_argument
    add("workload", nargs="?", default="imagenet/resnet50", metavar="WORKLOAD")
    add(
        "--optimizers",
        type=lambda text: text.split(","),
        default=["adamw", "nysact-s"],
        metavar="NAME,...",
        help="optimizers to measure [default: adamw,nysact-s]",
    )
    add("--blocks", type=int, default=20, help="steps of each optimizer [default: %(default)s]")
    add("--threads", type=int, default=2, help="CPU threads of torch [default: %(default)s]")
    add(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall: elapsed time; cpu: CPU time of this process [default: %(default)s]",
    )
    add("--device", type=torch.device, default=torch.device("cpu"), help="[default: cpu]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
