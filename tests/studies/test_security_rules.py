"""Security rules that are checked in the source text: forbidden calls and open addresses."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pytest

from studies.harness.tracking import ui

ROOT = Path(__file__).parents[2]
CODE = [
    path
    for name in ("precond", "trainables", "studies")
    for path in sorted((ROOT / name).rglob("*.py"))
]
FORBIDDEN = {
    r"\bpickle\.loads?\(": "executes code from the file",
    r"\bcloudpickle\b": "executes code from the file",
    r"\btorch\.load\((?![^\n]*weights_only=True)": "executes code from the file",
    r"\byaml\.(load|full_load|unsafe_load)\(": "creates objects of any class; use strict_yaml.read",
    r"(?<![\w.])eval\(": "executes text as code",
    r"(?<![\w.])exec\(": "executes text as code",
    r"shell=True": "a shell interprets special characters in file names",
    r"\bos\.(system|popen)\(": "a shell interprets special characters in file names",
    r"0\.0\.0\.0": "listens on all network interfaces",
    r"verify=False": "accepts the certificate of any server",
    r"mlflow\.pytorch\.(log|load)_model": "uses pickle, which executes code from the file",
}


def test_scanned_packages_have_more_than_60_files():
    assert len(CODE) > 60


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_code_does_not_contain_the_forbidden_pattern(pattern: str):
    matches = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not matches, f"{FORBIDDEN[pattern]}: {matches}"


def test_each_forbidden_pattern_matches_an_example():
    """With a pattern that matches nothing, the previous test would check nothing."""
    examples = """pickle.load(f) | cloudpickle | torch.load(path) | yaml.load(f) | eval(x) | exec(x) | r(shell=True)
        os.system(c) | host="0.0.0.0" | get(u, verify=False) | mlflow.pytorch.load_model(u)"""
    for pattern in FORBIDDEN:
        assert re.search(pattern, examples), pattern
    assert not re.search(
        r"\btorch\.load\((?![^\n]*weights_only=True)", "torch.load(path, weights_only=True)"
    )


def test_archives_are_extracted_only_into_the_target_folder():
    """tarfile requires the filter "data"; zipfile itself removes "..", drives and leading slashes."""
    matches = [
        (path.name, before.strip(), line.strip())
        for path in CODE
        for before, line in itertools.pairwise(path.read_text().splitlines())
        if "extractall(" in line
    ]
    assert matches and all(
        "zipfile.ZipFile(" in before or 'filter="data"' in line for _, before, line in matches
    ), matches


def test_mlflow_commands_listen_on_the_loopback_address_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The clusters' commands and `make ui` start MLflow's server with `--host 127.0.0.1`."""
    for name in ("cluster.yaml", "deploy/local.yaml"):
        [command] = re.findall(r"mlflow server .*", (ROOT / name).read_text())
        assert "--host 127.0.0.1 " in command, name
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, __: commands.append(command))
    ui.serve(tmp_path, 5000)
    assert "--host 127.0.0.1 " in " ".join(commands[0])
