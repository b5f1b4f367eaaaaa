"""A running cluster is looked at before anything is written: nodes that are not fit are refused by name.

A real cluster of five nodes on this machine: a head without a slot, a good one, and three in mount namespaces or with
sources of their own: one that has another folder at the
output's path, one that cannot write there, one with other code.
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

from studies.harness.cluster import inspect as cluster
from studies.harness.cluster.inspect import inspect
from studies.harness.design.options import Options

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
        os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and mount namespaces"
    ),
]


class Machines:
    """The head, and nodes that join it: each a process group of its own, ended as such."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(RAY_raylet_start_wait_time_s="180")
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address = self._cluster.address
        self._started: list[subprocess.Popen[bytes]] = []

    def add(self, *, before: str = "true", name: str = "node", **environment: str) -> None:
        """Start a node with one slot, after a command in a mount namespace that is its own."""
        ray = (
            f"{Path(sys.executable).parent}/ray start --address={self.address}"
            f" --num-cpus=1 --block --node-name={name}"
        )
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{before} && exec {sys.executable} {ray} --disable-usage-stats",
        ]
        count = len(self.alive())
        self._started.append(
            subprocess.Popen(
                command,
                env={**ENVIRONMENT, **environment},
                start_new_session=True,
                stdout=subprocess.DEVNULL,
            )
        )
        deadline = time.monotonic() + 120
        while len(self.alive()) == count:
            assert self._started[-1].poll() is None and time.monotonic() < deadline, (
                "the node did not join"
            )
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
def machines() -> Iterator[Machines]:
    found = Machines()
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """Ray lets workers import from the driver's current folder first, which must not be this repository."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "outputs"


def needs(root: Path, **more) -> Options:
    return Options(out=root, data_dir=root.parent / "data", **more)


def test_cluster_without_cpus_is_refused(machines: Machines, root: Path):
    banner, [line] = inspect(machines.address, needs(root))
    assert banner == "cluster of 1 node: 0 CPUs, 0 GPUs"
    assert (
        line
        == f"the cluster at {machines.address} has no node with 1 free CPU slots, and can start none"
    )
    assert not root.exists()


def test_usable_cluster_is_described_and_no_file_remains(machines: Machines, root: Path):
    machines.add(name="good", PYTHONPATH=str(ROOT))
    assert inspect(machines.address, needs(root)) == ("cluster of 2 nodes: 1 CPUs, 0 GPUs", [])
    assert not root.exists()  # what was made for the proofs is gone
    root.mkdir()
    assert inspect(machines.address, needs(root))[1] == [] and list(root.iterdir()) == []


def test_unavailable_gpus_and_processes_are_refused(machines: Machines, root: Path):
    [line] = inspect(machines.address, needs(root, gpus_per_trial=0.5))[1]
    assert (
        line
        == f"--gpus-per-trial = 0.5: the cluster at {machines.address} has no GPU, and can start none"
    )
    [line] = inspect(machines.address, needs(root, workers_per_trial=2))[1]
    assert line == f"--workers-per-trial = 2: the cluster at {machines.address} has 1 CPUs"


def test_every_unusable_node_is_named_with_its_errors(
    machines: Machines, root: Path, tmp_path: Path
):
    root.mkdir(exist_ok=True)
    (root.parent / "data").mkdir()
    good = {"PYTHONPATH": str(ROOT)}
    machines.add(name="unshared", before=f"mount -t tmpfs none {root.parent}", **good)
    machines.add(
        name="read-only",
        before=f"mount --bind {root} {root} && mount -o remount,ro,bind {root}",
        **good,
    )
    for package in ("precond", "trainables", "studies"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    with open(tmp_path / "precond" / "linalg.py", "a") as file:
        file.write("# another version\n")
    machines.add(name="another", PYTHONPATH=str(tmp_path))
    banner, lines = inspect(machines.address, needs(root))
    assert banner == "cluster of 5 nodes: 4 CPUs, 0 GPUs"
    assert len(lines) == 4 and all(line.startswith("node ") for line in lines), lines
    assert sum(f"does not see {root}: mount it there" in line for line in lines) == 1
    assert sum(f"does not see {root.parent / 'data'}" in line for line in lines) == 1
    assert sum(f"cannot write to {root} (Read-only file system)" in line for line in lines) == 1
    [code] = [line for line in lines if "runs something else than the driver: code " in line]
    assert "torch" not in code and "ray up" in code
    assert list(root.iterdir()) == []


# ---------------------------------------------------------------------- no cluster


def refused(out: Path, *flags: str, **environment: str) -> str:
    """The one line with which a study is refused, before it has written anything."""
    command = [
        sys.executable,
        str(ROOT / "studies" / "ablation_rank.py"),
        "--out",
        str(out),
        *flags,
    ]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1 and not out.exists(), done.stderr
    return done.stderr


def test_unused_address_from_flag_or_environment_is_refused(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    line = f"error: no Ray cluster answers at {address} (Connection refused): is it up?\n"
    assert refused(tmp_path / "out", "--address", address) == line
    assert refused(tmp_path / "out", RAY_ADDRESS=address) == line
    assert "RAY_ADDRESS = ray://head:1: must be auto or HOST:PORT" in refused(
        tmp_path / "out", RAY_ADDRESS="ray://head:1"
    )


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_server_other_than_ray_is_refused_within_12_seconds(says: bytes):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, lines = f"127.0.0.1:{server.getsockname()[1]}", []

        def serve() -> None:
            lines.append(server.accept()[0])
            lines[0].sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        start = time.monotonic()
        why = "another kind of server" if says else "timed out"
        with pytest.raises(
            cluster.StoreError, match=rf"no Ray cluster answers at {address} \({why}\)"
        ):
            cluster.connect(address)
        assert time.monotonic() - start < 12
        thread.join()
        lines[0].close()
