"""Check, before anything is written, that each node of a running cluster meets the requirements.

Each error is a line that names the node. Without this check, a node with different code, or a node
that writes trial folders to its own disk, would lead to a wrong table without any message.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from precond.counts import counted
from studies.harness.cluster import environment
from studies.harness.cluster.connection import connect
from studies.harness.cluster.environment import package_differences
from studies.harness.cluster.stopping import defer_signals
from studies.harness.design.options import Options
from trainables import packing
from trainables.config import TrialConfig
from trainables.fingerprint import difference, fingerprint
from trainables.store import StoreError

CHECK_SECONDS = 180.0  # long, because the first process on a node imports torch
JOIN_SECONDS = 180.0  # long, because `ray up` returns before the workers have joined


def inspect(address: str, options: Options) -> tuple[str, list[str]]:
    """Connect to a cluster, check that every node meets a command's requirements, and disconnect.

    Args:
        address: `auto` or host:port.
        options: The command line: the folders, and the resources of a trial.

    Returns:
        A line that describes the cluster, and a line for each error.
    """
    if unsendable := list(environment.problems(options)):
        return "", unsendable
    try:
        connect(address, options)
    except StoreError as problem:
        return "", [str(problem)]
    try:
        errors = list(_resource_errors(address, options))
        nodes = _alive()
        with _shared_folder(options.root) as folder:
            errors += _node_errors(nodes, options, folder)
        return describe(nodes), errors
    except OSError as problem:
        return "", [f"cannot write to {options.root} ({problem.strerror or problem})"]
    finally:
        with defer_signals():
            ray.shutdown()


def measured_share(configs: Sequence[TrialConfig], options: Options) -> float:
    """Return the share of a GPU that a trial needs, measured on a free GPU.

    Raises:
        StoreError: The share cannot be measured.
    """
    if options.workers_per_trial > 1:  # NCCL does not let the processes of a trial share a GPU
        return 1.0
    try:
        return ray.get(
            _pack.remote(str(options.root.absolute()), configs, str(options.data_dir.absolute()))
        )
    except RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise StoreError(
            f"the share of a GPU could not be measured ({why}): set --gpus-per-trial to a number"
        ) from error


@ray.remote(num_cpus=1, num_gpus=1, max_retries=0)
def _pack(root: str, configs: Sequence[TrialConfig], data_dir: str) -> float:
    """Measure the share. This task runs on a node."""
    os.environ["PRECOND_DATA"] = data_dir
    return packing.share(Path(root), configs)


def describe(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return the nodes, CPUs and GPUs in a line: `cluster of 3 nodes: 8 CPUs, 2 GPUs (A10G)`."""
    resources = sum((Counter(node["Resources"]) for node in nodes), Counter[str]())
    prefix = "accelerator_type:"
    kinds = sorted(name.removeprefix(prefix) for name in resources if name.startswith(prefix))
    models = f" ({', '.join(kinds)})" if resources["GPU"] and kinds else ""
    cpus, gpus = (counted(int(resources[name]), name) for name in ("CPU", "GPU"))
    return f"cluster of {counted(len(nodes), 'node')}: {cpus}, {gpus}{models}"


def _alive() -> list[dict[str, Any]]:
    return sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerAddress"]
    )


# ---------------------------------------------------------------------- resources


def _resource_errors(address: str, options: Options) -> Iterator[str]:
    """Yield an error for each resource that no node has or will have."""
    # The autoscaler does not know the resources of the user's own machines until they have joined.
    unknown = any(not kind["resources"] for kind in _autoscaler())
    deadline = time.monotonic() + (JOIN_SECONDS if unknown else 0)
    share, processes = options.gpus_per_trial, options.workers_per_trial
    # Measuring the share (None) requires a whole GPU.
    required = {"CPU": 1.0, "GPU": 1.0 if share is None else share}
    while True:
        largest = {name: max(_offers(name), default=0.0) for name in required}
        missing = [name for name, amount in required.items() if amount > largest[name]]
        if not missing or time.monotonic() >= deadline:
            break
        time.sleep(1)
    if "GPU" in missing:
        gpus = largest["GPU"]
        shortage = "no node with " + ("a GPU" if gpus == 0 else f"more than {gpus:g} GPUs")
        flag = f"--gpus-per-trial = {'auto' if share is None else f'{share:g}'}"
        yield f"{flag}: the cluster at {address} has {shortage}, and cannot start such a node"
    if "CPU" in missing:
        shortage = "no node with a CPU for a trial"
        yield f"the cluster at {address} has {shortage}, and cannot start such a node"
    total = sum(_offers("CPU"))
    if "CPU" not in missing and processes > total:
        limit = f"must be at most {total:g}, the number of CPUs of the cluster at {address}"
        yield f"--workers-per-trial = {processes}: {limit}"


