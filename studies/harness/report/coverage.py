"""The section of a report about the layers and parameters that the optimizers precondition."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.arms import Trial
from studies.harness.evidence.coverage import groups, warnings
from studies.harness.report.document import Block, Details, Table, Text

HEADER = ["optimizer", "layers", "other layers", "parameters", "all parameters", "share"]
NOTE = (
    "A parameter that is not preconditioned is updated as by SGD with momentum; STEVE updates it with "
    "`fallback`. Layers are the modules that themselves have parameters. An optimizer that treats all "
    "parameters alike is not in the table."
)


def section(trials: Sequence[Trial], on_terminal: bool) -> list[Block]:
    """Return the section with the table; nothing if no optimizer distinguishes layers.

    Args:
        trials: The trials.
        on_terminal: True if the command prints the warnings on the terminal.
    """
    rows = [
        [
            ", ".join(names),
            str(covered.layers),
            str(covered.skipped),
            f"{covered.parameters:,}",
            f"{covered.total:,}",
            f"{covered.share:.1%}",
        ]
        for covered, names in groups(trials).items()
    ]
    if not rows:
        return []
    table = Table("coverage", HEADER, rows, text=(0,), caption="Preconditioned layers.")
    warned = [Text(line, finding=True) for line in warnings(trials)]
    blocks = (*warned, table, Text(NOTE, note=True))
    return [Details("Preconditioned layers", blocks, on_terminal)]
