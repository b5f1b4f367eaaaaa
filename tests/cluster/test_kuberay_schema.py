"""deploy/kuberay.yaml, and the keys in our rules, against the schemas in a checkout of KubeRay.

Kubernetes drops unknown keys of KubeRay's objects without an error. The schemas are read as strict
ones here: an object with named properties accepts no others. They also contain the schemas of pods,
volume claims, services and network policies.
"""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from studies.harness.cluster.check import KUBERNETES
from studies.harness.cluster.kubernetes import objects
from studies.harness.published import strict_yaml

ROOT = Path(__file__).parents[2]
KUBERAY = os.environ.get("KUBERAY", "")
CRD = Path(KUBERAY, "ray-operator/config/crd/bases/ray.io_rayjobs.yaml")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not KUBERAY, reason="requires KUBERAY=PATH of a checkout of ray-project/kuberay"
    ),
]
CLUSTER = ("spec", "rayClusterSpec")
HEAD = (*CLUSTER, "headGroupSpec")
POD = (*HEAD, "template", "spec")
CONTAINER = (*POD, "containers", "[]")
CLAIM = (*POD, "volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")
SERVICE = (*HEAD, "headService", "spec")
INGRESS = (*CLUSTER, "networkPolicy", "head", "ingressRules")
# The definitions of our rules, and the places of the same objects in KubeRay's schema.
PLACES = {
    "claim": CLAIM,
    "service": SERVICE,
    "job": ("spec",),
    "cluster": CLUSTER,
    "token": (*CLUSTER, "authOptions"),
    "autoscaler": (*CLUSTER, "autoscalerOptions"),
    "head": HEAD,
    "workers": (*CLUSTER, "workerGroupSpecs", "[]"),
    "template": (*HEAD, "template"),
    "pod": POD,
    "user": (*POD, "securityContext"),
    "container": CONTAINER,
    "rights": (*CONTAINER, "securityContext"),
}


@cache
def crd() -> dict[str, Any]:
    """Return the strict schema of a RayJob."""
    document = yaml.load(CRD.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [v for v in document["spec"]["versions"] if v["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: Any) -> Any:
    """Return a schema in which objects with named properties accept no others."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items() if key != "description"}
    closed = "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields")
    if closed and isinstance(schema["properties"], dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def at(*path: str) -> dict[str, Any]:
    schema = crd()
    for key in path:
        schema = schema["items"] if key == "[]" else schema["properties"][key]
    return schema


def errors(schema: dict[str, Any], instance: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(instance)]


@cache
def items() -> dict[str, Any]:
    return objects(strict_yaml.read(ROOT / "deploy" / "kuberay.yaml", aliases=True))


def test_job_has_only_keys_and_types_of_kuberay():
    job = {**items()["RayJob precond"], "metadata": {}}
    assert errors(crd(), job) == []
    for place in ("head", "worker"):
        mistaken = copy.deepcopy(job)
        cluster = mistaken["spec"]["rayClusterSpec"]
        group = cluster["headGroupSpec"] if place == "head" else cluster["workerGroupSpecs"][0]
        group["template"]["spec"]["containers"][0]["securityContxt"] = {}
        assert "'securityContxt' was unexpected" in errors(crd(), mistaken)[0]
    mistaken = copy.deepcopy(job)
    mistaken["spec"]["backoffLimit"] = "3"
    assert errors(crd(), mistaken) == ["'3' is not of type 'integer'"]


def test_other_objects_have_only_keys_and_types_of_kubernetes():
    specs = {name: item["spec"] for name, item in items().items() if "spec" in item}
    assert errors(at(*HEAD, "template"), specs["Deployment mlflow"]["template"]) == []
    assert errors(at(*SERVICE), specs["Service mlflow"]) == []
    assert errors(at(*INGRESS), specs["NetworkPolicy precond"]["ingress"]) == []
    for name in ("precond", "precond-mlflow"):
        assert errors(at(*CLAIM), specs[f"PersistentVolumeClaim {name}"]) == []


@pytest.mark.parametrize("name", PLACES)
def test_our_rules_have_the_keys_of_the_schema(name: str):
    definition = strict_yaml.read(KUBERNETES, aliases=True)["definitions"][name]
    assert set(definition["properties"]) == set(at(*PLACES[name])["properties"])
