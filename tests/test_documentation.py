"""Tests of README.md, CONTRIBUTING.md and docs/.

The commands, flags and files that they name exist, and the loop in README.md trains a model.
"""

import re
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import precond
from studies.harness.command import manage
from studies.harness.command.flags import FLAGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
KINDS = {type(artefact) for artefact in manage.artefacts().values()}
STUDY_FLAGS = {
    option for flag in [*FLAGS, *(f for kind in KINDS for f in kind.FLAGS)] for option in flag.opts
} | {"--help"}


def code_blocks(text: str) -> list[str]:
    """Return the fenced and the indented blocks of a page."""
    fenced = re.findall(r"^```(?:python|text)?\n(.*?)^```$", text, re.M | re.S)
    indented = re.findall(r"^\n((?:    .*\n|\n)+)", text, re.M)
    return [*fenced, *map(textwrap.dedent, indented)]


def commands(page: Path) -> list[str]:
    """Return the command lines of a page: those in blocks, and those in sentences."""
    text = page.read_text()
    lines = [line.strip() for block in code_blocks(text) for line in block.splitlines()]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [line.partition(" #")[0].strip() for line in [*lines, *inline]]


def check(command: str) -> bool:
    """Check a command's files, targets and flags; return False if it is not one of the project's."""
    flags = set(re.findall(r"--[a-z][a-z-]+", command))
    if match := re.match(r"(?:UV_TORCH_BACKEND=cpu )?make ([a-z-]+)$", command):
        assert match[1] in TARGETS, command
    elif match := re.match(r"(?:python|ray submit \S+) ((?:studies|examples)/\w+\.py)", command):
        assert (ROOT / match[1]).exists(), command
        assert flags <= STUDY_FLAGS, command
    elif match := re.match(r"python -m studies ([a-z-]+)", command):
        subcommand = manage.GROUP.commands[match[1]]
        assert flags <= {option for parameter in subcommand.params for option in parameter.opts}
    else:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_exist_with_their_flags(page: Path):
    number = sum(map(check, commands(page)))
    assert number >= {"README.md": 12, "tutorial.md": 5}.get(page.name, 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if "`" not in link]
    paths = re.findall(r"`((?:precond|trainables|studies|tests|examples|docs)/[\w/.-]+)`", text)
    for path in [page.parent / link for link in links] + [ROOT / path for path in paths]:
        if "NAME" not in path.name:
            assert path.exists(), f"{page.name}: {path.relative_to(ROOT)}"


def test_the_training_loop_of_the_readme_lowers_the_loss():
    (loop,) = [block for block in code_blocks(README) if "optimizer.step()" in block]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    batch = torch.randn(64, 8, 8), torch.randint(10, (64,))

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(batch[0]), batch[1]).item()

    before = loss()
    names = {"model": model, "batches": [batch] * 12, "loss_function": F.cross_entropy}
    exec(loop, {**names, "precond": precond})
    assert loss() < 0.9 * before


def test_the_table_of_studies_is_the_generated_one():
    start, end = "<!-- python -m studies list --markdown -->\n", "<!-- end of the studies -->"
    table = README.partition(start)[2].partition(end)[0]
    assert table.strip() == manage.markdown().strip(), "replace the table in README.md"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
