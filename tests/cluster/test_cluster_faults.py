"""Studies on Ray clusters that lose nodes, processes or workers, or that have an autoscaler."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from machines import Machines, skip_reason

from trainables.files import read_lines
from trainables.store import read_status, trial_folders

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "RAY_raylet_start_wait_time_s": "180",
    "COLUMNS": "120",
    "NO_COLOR": "1",
}
pytestmark = pytest.mark.cluster


@pytest.fixture
def ray_cluster() -> Iterator:
    """A head node without CPUs; tests add nodes."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_raylet_start_wait_time_s="180", PYTHONPATH=str(ROOT))
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


def start_study(
    out: Path, address: str, *flags: str, file: str = "ablation_rank.py"
) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "studies" / file), "--address", address]
    return subprocess.Popen(
        [*command, "--out", str(out), "--tracking-uri", "none", *flags],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=out.parent,
    )


def wait_for_end(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code and "Traceback" not in output, output
    return output


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.05)


def finished_trials(root: Path) -> list[Path]:
    return [folder for folder in trial_folders(root) if read_status(folder)]


def committed_epochs(folder: Path) -> list[int]:
    return [line["epoch"] for line in read_lines(folder / "epochs.jsonl")]


def losses(root: Path) -> dict[str, list[float]]:
    """Return the test loss of each epoch, by trial folder."""
    return {
        folder.name: [line["metrics"]["test/loss"] for line in read_lines(folder / "epochs.jsonl")]
        for folder in trial_folders(root)
    }


