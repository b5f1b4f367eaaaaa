"""`ray up`, `ray submit` and `ray down` with cluster.local.yaml, for real, over SSH; a worker is powered off half way.

Four machines made of namespaces (`machines.py`): a launcher, a head and two workers. The study must end with the trials
of a run on this machine alone, number for number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import NETWORK, Machines, missing

from trainables.files import read_lines
from trainables.store import read_status, trial_folders

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=missing() or "can run"),
]
STUDY = ["--seeds", "2", "--epochs", "3", "--levels", "rank=5,10", "--commit-every", "0"]

JOINED, TRACKED = "/run/machine/joined.py", "/run/machine/tracked.py"
JOINED_SCRIPT = """
import ray
ray.init("auto", logging_level="ERROR")
print("alive:", sum(node["Alive"] for node in ray.nodes()))
"""
TRACKED_SCRIPT = """
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:5000")
experiments = [experiment.experiment_id for experiment in client.search_experiments()]
print(sum(run.data.tags.get("kind") == "trial" for run in client.search_runs(experiments, max_results=1000)))
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    found = Machines(tmp_path, 3)
    (found.files / "cluster.yaml").write_text(cluster_file())
    (found.files / "joined.py").write_text(JOINED_SCRIPT)
    (found.files / "tracked.py").write_text(TRACKED_SCRIPT)
    try:
        found.start()
        yield found
    finally:
        found.end()


def cluster_file() -> str:
    """cluster.local.yaml with these machines' values, and with one small slot a worker, since they share two cores."""
    text = (ROOT / "cluster.local.yaml").read_text()
    values = {
        "192.0.2.": f"{NETWORK}.",
        "user EXAMPLE": "user root",
        "PRECOND_SHARED=/EXAMPLE": "PRECOND_SHARED=/mnt PYTHONPATH=$HOME/checkout RAY_raylet_start_wait_time_s=180",
        "--num-cpus=0": "--num-cpus=0 --object-store-memory=100000000",
        "--address=$RAY_HEAD_IP:6379": "--address=$RAY_HEAD_IP:6379 --num-cpus=1 --object-store-memory=100000000",
    }
    for example, own in values.items():
        assert example in text
        text = text.replace(example, own)
    return text


def numbers(root: Path) -> dict[str, list[dict[str, float]]]:
    """Every trial's metrics by epoch, without what depends on the hour."""
    described = ("time/", "mem/", "system/")
    return {
        folder.name: [
            {
                name: value
                for name, value in line["metrics"].items()
                if not name.startswith(described)
            }
            for line in read_lines(folder / "epochs.jsonl")
        ]
        for folder in trial_folders(root)
    }


def test_study_completes_after_one_of_two_workers_is_powered_off(machines: Machines, tmp_path: Path):
    file = "/run/machine/cluster.yaml"
    outputs = machines.shared / "outputs"
    check = machines.run(
        "launcher", f"cd {ROOT} && python -m studies check-cluster {file}", check=False
    )
    assert (
        "cluster.yaml: file_mounts: precond does not exist" in check.stderr
    )  # the file is not in the repository
    machines.run("launcher", f"cd {ROOT} && ray up -y {file}", timeout=600)
    deadline = time.monotonic() + 300
    while (
        "alive: 3"
        not in machines.run("launcher", f"ray exec {file} 'python {JOINED}'", check=False).stdout
    ):
        assert time.monotonic() < deadline, "the workers did not join"
        time.sleep(2)

    submit = f"cd {ROOT} && ray submit {file} studies/ablation_rank.py -- {' '.join(STUDY)}"
    driver = machines.begin("launcher", submit, tmp_path / "submit.log")
    _wait(
        lambda: sum(read_status(folder) is not None for folder in trial_folders(outputs)) >= 3,
        driver,
        tmp_path,
    )
    machines.kill("machine3")
    done = {
        folder: (folder / "epochs.jsonl").read_bytes()
        for folder in trial_folders(outputs)
        if read_status(folder)
    }
    assert len(done) < 12, "too late for this test to mean anything"
    assert driver.wait(600) == 0, (tmp_path / "submit.log").read_text()
    said = (tmp_path / "submit.log").read_text()
    assert "cluster of 3 nodes: 2 CPUs, 0 GPUs" in said and "Traceback" not in said
    assert all((folder / "epochs.jsonl").read_bytes() == before for folder, before in done.items())
    machines.run(
        "launcher", f"ray rsync-down {file} /mnt/outputs/reports/ /root/reports", timeout=60
    )
    assert "report.md" in machines.run("launcher", "find /root/reports").stdout
    assert machines.run("machine1", f"python {TRACKED}").stdout.split()[-1] == "12"
    machines.run("launcher", f"ray down -y {file}", timeout=120)
    assert "gcs_server" not in machines.run("machine1", "ps -e -o comm").stdout
    deadline = (
        time.monotonic() + 180
    )  # a worker of this kind ends when it has missed its head for a minute
    while "raylet" in machines.run("machine2", "ps -e -o comm").stdout:
        assert time.monotonic() < deadline, "the worker stays"
        time.sleep(2)

    alone = [
        sys.executable,
        str(ROOT / "studies" / "ablation_rank.py"),
        *STUDY,
        "--tracking-uri",
        "none",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180"}
    subprocess.run(
        [*alone, "--out", str(tmp_path / "alone")], check=True, timeout=300, env=environment
    )
    assert len(numbers(outputs)) == 12 and numbers(outputs) == numbers(tmp_path / "alone")


def _wait(condition, process: subprocess.Popen[bytes], folder: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, (
            folder / "submit.log"
        ).read_text()
        time.sleep(0.1)
