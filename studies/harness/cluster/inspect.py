"""A cluster that is running already: is it there, and is every node fit for what is asked of it?

Asked before anything is written. What is wrong is a line that names the node; a silent answer, of a node that trains
other code or writes its trial folders to a disk of its own, would be a wrong table.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables import packing
from trainables.config import TrialConfig
from trainables.fingerprint import difference, fingerprint
from trainables.store import StoreError

CONNECT_SECONDS = 10.0
PROOF_SECONDS = 180.0  # a node's first process imports torch
JOIN_SECONDS = 180.0  # `ray up` returns before the workers have joined
HTTP2_PREFACE, EMPTY_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a command asks of a cluster.

    Attributes:
        root: The output folder.
        data_dir: The folder that datasets are in.
        cpus: Of one process, on one node.
        gpus: Share of a GPU of one process; None is to be measured, on a whole one.
        processes: Of one trial.
    """

    root: Path
    data_dir: Path
    cpus: float = 1.0
    gpus: float | None = 0.0
    processes: int = 1


def inspect(address: str, needs: Needs) -> tuple[str, list[str]]:
    """Connect to a cluster, let every node prove itself, and disconnect.

    Args:
        address: `auto` or host:port.
        needs: What will be asked of it.

    Returns:
        A line that says what the cluster is, and a line for each thing that is wrong.
    """
    try:
        connect(address)
    except StoreError as problem:
        return "", [str(problem)]
    try:
        wrong = list(_lacking(address, needs))
        nodes = _alive()
        with _meeting(needs.root) as folder:
            wrong += _prove_all(nodes, needs, folder)
        return describe(nodes), wrong
    except OSError as problem:
        return "", [f"cannot write to {needs.root} ({problem.strerror or problem})"]
    finally:
        ray.shutdown()


