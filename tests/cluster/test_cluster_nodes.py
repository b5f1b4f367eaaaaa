"""The inspection of a running cluster, which refuses unusable nodes before anything is written.

The tests start a Ray cluster of five nodes on this machine: a head without CPUs, a usable node, a
node on which another file system hides the output folder, a node that cannot write to the output
folder, and a node with different code.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from studies.harness.cluster import connection
from studies.harness.cluster.inspect import inspect
from studies.harness.design.options import Options
from trainables.store import StoreError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "RAY_raylet_start_wait_time_s": "180",
    "COLUMNS": "120",
    "NO_COLOR": "1",
}
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare"),
        reason="requires root and mount namespaces",
    ),
]


class RayNodes:
    """A Ray head and the nodes that join it; each node is a process group of this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(RAY_raylet_start_wait_time_s="180")
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address = self._cluster.address
        self._started: list[subprocess.Popen[bytes]] = []

    def add(self, *, before: str = "true", name: str = "node", **environment: str) -> None:
        """Start a node with one CPU in a new mount namespace.

        The shell command `before` runs in the namespace first.
        """
        ray = (
            f"{Path(sys.executable).parent}/ray start --address={self.address}"
            f" --num-cpus=1 --block --node-name={name}"
        )
        script = f"{before} && exec {sys.executable} {ray} --disable-usage-stats"
        count = len(self.alive())
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            env={**ENVIRONMENT, **environment},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        self._started.append(process)
        deadline = time.monotonic() + 120
        while len(self.alive()) == count:
            assert process.poll() is None, "the node ended"
            assert time.monotonic() < deadline, "the node did not join"
            time.sleep(0.2)

    def alive(self) -> set[str]:
        return self._cluster.global_state._live_node_ids()

    def end(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
        for process in self._started:
            process.wait(60)
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    cluster = RayNodes()
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(autouse=True)
def _outside_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    """Change to a folder outside of the repository.

    Ray's workers import from the driver's current folder first, which must not contain the sources.
    """
    monkeypatch.chdir(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "outputs"


def requirements(root: Path, **resources) -> Options:
    return Options(out=root, data_dir=root.parent / "data", **resources)


def test_cluster_without_cpus_is_refused(nodes: RayNodes, root: Path):
    banner, [line] = inspect(nodes.address, requirements(root))
    assert banner == "cluster of 1 node: 0 CPUs, 0 GPUs"
    expected = "has no node with a CPU for a trial, and cannot start such a node"
    assert line == f"the cluster at {nodes.address} {expected}"
    assert not root.exists()


def test_usable_cluster_is_described_and_no_file_remains(nodes: RayNodes, root: Path):
    nodes.add(name="good", PYTHONPATH=str(ROOT))
    assert inspect(nodes.address, requirements(root)) == (
        "cluster of 2 nodes: 1 CPU, 0 GPUs",
        [],
    )
    assert not root.exists()  # the temporary folders are removed
    root.mkdir()
    assert inspect(nodes.address, requirements(root))[1] == [] and list(root.iterdir()) == []


def test_unavailable_gpus_and_processes_are_refused(nodes: RayNodes, root: Path):
    [line] = inspect(nodes.address, requirements(root, gpus_per_trial=0.5))[1]
    expected = (
        f"the cluster at {nodes.address} has no node with a GPU, and cannot start such a node"
    )
    assert line == f"--gpus-per-trial = 0.5: {expected}"
    [line] = inspect(nodes.address, requirements(root, workers_per_trial=2))[1]
    expected = f"must be at most 1, the number of CPUs of the cluster at {nodes.address}"
    assert line == f"--workers-per-trial = 2: {expected}"


def test_every_unusable_node_is_named_with_its_errors(nodes: RayNodes, root: Path, tmp_path: Path):
    root.mkdir(exist_ok=True)
    (root.parent / "data").mkdir()
    sources = {"PYTHONPATH": str(ROOT)}
    hide = f"mount -t tmpfs none {root.parent}"
    nodes.add(name="unshared", before=hide, **sources)
    remount = f"mount --bind {root} {root} && mount -o remount,ro,bind {root}"
    nodes.add(name="read-only", before=remount, **sources)
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("precond", "trainables", "studies"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    with open(tmp_path / "precond" / "linalg.py", "a") as file:
        file.write("# another version\n")
    nodes.add(name="another", PYTHONPATH=str(tmp_path))
    banner, lines = inspect(nodes.address, requirements(root))
    assert banner == "cluster of 5 nodes: 4 CPUs, 0 GPUs"
    assert len(lines) == 4 and all(line.startswith("node ") for line in lines), lines
    assert sum(f"does not have {root}: mount it there" in line for line in lines) == 1
    assert sum(f"does not have {root.parent / 'data'}" in line for line in lines) == 1
    assert sum(f"cannot write to {root} (Read-only file system)" in line for line in lines) == 1
    [code] = [line for line in lines if "differs from the driver: code " in line]
    assert "torch" not in code and "ray up" in code
    assert list(root.iterdir()) == []


# ---------------------------------------------------------------------- addresses without a cluster


def refusal(out: Path, *flags: str, **environment: str) -> str:
    """Run a study whose command is refused, and return the only line on standard error."""
    command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), "--out", str(out)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.run(
        [*command, *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 2, process.stdout + process.stderr
    assert len(process.stderr.splitlines()) == 1 and not out.exists(), process.stderr
    return process.stderr


def test_unused_address_from_flag_or_environment_is_refused(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    advice = "start the cluster, or correct the address"
    line = f"error: no Ray cluster answers at {address} (Connection refused): {advice}\n"
    assert refusal(tmp_path / "out", "--address", address) == line
    assert refusal(tmp_path / "out", RAY_ADDRESS=address) == line
    line = refusal(tmp_path / "out", RAY_ADDRESS="ray://head:1")
    assert "RAY_ADDRESS = ray://head:1: must be auto or HOST:PORT" in line


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_server_other_than_ray_is_refused_within_12_seconds(answer: bytes):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, connections = f"127.0.0.1:{server.getsockname()[1]}", []

        def serve() -> None:
            connections.append(server.accept()[0])
            connections[0].sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        start = time.monotonic()
        reason = "not a Ray server" if answer else "timed out"
        message = rf"no Ray cluster answers at {address} \({reason}\)"
        with pytest.raises(StoreError, match=message):
            connection.connect(address, Options())
        assert time.monotonic() - start < 12
        thread.join()
        connections[0].close()
