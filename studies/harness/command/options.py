"""Parse the values of the options."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from studies.harness.command.flags import FLAGS
from studies.harness.command.screen import redirected
from studies.harness.design import values
from studies.harness.design.options import SMOKE_WORKLOAD, Options, usable
from studies.harness.design.values import ALIASES

RETRIES = ("diverged", "oom", "failed")
MAX_SEEDS, MAX_SEED = 10_000, 2**32 - 1


class _Parser:
    """Converts option values, and collects one line for each invalid value."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.errors: list[str] = []
        self._raw = raw

    def take(
        self,
        name: str,
        allowed: str,
        convert: Callable[[str], Any],
        default: Any = None,
        variable: str = "",
    ) -> Any:
        """Return the converted value of an option, or else of an environment variable.

        Return the default if both are absent, or if the value is invalid.
        """
        source, text = f"--{name.replace('_', '-')}", self._raw.get(name)
        if text is None and variable:
            source, text = variable, os.environ.get(variable) or None
        if text is None:
            return default
        if not usable(text):
            self.errors.append(f'{source} = "{text}": must be {allowed}')
            return default
        try:
            return convert(text)
        except (ValueError, OverflowError):
            self.errors.append(f"{source} = {text}: must be {allowed}")
            return default

    def pairs(self, name: str, example: str) -> dict[str, str]:
        """Return the values of `NAME=VALUE` arguments by name, after replacing `ALIASES`."""
        values = {}
        for text in self._raw.get(name, ()):
            key, _, value = text.partition("=")
            if key and value:
                values[ALIASES.get(key, key)] = value
            else:
                flag = f"--{name.removesuffix('tings')}"
                self.errors.append(
                    f"{flag} {text}: must have the form NAME=VALUE, such as {example}"
                )
        return values


def parse(
    raw: Mapping[str, Any], extra: Sequence[click.Parameter] = ()
) -> tuple[Options, list[str]]:
    """Return the options of a command line, and one line for each invalid value.

    Args:
        raw: Click's values by name, as strings; an absent option has its default.
        extra: Options that only one kind of artefact has. `Options.extra` contains their strings.
    """
    parser = _Parser(raw)
    take = parser.take
    # Load the plugins first, because other options may name what they register.
    named = raw.get("plugin", ())
    plugins = tuple(dict.fromkeys(Path(text) for text in named if usable(text)))
    parser.errors += [
        f'--plugin = "{text}": must be a file or a folder' for text in named if not usable(text)
    ]
    workload = take("workload", "a workload", str)
    with redirected(bool(raw.get("as_json"))):
        unresolved = _load(plugins) or _unknown_workloads(workload)
    parser.errors += unresolved
    optimizers = take("optimizers", "names", values.optimizers)
    address = take("address", _ADDRESS, _address, variable="RAY_ADDRESS")
    options = Options(
        **{str(flag.name): bool(raw.get(str(flag.name))) for flag in FLAGS if flag.is_flag},
        seeds=take("seeds", _SEEDS, _seeds),
        workload=workload,
        epochs=take("epochs", "an integer >= 1", _at_least_one),
        optimizers=optimizers,
        only=values.levels(parser.pairs("only", "rank=5,10"), optimizers),
        levels=values.levels(parser.pairs("levels", "rank=5,10"), optimizers),
        settings=values.settings(parser.pairs("settings", "damping=0.1"), optimizers),
        max_concurrent=take("max_concurrent", "an integer >= 1", _at_least_one),
        gpus_per_trial=take("gpus_per_trial", _GPUS, _gpus, 0.0),
        address=address,
        tracking_uri=take("tracking_uri", _URI, _tracking_uri, variable="MLFLOW_TRACKING_URI"),
        out=take("out", "a folder", Path),
        data_dir=_data_dir(take("data_dir", "a folder", str)),
        plugins=plugins,
        unresolved=bool(unresolved),
        workers_per_trial=_workers(take, address),
        retry=tuple(raw.get("retry", ())),
        rerun=tuple(raw.get("rerun", ())),
        time_budget=take("time_budget", "a time > 0 such as 90s, 30m or 2h", _duration),
        commit_every=take("commit_every", "a number of seconds >= 0", _not_negative, 30.0),
        extra={str(flag.name): raw.get(str(flag.name)) for flag in extra},
        given=frozenset(name for name, value in raw.items() if value),
    )
    return options, parser.errors + variable_problems() + _contradictions(options)


