"""Inspect a running cluster: does it answer, and does every node meet a command's requirements?

This happens before anything is written. Each error is a line that names the node. A node with other code, or one that
writes trial folders to its own disk, would otherwise lead to a wrong table without any message.
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
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from studies.harness.design.options import Options
from trainables import packing
from trainables.config import TrialConfig
from trainables.fingerprint import difference, fingerprint
from trainables.store import StoreError

CONNECT_SECONDS = 10.0
PROOF_SECONDS = 180.0  # the first process on a node imports torch
JOIN_SECONDS = 180.0  # `ray up` returns before the workers have joined
HTTP2_PREFACE, EMPTY_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"


def inspect(address: str, options: Options) -> tuple[str, list[str]]:
    """Connect to a cluster, check that every node meets a command's requirements, and disconnect.

    Args:
        address: `auto` or host:port.
        options: The command line: its folders, and the resources of a trial.

    Returns:
        A line that describes the cluster, and a line for each error.
    """
    try:
        connect(address)
    except StoreError as problem:
        return "", [str(problem)]
    try:
        errors = list(_lacking(address, options))
        nodes = _alive()
        with _meeting(options.root) as folder:
            errors += _prove_all(nodes, options, folder)
        return describe(nodes), errors
    except OSError as problem:
        return "", [f"cannot write to {options.root} ({problem.strerror or problem})"]
    finally:
        ray.shutdown()


def connect(address: str) -> None:
    """Join a running cluster as its driver; never start one.

    Raises:
        StoreError: No cluster answers within 10 s; the message is one line.
    """
    try:
        # For `auto`, the cluster that this machine belongs to.
        server = canonicalize_bootstrap_address_or_die("auto") if address == "auto" else address
        host, _, port = server.rpartition(":")
        _probe(host, int(port))
    except OSError as error:
        why = error.strerror or str(error).partition(". ")[0]
        raise StoreError(f"no Ray cluster answers at {address} ({why}): is it up?") from error
    try:
        ray.init(address=server, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        hint = (
            ""
            if os.environ.get("RAY_AUTH_MODE")
            else "; one with a token needs RAY_AUTH_MODE=token"
        )
        raise StoreError(f"no Ray cluster answers at {address}: {why}{hint}") from error


def measured_share(configs: Sequence[TrialConfig], options: Options) -> float:
    """Return the share of a GPU that a trial needs, measured on a free GPU.

    Raises:
        StoreError: The share cannot be measured.
    """
    if options.workers_per_trial > 1:  # NCCL: the processes of one trial cannot share a GPU
        return 1.0
    try:
        return ray.get(
            _pack.remote(str(options.root.absolute()), configs, str(options.data_dir.absolute()))
        )
    except RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise StoreError(
            f"the GPU could not be measured ({why}): give --gpus-per-trial a number"
        ) from error


@ray.remote(num_cpus=1, num_gpus=1, max_retries=0)
def _pack(root: str, configs: Sequence[TrialConfig], data_dir: str) -> float:
    """Measure the share; runs on a node."""
    os.environ["PRECOND_DATA"] = data_dir
    return packing.share(Path(root), configs)


def describe(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return nodes, CPUs and GPUs in a line: `cluster of 3 nodes: 8 CPUs, 2 GPUs (A10G)`."""
    resources = sum((Counter(node["Resources"]) for node in nodes), Counter[str]())
    prefix = "accelerator_type:"
    kinds = sorted(name.removeprefix(prefix) for name in resources if name.startswith(prefix))
    models = f" ({', '.join(kinds)})" if resources["GPU"] and kinds else ""
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return f"cluster of {count}: {resources['CPU']:g} CPUs, {resources['GPU']:g} GPUs{models}"


def _probe(host: str, port: int) -> None:
    """Raise `OSError` unless a gRPC server answers in time: Ray itself waits for more than a minute."""
    with socket.create_connection((host, port), CONNECT_SECONDS) as line:
        if os.environ.get("RAY_USE_TLS", "0") not in (
            "0",
            "",
        ):  # the server waits for a handshake, which Ray will do
            return
        line.settimeout(CONNECT_SECONDS)
        line.sendall(HTTP2_PREFACE + EMPTY_SETTINGS)
        answer = line.recv(len(EMPTY_SETTINGS))
        if answer[3:4] != EMPTY_SETTINGS[3:4]:
            raise ConnectionError("another kind of server")


def _alive() -> list[dict[str, Any]]:
    return sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerAddress"]
    )


# ---------------------------------------------------------------------- resources


