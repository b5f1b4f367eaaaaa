"""`python -m trainables TRIALS.jsonl --out DIR`: run trials one after another, without Ray.

Use it under a debugger, or on a machine without Ray. TRIALS.jsonl is the output of
`python studies/NAME.py --dry-run --json`, one JSON object per line. This program reads the fields
`key` and `config` of each object. The trial folders are the same as those that Ray's workers write.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from trainables import plugins
from trainables.config import TrialConfig
from trainables.data import default_data_dir
from trainables.store import FAILED, StoreError, TrialStore
from trainables.team import Team, spawn
from trainables.train import COMMIT_SECONDS, epochs, headline
from trainables.workloads import prepare_data


def main(arguments: list[str] | None = None) -> int:
    """Run the trials of a file and return the exit code.

    The code is 0 if no trial has the status `failed`, 1 if a trial has this status, 2 if the file,
    the plugin or the data are invalid, and 4 if the output folder or the data cannot be used
    during training.
    """
    options = _parser().parse_args(arguments)
    try:
        lines = options.trials.read_text().splitlines()
        configs = [_config(line) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        advice = "write the file with `python studies/NAME.py --dry-run --json`"
        print(f"error: {options.trials}: {error}; {advice}", file=sys.stderr)
        return 2
    errors = _plugin_problems(options.plugins, configs)
    if not errors:
        os.environ["PRECOND_DATA"] = str(options.data_dir.absolute())
        names = {config.workload for config in configs}
        errors = prepare_data(
            names, options.data_dir, download=options.download, verify=options.verify_data
        )
    if errors:
        print(*(f"error: {line}" for line in errors), sep="\n", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    statuses = []
    try:
        for path in options.plugins:
            plugins.write_copy(path, options.out)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    for number, config in enumerate(configs, start=1):
        try:
            statuses.append(_run(config, options, f"{number}/{len(configs)}"))
        except (StoreError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 4
    return int(FAILED in statuses)


def _run(config: TrialConfig, options: argparse.Namespace, label: str) -> str:
    store = TrialStore(options.out, config)
    store.create()
    name = f"{label} {config.optimizer} s{config.seed} {config.trial_key[:16]}"
    if config.workers == 1:
        _train(config, options, name)
    else:
        spawn(_train, config.workers, options.device, config, options, name)
    status = store.status() or {}
    print(f"{name} {status['status']}{': ' + status['reason'] if 'reason' in status else ''}")
    return status["status"]


def _train(config: TrialConfig, options: argparse.Namespace, name: str) -> None:
    """Train a trial in this process, which may be one of several processes of a team."""
    store = TrialStore(options.out, config)
    settings = {
        "device": options.device,
        "commit_every": options.commit_every,
        "diagnostics": options.diagnostics,
    }
    for metrics in epochs(config, store, **settings):
        if Team.current().rank == 0:
            progress = f"epoch {metrics['epoch'] + 1}/{config.epochs}"
            print(f"{name} {progress}: {headline(config, metrics)}", flush=True)


def _plugin_problems(paths: Sequence[Path], configs: Sequence[TrialConfig]) -> list[str]:
    """Load the plugins; return a line for each error, and for each plugin that is missing."""
    if errors := plugins.load_all(paths):
        return [f"--plugin {line}" for line in errors]
    missing = [config for config in configs if not plugins.has_code(config)]
    return [
        f"{workload} with {optimizer}: give the file of the plugin with which the trials were "
        "planned with --plugin; if it has changed, plan the trials again"
        for workload, optimizer in dict.fromkeys((c.workload, c.optimizer) for c in missing)
    ]


def _config(line: str) -> TrialConfig:
    document = json.loads(line)
    config = TrialConfig.from_dict(document["config"])
    if config.trial_key != document["key"]:
        raise ValueError(f"the key {document['key'][:16]} does not match the config on its line")
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables",
        description="Run trials one after another, without Ray.",
    )
    add = parser.add_argument
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("trials", type=Path, metavar="TRIALS.jsonl",
        help="the output of `python studies/NAME.py --dry-run --json`")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="output folder")
    add("--device", default=device, help="device to train on [default: %(default)s]")
    add("--plugin", type=Path, metavar="FILE|DIR", action="append", default=[], dest="plugins",
        help="plugin that defines the trials' optimizer or workload; can be given several "
        "times")  # fmt: skip
    add("--data-dir", type=Path, default=default_data_dir(), metavar="DIR",
        help="folder that contains the datasets [default: $PRECOND_DATA or data]")  # fmt: skip
    add("--download", action="store_true", help="download missing datasets")
    add("--verify-data", action="store_true",
        help="read all data and compare their checksums before training")  # fmt: skip
    add("--threads", type=int, default=1,
        help="CPU threads of torch [default: %(default)s, as in Ray's workers]")  # fmt: skip
    add("--commit-every", type=float, default=COMMIT_SECONDS, metavar="SECONDS",
        help="seconds of training between two checkpoints [default: %(default)s]")  # fmt: skip
    add("--diagnostics", action="store_true",
        help="log measures of the preconditioner for each layer; the metric diag/overhead is "
        "the fraction of the training time that these measures take")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
