"""The command `python -m studies`, which lists and runs studies and manages the output folder."""

from __future__ import annotations

from studies.harness.command.cli import leave
from studies.harness.command.manage import GROUP

if __name__ == "__main__":
    leave(GROUP)
