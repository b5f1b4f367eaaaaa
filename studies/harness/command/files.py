"""Study files that a user names by their paths: `python -m studies run my_study.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from precond.hyperparameters import nearest
from studies.harness.command.catalogue import artefacts
from studies.harness.kinds.artefact import Artefact


@dataclass
class NamedArtefacts:
    """The artefacts that a command names.

    Attributes:
        artefacts: The artefacts, in the order of the command, each once.
        plugins: The files among them that also register an optimizer or a workload.
        errors: A line for each name or file that cannot be used.
    """

    artefacts: list[Artefact] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def find_artefacts(names: Sequence[str]) -> NamedArtefacts:
    """Return the artefacts of study names and of paths of Python files.

    A text is a path if it ends in `.py` or contains a slash.
    """
    named, known, origins = NamedArtefacts(), artefacts(), dict[str, str]()
    for name in names:
        if name.endswith(".py") or "/" in name:
            selected = _read(name, known.values(), named)
        elif name in known:
            selected = [known[name]]
        else:
            advice = nearest(name, known, "; or name the path of a .py file")
            named.errors.append(f'study "{name}": unknown.{advice}')
            continue
        for artefact in selected:
            origin = origins.setdefault(artefact.name, name)
            if origin == name and artefact not in named.artefacts:
                named.artefacts.append(artefact)
            elif artefact not in named.artefacts:
                reason = f'the study of {origin} is called "{artefact.name}", too'
                named.errors.append(f"{name}: {reason}; give it another name")
    return named


def _read(name: str, known: Iterable[Artefact], named: NamedArtefacts) -> list[Artefact]:
    """Return the artefacts that a file defines; add its errors to `named`."""
    from trainables.plugins import PluginError, load

    path = Path(name)
    if path.is_dir():
        named.errors.append(f"{name}: is a folder; name a .py file")
        return []
    try:
        plugin = load(path, registers=False)
    except PluginError as error:
        named.errors.append(str(error))
        return []
    if plugin.functions:
        named.plugins.append(name)
    values = [value for module in plugin.modules for value in vars(module).values()]
    # Skip artefacts that the file imports, such as `from studies.ablation_rank import STUDY`.
    imported = {id(artefact) for artefact in known}
    selected = [v for v in values if isinstance(v, Artefact) and id(v) not in imported]
    if not selected:
        named.errors.append(
            f"{name}: has no study; define one at the top level, such as STUDY = Study(...), and "
            'call main(STUDY) under `if __name__ == "__main__":`'
        )
    return selected
