"""The environment that a driver sends to a cluster, and the differences between packages."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from studies.harness.cluster import environment
from studies.harness.command.options import parse
from studies.harness.design.options import Options


def test_packages_are_those_that_a_study_needs_and_no_others():
    packages = environment.packages()
    for name in ("torchvision", "ray", "optuna", "numpy", "pytorch-optimizer", "sqlalchemy"):
        assert packages[name] == importlib.metadata.version(name)
    assert not {"precond", "torch", "pytest", "sphinx", "lightning"} & packages.keys()


def test_differing_packages_are_named_with_both_versions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "packages", lambda: {"a": "1.0", "b": "2.0", "new": "1"})
    assert environment.package_differences({"a": "1.0", "b": "2.0"}) == ""
    line = environment.package_differences({"a": "1.1", "b": "2.0", "c": "3"})
    assert line == "a 1.0 instead of 1.1, c missing instead of 3"
    many = {f"p{number}": "1" for number in range(6)}
    assert environment.package_differences(many) == (
        "p0 missing instead of 1, p1 missing instead of 1, p2 missing instead of 1, "
        "p3 missing instead of 1 and 2 other packages"
    )


def test_environment_has_the_sources_and_the_lock_and_uses_uv():
    with environment.sent(Options(send_environment=True)) as sent:
        assert sent is not None
        folder = Path(sent["working_dir"])
        names = {path.name for path in folder.iterdir()}
        assert names == {"precond", "trainables", "studies", "requirements.lock"}
        assert (folder / "studies" / "harness" / "cluster" / "rules.yaml").exists()
        assert not list(folder.rglob("__pycache__"))
        assert "-m uv run " in sent["py_executable"]
    assert not folder.exists()
    with environment.sent(Options()) as sent:
        assert sent is None


def test_environment_that_cannot_be_sent_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert list(environment.problems(Options(send_environment=True))) == []
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    [line] = environment.problems(Options(send_environment=True))
    assert line.startswith(f"--send-environment: requires {tmp_path}/requirements.lock;")
    assert list(environment.problems(Options())) == []


def test_environment_is_sent_to_a_running_cluster_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _, errors = parse({"send_environment": True})
    assert errors == ["--send-environment: requires a running cluster; name it with --address"]
    assert parse({"send_environment": True, "address": "10.0.0.1:6379"})[1] == []
