"""`python -m precond`: the registered optimizers, what they cost, and where they differ from the released codes."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence

from precond.algorithm import MODES, Card
from precond.registry import REGISTRY

WIDTH = 80
COLUMNS = ("paper", "cost", "memory", "deviations")
LEGEND = (
    "Cost: operations per step. Memory: scalars beyond the gradients and a momentum. Both for each layer with "
    "N = examples x positions rows, p inputs (bias included) and o outputs, or for all D parameters; r is the rank, "
    "c is cov_interval, i is inv_interval, n is basis_interval; HVP is a Hessian-vector product. Deviations: where "
    "the defaults differ from the released code."
)

SUPPORT_LEGEND = (
    "Yes: the numbers of a plain loop on one device, held by a test for each cell. Accumulation of gradients over "
    "micro-batches; checkpointing of activations, non-reentrant; autocast to bfloat16, with float32 statistics; "
    "GradScaler without a host synchronisation of ours; models under torch.compile; DistributedDataParallel. Refused: "
    "an error that says so, because the method needs Hessian-vector products."
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
        for column, value in zip(
            [*COLUMNS, "refuses"], [*_values(entry.card), _refused(entry.card)], strict=True
        ):
            label = f"    {column:<12}"
            lines.append(
                textwrap.fill(
                    value, WIDTH, initial_indent=label, subsequent_indent=len(label) * " "
                )
            )
        lines.append("")
    return "\n".join([*lines, textwrap.fill(LEGEND, WIDTH)])


def markdown() -> str:
    """Two tables with a row for each optimizer: what it is, and which ways of training it supports."""
    cards = {name: entry.card for name, entry in REGISTRY.items()}
    facts = _table(COLUMNS, {name: _values(card) for name, card in cards.items()})
    support = _table(MODES, {name: _support(card) for name, card in cards.items()})
    return "\n".join([*facts, "", LEGEND, "", *support, "", SUPPORT_LEGEND])


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    cells = [
        ("name", *columns),
        ("---",) * (len(columns) + 1),
        *((f"`{n}`", *values) for n, values in rows.items()),
    ]
    escaped = [[cell.replace("|", "\\|").replace("~", "\\~") for cell in row] for row in cells]
    return [f"| {' | '.join(row)} |" for row in escaped]


def _support(card: Card | None) -> list[str]:
    """For each of `MODES` whether it is supported; dashes for an optimizer without a card."""
    return [
        "-" if card is None else "refused" if mode in card.unsupported else "yes" for mode in MODES
    ]


def _refused(card: Card | None) -> str:
    reasons = {} if card is None else card.unsupported
    return "; ".join(f"{mode} ({reason})" for mode, reason in reasons.items()) or "nothing"


def _values(card: Card | None) -> list[str]:
    """The columns; dashes for an optimizer without a card."""
    return ["-" if card is None else vars(card)[column] for column in COLUMNS]


if __name__ == "__main__":
    main()
