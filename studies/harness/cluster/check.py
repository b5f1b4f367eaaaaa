"""What is misspelt, unsafe, or still an example in a cluster's file, before `ray up` acts on it.

Ray's own validation knows the top level and the node types; it takes any key inside `provider` and `node_config`, hands
them on, and fills in defaults that are unsafe: SSH from anywhere, a dashboard on every address, instance metadata
without a session, an unencrypted disk. Nothing here asks a cloud. `python -m studies check-cluster FILE` prints it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from precond.hyperparameters import nearest
from studies.harness.published import strict_yaml

TOP = {
    *("metadata", "cluster_name", "max_workers", "idle_timeout_minutes", "upscaling_speed", "provider", "auth"),
    *("head_node_type", "available_node_types", "file_mounts", "rsync_exclude", "rsync_filter"),
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
}
AUTH = ["ssh_user", "ssh_private_key", "ssh_proxy_command", "ssh_proxy_use_node_id"]
PROVIDERS = {
    "aws": ["type", "region", "availability_zone", "use_internal_ips", "cache_stopped_nodes"],
    "local": ["type", "head_ip", "worker_ips", "external_head_ip"],
}
NODE_TYPE = ["resources", "labels", "min_workers", "max_workers", "node_config", "worker_setup_commands"]
# Of EC2's RunInstances, what a node may need; a network interface of one's own could have a public address.
NODE = {
    *("InstanceType", "ImageId", "SubnetIds", "SecurityGroupIds", "KeyName", "IamInstanceProfile", "MetadataOptions"),
    *("BlockDeviceMappings", "InstanceMarketOptions", "TagSpecifications", "Placement", "CpuOptions", "EbsOptimized"),
    *("CapacityReservationSpecification", "InstanceInitiatedShutdownBehavior", "Monitoring", "UserData"),
}
INSIDE = {
    "MetadataOptions": ["HttpTokens", "HttpEndpoint", "HttpPutResponseHopLimit", "InstanceMetadataTags"],
    "InstanceMarketOptions": ["MarketType", "SpotOptions"],
    "IamInstanceProfile": ["Arn", "Name"],
}
DISK = ["DeviceName", "Ebs", "VirtualName", "NoDevice"]
EBS = ["VolumeSize", "VolumeType", "Encrypted", "DeleteOnTermination", "Iops", "Throughput", "KmsKeyId", "SnapshotId"]
MAX_IDLE_MINUTES = 60

EXAMPLE = re.compile(r"EXAMPLE|-0{17}\b|:0{12}:|\b192\.0\.2\.")
UNSAFE = {
    r"(?<![\d.])0\.0\.0\.0": "listens on, or lets in, every address: use 127.0.0.1 and a tunnel",
    r"AKIA[0-9A-Z]{16}|-----BEGIN|gh[pousr]_[A-Za-z0-9]{30}": "a secret; whoever reads the dashboard reads it, too",
    r"(?i)[a-z_]*(token|secret|passw|api_?key|credential)(?!\w*path)\w*\s*=\s*['\"]?[^\s'\"$]": "a secret; copy a file",
    r"://[^/\s:@]+:[^/\s@]+@": "a password in an address; copy a file instead",
    r"\|\s*(sudo\s+)?(ba|da|z)?sh\b": "runs what it has just fetched: install a pinned package instead",
    r"RAY_AUTH_MODE=(?!token\b)": "without the token whoever reaches a port runs code: RAY_AUTH_MODE=token",
    r"--no-(host-)?check|StrictHostKeyChecking=no|--insecure|\bcurl\b.*\s-k\b": "switches a check of identity off",
}


def check(path: Path) -> list[str]:
    """One line for each thing that is wrong with a cluster's file; none when it can be handed to `ray up`."""
    try:
        document = strict_yaml.read(path, aliases=True)
    except strict_yaml.YamlError as error:
        return [str(error)]
    if not isinstance(document, dict):
        return [f"{path.name}: must be keys and values"]
    return [f"{path.name}: {line}" for line in [*problems(document), *_missing_files(document, path.parent)]]


