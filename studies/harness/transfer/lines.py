"""Merge the files that consist of records: proposals of searches, judgements, and cost results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.harness.kinds.judge.ledger import BEGUN, ENDED
from studies.harness.transfer.decision import Conflict, Decision
from trainables.files import StoreError, parse, read_lines

Line = Mapping[str, Any]


def proposals(paths: Sequence[Path]) -> Decision:
    """Return the proposals of all files of a search.

    The proposals of a search are numbered. The file with the most proposals is the base; lines
    about stopped trials that it lacks are appended.

    Raises:
        StoreError: A file is damaged.
        Conflict: The files belong to different searches, or a number has different proposals.
    """
    files = {path: _read_proposals(path) for path in paths}
    base = max(files, key=lambda path: len(files[path]))
    merged = dict(files[base])
    for path, lines in files.items():
        for name, line in lines.items():
            if _identity(merged.setdefault(name, line)) != _identity(line):
                raise Conflict(f"{base} and {path} differ in {name}", "/".join(path.parts[-4:-1]))
    return Decision(base, _encode(merged.values()))


def _read_proposals(path: Path) -> dict[str, Line]:
    """Return the lines of a file by their name: the settings, each proposal and each stop."""
    lines: dict[str, Line] = {}
    for line in read_lines(path):
        kind = "settings" if "search" in line else "proposal" if "parameters" in line else "stop"
        name = (
            "the settings of the search" if kind == "settings" else f"{kind} {line.get('number')}"
        )
        expected = "search" if kind == "settings" else "trial_key"
        if name in lines or (kind != "stop" and expected not in line):
            raise _damaged(path)
        lines[name] = line
    numbers = [line["number"] for line in lines.values() if "parameters" in line]
    if "the settings of the search" not in [*lines][:1] or numbers != [*range(len(numbers))]:
        raise _damaged(path)
    return lines


def _identity(line: Line) -> str:
    """Return the part of a line that does not depend on the time."""
    return json.dumps({name: line[name] for name in sorted(line) if name != "seconds"})


def judgements(paths: Sequence[Path]) -> Decision:
    """Return the lines of all ledgers in the order of their times.

    The begun line of a judgement is that with the most earlier attempts: the attempts of the other
    ledger were made, too.

    Raises:
        StoreError: A ledger is damaged.
    """
    begun: dict[str, Line] = {}
    ended: dict[str, Line] = {}
    for line in (line for path in paths for line in _read_ledger(path)):
        if line["event"] == ENDED:
            ended.setdefault(json.dumps(line), line)
        else:
            known = begun.setdefault(line["judgement"], line)
            begun[line["judgement"]] = max(known, line, key=lambda line: line["attempts_before"])
    lines = sorted([*begun.values(), *ended.values()], key=lambda line: line["time"])
    return Decision(paths[0], _encode(lines))


def _read_ledger(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path)
    for line in lines:
        names = {"judgement", "time", *(["attempts_before"] if line.get("event") == BEGUN else [])}
        if line.get("event") not in (BEGUN, ENDED) or not names <= {*line}:
            raise _damaged(path)
    return lines


def costs(paths: Sequence[Path]) -> Decision:
    """Return the first measurement; two measurements on the same hardware are never equal.

    Raises:
        StoreError: A file is damaged.
    """
    contents = [parse(path.read_bytes(), path) for path in paths]
    other = [p for p, content in zip(paths, contents, strict=True) if content != contents[0]]
    reason = f"the measurement in {other[0]} differs and is not used" if other else ""
    return Decision(paths[0], reason=reason)


def _encode(lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged: move it away, and merge the rest")
