"""`python -m tests.faults SCENARIO --n N --seed S`: run a scenario and print one line of JSON.

Each of several scenarios prints its own line: `python -m tests.faults torn=1 nth=25`. The exit code
is 1 if a try violated an invariant. The same seed gives the same faults.
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

# The function of each scenario and its default n. A function is imported when its scenario runs,
# because a small process forks faster.
SCENARIOS = {
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
LISTED = 5  # largest number of violations in a line


def main(arguments: list[str] | None = None) -> int:
    """Run scenarios, each in a forked process so that they do not affect each other."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Cause faults and check that training, reports and tracking survive them.",
    )
    parser.add_argument("scenario", nargs="+", metavar="SCENARIO[=N]", help=", ".join(SCENARIOS))
    parser.add_argument(
        "--n",
        type=int,
        help="N of the scenarios without =N, which determines their number of tries"
        " [default: depends on the scenario]",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults [default: 0]")
    options = parser.parse_args(arguments)
    scenarios = [text.partition("=")[::2] for text in options.scenario]
    if unknown := {name for name, _ in scenarios} - set(SCENARIOS):
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    for name, count in scenarios:
        if count and not count.isdecimal():
            parser.error(f"{name}={count}: must be {name}=N with an integer N >= 0")
    # mlflow's database models cause this warning under SQLAlchemy 2.1.
    warnings.filterwarnings(
        "ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning
    )
    torch.set_num_threads(1)  # a forked process does not have torch's other threads
    failed = 0
    for name, count in scenarios:
        n = int(count or options.n or SCENARIOS[name][1])
        child = forked(lambda name=name, n=n: _run(name, n, options.seed))
        failed |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return int(bool(failed))


def _run(name: str, n: int, seed: int) -> int:
    start, tried, failures = time.monotonic(), 0, []
    module, _, function = SCENARIOS[name][0].partition(".")
    scenario = getattr(importlib.import_module(f"tests.faults.{module}"), function)
    gc.collect()
    gc.freeze()  # otherwise the garbage collection of each child would copy the parent's memory
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for violations in scenario(n, random.Random(seed), Path(folder)):
            tried += 1
            failures += [violations] if violations else []
    result = {
        "scenario": name,
        "seed": seed,
        "tried": tried,
        "survived": tried - len(failures),
        "violated": len(failures),
        "first": [line for violations in failures for line in violations][:LISTED],
        "seconds": round(time.monotonic() - start, 1),
        "of_processor": round(sum(os.times()[:4]), 1),  # CPU time, with that of ended children
    }
    print(json.dumps(result), flush=True)
    return int(bool(failures) or not tried)


if __name__ == "__main__":
    sys.exit(main())
