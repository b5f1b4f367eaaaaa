"""Studies on real Ray clusters that lose nodes, ranks and workers, and on one that grows from nothing and shrinks."""

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
from machines import Machines, missing

from trainables.files import read_lines
from trainables.store import read_status, trial_folders

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180", "COLUMNS": "120", "NO_COLOR": "1"
}  # fmt: skip
pytestmark = pytest.mark.cluster


@pytest.fixture
def ray_cluster() -> Iterator:
    """A head without a slot; tests add nodes."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_raylet_start_wait_time_s="180", PYTHONPATH=str(ROOT))
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        yield found
    finally:
        found.shutdown()


def begin(
    out: Path, address: str, *flags: str, file: str = "ablation_rank.py"
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(ROOT / "studies" / file),
        "--address",
        address,
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        [*command, "--tracking-uri", "none", *flags],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out.parent,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code and "Traceback" not in output, output
    return output


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def finished(root: Path) -> list[Path]:
    return [folder for folder in trial_folders(root) if read_status(folder)]


def epochs(folder: Path) -> list[int]:
    return [line["epoch"] for line in read_lines(folder / "epochs.jsonl")]


def numbers(root: Path) -> dict[str, list[float]]:
    """Every trial's loss by epoch."""
    lines = {folder.name: read_lines(folder / "epochs.jsonl") for folder in trial_folders(root)}
    return {name: [line["metrics"]["test/loss"] for line in found] for name, found in lines.items()}


def workers(title: str) -> list[psutil.Process]:
    """Ray's processes below this one that run something with such a title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{title}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_study_completes_after_the_loss_of_a_node(ray_cluster, tmp_path: Path):
    nodes = [ray_cluster.add_node(num_cpus=1) for _ in range(2)]
    flags = ("--optimizers", "sgd", "--seeds", "8", "--epochs", "6", "--commit-every", "0")
    driver = begin(tmp_path, ray_cluster.address, *flags)
    wait_for(lambda: len(finished(tmp_path)) >= 2, driver)
    ray_cluster.remove_node(nodes[1], allow_graceful=False)
    assert len(finished(tmp_path)) < 8, "too late for this test to mean anything"
    assert "cluster of 3 nodes: 2 CPUs" in finish(driver)
    assert [epochs(folder) for folder in finished(tmp_path)] == [list(range(6))] * 8


def test_trial_of_two_processes_resumes_after_the_loss_of_either(ray_cluster, tmp_path: Path):
    ray_cluster.add_node(num_cpus=2)
    flags = (
        "--workers-per-trial",
        "2",
        "--optimizers",
        "sgd",
        "--seeds",
        "1",
        "--epochs",
        "12",
        "--commit-every",
        "0",
    )
    finish(begin(tmp_path / "whole", ray_cluster.address, *flags))
    driver = begin(tmp_path / "hit", ray_cluster.address, *flags)
    for which, seen in enumerate((3, 6)):  # the one and, of the team that goes on, the other
        wait_for(
            lambda seen=seen: any(len(epochs(f)) >= seen for f in trial_folders(tmp_path / "hit")),
            driver,
        )
        ranks = sorted(workers("RayTrainWorker"), key=lambda process: process.pid)
        assert len(ranks) == 2
        ranks[which].kill()
    finish(driver)
    [folder] = finished(tmp_path / "hit")
    assert epochs(folder) == list(range(12)) and len(read_lines(folder / "attempts.jsonl")) == 3
    assert numbers(tmp_path / "hit") == numbers(tmp_path / "whole")


def test_worker_commits_and_ends_on_sigterm(ray_cluster, tmp_path: Path):
    """SIGTERM, as a spot machine's notice sends it: what was trained is kept although no commit was due."""
    ray_cluster.add_node(num_cpus=1)
    flags = ("--optimizers", "sgd", "--seeds", "1", "--epochs", "600", "--commit-every", "1000")
    driver = begin(tmp_path, ray_cluster.address, *flags)
    wait_for(lambda: workers("TrialTrainable"), driver)
    [folder] = trial_folders(tmp_path)
    wait_for(lambda: read_lines(folder / "attempts.jsonl"), driver)
    time.sleep(3)
    [worker] = workers("TrialTrainable")
    worker.send_signal(signal.SIGTERM)
    start = time.monotonic()
    worker.wait(20)
    assert time.monotonic() - start < 20
    kept = epochs(folder)
    assert 0 < len(kept) < 600
    finish(driver)
    assert epochs(folder) == list(range(600))
    assert [line["committed"] for line in read_lines(folder / "attempts.jsonl")] == [0, len(kept)]


