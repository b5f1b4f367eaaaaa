"""A restricted YAML reader: no tags, duplicate keys or (by default) aliases; bounded size and depth.

PyYAML's safe loader accepts aliases and duplicate keys: 300 bytes of aliases can expand to millions
of values, and the second of two equal keys silently replaces the first. Aliases can be allowed for
files that use a value several times, but never inside the value of another alias. The data is then
at most quadratic in the size of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_DEPTH, MAX_NODES = 10**6, 20, 10_000


class YamlError(ValueError):
    """A file cannot be read, violates the restrictions of this module, or has invalid content."""


def read(path: Path, *, aliases: bool = False) -> Any:
    """Return the content of a file as dictionaries, lists, strings, numbers, booleans and None.

    Args:
        path: The file.
        aliases: True to allow `&name` and `*name`.

    Raises:
        YamlError: The file cannot be read, is not UTF-8 or YAML, is too large or too deep, or
            contains aliases, tags or duplicate keys.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise yaml.YAMLError(f"the file has {size} bytes; the limit is {MAX_BYTES}")
        return _Loader(path.read_bytes(), aliases).get_single_data()
    except OSError as error:
        raise YamlError(f"{path.name}: cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlError(f"{path.name}{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(f"{path.name}: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """A loader that checks each node while the document is composed, before aliases are expanded."""

    def __init__(self, stream: bytes, aliases: bool):
        super().__init__(stream)
        self._aliases = aliases
        self._depth = self._nodes = self._anchored = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        if event.anchor is not None and not self._aliases:
            raise _refusal(event, "aliases (&, *) are not allowed")
        if alias and self._anchored:
            raise _refusal(event, f"*{event.anchor} is inside the value of another alias")
        if not alias and event.tag is not None:
            raise _refusal(event, f"tag {event.tag} is not allowed")
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(event, f"nested deeper than {MAX_DEPTH}")
        if self._nodes > MAX_NODES:
            raise _refusal(event, f"more than {MAX_NODES} values")
        anchored = not alias and event.anchor is not None
        self._anchored += anchored
        node = super().compose_node(parent, index)
        self._anchored -= anchored
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "keys must be scalars")
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refusal(key, "merge keys (<<) are not allowed")
            if key.value in seen:
                raise _refusal(key, f'key "{key.value}" occurs twice')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(place: Any, reason: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=place.start_mark)