def problems(document: Mapping[str, Any]) -> list[str]:
    """One line for each thing that is wrong with a cluster's document, whatever files there are."""
    lines: list[str] = []
    kind = _at(document, "provider", "type")
    if kind not in PROVIDERS:
        lines.append(f'provider.type = "{kind}": must be one of {", ".join(PROVIDERS)}')
    try:
        lines += _unknown("", document, TOP)
        lines += _unknown("provider.", document["provider"], PROVIDERS.get(kind, list(document["provider"])))
        lines += _unknown("auth.", document["auth"], AUTH)
        lines += _values(document)
        lines += _commands(document)
        lines += {"aws": _aws, "local": _local}.get(kind, lambda _: iter(()))(document)
    except (KeyError, TypeError, AttributeError) as error:  # what is missing or of another kind is not looked into
        missing = f"{error} is missing" if isinstance(error, KeyError) else f"not of the expected form ({error})"
        lines.append(f"{missing}; compare with the cluster.yaml of this repository")
    return list(dict.fromkeys(lines))


# ---------------------------------------------------------------------- anywhere


def _unknown(where: str, found: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    for key in found:
        if key not in known:
            yield f"{where}{key}: unknown here, and Ray might take it silently.{nearest(str(key), sorted(known))}"


def _values(document: Mapping[str, Any]) -> Iterator[str]:
    for where, text in _texts(document):
        if where.startswith("metadata") and EXAMPLE.search(text):
            yield f"{where} = {text}: still the example's; set your own"
        for pattern, why in UNSAFE.items():
            if found := re.search(pattern, text):
                yield f"{where} ({found.group()[:12]}...): {why}"
        for words in re.findall(r"pip3? install([^&|;]*)", text):
            loose = [word for word in words.split() if not word.startswith("-") and "==" not in word]
            if loose:
                yield f"{where}: pip install {loose[0]}: name the version, or the nodes differ"


def _commands(document: Mapping[str, Any]) -> Iterator[str]:
    setup = " ; ".join(document["setup_commands"])
    needed = {
        r"\bmake\b.*\bsetup\b": "make setup: nothing else installs the locked environment",
        r"PRECOND_OUT=": "PRECOND_OUT on the shared file system, or every node writes trial folders of its own",
        r"chmod 600 ~/\.ray/auth_token": "chmod 600 ~/.ray/auth_token: a copied token can be read by all",
    }
    yield from (f"setup_commands: lack {what}" for pattern, what in needed.items() if not re.search(pattern, setup))
    if not any(str(target).endswith(".ray/auth_token") for target in document["file_mounts"]):
        yield "file_mounts: lack ~/.ray/auth_token: without the token no node lets another in"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in document[name] if "ray start" in command]
        if not starts:
            yield f"{name}: lack `ray start`"
        yield from (line for command in starts for line in _start(name, command))
        for command in document[name]:
            if "mlflow" in command and "--host 127.0.0.1" not in command:
                yield f"{name}: mlflow without --host 127.0.0.1 may listen on every address"


def _start(name: str, command: str) -> Iterator[str]:
    """What is wrong with a command that starts Ray."""
    needed = {r"RAY_AUTH_MODE=token\b": "RAY_AUTH_MODE=token: Ray starts without a token"}
    if name.startswith("head"):
        needed[r"--dashboard-host=(127\.0\.0\.1|localhost)\b|--include-dashboard=false"] = (
            "--dashboard-host=127.0.0.1: whoever reaches a dashboard runs code"
        )
        needed["--autoscaling-config="] = "--autoscaling-config=~/ray_bootstrap_config.yaml: no worker would start"
    yield from (f"{name}: lack {what}" for pattern, what in needed.items() if not re.search(pattern, command))


