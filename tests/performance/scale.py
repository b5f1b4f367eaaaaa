"""Measure the driver with many trials, and the ledger and the MLflow sync with many trial folders.

    python tests/performance/scale.py tune [--trials 2000] [--nodes 8]
    python tests/performance/scale.py folders [--trials 10000]

`tune` trains trials of one step with Ray Tune on fake nodes, which have one CPU each and run on
this machine. `folders` generates trial folders, reads them into the ledger (the table of all
trials), and sends them to MLflow twice. Both print one JSON line. This is not a test; it takes
minutes.
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

ROOT = Path(__file__).parents[2]
# The root is first, because `precond` would otherwise be imported from tests/.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

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
    """Run a study of one-step trials on a cluster of fake nodes, with this process as driver."""
    os.environ.update(RAY_raylet_start_wait_time_s="180", PYTHONPATH=str(ROOT))
    from ray.cluster_utils import Cluster

    from studies.ablation_rank import STUDY
    from studies.harness.command.options import parse
    from studies.harness.command.run import run_command

    (out / "nothing.py").write_text(PLUGIN)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    raw: dict[str, Any] = dict.fromkeys(_flags(), None) | dict.fromkeys(_switches(), False)
    raw |= {"only": (), "levels": (), "settings": (), "retry": (), "rerun": (), "optimizers": "sgd"}
    raw |= {
        "plugin": (str(out / "nothing.py"),),
        "workload": "nothing/linear",
        "seeds": str(trials),
    }
    raw |= {"address": cluster.address, "tracking_uri": "none", "out": str(out / "outputs")}
    start = time.monotonic()
    options, errors = parse(raw)
    code = run_command([STUDY], options, errors)
    seconds = time.monotonic() - start
    cluster.shutdown()
    return {
        "trials": trials, "nodes": nodes, "exit_code": code, "seconds": round(seconds, 1),
        "seconds_per_trial": round(seconds / trials, 4), "driver_peak_mb": _peak_mb(),
    }  # fmt: skip


def folders(trials: int, out: Path) -> dict[str, Any]:
    """Measure the ledger and the MLflow sync of generated trial folders."""
    from folders import STUDY, planned, write_trial

    from studies.harness.design.options import Options, default_uri
    from studies.harness.evidence import ledger, status
    from studies.harness.tracking.views import TrialsView

    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.fsync = lambda descriptor: None  # faster generation; the measured code only reads folders
    plan = planned(seeds=-(-trials // 8))[:trials]
    seconds = {"generate": _timed(lambda: [write_trial(out, trial) for trial in plan])}
    seconds["ledger_frame"] = _timed(lambda: ledger.frame(plan, out))
    seconds["ledger_missing"] = _timed(lambda: status.missing(plan, out))
    facts = {
        "facts": STUDY,
        "workload": "digits/cnn",
        "metric": STUDY.figure.on("digits/cnn").metric,
    }
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
    from studies.harness.command.flags import FLAGS

    return [option.name for option in FLAGS if option.name]


def _switches() -> list[str]:
    from studies.harness.command.flags import FLAGS

    return [option.name for option in FLAGS if option.name and getattr(option, "is_flag", False)]


def main() -> None:
    """Run a measurement in a temporary folder and print its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", choices=["tune", "folders"])
    parser.add_argument("--trials", type=int, help="[default: 2000 for tune, 10000 for folders]")
    parser.add_argument("--nodes", type=int, default=8, help="fake nodes [default: %(default)s]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.measurement == "tune":
            result = tune(options.trials or 2000, options.nodes, Path(folder))
        else:
            result = folders(options.trials or 10_000, Path(folder))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
