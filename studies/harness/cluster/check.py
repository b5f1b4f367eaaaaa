"""Check a cluster file before its use: misspelt keys, unsafe settings, values of the example.

For a file of `ray up`, Ray's schema covers the top level and the node types. In `provider` and
`node_config` Ray accepts any key, and its defaults are unsafe: SSH from any address, a dashboard on
every address, instance metadata without a session, an unencrypted disk. `rules.yaml` covers these
two sections. For a file of `kubectl apply`, of which Kubernetes drops misspelt keys of KubeRay's
objects, `kubernetes.yaml` has the rules. This module sends nothing to a cloud.
`python -m studies check-cluster FILE` prints the errors.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from precond.hyperparameters import nearest
from studies.harness.cluster.kubernetes import at, contradictions, is_kubernetes, objects
from studies.harness.published import strict_yaml

RULES, KUBERNETES = (Path(__file__).with_name(f"{name}.yaml") for name in ("rules", "kubernetes"))
RAY_SCHEMA = "ray/autoscaler/ray-schema.json"
COMPARE = "compare with the cluster.yaml of this repository, or with deploy/kuberay.yaml"
MAX_VALUE = 60  # characters; messages omit a longer value
FORMATS = jsonschema.FormatChecker(formats=())


def check(path: Path) -> list[str]:
    """Return one line for each error in a cluster file."""
    try:
        document = strict_yaml.read(path, aliases=True)
    except strict_yaml.YamlError as error:
        return [str(error)]
    if not isinstance(document, dict):
        return [f"{path.name}: must contain a mapping of keys to values"]
    lines = [*problems(document), *_missing_files(document)]
    return [f"{path.name}: {line}" for line in lines]


def start_command(path: Path) -> str:
    """Return the command that starts the cluster of a file."""
    document = strict_yaml.read(path, aliases=True)
    return f"kubectl apply -f {path}" if is_kubernetes(document) else f"ray up {path}"


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return one line for each error in the content of a cluster file; read no other file."""
    # JSON schemas require keys of type str.
    document = json.loads(json.dumps(document, default=str, skipkeys=True))
    if is_kubernetes(document):
        items = objects(document)
        lines = [
            f"{name}: {line}" for name, item in items.items() for line in _errors([_object()], item)
        ]
        return sorted({*contradictions(items), *lines})
    return sorted({*_relations(document), *_errors(_schemas(), document)})


def _errors(schemas: Iterable[jsonschema.Draft7Validator], document: Any) -> Iterator[str]:
    for schema in schemas:
        for error in schema.iter_errors(document):
            yield from _lines(error)


@cache
def _object() -> jsonschema.Draft7Validator:
    """Return the rules for an object of a Kubernetes file."""
    rules, common = (strict_yaml.read(path, aliases=True) for path in (KUBERNETES, RULES))
    definitions = {**common["definitions"], **rules["definitions"]}
    return jsonschema.Draft7Validator({**rules, "definitions": definitions})


@cache
def _schemas() -> list[jsonschema.Draft7Validator]:
    # Do not import Ray to find its schema, because the import takes seconds.
    ray = Path(str(importlib.metadata.distribution("ray").locate_file(RAY_SCHEMA)))
    schemas = json.loads(ray.read_text()), strict_yaml.read(RULES, aliases=True)
    return [jsonschema.Draft7Validator(schema, format_checker=FORMATS) for schema in schemas]


@FORMATS.checks("private")
def _private(address: Any) -> bool:
    try:
        return not ipaddress.ip_address(address).is_global
    except ValueError:  # a host name
        return True


def _lines(error: jsonschema.ValidationError) -> Iterator[str]:
    """Yield a message for a violated rule, or a message for each key if the rule is about keys."""
    rule: Any = error.schema
    expected: Any = error.validator_value
    instance: Any = error.instance
    known, path = rule.get("properties", {}), [*error.absolute_path]
    if error.validator == "additionalProperties":
        for key in [key for key in instance if key not in known]:
            hint = nearest(key, sorted(known))
            yield f"{_place([*path, key])}: unknown key, which may be ignored silently.{hint}"
    elif error.validator == "required":
        for key in [key for key in expected if key not in instance]:
            yield f"{_place([*path, key])}: missing; {known.get(key, {}).get('message', COMPARE)}"
    elif error.validator == "not":  # the value may contain a secret: print only its start
        match = re.search(expected.get("pattern", ""), str(instance))
        start = f" ({match.group()[:12]}...)" if match and match.group() else ""
        yield f"{_place(path)}{start}: {rule['message']}"
    else:
        value = json.dumps(instance)
        default = f"must have {error.validator} {json.dumps(expected)}; {COMPARE}"
        amount = f" = {value}" if len(value) <= MAX_VALUE else ""
        yield f"{_place(path)}{amount}: {rule.get('message', default)}"


def _place(path: Iterable[str | int]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _relations(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the contradictions between two parts of the document, which a schema cannot express."""
    head, workers = (at(document, "provider", name) for name in ("head_ip", "worker_ips"))
    if isinstance(workers, list) and head in workers:
        addresses = json.dumps(workers)
        yield f"provider.worker_ips = {addresses}: must be machines other than the head ({head})"
    if at(document, "provider", "type") != "aws":
        return
    types, head_type = at(document, "available_node_types"), str(document.get("head_node_type"))
    for name, node_type in types.items() if isinstance(types, dict) else ():
        place = f"available_node_types.{name}.node_config.InstanceMarketOptions"
        market = at(node_type, "node_config", "InstanceMarketOptions", "MarketType")
        if (market == "spot") == (name == head_type):
            rule = "must be spot for workers, and must not be spot for the head"
            yield f"{place}.MarketType = {json.dumps(market)}: {rule}"
    if (limit := at(types, head_type, "max_workers")) != 0:
        place = f"available_node_types.{head_type}.max_workers"
        yield f"{place} = {json.dumps(limit)}: must be 0, because the cluster has one head"


def _missing_files(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each file to mount that does not exist; Ray reads it in this folder, too."""
    mounts = document.get("file_mounts")
    for target, source in mounts.items() if isinstance(mounts, dict) else ():
        if not Path(str(source)).expanduser().exists():
            token = str(target).endswith("auth_token")
            hint = ". Create it with: ray get-auth-token --generate" if token else ""
            yield f"file_mounts: {source} does not exist{hint}"
