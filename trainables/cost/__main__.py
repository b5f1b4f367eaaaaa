"""`python -m trainables.cost`: measure the cost of optimizers relative to SGD on this machine.

`benchmark.py` describes the measurement. The results are written to
`DIR/cost/<hardware>/<optimizer>-<digest>.json` (`files.py`). The time-to-target studies read them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import precond
from precond import HyperparameterError
from precond.hyperparameters import nearest
from precond.registry import name_error
from trainables.cost.benchmark import CLOCKS, Setting, footprint, measure
from trainables.cost.files import SCHEMA, file_name, hardware, results_folder
from trainables.cost.intervals import FEWEST
from trainables.cost.released import OPTIMIZERS_FILE, PREFIX, RELEASED
from trainables.files import write_atomically
from trainables.workloads import unknown_workload

DEFAULT = ("sgd", "nysact-s", "nysact-g", "eva", "foof", "kfac", "steve")


def main(arguments: list[str] | None = None) -> int:
    """Measure the optimizers, print and write the results, and return the exit code.

    The exit code is 0, 1 if a measurement failed, or 2 if the command is invalid.
    """
    options = _parse(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if problems := _errors(options):
        print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    setting = Setting(**{name: getattr(options, name) for name in Setting._fields})
    try:
        if options.footprint:
            print(json.dumps(footprint(setting, options.footprint)))
            return 0
        _measure_all(setting, options)
    except HyperparameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ModuleNotFoundError) as error:  # pytorch-optimizer may be missing
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure_all(setting: Setting, options: argparse.Namespace) -> None:
    folder = results_folder(options.out, options.device, options.threads)
    folder.mkdir(parents=True, exist_ok=True)
    described = ", ".join(f"{key} {value}" for key, value in conditions(options).items())
    print(f"{setting.workload}, batch size {setting.batch_size}: {described}", flush=True)
    names = list(options.optimizers)
    if options.reference is not None:
        names += [PREFIX + name for name in options.optimizers if name in RELEASED]
    for name in names:
        timed = measure(setting, name, options.blocks, options.repeat, CLOCKS[options.clock])
        memory = {
            optimizer: _footprint_in_subprocess(optimizer, options)
            for optimizer in dict.fromkeys((name, "sgd"))
        }
        result = {
            "schema": SCHEMA,
            "configuration": setting.configuration(name),
            "conditions": conditions(options),
            **timed,
            "memory": memory[name],
            "sgd_memory": memory["sgd"],
        }
        path = folder / file_name(result["configuration"])
        write_atomically(path, json.dumps(result, indent=1).encode())
        print(summary(result), flush=True)


def _footprint_in_subprocess(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the memory footprint of an optimizer, measured by this program in a new process."""
    command = [sys.executable, "-m", "trainables.cost", *options.arguments, "--footprint", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise RuntimeError(f"{name}: the measurement of its memory failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return the conditions of a measurement, which are printed and stored with the result."""
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


def summary(result: Mapping[str, Any]) -> str:
    """Return an optimizer's result as one line for a terminal."""
    name, memory = result["configuration"]["optimizer"], result["memory"]
    ratios = []
    for base, race in result["against"].items():
        ratio = race["ratio"]
        interval = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
        ratios.append(f"{ratio['median']:.3f} {interval} x {base}")
    shares = ", ".join(
        f"{key} {share['median']:+.1%}" for key, share in result["against"]["sgd"]["shares"].items()
    )
    peak = memory["peak_bytes"] / result["sgd_memory"]["peak_bytes"]
    return f"{name:18} {' '.join(ratios)}  ({shares})  peak x {peak:.3f}"


def errors(arguments: Sequence[str]) -> list[str]:
    """Return one line for each invalid value in the command's arguments."""
    return _errors(_parse(list(arguments)))


def _errors(options: argparse.Namespace) -> list[str]:
    errors = [unknown] if (unknown := unknown_workload(options.workload)) else []
    available = precond.available()
    for name in options.optimizers:
        if name_error(name):
            errors.append(f'optimizer = "{name}": unknown.{nearest(name, available)}')
        else:
            defaults = precond.defaults(name)
            overrides = {k: v for k, v in options.overrides.items() if k in defaults}
            errors += precond.check(name, overrides)
    known = {
        k for name in options.optimizers if not name_error(name) for k in precond.defaults(name)
    }
    errors += [
        f"--set {name}: no hyperparameter of these optimizers.{nearest(name, known)}"
        for name in options.overrides
        if name not in known
    ]
    if options.reference is not None and not (options.reference / OPTIMIZERS_FILE).is_file():
        errors.append(
            f"--reference {options.reference}: must be a checkout of the repository hseung88/nysact"
        )
    if options.device.type == "cuda" and not torch.cuda.is_available():
        errors.append(f"--device {options.device}: this machine has no GPU; omit the option")
    if options.blocks < FEWEST:
        errors.append(
            f"--blocks {options.blocks}: must be an integer >= {FEWEST}, for a 95% interval"
        )
    errors += [
        f"--{name.replace('_', '-')} {getattr(options, name)}: must be an integer >= {least}"
        for name, least in (("threads", 1), ("batch_size", 2), ("repeat", 1))
        if getattr(options, name) < least
    ]
    return errors


def _assignment(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: must be cpu, cuda or cuda:N") from None


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.cost",
        description="Measure the time and memory of optimizers relative to SGD on this machine.",
    )
    add = parser.add_argument
    add(
        "workload",
        nargs="?",
        default="cifar10/resnet32",
        metavar="WORKLOAD",
        help="dataset and model, as DATASET/MODEL [default: %(default)s]",
    )
    add(
        "--optimizers",
        type=lambda text: text.split(","),
        default=list(DEFAULT),
        metavar="NAME,...",
        help=f"optimizers to measure [default: {','.join(DEFAULT)}]",
    )
    add("--batch-size", type=int, default=128, help="examples per step [default: %(default)s]")
    add(
        "--as-released",
        action="store_true",
        help="measure the as-released variant, which follows the conventions of the paper's code",
    )
    add(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a hyperparameter for all optimizers that have it; can be repeated",
    )
    add(
        "--blocks",
        type=int,
        default=20,
        help="number of blocks; in each, the optimizer and SGD are timed in turns. An additional "
        "first block is discarded [default: %(default)s]",
    )
    add(
        "--repeat",
        type=int,
        help="number of plain steps that are timed together; half this number of statistics or "
        "refresh steps is timed together [default: 2, or 20 on a GPU]",
    )
    add("--threads", type=int, default=2, help="CPU threads of torch [default: %(default)s]")
    add("--channels-last", action="store_true", help="use the channels_last memory format")
    add(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="wall: elapsed time; cpu: CPU time of this process, for a busy machine and with "
        "--threads 1 [default: %(default)s]",
    )
    add(
        "--device",
        type=_device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        help="cpu, cuda or cuda:N [default: the GPU if there is one]",
    )
    add(
        "--reference",
        type=Path,
        metavar="PATH",
        help="checkout of the repository hseung88/nysact; its optimizers are also measured",
    )
    add(
        "--out",
        type=Path,
        default=Path(os.environ.get("PRECOND_OUT", "outputs")),
        metavar="DIR",
        help="the output folder [default: $PRECOND_OUT or outputs]",
    )
    add("--footprint", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.overrides = dict(options.set)
    options.load = round(os.getloadavg()[0], 2)  # of the last minute: near 0 on an idle machine
    if options.repeat is None:
        options.repeat = 20 if options.device.type == "cuda" else 2
    return options


if __name__ == "__main__":
    sys.exit(main())
