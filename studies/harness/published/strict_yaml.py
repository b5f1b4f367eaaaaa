"""YAML as plain data: no aliases, tags or duplicate keys, bounded in size and depth.

PyYAML's safe loader alone takes all of these: 300 bytes of aliases can stand for millions of values, and the second of
two equal keys wins without a word. Where a file is meant to name a value once and use it often, aliases are taken, but
no alias within what another stands for: what a file says is then at most so many times as long as the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_DEPTH, MAX_NODES = 10**6, 20, 10_000


class YamlError(ValueError):
    """A file is not the YAML that is read here; the message is one line."""


def read(path: Path, *, aliases: bool = False) -> Any:
    """The document in a file, as dictionaries, lists, strings, numbers, booleans and None.

    Args:
        path: The file.
        aliases: Whether `&name` and `*name` are taken.

    Raises:
        YamlError: Not UTF-8, not YAML, too large, too deep, or with aliases, tags or duplicate keys.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise YamlError(f"{path.name}: {size} bytes: at most {MAX_BYTES}")
        loader = _Loader(path.read_bytes(), aliases)
    except OSError as error:
        raise YamlError(f"{path.name}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:  # not text
        raise YamlError(f"{path.name}: {' '.join(str(error).split())}") from error
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlError(f"{path.name}{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(f"{path.name}: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Refuses while the document is composed, before anything is expanded."""

    def __init__(self, stream: bytes, aliases: bool):
        super().__init__(stream)
        self._aliases = aliases
        self._depth = self._nodes = self._anchored = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        anchored = not alias and event.anchor is not None
        if (alias or anchored) and not self._aliases:
            raise _refusal(event, "aliases (&, *) are not allowed")
        if alias and self._anchored:
            raise _refusal(event, f"*{event.anchor} is within what another alias stands for")
        if not alias and event.tag is not None:
            raise _refusal(event, f"tag {event.tag} is not allowed")
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(event, f"nested deeper than {MAX_DEPTH}")
        if self._nodes > MAX_NODES:
            raise _refusal(event, f"more than {MAX_NODES} values")
        self._anchored += anchored
        node = super().compose_node(parent, index)
        self._anchored -= anchored
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal(key, "a key must be a word")
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refusal(key, "merge keys (<<) are not allowed")
            if key.value in seen:
                raise _refusal(key, f'key "{key.value}" is there twice')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(where: Any, why: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)
