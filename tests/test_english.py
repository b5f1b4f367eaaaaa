"""The rules of CONTRIBUTING.md for names and sentences, as far as a program can check them."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not name.endswith((".lock", ".png", ".ipynb")) and (ROOT / name).is_file()
]
PYTHON = [path for path in FILES if path.suffix == ".py"]

VAGUE_NAMES = {
    *("again", "each", "found", "further", "held", "made", "more", "one", "own"),
    *("said", "stated", "told", "wrong"),
}
PHRASES = re.compile(
    r"\bnot told from\b|\btold apart\b|\bcannot be told\b|\bdear\b|\bof (one|its|their)('s)? own\b"
    r"|\ba bad command\b|\bdeaf\b|\bknocked\b|\bwhat is wrong with\b|\bcomes? to\b|\bcame to\b"
    r"|\bgoes? on where\b|\basks? for\b|\basked for\b|\bsaid is\b|\bwhose they are\b|\bno more than that\b"
    r"|\bfaithful\b|\bundecided\b|\bis there twice\b|\bnothing to say\b",
    re.IGNORECASE,
)
RIDDLES = re.compile(r"(Whether|What|Which|How|Where|When|It|The one|Those|That)\b")


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each variable, argument, attribute and function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.lineno, node.name


def vague_names(path: Path) -> list[str]:
    """Return the names of a Python file that say nothing without their context."""
    return [f"{place(path, line)}: {name}" for line, name in names(path) if name in VAGUE_NAMES]


def riddles(path: Path) -> list[str]:
    """Return the docstrings of a Python file that do not begin with a verb or a noun."""
    return [
        f"{place(path, line)}: {text.splitlines()[0]}"
        for line, text in docstrings(path)
        if RIDDLES.match(text)
    ]


def phrases(path: Path) -> list[str]:
    """Return the lines of a file that match PHRASES."""
    return [
        f"{place(path, number)}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PHRASES.search(line)
    ]


def dead_references(path: Path) -> list[str]:
    """Return the Markdown files that a file cites and the repository does not have."""
    text = re.sub(r"/checkout/|docs/generated/|generated/", "", path.read_text())
    cited = set(re.findall(r"[\w./-]*\w\.md\b", text))
    known = {str(other.relative_to(ROOT)) for other in FILES}
    return [
        f"{place(path, 1)}: {name}"
        for name in sorted(cited)
        if not any(f"/{file}".endswith(f"/{name.lstrip('./')}") for file in known)
    ]


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def check(check_file, paths: list[Path]) -> None:
    """Fail with one line for each problem."""
    problems = [problem for path in paths for problem in check_file(path)]
    assert not problems, "\n".join(["", *problems])


def test_names_say_what_they_hold():
    check(vague_names, PYTHON)


def test_docstrings_begin_with_a_verb_or_a_noun():
    check(riddles, PYTHON)


def test_the_words_are_those_of_the_field():
    check(phrases, [path for path in FILES if path != Path(__file__)])


def test_no_file_is_cited_that_the_repository_does_not_have():
    written = ("report.md", "row.md")  # by a study or a judgement
    sources = [path for path in FILES if not path.is_relative_to(ROOT / "tests")]
    check(
        lambda path: [line for line in dead_references(path) if not line.endswith(written)], sources
    )


def test_few_lines_are_longer_than_100_characters():
    lines = [line for path in PYTHON for line in path.read_text().splitlines()]
    share = sum(len(line) > 100 for line in lines) / len(lines)
    assert share <= 0.02, f"{share:.1%} of the lines"
