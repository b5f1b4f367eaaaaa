"""The names that the statements of a file bind and mention."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__", "patch", "monkeypatch"}


def bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds at the top level, also inside a block."""
    if isinstance(statement, DEFINITIONS):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, (*DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
            yield from [node.name] if node.name else []


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the identifiers in a tree: names, attributes, defined names and constant texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.split(".")
        for field in ("id", "attr", "name", "arg"):
            if isinstance(text := getattr(node, field, None), str):
                yield text


def reassigned(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that may be bound to another object by another way than `bound` shows.

    These are global variables of functions, attributes of other objects than `self`, and the
    targets of `:=`. In a file with `setattr` or the like, all texts count.
    """
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Global):
                yield from node.names
            elif isinstance(node, ast.NamedExpr):
                yield node.target.id
            elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                yield from [] if of_self else [node.attr]
        if SETTERS & {*texts(statement)}:
            for other in statements:
                yield from texts(other)


def imported(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that an absolute import binds, with their paths."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            root = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (root, root)
    elif isinstance(statement, ast.ImportFrom) and not statement.level:
        for alias in statement.names:
            yield alias.asname or alias.name, f"{statement.module}.{alias.name}"
