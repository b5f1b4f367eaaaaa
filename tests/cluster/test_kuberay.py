"""deploy/kuberay.yaml and its image, against what Ray reads of them; no Kubernetes is needed."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.kuberay import node_provider
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from studies.harness.cluster import inspect

ROOT = Path(__file__).parents[2]


def ray_cluster() -> dict[str, Any]:
    """Return the object that KubeRay creates for the job of deploy/kuberay.yaml."""
    items = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())["items"]
    [job] = [item for item in items if item["kind"] == "RayJob"]
    metadata = {"name": "precond-x7", "namespace": "me"}
    return {"metadata": metadata, "spec": job["spec"]["rayClusterSpec"]}


def test_rays_autoscaler_reads_the_workers_of_kuberay():
    types = _derive_autoscaling_config_from_ray_cr(ray_cluster())["available_node_types"]
    head, workers = types["headgroup"], types["gpu"]
    assert head["resources"]["CPU"] == 0 and "GPU" not in head["resources"]
    assert (workers["min_workers"], workers["max_workers"]) == (0, 8)
    assert (workers["resources"]["CPU"], workers["resources"]["GPU"]) == (4, 1)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put this process into a pod of KubeRay; return the answers of Kubernetes by path."""
    objects: dict[str, Any] = {}

    def get(client: Any, path: str) -> Any:
        if path not in objects:
            raise requests.HTTPError("403 Client Error: Forbidden")
        return objects[path]

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    monkeypatch.setattr(inspect, "_alive", lambda: [{"Resources": {"CPU": 2.0}}])
    monkeypatch.setenv("RAY_CLUSTER_NAME", "precond-x7")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "me")
    return objects


def test_check_of_nodes_counts_workers_that_kuberay_can_start(answers: dict[str, Any]):
    answers["rayclusters/precond-x7"] = ray_cluster()
    assert (max(inspect._offers("CPU")), sum(inspect._offers("GPU"))) == (4, 8)


def test_check_of_nodes_counts_the_pods_of_kuberay_without_an_autoscaler(answers: dict[str, Any]):
    """Without an autoscaler, Kubernetes refuses the request, or no worker will be added."""
    assert list(inspect._offers("CPU")) == [2]
    cluster = ray_cluster()
    del cluster["spec"]["enableInTreeAutoscaling"]
    answers["rayclusters/precond-x7"] = cluster
    assert list(inspect._offers("CPU")) == [2]


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock by package."""
    pairs = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {package.replace("_", "-").lower(): version for package, version in pairs}


def test_image_has_the_packages_of_rays_dashboard():
    """KubeRay submits the job to the dashboard, and asks its agents whether a node is ready."""
    requirements = map(Requirement, importlib.metadata.requires("ray") or ())
    needed = {
        requirement.name.replace("_", "-").lower()
        for requirement in requirements
        if requirement.marker and requirement.marker.evaluate({"extra": "default"})
    }
    image, studies = locked("requirements-kubernetes.lock"), locked("requirements.lock")
    assert len(needed) > 5 and needed <= image.keys()
    assert all(studies.get(name, version) == version for name, version in image.items())
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^COPY .* requirements-kubernetes\.lock ", dockerfile, re.MULTILINE)
    assert re.search(r"^RUN make setup-kubernetes$", dockerfile, re.MULTILINE)
