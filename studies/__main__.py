"""`python -m studies`: what there is, what has run, and why two trials differ."""

from __future__ import annotations

from studies.harness.command.cli import leave
from studies.harness.command.manage import GROUP

if __name__ == "__main__":
    leave(GROUP)
