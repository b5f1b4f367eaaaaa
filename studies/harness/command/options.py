"""The flags that every study has: what they are called, what they accept, and every wrong value at once."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from studies.harness.evidence import ledger
from trainables import plugins
from trainables.data import default_data_dir
from trainables.store import DIVERGED, FAILED, OOM
from trainables.workloads import unknown_workload

# The papers' and released codes' spellings, accepted on the command line and never stored.
ALIASES = {
    "stat_decay": "ema_decay", "ema": "ema_decay", "tcov": "cov_interval", "tinv": "inv_interval", "rank_size": "rank",
}  # fmt: skip
RETRIES = (DIVERGED, OOM, FAILED)
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
    click.Option(["--time-budget"], metavar="TIME", help="Stop after 90s, 30m or 2h; the same command goes on."),
    click.Option(["--commit-every"], metavar="SECONDS", help="Training between commits; 0: each epoch.  [default: 30]"),
    click.Option(["--diagnostics"], is_flag=True,
                 help="Log what preconditioners do to each layer of the trials still to train. No number moves; it "
                 "takes some 1 to 7 % of the time, which diag/overhead shows."),
    click.Option(["--json", "as_json"], is_flag=True, help="Results as JSON on standard output, the rest on error."),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, parsed; `--help` says what each is."""

    smoke: bool = False
    dry_run: bool = False
    report_only: bool = False
    seeds: list[int] | None = None
    workload: str | None = None
    epochs: int | None = None
    optimizers: list[str] | None = None
    only: dict[str, list[Any]]
    levels: dict[str, list[Any]]
    settings: dict[str, Any]
    max_concurrent: int | None = None
    gpus_per_trial: float | None = 0.0  # None: to be measured
    address: str | None = None
    tracking_uri: str | None = None
    out: Path | None = None
    data_dir: Path = field(default_factory=default_data_dir)
    download: bool = False
    verify_data: bool = False
    plugin: Path | None = None
    workers_per_trial: int = 1
    retry: tuple[str, ...] = ()
    rerun: tuple[str, ...] = ()
    time_budget: float | None = None
    commit_every: float = 30.0
    diagnostics: bool = False
    as_json: bool = False

    @property
    def workloads(self) -> list[str]:
        """The workloads that are named; none for the study's own."""
        return [] if self.workload is None else self.workload.split(",")

    @property
    def root(self) -> Path:
        """The output folder; a smoke run has its own, so that it never mixes with results."""
        root = self.out or ledger.default_root()
        return root / "smoke" if self.smoke else root


class _Parser:
    """Collects one line for each wrong value, so that all are shown at once."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def take(
        self,
        name: str,
        text: str | None,
        allowed: str,
        convert: Callable[[str], Any],
        default: Any = None,
        *,
        variable: str = "",
    ) -> Any:
        """The converted value, or an environment variable's, or the default where there is none or it is wrong."""
        source = f"--{name}"
        if text is None and variable:
            source, text = variable, os.environ.get(variable) or None
        if text is None:
            return default
        try:
            return convert(text)
        except (ValueError, OverflowError):
            self.wrong.append(f"{source} = {text}: must be {allowed}")
            return default

    def load_plugin(self, text: str | None) -> Path | None:
        """The file, after it has registered what it does."""
        if text is None:
            return None
        try:
            plugins.load(Path(text))
        except plugins.PluginError as error:
            self.wrong.append(f"--{error}")
        return Path(text)

    def pairs(self, name: str, texts: Sequence[str], example: str) -> dict[str, str]:
        """`NAME=VALUE` arguments by name, with the papers' spellings made ours."""
        found = {}
        for text in texts:
            key, sign, value = text.partition("=")
            if key and sign and value:
                found[ALIASES.get(key, key)] = value
            else:
                self.wrong.append(f"--{name} {text}: must look like {example}")
        return found


