"""A node with other code or another package is refused; `--send-environment` replaces its code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from test_cluster_nodes import ENVIRONMENT, ROOT, RayNodes

from studies.harness.cluster.inspect import inspect
from studies.harness.design.options import Options
from trainables.files import read_lines
from trainables.store import COMPLETED, read_status, trial_folders

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not shutil.which("unshare"), reason="requires namespaces"),
]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Yield a cluster whose only worker has other code."""
    folder = tmp_path_factory.mktemp("node")
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("precond", "trainables", "studies"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    with open(folder / "trainables" / "train.py", "a") as file:
        file.write("raise ImportError('the code of the node')\n")
    cluster = RayNodes()
    try:
        cluster.add(name="other", PYTHONPATH=str(folder))
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(autouse=True)
def _outside_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Change to a folder outside of the repository, from which Ray's workers import first."""
    monkeypatch.chdir(tmp_path)


def test_node_with_other_code_is_refused(nodes: RayNodes, tmp_path: Path):
    _, [line] = inspect(nodes.address, Options(out=tmp_path / "out", data_dir=tmp_path / "data"))
    assert "differs from the driver: code " in line and "or use --send-environment" in line


def test_driver_sends_its_code_to_the_node(nodes: RayNodes, tmp_path: Path):
    flags = ["--optimizers", "sgd", "--seeds", "1", "--epochs", "3", "--tracking-uri", "none"]
    study = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *flags]
    process = subprocess.run(
        [*study, "--address", nodes.address, "--send-environment", "--out", "out"],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    [folder] = trial_folders(tmp_path / "out")
    assert (read_status(folder) or {})["status"] == COMPLETED
    assert len(read_lines(folder / "epochs.jsonl")) == 3


def test_differing_package_of_a_node_is_named(nodes: RayNodes, tmp_path: Path):
    folder = tmp_path / "packages"
    (folder / "rich-1.0.dist-info").mkdir(parents=True)
    (folder / "rich-1.0.dist-info" / "METADATA").write_text("Name: rich\nVersion: 1.0\n")
    nodes.add(name="package", PYTHONPATH=f"{ROOT}:{folder}")
    _, lines = inspect(nodes.address, Options(out=tmp_path / "out", data_dir=tmp_path / "data"))
    [line] = [line for line in lines if "code" not in line]
    assert "differs from the driver: " in line and f"rich 1.0 instead of {version('rich')}" in line
