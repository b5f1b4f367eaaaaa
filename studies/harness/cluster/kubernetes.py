"""The objects of a Kubernetes file, and the contradictions between them.

The rules for a single object are in kubernetes.yaml. `check.py` applies both.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]
SUBMITTER = ("submitterPodTemplate",)
HEAD = ("rayClusterSpec", "headGroupSpec", "template")


def is_kubernetes(document: Object) -> bool:
    """Return True for the content of a Kubernetes file; False for a file of `ray up`."""
    return "apiVersion" in document


def objects(document: Object) -> dict[str, Object]:
    """Return the objects of a file by their kind and name, such as `RayJob precond`."""
    items = document.get("items", []) if document.get("kind") == "List" else [document]
    items = items if isinstance(items, list) else []
    return {
        f"{item.get('kind')} {at(item, 'metadata', 'name')}": item
        for item in items
        if isinstance(item, dict)
    }


def contradictions(items: Mapping[str, Object]) -> Iterator[str]:
    """Yield a line for each contradiction between two parts of the objects of a file.

    Args:
        items: The objects by kind and name.
    """
    jobs = {name: item for name, item in items.items() if item.get("kind") == "RayJob"}
    if len(jobs) != 1:
        yield f"{len(jobs)} objects of the kind RayJob: must be 1; compare with deploy/kuberay.yaml"
    policies = [item for item in items.values() if item.get("kind") == "NetworkPolicy"]
    for name, item in items.items():
        for place, template in _templates(item):
            labels = at(template, "metadata", "labels")
            if not any(_selects(policy, labels) for policy in policies):
                yield (
                    f"{name}: {place}.metadata.labels: no NetworkPolicy selects the pod, so that "
                    "every pod of the cluster reaches its ports; compare with deploy/kuberay.yaml"
                )
    for name, job in jobs.items():
        yield from (f"{name}: spec.rayClusterSpec.{line}" for line in _job_lines(job))


def _job_lines(job: Object) -> Iterator[str]:
    cluster = at(job, "spec", "rayClusterSpec")
    installed, version = importlib.metadata.version("ray"), at(cluster, "rayVersion")
    if version != installed:
        yield f'rayVersion = "{version}": must be {installed}, the version of requirements.lock'
    shared = _claims(at(job, "spec", *HEAD))
    if not shared:
        yield "headGroupSpec.template: must mount a PersistentVolumeClaim for the output folder"
    for number, group in enumerate(_list(cluster, "workerGroupSpecs")):
        if not shared <= _claims(at(group, "template")):
            volumes = ", ".join(f"{claim} at {path}" for claim, path in sorted(shared))
            yield (
                f"workerGroupSpecs[{number}].template: must mount {volumes}, as the head does, or "
                "workers write trial folders to their own disk"
            )


def _templates(item: Object) -> Iterator[tuple[str, Any]]:
    """Yield the place and the content of each template of pods that stay up, except the submitter's."""
    if item.get("kind") == "Deployment":
        yield "spec.template", at(item, "spec", "template")
    if item.get("kind") == "RayJob":
        yield f"spec.{'.'.join(HEAD)}", at(item, "spec", *HEAD)
        for number, group in enumerate(
            _list(at(item, "spec", "rayClusterSpec"), "workerGroupSpecs")
        ):
            place = f"spec.rayClusterSpec.workerGroupSpecs[{number}].template"
            yield place, at(group, "template")


def _selects(policy: Object, labels: Any) -> bool:
    """Return True if a NetworkPolicy limits the incoming connections of pods with these labels."""
    selector = at(policy, "spec", "podSelector")
    if not isinstance(selector, dict) or at(selector, "matchExpressions"):
        return False
    wanted = at(selector, "matchLabels") or {}
    both = isinstance(wanted, dict) and isinstance(labels, dict)
    return both and all(labels.get(name) == value for name, value in wanted.items())


def _claims(template: Any) -> set[tuple[str, str]]:
    """Return the shared volumes of a pod's first container as pairs of a claim and a path."""
    names = {
        str(volume.get("name")): str(at(volume, "persistentVolumeClaim", "claimName") or "")
        for volume in _list(at(template, "spec"), "volumes")
    }
    containers = _list(at(template, "spec"), "containers")
    mounts = _list(containers[0], "volumeMounts") if containers else []
    pairs = {
        (names.get(str(mount.get("name")), ""), str(mount.get("mountPath"))) for mount in mounts
    }
    return {(claim, path) for claim, path in pairs if claim}


def _list(document: Any, key: str) -> Sequence[Object]:
    """Return the mappings in a list; an empty list if there is none."""
    values = at(document, key)
    return (
        [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    )


def at(document: Any, *path: str) -> Any:
    """Return the value at a path of keys, or None."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