def workers(title: str) -> list[psutil.Process]:
    """Return the Ray workers below this process whose title starts with `ray::` and `title`."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{title}"):
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def test_study_completes_after_the_loss_of_a_node(ray_cluster, tmp_path: Path):
    nodes = [ray_cluster.add_node(num_cpus=1) for _ in range(2)]
    flags = ("--optimizers", "sgd", "--seeds", "8", "--epochs", "6", "--commit-every", "0")
    driver = start_study(tmp_path, ray_cluster.address, *flags)
    wait_for(lambda: len(finished_trials(tmp_path)) >= 2, driver)
    ray_cluster.remove_node(nodes[1], allow_graceful=False)
    assert len(finished_trials(tmp_path)) < 8, "all trials had ended before the node was removed"
    assert "cluster of 3 nodes: 2 CPUs" in wait_for_end(driver)
    epochs = [committed_epochs(folder) for folder in finished_trials(tmp_path)]
    assert epochs == [list(range(6))] * 8


def test_trial_of_two_processes_resumes_after_the_loss_of_either_process(
    ray_cluster, tmp_path: Path
):
    ray_cluster.add_node(num_cpus=2)
    flags = ["--workers-per-trial", "2", "--optimizers", "sgd", "--seeds", "1"]
    flags += ["--epochs", "12", "--commit-every", "0"]
    undisturbed, interrupted = tmp_path / "undisturbed", tmp_path / "interrupted"
    wait_for_end(start_study(undisturbed, ray_cluster.address, *flags))
    driver = start_study(interrupted, ray_cluster.address, *flags)
    for rank, minimum in ((0, 3), (1, 6)):

        def progress(minimum: int = minimum) -> bool:
            counts = [len(committed_epochs(folder)) for folder in trial_folders(interrupted)]
            return any(count >= minimum for count in counts)

        wait_for(progress, driver)
        ranks = sorted(workers("RayTrainWorker"), key=lambda process: process.pid)
        assert len(ranks) == 2
        ranks[rank].kill()
    wait_for_end(driver)
    [folder] = finished_trials(interrupted)
    assert committed_epochs(folder) == list(range(12))
    assert len(read_lines(folder / "attempts.jsonl")) == 3
    assert losses(interrupted) == losses(undisturbed)


def test_worker_commits_and_ends_on_sigterm(ray_cluster, tmp_path: Path):
    """After a spot notice, a worker receives SIGTERM.

    It then writes a checkpoint although none is due.
    """
    ray_cluster.add_node(num_cpus=1)
    flags = ("--optimizers", "sgd", "--seeds", "1", "--epochs", "600", "--commit-every", "1000")
    driver = start_study(tmp_path, ray_cluster.address, *flags)
    wait_for(lambda: workers("TrialTrainable"), driver)
    [folder] = trial_folders(tmp_path)
    wait_for(lambda: read_lines(folder / "attempts.jsonl"), driver)
    time.sleep(3)
    [worker] = workers("TrialTrainable")
    worker.send_signal(signal.SIGTERM)
    start = time.monotonic()
    worker.wait(20)
    assert time.monotonic() - start < 20
    committed = committed_epochs(folder)
    assert 0 < len(committed) < 600
    wait_for_end(driver)
    assert committed_epochs(folder) == list(range(600))
    assert [line["committed"] for line in read_lines(folder / "attempts.jsonl")] == [
        0,
        len(committed),
    ]


@pytest.mark.parametrize(
    ("file", "flags"),
    [("ablation_rank.py", ("--seeds", "200")), ("tune_optimizers.py", ("--budget", "200"))],
    ids=["grid", "search"],
)
def test_late_node_with_different_code_ends_the_study(
    ray_cluster, tmp_path: Path, file: str, flags: tuple[str, ...]
):
    """The node joins after the inspection; no trial folder may contain results of this node.

    The trial that waits for the node's worker must not be taken by other workers, although a trial
    takes less time than the start of a worker.
    """
    ray_cluster.add_node(num_cpus=1)
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("precond", "trainables", "studies"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=ignore)
    with open(tmp_path / "other" / "precond" / "linalg.py", "a") as source:
        source.write("# another version\n")
    flags = ("--optimizers", "sgd", "--epochs", "20", *flags)
    driver = start_study(tmp_path / "out", ray_cluster.address, *flags, file=file)
    wait_for(lambda: finished_trials(tmp_path / "out"), driver)
    ray_cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "other")})
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 4, output
    assert (
        "does not run the same versions as the driver: code" in output and "Traceback" not in output
    )
    folders = finished_trials(tmp_path / "out")
    attempts = [read_lines(folder / "attempts.jsonl") for folder in folders]
    assert all(len(lines) == 1 for lines in attempts)


AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "provider": {
        # For the type `fake_multinode`, Ray reads a file that its wheel does not contain.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": "fffffffffffffffffffffffffffffffffffffffffffffffffff00000",
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


@pytest.mark.skipif(bool(skip_reason()), reason=skip_reason() or "this host can run the test")
def test_autoscaler_adds_and_removes_workers(tmp_path: Path):
    """Ray's fake nodes run on a simulated machine, so that they end with the machine."""
    machine = Machines(tmp_path, 1)
    (machine.files / "fake.yaml").write_text(json.dumps(AUTOSCALER))
    try:
        machine.start()
        node = f"{'f' * 51}00000"
        head = "export RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_enable_autoscaler_v2=1"
        head += f" RAY_CLOUD_INSTANCE_ID={node} RAY_OVERRIDE_NODE_ID_FOR_TESTING={node}"
        head += f" PYTHONPATH={ROOT} RAY_raylet_start_wait_time_s=180 RAY_AUTH_MODE=token;"
        head += " ray start --head --num-cpus=0 --include-dashboard=false"
        head += " --autoscaling-config=/run/machine/fake.yaml"
        machine.run("machine1", head, timeout=120)
        script = f"cd / && PYTHONPATH={ROOT} RAY_AUTH_MODE=token"
        script += f" python {ROOT}/studies/ablation_rank.py --address auto --out /mnt/outputs"
        script += " --tracking-uri none --optimizers sgd --seeds 4 --epochs 3"
        refused = machine.run("machine1", f"{script} --gpus-per-trial 1", check=False)
        assert (
            refused.returncode == 2
            and "has no node with a GPU, and cannot start such a node" in refused.stderr
        )
        study = machine.run("machine1", script, timeout=300)
        assert "cluster of 1 node: 0 CPUs" in study.stdout
        assert len(finished_trials(machine.shared / "outputs")) == 4
        deadline = time.monotonic() + 120
        workers = "ps -e -o comm= | grep raylet | tail -n +2"
        while "raylet" in machine.run("machine1", workers, check=False).stdout:
            assert time.monotonic() < deadline, "the autoscaler did not remove the workers"
            time.sleep(1)
        log = machine.run("machine1", "cat /tmp/ray/session_latest/logs/monitor*").stdout
        assert "worker" in log
    finally:
        machine.end()
