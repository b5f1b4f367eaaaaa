"""How a command ends: its exit codes, and the exception that ends it before its work is done."""

from __future__ import annotations

COMPLETE, SOME_FAILED, INVALID_COMMAND, BUDGET, ENVIRONMENT, INTERRUPTED, TERMINATED = (
    0,
    1,
    2,
    3,
    4,
    130,
    143,
)
STOPS = {
    "budget": (BUDGET, "the time budget is used up"),
    "SIGINT": (INTERRUPTED, "interrupted"),
    "SIGTERM": (TERMINATED, "stopped by SIGTERM"),
}


class Stopped(Exception):
    """The command ends before its work is done; the same command resumes it.

    Args:
        code: Exit code.
        reason: Why, in words.
    """

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code
