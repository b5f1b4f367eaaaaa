"""`python -m precond`: the registered optimizers, what they cost, and where they differ from the released codes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from precond.card import Card
from precond.registry import REGISTRY

WIDTH = 80
COLUMNS = ("paper", "cost", "memory", "deviations")
LEGEND = (
    "Cost: operations per step. Memory: scalars beyond the gradients and a momentum. Both for each layer with "
    "N = examples x positions rows, p inputs (bias included) and o outputs, or for all D parameters; r is the rank, "
    "c is cov_interval, i is inv_interval, n is basis_interval; HVP is a Hessian-vector product. Deviations: where "
    "the defaults differ from the released code."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every registered optimizer."""
    parser = argparse.ArgumentParser(prog="python -m precond", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="as a table for the README")
    print(markdown() if parser.parse_args(arguments).markdown else text())


def text() -> str:
    """A paragraph for each optimizer, at most 80 columns wide."""
    lines = []
    for name, entry in REGISTRY.items():
        lines.append(name)
        for column, value in zip(COLUMNS, _values(entry.card), strict=True):
            label = f"    {column:<12}"
            lines.append(textwrap.fill(value, WIDTH, initial_indent=label, subsequent_indent=len(label) * " "))
        lines.append("")
    return "\n".join([*lines, textwrap.fill(LEGEND, WIDTH)])


def markdown() -> str:
    """A table with a row for each optimizer."""
    rows = [("name", *COLUMNS), ("---",) * (len(COLUMNS) + 1)]
    rows += [(f"`{name}`", *_values(entry.card)) for name, entry in REGISTRY.items()]
    escaped = [[cell.replace("|", "\\|").replace("~", "\\~") for cell in row] for row in rows]
    return "\n".join([f"| {' | '.join(row)} |" for row in escaped] + ["", LEGEND])


def _values(card: Card | None) -> list[str]:
    """The columns; dashes for an optimizer without a card."""
    return ["-" if card is None else getattr(card, column) for column in COLUMNS]


if __name__ == "__main__":
    main()
