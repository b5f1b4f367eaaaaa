"""`ray up`, `ray submit` and `ray down` with deploy/local.yaml over SSH; a worker is powered off.

The four simulated machines (`machines.py`) are a launcher, a head and two workers. The metrics of
all trials must be equal to those of the same study on one machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import NETWORK, Machines, skip_reason

from trainables.files import read_lines
from trainables.store import read_status, trial_folders

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason() or "this host can run the tests"),
]
STUDY = ["--seeds", "2", "--epochs", "3", "--levels", "rank=5,10", "--commit-every", "0"]

COUNT_NODES = "/run/machine/count_nodes.py"
COUNT_TRACKED_TRIALS = "/run/machine/count_tracked_trials.py"
COUNT_NODES_SCRIPT = """
import ray
ray.init("auto", logging_level="ERROR")
print("alive:", sum(node["Alive"] for node in ray.nodes()))
"""
COUNT_TRACKED_TRIALS_SCRIPT = """
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:5000")
experiments = [experiment.experiment_id for experiment in client.search_experiments()]
runs = client.search_runs(experiments, max_results=1000)
print(sum(run.data.tags.get("kind") == "trial" for run in runs))
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    network = Machines(tmp_path, 3)
    (network.files / "cluster.yaml").write_text(cluster_file())
    (network.files / "count_nodes.py").write_text(COUNT_NODES_SCRIPT)
    (network.files / "count_tracked_trials.py").write_text(COUNT_TRACKED_TRIALS_SCRIPT)
    try:
        network.start()
        yield network
    finally:
        network.end()


def cluster_file() -> str:
    """Return deploy/local.yaml with the values of the simulated machines.

    Each worker has one CPU slot and little memory, because the machines share the host.
    """
    text = (ROOT / "deploy/local.yaml").read_text()
    memory = "--object-store-memory=100000000"
    environment = "PYTHONPATH=$HOME/checkout RAY_raylet_start_wait_time_s=180"
    address = "--address=$RAY_HEAD_IP:6379"
    values = {
        "192.0.2.": f"{NETWORK}.",
        "user EXAMPLE": "user root",
        "PRECOND_SHARED=/EXAMPLE": f"PRECOND_SHARED=/mnt {environment}",
        "--num-cpus=0": f"--num-cpus=0 {memory}",
        address: f"{address} --num-cpus=1 {memory}",
    }
    for example, value in values.items():
        assert example in text
        text = text.replace(example, value)
    return text


def metrics_by_trial(root: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of each epoch, without times and memory, by trial folder."""
    return {folder.name: metrics_of(folder) for folder in trial_folders(root)}


def metrics_of(folder: Path) -> list[dict[str, float]]:
    epochs = [line["metrics"] for line in read_lines(folder / "epochs.jsonl")]
    machine_dependent = ("time/", "mem/", "system/")
    return [
        {k: v for k, v in epoch.items() if not k.startswith(machine_dependent)} for epoch in epochs
    ]


def test_study_completes_after_one_of_two_workers_is_powered_off(
    machines: Machines, tmp_path: Path
):
    file = "/run/machine/cluster.yaml"
    outputs = machines.shared / "outputs"
    machines.run("launcher", f"cd {ROOT} && python -m studies check-cluster {file}")
    machines.run("launcher", f"cd {ROOT} && ray up -y {file}", timeout=600)
    deadline = time.monotonic() + 300
    count_nodes = f"ray exec {file} 'python {COUNT_NODES}'"
    while "alive: 3" not in machines.run("launcher", count_nodes, check=False).stdout:
        assert time.monotonic() < deadline, "the workers did not join"
        time.sleep(2)

    submit = f"cd {ROOT} && ray submit {file} studies/ablation_rank.py -- {' '.join(STUDY)}"
    driver = machines.begin("launcher", submit, tmp_path / "submit.log")

    def finished_trials() -> list[Path]:
        return [folder for folder in trial_folders(outputs) if read_status(folder) is not None]

    _wait(lambda: len(finished_trials()) >= 3, driver, tmp_path)
    machines.kill("machine3")
    done = {folder: (folder / "epochs.jsonl").read_bytes() for folder in finished_trials()}
    assert len(done) < 12, "all trials had ended before the worker was powered off"
    assert driver.wait(600) == 0, (tmp_path / "submit.log").read_text()
    output = (tmp_path / "submit.log").read_text()
    assert "cluster of 3 nodes: 2 CPUs, 0 GPUs" in output and "Traceback" not in output
    assert all((folder / "epochs.jsonl").read_bytes() == before for folder, before in done.items())
    machines.run(
        "launcher", f"ray rsync-down {file} /mnt/outputs/reports/ /root/reports", timeout=60
    )
    assert "report.md" in machines.run("launcher", "find /root/reports").stdout
    assert machines.run("machine1", f"python {COUNT_TRACKED_TRIALS}").stdout.split()[-1] == "12"
    machines.run("launcher", f"ray down -y {file}", timeout=120)
    assert "gcs_server" not in machines.run("machine1", "ps -e -o comm").stdout
    # With the local provider, a worker ends a minute after it has lost the head.
    deadline = time.monotonic() + 180
    while "raylet" in machines.run("machine2", "ps -e -o comm").stdout:
        assert time.monotonic() < deadline, "the worker did not end"
        time.sleep(2)

    command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *STUDY]
    command += ["--tracking-uri", "none", "--out", str(tmp_path / "one_machine")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180"}
    subprocess.run(command, check=True, timeout=300, env=environment)
    metrics = metrics_by_trial(outputs)
    assert len(metrics) == 12 and metrics == metrics_by_trial(tmp_path / "one_machine")


def _wait(condition, process: subprocess.Popen[bytes], folder: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        log = (folder / "submit.log").read_text()
        assert process.poll() is None and time.monotonic() < deadline, log
        time.sleep(0.1)
