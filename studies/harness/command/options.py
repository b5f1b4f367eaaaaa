"""The options that every artefact has: their names, what they accept, and one line for each invalid value."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from studies.harness.design.options import Options

# The papers' and released codes' spellings, accepted on the command line and never stored.
ALIASES = {
    "stat_decay": "ema_decay", "ema": "ema_decay", "tcov": "cov_interval", "tinv": "inv_interval", "rank_size": "rank",
}  # fmt: skip
RETRIES = ("diverged", "oom", "failed")
MAX_SEED = 2**32 - 1

FLAGS = [
    click.Option(["--smoke"], is_flag=True, help="Two levels, two seeds, two epochs on digits, in OUT/smoke."),
    click.Option(["--dry-run"], is_flag=True, help="Print the plan and stop; with --json the trials, a line each."),
    click.Option(["--report-only"], is_flag=True, help="Train nothing; report what is there."),
    click.Option(["--seeds"], metavar="N|I,J", help="6 is seeds 0 to 5; 3,7 is those two; 3, is one."),
    click.Option(["--workload"], metavar="NAME,...", help="Models and data, instead of the study's own."),
    click.Option(["--epochs"], metavar="N", help="Instead of the recipe's."),
    click.Option(["--optimizers"], metavar="NAME,...", help="Only these of the study's optimizers."),
    click.Option(["--only"], metavar="FACTOR=LEVEL,...", multiple=True, help="Only these of a factor's levels."),
    click.Option(["--levels"], metavar="FACTOR=LEVEL,...", multiple=True, help="Other levels than the study's."),
    click.Option(["--set", "settings"], metavar="NAME=VALUE", multiple=True,
                 help="Set a hyperparameter or a setting of the recipe for every arm that has it."),
    click.Option(["--max-concurrent"], metavar="N", help="Trials at once.  [default: as many as fit]"),
    click.Option(["--gpus-per-trial"], metavar="X|auto",
                 help="Share of a GPU for each trial; auto measures it, once a workload and GPU.  [default: 0]"),
    click.Option(["--address"], metavar="auto|HOST:PORT",
                 help="A running Ray cluster.  [default: $RAY_ADDRESS, or one is started here]"),
    click.Option(["--tracking-uri"], metavar="none|URI",
                 help="MLflow.  [default: $MLFLOW_TRACKING_URI or OUT/mlflow.db]"),
    click.Option(["--out"], metavar="DIR", help="Output folder.  [default: $PRECOND_OUT or outputs]"),
    click.Option(["--data-dir"], metavar="DIR", help="Where datasets are.  [default: $PRECOND_DATA or data]"),
    click.Option(["--download"], is_flag=True, help="Fetch a missing dataset; a damaged file is never replaced."),
    click.Option(["--verify-data"], is_flag=True, help="Read all data before training and compare checksums."),
    click.Option(["--plugin"], metavar="FILE", help="A Python file that registers an optimizer or a workload."),
    click.Option(["--workers-per-trial"], metavar="N", help="Processes that share a trial's batches.  [default: 1]"),
    click.Option(["--retry"], metavar="STATUS", multiple=True, help="Train again what ended diverged, oom or failed."),
    click.Option(["--rerun"], metavar="KEY", multiple=True, help="Drop a trial's folder and train it again."),
    click.Option(["--time-budget"], metavar="TIME", help="Stop after 90s, 30m or 2h; the same command resumes it."),
    click.Option(["--commit-every"], metavar="SECONDS", help="Training between commits; 0: each epoch.  [default: 30]"),
    click.Option(["--diagnostics"], is_flag=True,
                 help="Log what preconditioners do to each layer of the trials still to train. No number moves; it "
                 "takes some 1 to 7 % of the time, which diag/overhead shows."),
    click.Option(["--json", "as_json"], is_flag=True, help="Results as JSON on standard output, the rest on error."),
]  # fmt: skip


class _Parser:
    """Collects one line for each invalid value, so that all are shown at once."""

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
        """Return an option's converted value, or an environment variable's; the default if both are absent or bad."""
        source, text = f"--{name.replace('_', '-')}", self._raw.get(name)
        if text is None and variable:
            source, text = variable, os.environ.get(variable) or None
        if text is None:
            return default
        try:
            return convert(text)
        except (ValueError, OverflowError):
            self.errors.append(f"{source} = {text}: must be {allowed}")
            return default

    def pairs(self, name: str, example: str) -> dict[str, str]:
        """Return `NAME=VALUE` arguments by name, with the papers' spellings replaced by ours."""
        values = {}
        for text in self._raw.get(name, ()):
            key, sign, value = text.partition("=")
            if key and sign and value:
                values[ALIASES.get(key, key)] = value
            else:
                self.errors.append(
                    f"--{name.removesuffix('tings')} {text}: must look like {example}"
                )
        return values


