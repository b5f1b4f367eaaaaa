"""The plan of a merge: the result of each kind, from the folder whose copy is kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studies.harness.transfer import lines, plugins, probes, trials
from studies.harness.transfer.decision import Conflict, Decision
from trainables.files import StoreError


@dataclass(frozen=True)
class Kind:
    """A kind of result.

    Attributes:
        pattern: The files or folders with the results, relative to the output folder.
        name: The allowed names of the files or folders.
        decide: The function that checks the candidates and returns the content to keep.
    """

    pattern: str
    name: str
    decide: Callable[[Sequence[Path]], Decision]


KINDS = {
    "plugins": Kind("plugins/*", r"[0-9a-f]{64}(\.py|\.json)?", plugins.decide),
    "trials": Kind("trials/*", r"[0-9a-f]{16}", trials.decide),
    "probes": Kind("probes/*", r"[0-9a-f]{16}", probes.decide),
    "searches": Kind("searches/*/*/*/proposals.jsonl", r".*", lines.proposals),
    "cost results": Kind("cost/*/*.json", r".*", lines.costs),
    "ledgers of judgements": Kind("judgements.jsonl", r".*", lines.judgements),
}
"""The kinds in the order in which they are placed: a trial needs the plugin that it names."""


@dataclass(frozen=True)
class Step:
    """A file or folder to write.

    Attributes:
        kind: The name of the kind.
        place: The path, relative to the output folder.
        decision: The content.
        replaces: True if the merged folder contains another version.
    """

    kind: str
    place: Path
    decision: Decision
    replaces: bool


@dataclass
class MergePlan:
    """The steps of a merge, and the reasons to refuse it.

    Attributes:
        steps: The files and folders to write.
        present: The number of results that need no step, by kind.
        notes: A line for each result that is kept although another one differs.
        conflicts: The results of which no version can be chosen.
        errors: A line for each damaged file or folder.
    """

    steps: list[Step] = field(default_factory=list)
    present: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """True if nothing may be written."""
        return bool(self.conflicts or self.errors)


def plan(sources: Sequence[Path], into: Path) -> MergePlan:
    """Return the plan of a merge. Nothing is written.

    Args:
        sources: The output folders to merge.
        into: The folder that will contain all results; it need not exist. It is the first
            candidate for each result.
    """
    merge = MergePlan()
    roots = {root.resolve(): root for root in (into, *sources)}
    for kind in KINDS:
        candidates: dict[Path, list[Path]] = {}
        for root in roots.values():
            for place in places(root, kind):
                candidates.setdefault(place, []).append(root / place)
        for place, paths in candidates.items():
            _add(merge, kind, place, paths, into / place)
    return merge


def _add(merge: MergePlan, kind: str, place: Path, paths: Sequence[Path], target: Path) -> None:
    """Add a result to the plan."""
    try:
        decision = KINDS[kind].decide(paths)
    except StoreError as error:
        merge.errors.append(str(error))
    except Conflict as conflict:
        merge.conflicts.append(conflict)
    else:
        if _unchanged(decision, target):
            merge.present[kind] += 1
            merge.notes += [f"{target}: {decision.reason}"] if decision.reason else []
        else:
            merge.steps.append(Step(kind, place, decision, target in paths))


def _unchanged(decision: Decision, target: Path) -> bool:
    if decision.content is None:
        return decision.source == target
    return target.exists() and target.read_bytes() == decision.content


def places(root: Path, kind: str) -> Iterator[Path]:
    """Yield the paths of the results of a kind, relative to the output folder.

    Copies of plugins precede the files that name them.
    """
    paths = [path for path in root.glob(KINDS[kind].pattern) if _is_result(path, KINDS[kind].name)]
    for path in sorted(paths, key=lambda path: (path.suffix == ".json", path)):
        yield path.relative_to(root)


def _is_result(path: Path, name: str) -> bool:
    """Return True if a path has an allowed name and is not an empty folder.

    A driver that is killed while it creates a trial leaves a folder without a configuration.
    """
    if not re.fullmatch(name, path.name):
        return False
    return path.is_file() or any(inner.suffix != ".tmp" for inner in path.iterdir())
