"""`python -m studies`: list the studies, run several, inspect trials, rebuild MLflow's database, open its UI."""

from __future__ import annotations

from studies.harness.command.cli import leave
from studies.harness.command.manage import GROUP

if __name__ == "__main__":
    leave(GROUP)
