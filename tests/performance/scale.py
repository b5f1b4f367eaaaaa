"""Many trials and many folders: what the driver, the ledger and MLflow's view do with them. Minutes; not a test.

    python tests/performance/scale.py tune [--trials 2000] [--nodes 8]    trials of one step, through real Tune
    python tests/performance/scale.py folders [--trials 10000]            generated ones: ledger, first and next sync

Prints one JSON line. Nodes are Ray's fake ones: of one CPU each, on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1]),
]  # the packages before tests/precond

ROOT = Path(__file__).parents[2]
PLUGIN = """
import torch
from torch import nn
from trainables.plugins import workload

def data():
    x = torch.eye(4)
    return x, torch.arange(4) % 2, x, torch.arange(4) % 2

@workload("nothing/linear", data=data, batch_size=4, epochs=1)
def linear():
    return nn.Linear(4, 2)
"""


def tune(trials: int, nodes: int, out: Path) -> dict[str, Any]:
    """A study of trials of one step on a cluster of fake nodes; this process is its driver."""
    os.environ.update(RAY_raylet_start_wait_time_s="180", PYTHONPATH=str(ROOT))
    from ray.cluster_utils import Cluster

    from studies.ablation_rank import STUDY
    from studies.harness.command.options import parse
    from studies.harness.command.run import run

    (out / "nothing.py").write_text(PLUGIN)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    raw: dict[str, Any] = dict.fromkeys(_flags(), None) | dict.fromkeys(_switches(), False)
    raw |= {"only": (), "levels": (), "settings": (), "retry": (), "rerun": (), "optimizers": "sgd"}
    raw |= {"plugin": str(out / "nothing.py"), "workload": "nothing/linear", "seeds": str(trials)}
    raw |= {"address": cluster.address, "tracking_uri": "none", "out": str(out / "outputs")}
    start = time.monotonic()
    options, wrong = parse(raw)
    code = run([STUDY], options, wrong)
    seconds = time.monotonic() - start
    cluster.shutdown()
    return {
        "trials": trials, "nodes": nodes, "exit_code": code, "seconds": round(seconds, 1),
        "seconds_per_trial": round(seconds / trials, 4), "driver_peak_mb": _peak_mb(),
    }  # fmt: skip


def folders(trials: int, out: Path) -> dict[str, Any]:
    """The ledger and MLflow over generated folders."""
    from folders import STUDY, planned, run

    from studies.harness.design.options import Options, default_uri
    from studies.harness.evidence import ledger, status
    from studies.harness.tracking.views import TrialsView

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.fsync = lambda descriptor: None  # of the generation alone: what is measured reads
    plan = planned(seeds=-(-trials // 8))[:trials]
    seconds = {"generate": _timed(lambda: [run(out, trial) for trial in plan])}
    seconds["ledger_frame"] = _timed(lambda: ledger.frame(plan, out))
    seconds["ledger_missing"] = _timed(lambda: status.missing(plan, out))
    facts = {"facts": STUDY, "workload": "digits/cnn", "metric": STUDY.figure.metric}
    view = TrialsView(**facts, trials=lambda: plan, options=Options(out=out))
    seconds["first_sync"] = _timed(lambda: view.send(default_uri(out)))
    seconds["next_sync"] = _timed(lambda: view.send(default_uri(out)))
    return {
        "folders": trials,
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
        "peak_mb": _peak_mb(),
    }


def _timed(call: Any) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _flags() -> list[str]:
    from studies.harness.command.options import FLAGS

    return [option.name for option in FLAGS if option.name]


def _switches() -> list[str]:
    from studies.harness.command.options import FLAGS

    return [option.name for option in FLAGS if option.name and getattr(option, "is_flag", False)]


def main() -> None:
    """Run what is asked for in a temporary folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["tune", "folders"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--nodes", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.what == "tune":
            found = tune(chosen.trials or 2000, chosen.nodes, Path(folder))
        else:
            found = folders(chosen.trials or 10_000, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
