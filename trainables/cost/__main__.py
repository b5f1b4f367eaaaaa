"""`python -m trainables.cost`: what an optimizer costs over SGD, in time and memory, on this machine alone.

Time. An optimizer X and its baseline B (`torch.optim.SGD(foreach=True)`; for STEVE and EKFAC Adam, too) train a model
each, in one process, on one batch that is on the device already. A block times B X X B, X being steps of each of its
kinds (`contestants.py`), whose times are weighted with the exact shares of the kinds in a period of the intervals: so a
block's expectation is the true mean cost per step, without timing a whole period. Blocks give the ratio X / B, of which
the median is reported, with a distribution-free 95% interval of the median (`intervals.py`) over the blocks; the first
block is discarded. SGD against itself is timed, too, and shows what the method resolves.

Shares by differences, as fractions of a step of the baseline: *apply* is a plain step, which is what all steps are with
infinite intervals, less the baseline's; *statistics* and *refresh* are what these steps take longer, times how often.

Memory. A fresh process for each optimizer: the peak over steps of every kind, and the exact bytes of its state.

Results are `DIR/cost/<hardware>/<optimizer>-<digest>.json` (`cost_files.py`), where time-to-target reads them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from trainables.cost.contestants import Contestant, build
from trainables.cost.files import SCHEMA, configuration, file_name, hardware, results_folder
from trainables.cost.footprint import peak_bytes, state_bytes
from trainables.cost.intervals import FEWEST
from trainables.cost.race import evaluation_seconds, race
from trainables.cost.released import OPTIMIZERS_FILE, PREFIX, RELEASED, build_released
from trainables.files import write_atomically
from trainables.workloads import unknown_workload, workload

DEFAULT = ("sgd", "nysact-s", "nysact-g", "eva", "foof", "kfac", "steve")
ALSO_AGAINST_ADAM = ("steve", "ekfac")
Batch = tuple[Tensor, Tensor]


class Setting(NamedTuple):
    """What is the same for all contestants."""

    workload: str
    batch_size: int
    device: torch.device
    channels_last: bool
    stated: Mapping[str, Any]
    reference: Path | None
    faithful: bool = False

    def model(self) -> nn.Module:
        """A new model on the device, with the same initial weights each time."""
        chosen = workload(self.workload)
        torch.manual_seed(0)
        model = chosen.build(chosen.settings({})).to(self.device).train()
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def batch(self) -> Batch:
        """Synthetic images and labels on the device."""
        chosen = workload(self.workload)
        classes, channels, side, _ = chosen.fit(chosen.settings({}))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, channels, side, side, generator=generator).to(self.device)
        labels = torch.randint(classes, (self.batch_size,), generator=generator).to(self.device)
        return images.to(memory_format=torch.channels_last) if self.channels_last else images, labels

    def contestant(self, name: str) -> Contestant:
        """An optimizer, registered or released, with a new model."""
        if name.startswith(PREFIX):
            assert self.reference is not None
            registered = name.removeprefix(PREFIX)
            return build_released(registered, self.model(), self.known(registered), self.reference)
        return build(name, self.model(), self.known(name))

    def known(self, name: str) -> dict[str, Any]:
        """The recipe's hyperparameters of an optimizer, and those stated that it has."""
        defaults = precond.defaults(name)
        stated = {key: value for key, value in self.stated.items() if key in defaults}
        known = {**workload(self.workload).recipe.hyperparameters(name, self.faithful), **stated}
        # As in a trial's configuration, where 1 and 1.0 are the same damping.
        return {key: float(v) if isinstance(defaults[key], float) and type(v) is int else v for key, v in known.items()}

    def configuration(self, name: str) -> dict[str, Any]:
        """What decides the cost of a registered or released optimizer."""
        hyperparameters = {**precond.defaults(name.removeprefix(PREFIX)), **self.known(name.removeprefix(PREFIX))}
        resolution = workload(self.workload).settings({}).get("resolution")
        execution = {"channels_last": self.channels_last, "resolution": resolution}
        return configuration(self.workload, name, hyperparameters, self.batch_size, **execution)


