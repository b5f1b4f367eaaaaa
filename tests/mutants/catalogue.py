"""Read the mutants, and find the function and the test that each mutant names."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
SUFFIXES = (".py", ".yaml")  # of the files that a mutant may change


class MutantError(Exception):
    """Error for a mutant that does not fit the sources."""


@dataclass(frozen=True)
class Mutant:
    """A bug, as a replacement in the source of a function.

    Attributes:
        topic: The data file, without its suffix: `precond/parts`. The folder is the package.
        bug: The bug, in a sentence.
        function: The qualified name of a function, class or assignment, after `module:` where the
            name alone is ambiguous; `rules.yaml:` for a file that is not a module.
        old: Text that occurs once in the source of `function`; its line breaks may differ.
        new: The replacement.
        test: The name of the test that must fail.
    """

    topic: str
    bug: str
    function: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.topic} {self.function}: {self.bug}"


@dataclass(frozen=True)
class Definition:
    """Lines `start` to `end` of a file, counted from 0, `end` excluded, that define `name`."""

    file: str
    name: str
    start: int
    end: int

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@dataclass(frozen=True)
class Planted:
    """A mutant that fits the sources.

    Attributes:
        mutant: The mutant.
        file: The file that it changes.
        source: The changed contents of the file.
        node: The test, as pytest names it.
    """

    mutant: Mutant
    file: str
    source: str
    node: str


def load() -> list[Mutant]:
    """Return all mutants, in the order of the data files."""
    return [
        Mutant(path.relative_to(FOLDER).with_suffix("").as_posix(), bug, **fields)
        for path in sorted(FOLDER.rglob("*.toml"))
        for bug, fields in tomllib.loads(path.read_text()).items()
    ]


def definitions(file: str, source: str) -> Iterator[Definition]:
    """Yield the whole file as '', and a module's functions, methods, classes and assignments."""
    yield Definition(file, "", 0, source.count("\n") + 1)
    blocks = [("", ast.parse(source).body)] if file.endswith(".py") else []
    for prefix, body in blocks:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
                start = min(part.lineno for part in (node, *node.decorator_list)) - 1
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                start = node.lineno - 1
            else:
                continue
            for name in names:
                yield Definition(file, prefix + name, start, node.end_lineno or node.lineno)
            if isinstance(node, ast.ClassDef):
                blocks.append((f"{prefix}{node.name}.", node.body))


class Sources:
    """Python and YAML files by their path, and the definitions in them.

    Args:
        files: The contents of each file.
    """

    def __init__(self, files: Mapping[str, str]):
        self.files = files

    @cached_property
    def _definitions(self) -> dict[tuple[str, str], list[Definition]]:
        """The definitions by top-level folder and qualified name."""
        table: dict[tuple[str, str], list[Definition]] = {}
        for file, source in self.files.items():
            for definition in definitions(file, source):
                table.setdefault((file.split("/")[0], definition.name), []).append(definition)
        return table

    def find(self, folder: str, reference: str) -> Definition:
        """Return the only definition of `name` or `module:name` below a folder.

        Raises:
            MutantError: There is no such definition, or more than one.
        """
        module, _, name = reference.rpartition(":")
        matches = self._definitions.get((folder, name), [])
        if module:
            matches = [match for match in matches if f".{match.module}".endswith(f".{module}")]
        if len(matches) != 1:
            places = ", ".join(f"{match.file}:{match.start + 1}" for match in matches)
            count = f"{len(matches)} definitions in {folder}/, not 1"
            raise MutantError(f"{reference}: {count}: {places or 'none'}")
        return matches[0]

    def plant(self, mutant: Mutant) -> Planted:
        """Return the sources with the bug.

        Raises:
            MutantError: The function, the text or the test is missing or ambiguous, or the result
                is not valid Python or YAML.
        """
        place = self.find(mutant.topic.split("/")[0], mutant.function)
        lines = self.files[place.file].split("\n")
        source = "\n".join(lines[place.start : place.end])
        matches = re.findall(re.escape(mutant.old), source) or re.findall(
            _pattern(mutant.old), source
        )
        if len(matches) != 1:
            text = f"{mutant.function} contains {mutant.old!r} {len(matches)} times, not once"
            raise MutantError(f"{place.file}: {text}")
        changed = source.replace(matches[0], mutant.new)
        parse = _tree if place.file.endswith(".py") else yaml.safe_load
        if parse(changed) == parse(source):
            text = f"the replacement in {mutant.function} does not change the code"
            raise MutantError(f"{place.file}: {text}")
        name, bracket, parameters = mutant.test.partition("[")
        test = self.find("tests", name)
        return Planted(
            mutant,
            place.file,
            "\n".join([*lines[: place.start], changed, *lines[place.end :]]),
            f"{test.file}::{test.name.replace('.', '::')}{bracket}{parameters}",
        )


def _pattern(text: str) -> str:
    """Return a regular expression for the text that ignores its line breaks."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    return r"\s*".join(
        f",?\\s*{re.escape(token)}" if token in ")]}" else re.escape(token) for token in tokens
    )


def _tree(source: str) -> str:
    """Return the syntax tree of a definition as text; the definition may be indented.

    Raises:
        MutantError: The source is not valid Python.
    """
    try:
        return ast.dump(ast.parse(f"if True:\n{source}" if source.startswith(" ") else source))
    except SyntaxError as error:
        raise MutantError(f"not valid Python: {error}") from None