def connect(address: str) -> None:
    """Join a running cluster as its driver; never start one.

    Raises:
        StoreError: None answers within 10 s; one line.
    """
    try:
        host, port = _resolve(address)
        _knock(host, port)
    except OSError as error:
        why = error.strerror or str(error).partition(". ")[0]
        raise StoreError(f"no Ray cluster answers at {address} ({why}): is it up?") from error
    try:
        ray.init(address=f"{host}:{port}", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        hint = "" if os.environ.get("RAY_AUTH_MODE") else "; one with a token needs RAY_AUTH_MODE=token"
        raise StoreError(f"no Ray cluster answers at {address}: {why}{hint}") from error


def measured_share(configs: Sequence[TrialConfig], root: Path, processes: int, data_dir: str) -> float:
    """How much of a GPU a trial needs, measured on one that is free.

    Args:
        configs: The trials.
        root: The output folder.
        processes: Of one trial.
        data_dir: The folder that datasets are in.

    Raises:
        StoreError: It cannot be measured.
    """
    if processes > 1:  # the processes of one trial cannot share one: NCCL
        return 1.0
    try:
        probe = ray.remote(num_cpus=1, num_gpus=1, max_retries=0)(_pack)
        return ray.get(probe.remote(str(root.absolute()), configs, data_dir))
    except RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise StoreError(f"the GPU could not be measured ({why}): give --gpus-per-trial a number") from error


def _pack(root: str, configs: Sequence[TrialConfig], data_dir: str) -> float:
    """On a node: the measurement."""
    os.environ["PRECOND_DATA"] = data_dir
    return packing.share(Path(root), configs)


def describe(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Nodes, CPUs and GPUs: `cluster of 3 nodes: 8 CPUs, 2 GPUs (A10G)`."""
    resources: Counter[str] = Counter()
    for node in nodes:
        resources.update(node["Resources"])
    kinds = sorted(name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:"))
    models = f" ({', '.join(kinds)})" if resources["GPU"] and kinds else ""
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return f"cluster of {count}: {resources['CPU']:g} CPUs, {resources['GPU']:g} GPUs{models}"


# ---------------------------------------------------------------------- joining


def _resolve(address: str) -> tuple[str, int]:
    """Host and port of the cluster; of the one that runs on this machine where it is `auto`."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        address = canonicalize_bootstrap_address_or_die("auto")
    host, _, port = address.rpartition(":")
    return host, int(port)


def _knock(host: str, port: int) -> None:
    """Raises `OSError` unless a gRPC server answers in time: Ray itself asks a silent one for more than a minute."""
    with socket.create_connection((host, port), CONNECT_SECONDS) as line:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):  # it waits for a handshake, which is Ray's to make
            return
        line.settimeout(CONNECT_SECONDS)
        line.sendall(HTTP2_PREFACE + EMPTY_SETTINGS)
        answer = line.recv(len(EMPTY_SETTINGS))
        if answer[3:4] != EMPTY_SETTINGS[3:4]:
            raise ConnectionError("another kind of server")


def _alive() -> list[dict[str, Any]]:
    return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerAddress"])


# ---------------------------------------------------------------------- resources


def _lacking(address: str, needs: Needs) -> Iterator[str]:
    """What a trial needs and no node has, or could have: it would wait for ever."""
    unknown = any(not kind["resources"] for kind in _autoscaler())  # until it has joined
    deadline = time.monotonic() + (JOIN_SECONDS if unknown else 0)
    wanted = {"CPU": needs.cpus, "GPU": 1.0 if needs.gpus is None else needs.gpus}
    while True:
        most = {name: max(_offers(name), default=0.0) for name in wanted}
        short = [name for name, amount in wanted.items() if amount > most[name]]
        if not short or time.monotonic() >= deadline:
            break
        time.sleep(1)
    if "GPU" in short:
        largest = "no GPU" if most["GPU"] == 0 else f"no node with more than {most['GPU']:g} GPUs"
        asked = "auto" if needs.gpus is None else f"{needs.gpus:g}"
        yield f"--gpus-per-trial = {asked}: the cluster at {address} has {largest}, and can start none"
    if "CPU" in short:
        yield f"the cluster at {address} has no node with {needs.cpus:g} free CPU slots, and can start none"
    total = sum(_offers("CPU"))
    if "CPU" not in short and needs.processes > total:
        yield f"--workers-per-trial = {needs.processes}: the cluster at {address} has {total:g} CPUs"


def _offers(name: str) -> Iterator[float]:
    """What each node has of a resource, and each that the autoscaler may start."""
    yield from (node["Resources"].get(name, 0.0) for node in _alive())
    for kind in _autoscaler():
        yield from [float(kind["resources"].get(name, 0))] * kind["max_workers"]


def _autoscaler() -> list[Mapping[str, Any]]:
    """The kinds of node of the autoscaler that runs here, on the head; Ray itself does not tell them.

    Machines of one's own are such a kind, too, whose resources are known only when they have joined.
    """
    import psutil
    import yaml

    for process in psutil.process_iter(["cmdline"]):
        for word in process.info["cmdline"] or ():
            path = word.removeprefix("--autoscaling-config=")
            if path not in ("", word):
                return [*yaml.safe_load(Path(path).expanduser().read_bytes())["available_node_types"].values()]
    return []


# ---------------------------------------------------------------------- proofs


@contextmanager
def _meeting(root: Path) -> Iterator[Path]:
    """A folder in the output folder in which the nodes leave a word each; gone afterwards, as is what it needed."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    folder = root / f".nodes-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _prove_all(nodes: Sequence[Mapping[str, Any]], needs: Needs, folder: Path) -> Iterator[str]:
    """A line for each thing that is wrong with a node."""
    word = secrets.token_hex(8)
    (folder / "driver").write_text(word)
    data_dir = str(needs.data_dir.absolute()) if needs.data_dir.is_dir() else None
    proofs = {
        _prove.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            str(folder.absolute()), node["NodeID"], fingerprint(), data_dir
        ): node
        for node in nodes
    }
    answered, silent = ray.wait(list(proofs), num_returns=len(proofs), timeout=PROOF_SECONDS)
    for proof in answered:
        node = proofs[proof]
        name = f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        try:
            wrong = ray.get(proof)
        except Exception as error:  # of any kind: what cannot be run there is the answer
            wrong = [f"cannot run this project: {str(error).strip().splitlines()[-1]}"]
        if not wrong and not _left_word(folder / node["NodeID"], word):
            wrong = [f"writes to another {needs.root}: mount the same one there"]
        yield from (f"{name} {line}" for line in wrong)
    for proof in silent:
        yield f"node {proofs[proof]['NodeManagerAddress']} does not answer within {PROOF_SECONDS:g} s"


def _left_word(path: Path, word: str) -> bool:
    try:
        return path.read_text() == word
    except OSError:
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _prove(folder: str, node_id: str, wanted: dict[str, str], data_dir: str | None) -> list[str]:
    """On a node: what is wrong here, a line each; and the driver's word is copied to a file of the node's own."""
    wrong = []
    if found := difference(wanted):
        wrong.append(f"runs something else than the driver: {found}. Install the same there (ray up does)")
    if data_dir is not None and not Path(data_dir).is_dir():
        wrong.append(f"does not see {data_dir}: mount it there, or name a shared --data-dir")
    root = Path(folder).parent
    try:
        word = Path(folder, "driver").read_text()
    except OSError:
        return [*wrong, f"does not see {root}: mount it there, or name a shared --out"]
    try:
        Path(folder, node_id).write_text(word)
    except OSError as error:
        wrong.append(f"cannot write to {root} ({error.strerror}): let this account write there")
    return wrong