def _lacking(address: str, options: Options) -> Iterator[str]:
    """Yield an error for each resource that no node has, nor will have: a trial would wait for it for ever."""
    unknown = any(not kind["resources"] for kind in _autoscaler())  # until such a node has joined
    deadline = time.monotonic() + (JOIN_SECONDS if unknown else 0)
    share, processes = options.gpus_per_trial, options.workers_per_trial
    wanted = {
        "CPU": 1.0,
        "GPU": 1.0 if share is None else share,
    }  # the share is measured on a whole GPU
    while True:
        most = {name: max(_offers(name), default=0.0) for name in wanted}
        short = [name for name, amount in wanted.items() if amount > most[name]]
        if not short or time.monotonic() >= deadline:
            break
        time.sleep(1)
    if "GPU" in short:
        largest = "no GPU" if most["GPU"] == 0 else f"no node with more than {most['GPU']:g} GPUs"
        requested = "auto" if share is None else f"{share:g}"
        yield f"--gpus-per-trial = {requested}: the cluster at {address} has {largest}, and can start none"
    if "CPU" in short:
        yield f"the cluster at {address} has no node with 1 free CPU slots, and can start none"
    total = sum(_offers("CPU"))
    if "CPU" not in short and processes > total:
        yield f"--workers-per-trial = {processes}: the cluster at {address} has {total:g} CPUs"


def _offers(name: str) -> Iterator[float]:
    """Yield the amount of a resource on each node, and on each node that the autoscaler may start."""
    yield from (node["Resources"].get(name, 0.0) for node in _alive())
    for kind in _autoscaler():
        yield from [float(kind["resources"].get(name, 0))] * kind["max_workers"]


def _autoscaler() -> list[Mapping[str, Any]]:
    """Return the node types of the autoscaler that runs here, on the head; Ray has no function for this.

    The user's own machines are such a type, too; their resources are known when they have joined.
    """
    import psutil
    import yaml

    for process in psutil.process_iter(["cmdline"]):
        for word in process.info["cmdline"] or ():
            path = word.removeprefix("--autoscaling-config=")
            if path not in ("", word):
                return [
                    *yaml.safe_load(Path(path).expanduser().read_bytes())[
                        "available_node_types"
                    ].values()
                ]
    return []


# ---------------------------------------------------------------------- proofs


@contextmanager
def _meeting(root: Path) -> Iterator[Path]:
    """Create a folder in the output folder, where each node writes a file; remove it and its new parents at the end."""
    created = [path for path in (root, *root.parents) if not path.exists()]
    folder = root / f".nodes-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in created:
            with suppress(OSError):
                path.rmdir()


def _prove_all(nodes: Sequence[Mapping[str, Any]], options: Options, folder: Path) -> Iterator[str]:
    """Yield a line for each error of a node."""
    word = secrets.token_hex(8)
    (folder / "driver").write_text(word)
    data_dir = str(options.data_dir.absolute()) if options.data_dir.is_dir() else None
    proofs = {
        _prove.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(folder.absolute()), node["NodeID"], fingerprint(), data_dir): node
        for node in nodes
    }
    answered, silent = ray.wait(list(proofs), num_returns=len(proofs), timeout=PROOF_SECONDS)
    for proof in answered:
        node = proofs[proof]
        name = f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        try:
            errors = ray.get(proof)
        except Exception as error:  # of any kind: it tells why the task cannot run there
            errors = [f"cannot run this project: {str(error).strip().splitlines()[-1]}"]
        if not errors and not _has_word(folder / node["NodeID"], word):
            errors = [f"writes to another {options.root}: mount the same one there"]
        yield from (f"{name} {line}" for line in errors)
    for proof in silent:
        yield f"node {proofs[proof]['NodeManagerAddress']} does not answer within {PROOF_SECONDS:g} s"


def _has_word(path: Path, word: str) -> bool:
    try:
        return path.read_text() == word
    except OSError:
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _prove(folder: str, node_id: str, wanted: dict[str, str], data_dir: str | None) -> list[str]:
    """Return a line for each error of this node, and copy the driver's word to a file; runs on the node."""
    errors = []
    if other := difference(wanted):
        errors.append(
            f"runs something else than the driver: {other}. Install the same there (ray up does)"
        )
    if data_dir is not None and not Path(data_dir).is_dir():
        errors.append(f"does not see {data_dir}: mount it there, or name a shared --data-dir")
    root = Path(folder).parent
    try:
        word = Path(folder, "driver").read_text()
    except OSError:
        return [*errors, f"does not see {root}: mount it there, or name a shared --out"]
    try:
        Path(folder, node_id).write_text(word)
    except OSError as error:
        errors.append(f"cannot write to {root} ({error.strerror}): let this account write there")
    return errors
