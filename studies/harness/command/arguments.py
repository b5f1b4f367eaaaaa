"""The arguments of `studies.run` as options, with the checks of the command line.

The arguments become a command line, which click and `options.parse` read. Dictionaries are an
exception: their values need not be text. The names of options in messages become names of
arguments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import click

from precond.hyperparameters import nearest
from studies.harness.command.cli import flags
from studies.harness.command.flags import FLAGS
from studies.harness.command.options import parse
from studies.harness.design.options import Options
from studies.harness.design.values import ALIASES
from studies.harness.kinds.artefact import Artefact

DICTIONARIES = ("only", "levels", "settings")
PYTHON_NAMES = {"plugin": "plugins"}  # arguments that have another name than the option
EXCLUDED = ("as_json",)  # the caller gets Python objects


def options(artefact: Artefact, arguments: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """Return the options that the arguments of `studies.run` set, and one line for each error.

    Args:
        artefact: The artefact, which may have options of its kind.
        arguments: The arguments by name. None stands for the default.
    """
    params = {_name(flag): flag for flag in flags(artefact) if flag.name not in EXCLUDED}
    given = {name: value for name, value in arguments.items() if value is not None}
    errors = [
        f"{name}: unknown argument.{nearest(name, params)}" for name in given if name not in params
    ]
    words, dictionaries = [], {}
    for name in params:
        value = given.get(name)
        if name in DICTIONARIES and value:
            dictionaries[name], problem = _dictionary(name, value)
        elif value is not None:
            arguments_of_flag, problem = _words(params[name], value)
            words += arguments_of_flag
        else:
            problem = ""
        errors += [problem] if problem else []
    try:
        raw = click.Command("run", params=[*params.values()]).make_context("run", words).params
    except click.UsageError as error:
        return Options(), [*errors, translated(error.format_message())]
    parsed, invalid = parse(raw, artefact.FLAGS)
    parsed = replace(parsed, **dictionaries, given=parsed.given | dictionaries.keys())
    return parsed, [*errors, *invalid]


def translated(text: str) -> str:
    """Return a message with `max_concurrent` in place of `--max-concurrent`, for example."""
    names = {option: _name(flag) for flag in FLAGS for option in flag.opts}

    def argument(match: re.Match[str]) -> str:
        option, number = match[1], match[2]
        if option not in names:
            return match[0]
        return f"{names[option]}={number}" if number else names[option]

    return re.sub(r"(--[a-z][a-z-]*)(?: (\d+))?", argument, text)


def _name(flag: click.Parameter) -> str:
    return PYTHON_NAMES.get(str(flag.name), str(flag.name))


def _words(flag: click.Parameter, value: Any) -> tuple[list[str], str]:
    """Return an argument as words of a command line, and the error in its type or "" if valid."""
    option = flag.opts[0]
    if isinstance(flag, click.Option) and flag.is_flag:
        if isinstance(value, bool):
            return [option] * value, ""
        return [], f"{_name(flag)} = {value}: must be True or False"
    parts = _parts(value)
    if isinstance(value, bytes | Mapping) or not parts:
        return [], f"{_name(flag)} = {value!r}: must be a value, or a list of values"
    texts = [os.path.expanduser(part) if isinstance(part, os.PathLike | str) else str(part)
             for part in parts]  # fmt: skip
    if flag.multiple:
        return [f"{option}={text}" for text in texts], ""
    comma = "," if flag.name == "seeds" and _is_collection(value) else ""  # "3," is only seed 3
    return [f"{option}={','.join(texts)}{comma}"], ""


def _dictionary(name: str, value: Any) -> tuple[dict[str, Any], str]:
    """Return a dictionary of settings or levels as plain Python values, and an error or ""."""
    if not isinstance(value, Mapping):
        example = '{"damping": 0.1}' if name == "settings" else '{"rank": [5, 10]}'
        return {}, f"{name} = {value}: must be a dictionary such as {example}"
    if empty := [key for key, part in value.items() if _is_collection(part) and not [*part]]:
        return {}, f"{name} = {value}: {empty[0]} has no values; name at least one"
    read = _plain if name == "settings" else lambda levels: [*map(_plain, _parts(levels))]
    return {ALIASES.get(str(key), str(key)): read(part) for key, part in value.items()}, ""


def _plain(value: Any) -> Any:
    """Return a number or an array of NumPy, pandas or torch as a Python value."""
    return value.tolist() if hasattr(value, "tolist") else value


def _parts(value: Any) -> list[Any]:
    return [*value] if _is_collection(value) else [value]


def _is_collection(value: Any) -> bool:
    scalar = isinstance(value, str | bytes | os.PathLike) or getattr(value, "shape", None) == ()
    return isinstance(value, Iterable) and not scalar
