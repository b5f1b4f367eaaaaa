"""List the registered optimizers: cost, memory, and differences from the released code."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence

from precond.algorithm import MODES, Card
from precond.auditing import command
from precond.peers import library
from precond.registry import REGISTRY, defaults

WIDTH = 80
COLUMNS = ("paper", "cost", "memory", "deviations")
LEGEND = (
    "Cost is the number of operations per step. Memory is the number of scalars in the state; the "
    "gradients and one momentum buffer are not counted. Formulas with o and p are for one layer "
    "with N = examples x positions rows, p inputs (bias included) and o outputs. Formulas with D "
    "are for a model with D parameters. r is the rank, c is cov_interval, i is inv_interval, n is "
    "basis_interval, m is memory, and HVP is a Hessian-vector product. Deviations are differences "
    "between the defaults and the released code."
)

SUPPORT_LEGEND = (
    "Yes: training in this mode gives the same numbers as a plain training loop on one device; "
    "tests check this for each optimizer and mode. Refused: the optimizer raises an error with the "
    "reason, which `python -m precond` prints. The modes are: accumulation of gradients over "
    "micro-batches; non-reentrant activation checkpointing; autocast to bfloat16, with float32 "
    "statistics; GradScaler, where an optimizer that preconditions layers makes the host wait for "
    "the device only in a refresh (STEVE: in each step); "
    "`scaler.unscale_` before the step, to clip the gradients; models under torch.compile; "
    "DistributedDataParallel; complex parameters, which are not preconditioned."
)

REFUSALS = (
    "In everything else, the optimizers behave like those of `torch.optim`: learning rates that "
    "are tensors or 0, every scheduler, parameter groups, closures, hooks, copies, and states. The "
    "same tests check this with `torch.optim.SGD` and `AdamW`. The exceptions are errors, too: "
    "no optimizer has the options `maximize`, `foreach`, `fused` and `differentiable`; the "
    "optimizers that precondition layers refuse a model without Linear and Conv2d layers; Shampoo, "
    "Shampoo-Graft and PSGD-Kron refuse parameters without elements; a second step with the same "
    "gradients is an error if the step needs new statistics or a new Hessian; K-BFGS refuses "
    "`step()` without a closure, because it evaluates the model twice in each step."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a description of every registered optimizer, or run `audit`; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "audit":
        return command.main(arguments[1:])
    epilog = "`python -m precond audit A B` compares two optimizers; see its --help."
    parser = argparse.ArgumentParser(prog="python -m precond", description=__doc__, epilog=epilog)
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument(
        "--library", action="store_true", help="list the optimizers of pytorch-optimizer"
    )
    options = parser.parse_args(arguments)
    if options.library:
        try:
            print(library_text())
        except ModuleNotFoundError as error:
            parser.error(str(error))
    else:
        print(markdown() if options.markdown else text())
    return 0


def text() -> str:
    """Return a paragraph for each optimizer, at most 80 columns wide."""
    lines = []
    for name, entry in REGISTRY.items():
        lines.append(name)
        facts = dict(zip(COLUMNS, _values(entry.card), strict=True))
        for label, value in {**facts, "unsupported": _unsupported(entry.card)}.items():
            prefix = f"    {label:<12}"
            indent = len(prefix) * " "
            wrapper = textwrap.TextWrapper(WIDTH, initial_indent=prefix, subsequent_indent=indent)
            wrapper.break_on_hyphens = False
            lines.append(wrapper.fill(value))
        lines.append("")
    library_line = textwrap.fill(_library_line(), WIDTH, break_on_hyphens=False)
    return "\n".join([*lines, textwrap.fill(LEGEND, WIDTH), "", library_line])


def _library_line() -> str:
    """Return a sentence with the number of the optimizers of pytorch-optimizer."""
    try:
        names = library.names()
    except ModuleNotFoundError:
        return "More optimizers by name: pip install .[peers]"
    count = sum(library.refusal(name) is None for name in names)
    version = f"pytorch-optimizer {library.version()}"
    return (
        f"{library.PREFIX}NAME is any of {count} more optimizers of the package {version}; "
        "`python -m precond --library` lists them."
    )


def library_text() -> str:
    """Return the optimizers of pytorch-optimizer with their hyperparameters, in 80 columns."""
    lines = []
    for name in library.names():
        lines.append(f"{library.PREFIX}{name}")
        reason = library.refusal(name)
        values = [] if reason else defaults(library.PREFIX + name).items()
        text = (
            f"cannot be used here: {reason}"
            if reason
            else ", ".join(f"{key}={value}" for key, value in values)
        )
        indent = 4 * " "
        lines.append(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent))
    return "\n".join(lines)


def markdown() -> str:
    """Return two tables with a row for each optimizer: its card, and the modes that it supports."""
    cards = {name: entry.card for name, entry in REGISTRY.items()}
    facts = _table(COLUMNS, {name: _values(card) for name, card in cards.items()})
    support = _table(MODES, {name: _support(card) for name, card in cards.items()})
    return "\n".join([*facts, "", LEGEND, "", *support, "", SUPPORT_LEGEND, "", REFUSALS])


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    cells = [
        ("name", *columns),
        ("---",) * (len(columns) + 1),
        *((f"`{n}`", *values) for n, values in rows.items()),
    ]
    escaped = [[cell.replace("|", "\\|").replace("~", "\\~") for cell in row] for row in cells]
    return [f"| {' | '.join(row)} |" for row in escaped]


def _support(card: Card | None) -> list[str]:
    """Return "yes" or "refused" for each of `MODES`, or dashes for an optimizer without a card."""
    if card is None:
        return ["-" for _ in MODES]
    return ["refused" if mode in card.unsupported else "yes" for mode in MODES]


def _unsupported(card: Card | None) -> str:
    reasons = {} if card is None else card.unsupported
    return "; ".join(f"{mode} ({reason})" for mode, reason in reasons.items()) or "none"


def _values(card: Card | None) -> list[str]:
    """Return the values of `COLUMNS`, or dashes for an optimizer without a card."""
    return ["-" if card is None else vars(card)[column] for column in COLUMNS]


if __name__ == "__main__":
    sys.exit(main())
