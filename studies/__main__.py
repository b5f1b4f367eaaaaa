"""`python -m studies`: what there is, what has run, and why two trials differ."""

from __future__ import annotations

import sys

from studies.harness.manage import GROUP, invoke

if __name__ == "__main__":
    sys.exit(invoke(GROUP))
