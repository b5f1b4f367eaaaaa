"""`python -m tests.faults SCENARIO --n N --seed S`: one line of JSON; 1 when something was violated.

The same seed gives the same faults.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.faults.double import double
from tests.faults.files import corrupt, nth, torn
from tests.faults.inputs import inputs
from tests.faults.kills import kill, signals
from tests.faults.server import server
from tests.faults.sim import sim
from tests.faults.training import diverge, equal

SCENARIOS = {  # with how often, by default
    "corrupt": (corrupt, 10_000),
    "torn": (torn, 3),
    "nth": (nth, 0),
    "sim": (sim, 1_000),
    "equal": (equal, 20),
    "diverge": (diverge, 24),
    "inputs": (inputs, 10_000),
    "double": (double, 50),
    "tracking": (server, 1),
    "signals": (signals, 20),
    "kill": (kill, 50),
}
SHOWN = 5  # violations that are spelled out


def main(arguments: list[str] | None = None) -> int:
    """Run a scenario."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break things; say what survived.")
    parser.add_argument("scenario", choices=SCENARIOS, metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--n", type=int, help="how often [default: as the goal says]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # forked processes have no others
    scenario, goal = SCENARIOS[options.scenario]
    start, tried, violated = time.monotonic(), 0, []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        n = goal if options.n is None else options.n
        for wrong in scenario(n, random.Random(options.seed), Path(folder)):
            tried += 1
            violated += [wrong] if wrong else []
    result = {
        "scenario": options.scenario,
        "seed": options.seed,
        "tried": tried,
        "survived": tried - len(violated),
        "violated": len(violated),
        "first": [line for wrong in violated for line in wrong][:SHOWN],
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))
    return int(bool(violated) or not tried)


if __name__ == "__main__":
    sys.exit(main())
