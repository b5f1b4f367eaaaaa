"""Security rules that are checked in the text of the files: forbidden calls and open addresses."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [
    path
    for name in ("precond", "trainables", "studies")
    for path in sorted((ROOT / name).rglob("*.py"))
]
FORBIDDEN = {
    r"\bpickle\.loads?\(": "runs what it reads",
    r"\bcloudpickle\b": "runs what it reads",
    r"\btorch\.load\((?![^\n]*weights_only=True)": "runs what it reads",
    r"\byaml\.(load|full_load|unsafe_load)\(": "builds objects of any class; strict_yaml.read is the one reader",
    r"(?<![\w.])eval\(": "runs text",
    r"(?<![\w.])exec\(": "runs text",
    r"shell=True": "a shell reads names that others chose",
    r"\bos\.(system|popen)\(": "a shell reads names that others chose",
    r"0\.0\.0\.0": "listens to the world",
    r"verify=False": "trusts any server",
    r"mlflow\.pytorch\.(log|load)_model": "pickles",
}


def test_there_is_code():
    assert len(CODE) > 60


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_the_code_has_none_of(pattern: str):
    matches = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not matches, f"{FORBIDDEN[pattern]}: {matches}"


def test_each_pattern_finds_what_it_forbids():
    """A pattern that matches nothing would pass for ever."""
    examples = """pickle.load(f) | cloudpickle | torch.load(path) | yaml.load(f) | eval(x) | exec(x) | r(shell=True)
        os.system(c) | host="0.0.0.0" | get(u, verify=False) | mlflow.pytorch.load_model(u)"""
    for pattern in FORBIDDEN:
        assert re.search(pattern, examples), pattern
    assert not re.search(
        r"\btorch\.load\((?![^\n]*weights_only=True)", "torch.load(path, weights_only=True)"
    )


def test_archives_cannot_write_outside():
    """A tar file's names are filtered; zipfile takes "..", drives and leading slashes off by itself."""
    matches = [
        (path.name, before.strip(), line.strip())
        for path in CODE
        for before, line in itertools.pairwise(path.read_text().splitlines())
        if "extractall(" in line
    ]
    assert matches and all(
        "zipfile.ZipFile(" in before or 'filter="data"' in line for _, before, line in matches
    ), matches


def test_the_ui_listens_on_this_machine_only():
    """Wherever a server is started or named: the Makefile, the README, what a run prints at its end."""
    for name in ("Makefile", "README.md", "studies/harness/command/run.py"):
        for line in (ROOT / name).read_text().splitlines():
            if "mlflow ui" in line or "mlflow server" in line:
                assert "--host 127.0.0.1" in line, f"{name}: {line}"