def parse(raw: dict[str, Any]) -> tuple[Options, list[str]]:
    """Options from the texts that click found, and a line for each that is wrong."""
    parser = _Parser()
    plugin = parser.load_plugin(raw["plugin"])  # first: it may register what the other flags name
    switches = ("smoke", "dry_run", "report_only", "diagnostics", "download", "verify_data", "as_json")
    flags = {name: raw[name] for name in switches}
    only, levels = (parser.pairs(name, raw[name], "rank=5,10") for name in ("only", "levels"))
    settings = parser.pairs("set", raw["settings"], "damping=0.1")
    options = Options(
        **flags,
        seeds=parser.take("seeds", raw["seeds"], "a number of seeds >= 1, or distinct seeds >= 0 as in 3,7", _seeds),
        workload=parser.take("workload", raw["workload"], "a workload", str),
        epochs=parser.take("epochs", raw["epochs"], "an integer >= 1", _at_least_one),
        optimizers=parser.take("optimizers", raw["optimizers"], "names", lambda text: text.split(",")),
        only={name: [literal(part) for part in value.split(",")] for name, value in only.items()},
        levels={name: [literal(part) for part in value.split(",")] for name, value in levels.items()},
        settings={name: literal(value) for name, value in settings.items()},
        max_concurrent=parser.take("max-concurrent", raw["max_concurrent"], "an integer >= 1", _at_least_one),
        gpus_per_trial=parser.take("gpus-per-trial", raw["gpus_per_trial"], _GPUS, _gpus, 0.0),
        address=parser.take("address", raw["address"], _ADDRESS, _address, variable="RAY_ADDRESS"),
        tracking_uri=parser.take(
            "tracking-uri", raw["tracking_uri"], _URI, _tracking_uri, variable="MLFLOW_TRACKING_URI"
        ),
        out=parser.take("out", raw["out"], "a folder", Path),
        data_dir=_data_dir(raw["data_dir"]),
        plugin=plugin,
        workers_per_trial=parser.take(
            "workers-per-trial", raw["workers_per_trial"], "an integer >= 1", _at_least_one, 1
        ),
        retry=tuple(raw["retry"]),
        rerun=tuple(raw["rerun"]),
        time_budget=parser.take("time-budget", raw["time_budget"], "a time > 0 as in 90s, 30m or 2h", _duration),
        commit_every=parser.take("commit-every", raw["commit_every"], "seconds >= 0", _not_negative, 30.0),
    )
    return options, parser.wrong + _contradictions(options)


def _contradictions(options: Options) -> list[str]:
    """Values that are well-formed, but not here."""
    wrong = [f"--{line}" for name in options.workloads if (line := unknown_workload(name))]
    if len(set(options.workloads)) < len(options.workloads):
        wrong.append(f"--workload = {options.workload}: one is there twice")
    if options.gpus_per_trial != 0 and not options.address and not torch.cuda.is_available():
        wanted = "auto" if options.gpus_per_trial is None else f"{options.gpus_per_trial:g}"
        wrong.append(f"--gpus-per-trial = {wanted}: this machine has no GPU; leave it out")
    cores = len(os.sched_getaffinity(0))
    if options.workers_per_trial > cores and not options.address:
        wrong.append(f"--workers-per-trial = {options.workers_per_trial}: there are {cores} CPUs; take 1..{cores}")
    for status in options.retry:
        if status not in RETRIES:
            wrong.append(f"--retry = {status}: must be one of {', '.join(RETRIES)}")
    blocking = next((p for p in (options.root, *options.root.parents) if p.exists() and not p.is_dir()), None)
    if blocking:
        wrong.append(f"--out = {options.out or options.root}: {blocking} is a file; name a folder")
    return wrong


def literal(text: str) -> Any:
    """A value as Python means it: 4, 4.0, nan, true, none, or a word."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def unknown_flag(name: str, params: Sequence[click.Parameter] = FLAGS) -> str:
    """One line for a flag that a command does not have, with the nearest that it has."""
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
    if min(seeds) < 0 or max(seeds) > MAX_SEED or len(set(seeds)) < len(seeds):
        raise ValueError
    return seeds


def _data_dir(text: str | None) -> Path:
    """The data folder; one that is named becomes the default, as if it were in the environment."""
    if text is not None:
        os.environ["PRECOND_DATA"] = str(Path(text).absolute())
    return default_data_dir()


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _not_negative(text: str) -> float:
    if not 0 <= float(text) < math.inf:
        raise ValueError
    return float(text)


def _gpus(text: str) -> float | None:
    """None is auto; Ray divides one GPU, and gives several only whole."""
    number = None if text == "auto" else _not_negative(text)
    if number is not None and number > 1 and number != int(number):
        raise ValueError
    return number


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)([smh]?)", text)
    if match is None:
        raise ValueError
    number, unit = match.groups()
    seconds = float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _address(text: str) -> str:
    if text != "auto" and not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", text):
        raise ValueError
    return text


def _tracking_uri(text: str) -> str:
    if text != "none" and not re.fullmatch(r"sqlite:///.+|https?://[^/@]+(/.*)?", text):
        raise ValueError
    return text