def _offers(name: str) -> Iterator[float]:
    """Yield the amount of a resource on each node, also on nodes that the autoscaler may start."""
    yield from (node["Resources"].get(name, 0.0) for node in _alive())
    for kind in _autoscaler():
        yield from [float(kind["resources"].get(name, 0))] * kind["max_workers"]


def _autoscaler() -> list[Mapping[str, Any]]:
    """Return the node types of the autoscaler that runs on this machine, the head.

    Ray has no function for this. With the local provider, the user's machines are one node type. On
    Kubernetes, they are in the object from which KubeRay starts the pods.
    """
    import psutil
    import yaml

    if namespace := os.environ.get("RAY_CLUSTER_NAMESPACE"):  # KubeRay sets it in each pod
        return _worker_groups(namespace, os.environ["RAY_CLUSTER_NAME"])
    for process in psutil.process_iter(["cmdline"]):
        for word in process.info["cmdline"] or ():
            path = word.removeprefix("--autoscaling-config=")
            if path not in ("", word):
                document = yaml.safe_load(Path(path).expanduser().read_bytes())
                return [*document["available_node_types"].values()]
    return []


def _worker_groups(namespace: str, name: str) -> list[Mapping[str, Any]]:
    """Return the node types of KubeRay's autoscaler; none if it does not run."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        cluster = node_provider.KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except OSError:  # only a head with an autoscaler may read the object
        return []
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return []
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    return [*config["available_node_types"].values()]


# ---------------------------------------------------------------------- code and folders


@contextmanager
def _shared_folder(root: Path) -> Iterator[Path]:
    """Create a folder in the output folder, to which each node writes a file; remove it at the end.

    Parent folders that did not exist before are removed, too.
    """
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


def _node_errors(
    nodes: Sequence[Mapping[str, Any]], options: Options, folder: Path
) -> Iterator[str]:
    """Yield a line for each error of a node."""
    token = secrets.token_hex(8)
    (folder / "driver").write_text(token)
    data_dir = str(options.data_dir.absolute()) if options.data_dir.is_dir() else None
    tasks = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = _check_node.options(scheduling_strategy=here)
        expected = fingerprint(), environment.packages()
        tasks[task.remote(str(folder.absolute()), node["NodeID"], *expected, data_dir)] = node
    answered, silent = ray.wait(list(tasks), num_returns=len(tasks), timeout=CHECK_SECONDS)
    for task in answered:
        node = tasks[task]
        name = f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
        try:
            errors = ray.get(task)
        except Exception as error:  # any exception: the task cannot run on the node
            errors = [f"cannot run this project: {str(error).strip().splitlines()[-1]}"]
        if not errors and not _contains(folder / node["NodeID"], token):
            errors = [f"has a different folder at {options.root}: mount the driver's folder there"]
        yield from (f"{name} {line}" for line in errors)
    for task in silent:
        address = tasks[task]["NodeManagerAddress"]
        yield f"node {address} did not answer within {CHECK_SECONDS:g} s"


def _contains(path: Path, token: str) -> bool:
    try:
        return path.read_text() == token
    except OSError:
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _check_node(
    folder: str,
    node_id: str,
    expected: dict[str, str],
    packages: dict[str, str],
    data_dir: str | None,
) -> list[str]:
    """Return a line for each error of this node, and copy the driver's token to a file.

    This task runs on the node.
    """
    errors = []
    if versions := [*filter(None, (difference(expected), package_differences(packages)))]:
        advice = "Install the same versions (`ray up` does this), or use --send-environment"
        errors.append(f"differs from the driver: {', '.join(versions)}. {advice}")
    if data_dir is not None and not Path(data_dir).is_dir():
        errors.append(f"does not have {data_dir}: mount it there, or name a shared --data-dir")
    root = Path(folder).parent
    try:
        token = Path(folder, "driver").read_text()
    except OSError:
        return [*errors, f"does not have {root}: mount it there, or name a shared --out"]
    try:
        Path(folder, node_id).write_text(token)
    except OSError as error:
        errors.append(
            f"cannot write to {root} ({error.strerror}): give its account write permission"
        )
    return errors