def measure(setting: Setting, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one optimizer, as the file has it."""
    batch, clock = setting.batch(), CLOCKS[options.clock]
    against, evaluation = {}, math.nan
    for rival in ("sgd", *(["adam"] if name in ALSO_AGAINST_ADAM else [])):
        base, other = setting.contestant(rival), setting.contestant(name)
        base.warm_up(batch)
        other.warm_up(batch)
        against[rival] = race(base, other, batch, options.blocks, options.repeat, clock)
        evaluation = evaluation_seconds(other, batch, clock)
    memory = {who: _in_fresh_process(who, options) for who in dict.fromkeys((name, "sgd"))}
    return {
        "schema": SCHEMA,
        "configuration": setting.configuration(name),
        "conditions": conditions(options),
        "step_seconds": against["sgd"]["step_seconds"],
        "evaluation_seconds_per_example": evaluation,
        "against": against,
        "memory": memory[name],
        "sgd_memory": memory["sgd"],
    }


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


# ---------------------------------------------------------------------------- memory


def _in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """`footprint` of one optimizer, measured by this program in another process."""
    command = [sys.executable, "-m", "trainables.cost", *options.arguments, "--footprint", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: measuring its memory failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def footprint(setting: Setting, name: str) -> dict[str, Any]:
    """Exact bytes of an optimizer's state, and the peak of this process."""
    contestant = setting.contestant(name)
    peak = peak_bytes(contestant, setting.batch())
    return {"peak_bytes": peak, "state_bytes": state_bytes(contestant)}


# ---------------------------------------------------------------------------- command line


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What was held fixed, printed and stored."""
    return {
        "hardware": hardware(options.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load before": options.load,
        "memory_format": "channels_last" if options.channels_last else "contiguous",
        "precision": "float32",
        "clock": options.clock,
        "blocks": options.blocks,
        "interval": "95%, of the median of the blocks' ratios, from order statistics",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; 2 for a bad command, 1 when a measurement failed."""
    options = _parse(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if wrong := _problems(options):
        print("\n".join(f"error: {line}" for line in wrong), file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    setting = Setting(
        options.workload, options.batch_size, options.device, options.channels_last, options.stated, options.reference,
        options.faithful,
    )  # fmt: skip
    try:
        if options.footprint:
            print(json.dumps(footprint(setting, options.footprint)))
            return 0
        _measure_all(setting, options)
    except HyperparameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ModuleNotFoundError) as error:  # the latter: a peer's package
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure_all(setting: Setting, options: argparse.Namespace) -> None:
    folder = results_folder(options.out, options.device, options.threads)
    folder.mkdir(parents=True, exist_ok=True)
    facts = ", ".join(f"{key} {value}" for key, value in conditions(options).items())
    print(f"{setting.workload}, batch size {setting.batch_size}: {facts}", flush=True)
    names = list(options.optimizers)
    if options.reference is not None:
        names += [PREFIX + name for name in options.optimizers if name in RELEASED]
    for name in names:
        result = measure(setting, name, options)
        write_atomically(folder / file_name(result["configuration"]), json.dumps(result, indent=1).encode())
        print(line(result), flush=True)


def line(result: Mapping[str, Any]) -> str:
    """One optimizer's result for a terminal."""
    name, memory = result["configuration"]["optimizer"], result["memory"]
    parts = [
        f"{race['ratio']['median']:.3f} [{race['ratio']['low']:.3f}, {race['ratio']['high']:.3f}] x {base}"
        for base, race in result["against"].items()
    ]
    shares = ", ".join(f"{key} {share['median']:+.1%}" for key, share in result["against"]["sgd"]["shares"].items())
    peak = memory["peak_bytes"] / result["sgd_memory"]["peak_bytes"]
    return f"{name:18} {' '.join(parts)}  ({shares})  peak x {peak:.3f}"


def _problems(options: argparse.Namespace) -> list[str]:
    """One line for each wrong value."""
    wrong = []
    if unknown := unknown_workload(options.workload):
        wrong.append(unknown)
    for name in options.optimizers:
        if name not in precond.available():
            wrong.append(f'optimizer = "{name}": unknown.{nearest(name, precond.available())}')
        else:
            wrong += precond.check(name, {k: v for k, v in options.stated.items() if k in precond.defaults(name)})
    if options.reference is not None and not (options.reference / OPTIMIZERS_FILE).is_file():
        wrong.append(f"--reference {options.reference}: must be a checkout of the repository hseung88/nysact")
    if options.blocks < FEWEST:
        wrong.append(f"--blocks {options.blocks}: must be an integer >= {FEWEST}, for a 95% interval")
    wrong += [
        f"--{name.replace('_', '-')} {getattr(options, name)}: must be an integer >= {least}"
        for name, least in (("threads", 1), ("batch_size", 2), ("repeat", 1))
        if getattr(options, name) < least
    ]
    return wrong


def _assignment(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainables.cost", description="Cost of optimizers over SGD.")
    add = parser.add_argument
    add("workload", nargs="?", default="cifar10/resnet32", metavar="WORKLOAD", help="[default: %(default)s]")
    add("--optimizers", type=lambda text: text.split(","), default=list(DEFAULT), metavar="NAME,...")
    add("--batch-size", type=int, default=128, help="[default: %(default)s]")
    add("--faithful", action="store_true", help="with the conventions of the paper's code, as a study's faithful arm")
    add("--set", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help="for those that have it")
    add("--blocks", type=int, default=20, help="after the first, which is discarded [default: %(default)s]")
    add("--repeat", type=int, help="plain steps at a time; half as many others [default: 2, on a GPU 20]")
    add("--threads", type=int, default=2, help="of torch on the CPU [default: %(default)s]")
    add("--channels-last", action="store_true")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, on a busy machine with --threads 1")
    add("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    add("--reference", type=Path, metavar="PATH", help="a checkout of hseung88/nysact, timed in the same way")
    add("--out", type=Path, default=Path(os.environ.get("PRECOND_OUT", "outputs")), metavar="DIR")
    add("--footprint", metavar="NAME", help=argparse.SUPPRESS)
    return parser


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    options.stated = dict(options.set)
    options.load = round(os.getloadavg()[0], 2)  # of the last minute: near 0 when nothing else runs
    options.repeat = options.repeat if options.repeat is not None else 20 if options.device.type == "cuda" else 2
    return options


if __name__ == "__main__":
    sys.exit(main())
