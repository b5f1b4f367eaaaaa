"""Hyperparameters from the signature of a function or class: their types and defaults."""

from __future__ import annotations

import ast
import inspect
import math
import types
import typing
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

from precond.hyperparameters import KINDS, alike, of_kinds, optional


def global_names(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the global names of the file that defines a function or a class."""
    function = inspect.unwrap(build)
    if isinstance(function, type):
        function = inspect.unwrap(function.__init__)
    return getattr(function, "__globals__", {})


def types_of(annotation: Any, names: dict[str, Any]) -> list[Any]:
    """Return the types of an annotation such as `float | None`.

    Types that cannot be evaluated, for example because only type checkers import them, are omitted.
    """
    holder = type("Holder", (), {"__annotations__": {"value": annotation}})
    try:
        # This evaluates texts and removes `Annotated`.
        evaluated = typing.get_type_hints(holder, names)["value"]
    except Exception:  # the annotation is any expression
        return [kind for part in _parts(annotation) for kind in types_of(part, names)]
    if typing.get_origin(evaluated) in (typing.Union, types.UnionType):
        return list(typing.get_args(evaluated))
    return [evaluated]


def _parts(annotation: Any) -> list[Any]:
    """Return the parts of a union or `Annotated` that cannot be evaluated."""
    if not isinstance(annotation, str):
        is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        parts = typing.get_args(annotation) if is_union else ()
        return [p.__forward_arg__ if isinstance(p, typing.ForwardRef) else p for p in parts]
    try:
        tree = ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return []
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return [tree.value]
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return [ast.unparse(tree.left), ast.unparse(tree.right)]
    if not isinstance(tree, ast.Subscript):
        return []
    elements = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
    texts = [ast.unparse(element) for element in elements]
    kind = ast.unparse(tree.value).rpartition(".")[2]
    return {"Optional": [*texts, "None"], "Union": texts, "Annotated": texts[:1]}.get(kind, [])


def plain_types(kinds: Sequence[Any]) -> list[type]:
    """Return those types that a value of a trial's configuration can have."""
    return [kind for kind in KINDS if any(kind is other for other in kinds)]


def field_of(parameter: Parameter, kinds: Sequence[Any]) -> Any:
    """Return the field of a hyperparameter, with the range of its annotation or its default."""
    default, plain = parameter.default, plain_types(kinds)
    none = default is None or any(kind is types.NoneType for kind in kinds)
    if not plain or isinstance(default, tuple):
        return optional(alike(default)) if none else alike(default)
    if default is not None and not any(KINDS[kind][1](default) for kind in plain):
        plain = [kind for kind in KINDS if kind in plain or kind is type(default)]
    return of_kinds(default, plain, none)


def is_plain(value: Any) -> bool:
    """Return True for a value that a trial's configuration can contain."""
    if isinstance(value, tuple):
        return all(is_plain(part) and not isinstance(part, tuple) for part in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))