def _workers(take: Callable[..., Any], address: str | None) -> int:
    """Return the number of workers of a trial.

    The number of CPUs is the limit on this machine. That of a cluster is known only after the
    cluster is inspected.
    """
    allowed, limit = "an integer >= 1", None
    if not address:
        limit = len(os.sched_getaffinity(0))
        allowed = f"an integer in 1..{limit}, the number of CPUs of this machine"
    return take("workers_per_trial", allowed, partial(_at_least_one, limit=limit), 1)


def variable_problems(names: Sequence[str] = ("PRECOND_OUT", "PRECOND_DATA")) -> list[str]:
    """Return a line for each variable of a folder that is set to a text which names no folder."""
    values = {name: os.environ.get(name) for name in names}
    return [
        f'{name} = "{value}": must be a folder; unset the variable for the default'
        for name, value in values.items()
        if value is not None and not usable(value)
    ]


def _load(plugins: Sequence[Path]) -> list[str]:
    """Import the plugins, and return a line for each error."""
    if not plugins:
        return []
    from trainables.plugins import load_all

    return [f"--plugin {line}" for line in load_all(plugins)]


def _unknown_workloads(names: str | None) -> list[str]:
    """Return a line for each unknown workload."""
    if names is None:
        return []
    from trainables.workloads import unknown_workload

    return [f"--{line}" for name in names.split(",") if (line := unknown_workload(name))]


def _contradictions(options: Options) -> list[str]:
    """Return a line for each well-formed value that contradicts another or this machine."""
    errors = []
    if options.smoke and options.workload:
        rule = f"--smoke always uses {SMOKE_WORKLOAD}: omit one of the two options"
        errors.append(f"--workload = {options.workload}: {rule}")
    if len(set(options.workloads)) < len(options.workloads):
        errors.append(f"--workload = {options.workload}: must name each workload once")
    if options.gpus_per_trial != 0 and not options.address:
        import torch

        if not torch.cuda.is_available():
            amount = "auto" if options.gpus_per_trial is None else f"{options.gpus_per_trial:g}"
            errors.append(f"--gpus-per-trial = {amount}: this machine has no GPU; omit the option")
    if options.send_environment and not options.address:
        errors.append("--send-environment: requires a running cluster; name it with --address")
    invalid = [status for status in options.retry if status not in RETRIES]
    errors += [f"--retry = {status}: must be one of {', '.join(RETRIES)}" for status in invalid]
    for path in (options.root, *options.root.parents):
        if path.exists() and not path.is_dir():
            errors.append(f"--out = {options.out or options.root}: {path} is a file; name a folder")
            break
    return errors


_SEEDS = f"a number of seeds in 1..{MAX_SEEDS}, or distinct seeds in 0..{MAX_SEED} such as 3,7"
_GPUS = "auto, a share of one GPU in 0..1, or a whole number of GPUs"
_ADDRESS = "auto or HOST:PORT; ray:// is not supported: run the command on the head node instead"
_URI = (
    "none, sqlite:///FILE, or http(s)://HOST without a password; to log in, set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
)


def _seeds(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.strip()]
    if not numbers or ("," not in text and not 1 <= numbers[0] <= MAX_SEEDS):
        raise ValueError
    seeds = numbers if "," in text else list(range(numbers[0]))
    distinct = len(set(seeds)) == len(seeds)
    return _checked(seeds, distinct and min(seeds) >= 0 and max(seeds) <= MAX_SEED)


def _data_dir(text: str | None) -> Path:
    """Return the data folder; if the command names it, set PRECOND_DATA for all other code."""
    if text is not None:
        os.environ["PRECOND_DATA"] = str(Path(text).absolute())
    return Options().data_dir


def _checked(value: Any, valid: object) -> Any:
    if not valid:
        raise ValueError
    return value


def _at_least_one(text: str, limit: int | None = None) -> int:
    number = int(text)
    return _checked(number, number >= 1 and (limit is None or number <= limit))


def _not_negative(text: str) -> float:
    return _checked(float(text), 0 <= float(text) < math.inf)


def _gpus(text: str) -> float | None:
    """Return the number of GPUs, or None for auto; Ray requires whole numbers above 1."""
    number = None if text == "auto" else _not_negative(text)
    return _checked(number, number is None or number <= 1 or number == int(number))


def _duration(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    seconds = float(text.rstrip("smh")) * units.get(text[-1:], 1)
    return _checked(seconds, re.fullmatch("[0-9.]+[smh]?", text) and 0 < seconds < math.inf)


def _address(text: str) -> str:
    return _checked(text, re.fullmatch("auto|[A-Za-z0-9.-]+:[0-9]{1,5}", text))


def _tracking_uri(text: str) -> str:
    return _checked(text, re.fullmatch("none|sqlite:///.+|https?://[^/@]+(/.*)?", text))