def _missing_files(document: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for target, source in (document.get("file_mounts") or {}).items():
        if not (folder / Path(str(source)).expanduser()).exists():
            how = ". Make it by: ray get-auth-token --generate" if str(target).endswith("auth_token") else ""
            yield f"file_mounts: {source} is not there{how}"


# ---------------------------------------------------------------------- by provider


def _aws(document: Mapping[str, Any]) -> Iterator[str]:
    if document["provider"].get("use_internal_ips") is not True:
        yield "provider.use_internal_ips: must be true: no node needs a public address"
    if document["provider"].get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes: must be false: a stopped machine's disk is paid for"
    if not 0 < document.get("idle_timeout_minutes", 0) <= MAX_IDLE_MINUTES:
        yield f"idle_timeout_minutes: must be in 1..{MAX_IDLE_MINUTES}: an idle machine is paid for"
    if document.get("max_workers", 0) < 1:
        yield "max_workers: must be >= 1: it is what limits the bill"
    types, head = document["available_node_types"], document["head_node_type"]
    for name, node_type in types.items():
        where = f"available_node_types.{name}."
        yield from _unknown(where, node_type, NODE_TYPE)
        yield from _node(f"{where}node_config.", node_type["node_config"])
        spot = _at(node_type, "node_config", "InstanceMarketOptions", "MarketType") == "spot"
        if spot == (name == head):
            yield f"{where}node_config.InstanceMarketOptions: the head is on demand, workers are spot"
        if node_type.get("min_workers", 0) != 0:
            yield f"{where}min_workers = {node_type['min_workers']}: must be 0: it would be paid for while nothing runs"
    if _at(types, head, "max_workers") != 0:
        yield f"available_node_types.{head}.max_workers: must be 0: there is one head"


def _node(where: str, node: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with how one kind of machine is started."""
    yield from _unknown(where, node, NODE)
    for name, known in INSIDE.items():
        yield from _unknown(f"{where}{name}.", node.get(name, {}), known)
    for name, form in {"SecurityGroupIds": "sg-", "SubnetIds": "subnet-"}.items():
        values = node.get(name)
        if not isinstance(values, list) or not values or not all(str(value).startswith(form) for value in values):
            default = "; Ray's own group opens SSH to the world" if form == "sg-" else ""
            yield f"{where}{name} = {values}: must be a list of {form}...{default}"
    for name in ("InstanceType", "ImageId", "KeyName", "IamInstanceProfile"):
        if not node.get(name):
            yield f"{where}{name}: missing; Ray would choose one with more rights or of another kind"
    options = node.get("MetadataOptions", {})
    if (options.get("HttpTokens"), options.get("HttpEndpoint"), options.get("HttpPutResponseHopLimit")) != (
        "required",
        "enabled",
        1,
    ):
        yield (
            f"{where}MetadataOptions = {options}: must be HttpTokens required, HttpEndpoint enabled and "
            "HttpPutResponseHopLimit 1: anything else hands the machine's credentials to whatever forwards a request"
        )
    yield from _disks(f"{where}BlockDeviceMappings", node.get("BlockDeviceMappings") or [])


def _disks(where: str, disks: list[Mapping[str, Any]]) -> Iterator[str]:
    if not disks:
        yield f"{where}: missing; the image's own disk need not be encrypted"
    for disk in disks:
        yield from _unknown(f"{where}.", disk, DISK)
        ebs = disk.get("Ebs", {})
        yield from _unknown(f"{where}.Ebs.", ebs, EBS)
        if ebs.get("Encrypted") is not True:
            yield f"{where}.Ebs.Encrypted = {ebs.get('Encrypted')}: must be true"
        if ebs.get("DeleteOnTermination", True) is not True:
            yield f"{where}.Ebs.DeleteOnTermination: must be true: a disk left over is paid for"


def _local(document: Mapping[str, Any]) -> Iterator[str]:
    provider = document["provider"]
    head, workers = provider["head_ip"], provider["worker_ips"]
    if not workers or len({head, *workers}) < len(workers) + 1:
        yield f"provider.worker_ips = {workers}: must be other machines than the head ({head}), each once, at least one"
    for address in (head, *workers):
        if _public(address):
            yield f"provider: {address} is a public address: Ray's ports belong on a private network"


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # a name
        return False


# ---------------------------------------------------------------------- walking


def _at(document: Any, *path: str) -> Any:
    """What is at a path of keys, or None."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, with where it is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value
