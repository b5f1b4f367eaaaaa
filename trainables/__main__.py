"""`python -m trainables TRIALS.jsonl --out DIR`: trials one after another in this process, without Ray.

It is for a debugger, and for a machine with torch alone. `python studies/NAME.py --dry-run --json` writes the file: one
line of JSON for each trial, of which `config` is read. The trial folders are the same as those of Ray's workers.
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
from trainables.train import COMMIT_SECONDS, epochs, score
from trainables.workloads import ready


def main(arguments: list[str] | None = None) -> int:
    """Run the trials of a file; return 0, 1 if some failed, 2 for an invalid file, 4 if the folder is unusable."""
    options = _parser().parse_args(arguments)
    try:
        configs = [
            _config(line) for line in options.trials.read_text().splitlines() if line.strip()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"error: {options.trials}: {error}; write it with --dry-run --json", file=sys.stderr)
        return 2
    errors = _plugin_problems(options.plugin, configs)
    if not errors:
        os.environ["PRECOND_DATA"] = str(options.data_dir.absolute())
        names = {config.workload for config in configs}
        errors = ready(
            names, options.data_dir, download=options.download, verify=options.verify_data
        )
    if errors:
        print(*(f"error: {line}" for line in errors), sep="\n", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    statuses = []
    for number, config in enumerate(configs, start=1):
        try:
            if config.plugin:
                plugins.keep(options.plugin, options.out)
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
    """Train in this process, alone or as one of a team."""
    store = TrialStore(options.out, config)
    settings = {
        "device": options.device,
        "commit_every": options.commit_every,
        "diagnostics": options.diagnostics,
    }
    for metrics in epochs(config, store, **settings):
        if Team.here().rank == 0:
            print(
                f"{name} epoch {metrics['epoch'] + 1}/{config.epochs}: {score(metrics):.2%}",
                flush=True,
            )


def _plugin_problems(path: Path | None, configs: Sequence[TrialConfig]) -> list[str]:
    """Load the plugin; return a line if that fails, and a line for each other plugin that trials need."""
    try:
        sha = None if path is None else plugins.load(path)
    except plugins.PluginError as error:
        return [str(error)]
    others = {config.plugin for config in configs} - {sha, None}
    return [
        f"there are trials of the plugin with SHA-256 {other}: name its file with --plugin"
        for other in others
    ]


def _config(line: str) -> TrialConfig:
    document = json.loads(line)
    config = TrialConfig.from_dict(document["config"])
    if config.trial_key != document["key"]:
        raise ValueError(f"the key {document['key'][:16]} is not that of its config")
    return config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables", description="Run trials here, without Ray."
    )
    add = parser.add_argument
    add("trials", type=Path, metavar="TRIALS.jsonl")
    add("--out", type=Path, required=True, metavar="DIR", help="output folder")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="[default: %(default)s]",
    )
    add("--plugin", type=Path, metavar="FILE", help="the plugin that the trials were planned with")
    add("--data-dir", type=Path, default=default_data_dir(), metavar="DIR",
        help="where datasets are [default: $PRECOND_DATA or data]")  # fmt: skip
    add("--download", action="store_true", help="fetch a missing dataset")
    add("--verify-data", action="store_true", help="read all data and compare checksums first")
    add("--threads", type=int, default=1, help="of torch on the CPU; as Ray's workers: %(default)s")
    add("--commit-every", type=float, default=COMMIT_SECONDS, metavar="SECONDS",
        help="training between commits [default: %(default)s]")  # fmt: skip
    add("--diagnostics", action="store_true",
        help="log what the preconditioner does to each layer; diag/overhead is its share of the time")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
