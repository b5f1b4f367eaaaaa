"""The click commands of the page command-line.md: all flags of a study, and the differences of other kinds."""

import click

from studies import ablation_rank, activation_norms, compare_cost, tune_optimizers
from studies.harness.command.cli import command
from studies.harness.kinds.artefact import Artefact


def differences(artefact: Artefact) -> click.Command:
    """Return the command of an artefact with the flags that a study does not have, or explains otherwise."""
    common = {str(flag.name): flag for flag in study.params}
    result = command(artefact)
    result.params = [
        flag
        for flag in result.params
        if flag.name not in common
        or getattr(flag, "help", "") != getattr(common[str(flag.name)], "help", "")
    ]
    result.epilog = None
    return result


study = command(ablation_rank.STUDY)
search = differences(tune_optimizers.SEARCH)
probe = differences(activation_norms.PROBE)
cost = differences(compare_cost.COST)
