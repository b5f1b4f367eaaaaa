"""`python -m tests.faults SCENARIO --n N --seed S`: a line of JSON; exit code 1 when something was violated.

Several have a line each: `python -m tests.faults torn=1 nth=25`.

The same seed gives the same faults.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from tests.faults.injection import forked

SCENARIOS = {  # the function, imported when it runs, because a small process forks faster; how often by default
    "corrupt": ("files.corrupt", 10_000),
    "torn": ("files.torn", 3),
    "nth": ("files.nth", 0),
    "sim": ("sim.sim", 1_000),
    "equal": ("training.equal", 20),
    "diverge": ("training.diverge", 24),
    "inputs": ("inputs.inputs", 10_000),
    "commands": ("inputs.commands", 30),
    "double": ("double.double", 50),
    "tracking": ("server.server", 1),
    "signals": ("kills.signals", 20),
    "kill": ("kills.kill", 50),
}
SHOWN = 5  # violations that are spelled out


def main(arguments: list[str] | None = None) -> int:
    """Run scenarios, each in a forked process: none changes what another finds."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Break things; say what survived."
    )
    parser.add_argument("scenario", nargs="+", metavar="SCENARIO[=N]", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--n", help="how often, where the scenario does not say [default: as the goal says]"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    wanted = [text.partition("=")[::2] for text in options.scenario]
    if unknown := {name for name, _ in wanted} - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # Of mlflow's mappers under SQLAlchemy 2.1.
    warnings.filterwarnings(
        "ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning
    )
    torch.set_num_threads(1)  # forked processes have no others
    failed = 0
    for name, often in wanted:
        n = int(often or options.n or SCENARIOS[name][1])
        child = forked(lambda name=name, n=n: _run(name, n, options.seed))
        failed |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return int(bool(failed))


def _run(name: str, n: int, seed: int) -> int:
    start, tried, violated = time.monotonic(), 0, []
    module, _, function = SCENARIOS[name][0].partition(".")
    scenario = getattr(importlib.import_module(f"tests.faults.{module}"), function)
    gc.collect()
    gc.freeze()  # or every child would copy what its collections look at
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for wrong in scenario(n, random.Random(seed), Path(folder)):
            tried += 1
            violated += [wrong] if wrong else []
    result = {
        "scenario": name,
        "seed": seed,
        "tried": tried,
        "survived": tried - len(violated),
        "violated": len(violated),
        "first": [line for wrong in violated for line in wrong][:SHOWN],
        "seconds": round(time.monotonic() - start, 1),
        "of_processor": round(sum(os.times()[:4]), 1),  # with all children that were waited for
    }
    print(json.dumps(result), flush=True)
    return int(bool(violated) or not tried)


if __name__ == "__main__":
    sys.exit(main())
