"""The execution of a cost study: each benchmark runs in a new process with torch only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from studies.harness.kinds.artefact import Driver
from studies.harness.kinds.cost.plan import CostPlan
from trainables.store import StoreError


def execute(plans: Sequence[CostPlan], driver: Driver) -> None:
    """Run the benchmarks one after another.

    Raises:
        StoreError: A benchmark failed.
    """
    for module, *arguments in (command for plan in plans for command in plan.commands):
        code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
        if code:
            raise StoreError(f"python -m {module} ended with exit code {code}")