def parse(
    raw: Mapping[str, Any], extra: Sequence[click.Parameter] = ()
) -> tuple[Options, list[str]]:
    """Return options from click's texts, and one line for each invalid value.

    Args:
        raw: Texts by name; an absent one is at its default.
        extra: Options that only one kind of artefact has; their texts go into `Options.extra` as they are.
    """
    parser = _Parser(raw)
    take, plugin = parser.take, parser.take("plugin", "a file", Path)
    if plugin is not None:  # first: it may register what the other options name
        from trainables import plugins

        try:
            plugins.load(plugin)
        except plugins.PluginError as error:
            parser.errors.append(f"--{error}")
    options = Options(
        **{str(flag.name): bool(raw.get(str(flag.name))) for flag in FLAGS if flag.is_flag},
        seeds=take("seeds", "a number of seeds >= 1, or distinct seeds >= 0 as in 3,7", _seeds),
        workload=take("workload", "a workload", str),
        epochs=take("epochs", "an integer >= 1", _at_least_one),
        optimizers=take("optimizers", "names", lambda text: text.split(",")),
        only={
            name: list(map(literal, value.split(",")))
            for name, value in parser.pairs("only", "rank=5,10").items()
        },
        levels={
            n: list(map(literal, value.split(",")))
            for n, value in parser.pairs("levels", "rank=5,10").items()
        },
        settings={
            name: literal(value) for name, value in parser.pairs("settings", "damping=0.1").items()
        },
        max_concurrent=take("max_concurrent", "an integer >= 1", _at_least_one),
        gpus_per_trial=take("gpus_per_trial", _GPUS, _gpus, 0.0),
        address=take("address", _ADDRESS, _address, variable="RAY_ADDRESS"),
        tracking_uri=take("tracking_uri", _URI, _tracking_uri, variable="MLFLOW_TRACKING_URI"),
        out=take("out", "a folder", Path),
        data_dir=_data_dir(raw.get("data_dir")),
        plugin=plugin,
        workers_per_trial=take("workers_per_trial", "an integer >= 1", _at_least_one, 1),
        retry=tuple(raw.get("retry", ())),
        rerun=tuple(raw.get("rerun", ())),
        time_budget=take("time_budget", "a time > 0 as in 90s, 30m or 2h", _duration),
        commit_every=take("commit_every", "seconds >= 0", _not_negative, 30.0),
        extra={str(flag.name): raw.get(str(flag.name)) for flag in extra},
        given=frozenset(name for name, value in raw.items() if value),
    )
    return options, parser.errors + _contradictions(options)


def _contradictions(options: Options) -> list[str]:
    """Return a line for each value that is well-formed, but impossible here."""
    errors = []
    if options.workloads:
        from trainables.workloads import unknown_workload

        errors += [f"--{line}" for name in options.workloads if (line := unknown_workload(name))]
    if len(set(options.workloads)) < len(options.workloads):
        errors.append(f"--workload = {options.workload}: one is there twice")
    if options.gpus_per_trial != 0 and not options.address:
        import torch

        if not torch.cuda.is_available():
            amount = "auto" if options.gpus_per_trial is None else f"{options.gpus_per_trial:g}"
            errors.append(f"--gpus-per-trial = {amount}: this machine has no GPU; leave it out")
    cores = len(os.sched_getaffinity(0))
    if options.workers_per_trial > cores and not options.address:
        errors.append(
            f"--workers-per-trial = {options.workers_per_trial}: there are {cores} CPUs; take 1..{cores}"
        )
    known = ", ".join(RETRIES)
    errors += [
        f"--retry = {status}: must be one of {known}"
        for status in options.retry
        if status not in RETRIES
    ]
    blocking = next(
        (p for p in (options.root, *options.root.parents) if p.exists() and not p.is_dir()), None
    )
    if blocking:
        errors.append(f"--out = {options.out or options.root}: {blocking} is a file; name a folder")
    return errors


def literal(text: str) -> Any:
    """Return a value as Python means it: 4, 4.0, nan, true, none, or a word."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def unknown_flag(name: str, params: Sequence[click.Parameter] = FLAGS) -> str:
    """Return one line for an option that a command does not have, with the nearest that it has."""
    known = [flag for option in params for flag in option.opts if flag.startswith("--")]
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name}: unknown option." + (f" Did you mean {close[0]}?" if close else " See --help")


_GPUS = "auto, a part of a GPU in 0..1, or whole GPUs"
_ADDRESS = "auto or HOST:PORT; run the driver on the head node instead of using ray://"
_URI = "none, sqlite:///FILE, or http(s)://HOST without a password in it (use MLFLOW_TRACKING_USERNAME and _PASSWORD)"


def _seeds(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",") if part.strip()]
    if not numbers or ("," not in text and not 1 <= numbers[0] <= 10_000):
        raise ValueError
    seeds = numbers if "," in text else list(range(numbers[0]))
    return _checked(
        seeds, min(seeds) >= 0 and max(seeds) <= MAX_SEED and len(set(seeds)) == len(seeds)
    )


def _data_dir(text: str | None) -> Path:
    """Return the data folder; one that is named becomes the default, as if it were in the environment."""
    if text is not None:
        os.environ["PRECOND_DATA"] = str(Path(text).absolute())
    return Options().data_dir


def _checked(value: Any, valid: object) -> Any:
    if not valid:
        raise ValueError
    return value


def _at_least_one(text: str) -> int:
    return _checked(int(text), int(text) >= 1)


def _not_negative(text: str) -> float:
    return _checked(float(text), 0 <= float(text) < math.inf)


def _gpus(text: str) -> float | None:
    """Return the number, or None for auto. Ray divides one GPU, and gives several only whole."""
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