@pytest.mark.parametrize(
    ("file", "flags"),
    [("ablation_rank.py", ("--seeds", "200")), ("tune_optimizers.py", ("--budget", "200"))],
    ids=["grid", "search"],
)
def test_late_node_with_different_code_ends_the_study(
    ray_cluster, tmp_path: Path, file: str, flags: tuple[str, ...]
):
    """It was not there to be looked at when the study began; none of its numbers gets into a folder.

    Its trials are shorter than the start of its worker, which the others must not take from it.
    """
    ray_cluster.add_node(num_cpus=1)
    for package in ("precond", "trainables", "studies"):
        shutil.copytree(
            ROOT / package,
            tmp_path / "other" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    with open(tmp_path / "other" / "precond" / "linalg.py", "a") as source:
        source.write("# another version\n")
    driver = begin(
        tmp_path / "out",
        ray_cluster.address,
        "--optimizers",
        "sgd",
        "--epochs",
        "20",
        *flags,
        file=file,
    )
    wait_for(lambda: finished(tmp_path / "out"), driver)
    ray_cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "other")})
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 4, output
    assert "runs something else than the driver: code" in output and "Traceback" not in output
    assert all(
        len(read_lines(folder / "attempts.jsonl")) == 1 for folder in finished(tmp_path / "out")
    )


AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "provider": {
        "type": "external",  # by its own name Ray looks for defaults that its wheel lacks
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
    "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
    "head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts": {}, "cluster_synced_files": [],
    "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
}  # fmt: skip


@pytest.mark.skipif(bool(missing()), reason=missing() or "can run")
def test_autoscaler_adds_and_removes_workers(tmp_path: Path):
    """Ray's fake node provider, in a machine of its own, since what it starts is ended with the machine."""
    machine = Machines(tmp_path, 1)
    (machine.files / "fake.yaml").write_text(json.dumps(AUTOSCALER))
    try:
        machine.start()
        head = (
            "export RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_enable_autoscaler_v2=1 "
        )
        head += f"RAY_CLOUD_INSTANCE_ID={'f' * 51}00000 RAY_OVERRIDE_NODE_ID_FOR_TESTING={'f' * 51}00000 "
        head += f"PYTHONPATH={ROOT} RAY_raylet_start_wait_time_s=180 RAY_AUTH_MODE=token; "
        head += "ray start --head --num-cpus=0 --include-dashboard=false --autoscaling-config=/run/machine/fake.yaml"
        machine.run("machine1", head, timeout=120)
        script = f"cd / && PYTHONPATH={ROOT} RAY_AUTH_MODE=token python {ROOT}/studies/ablation_rank.py --address auto "
        script += "--out /mnt/outputs --tracking-uri none --optimizers sgd --seeds 4 --epochs 3"
        refused = machine.run("machine1", f"{script} --gpus-per-trial 1", check=False)
        assert refused.returncode == 2 and "has no GPU, and can start none" in refused.stderr
        done = machine.run("machine1", script, timeout=300)
        assert "cluster of 1 node: 0 CPUs" in done.stdout
        assert len(finished(machine.shared / "outputs")) == 4
        deadline = time.monotonic() + 120
        while (
            "raylet"
            in machine.run(
                "machine1", "ps -e -o comm= | grep raylet | tail -n +2", check=False
            ).stdout
        ):
            assert time.monotonic() < deadline, "the workers stay"
            time.sleep(1)
        log = machine.run("machine1", "cat /tmp/ray/session_latest/logs/monitor*").stdout
        assert "worker" in log
    finally:
        machine.end()
