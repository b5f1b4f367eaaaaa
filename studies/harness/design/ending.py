"""Exit codes of a command, and the exception that ends it early."""

from __future__ import annotations

COMPLETE = 0
SOME_FAILED = 1
INVALID_COMMAND = 2
BUDGET = 3
ENVIRONMENT = 4
INTERRUPTED = 130
TERMINATED = 143

STOPS = {
    "budget": (BUDGET, "the time budget is used up"),
    "SIGINT": (INTERRUPTED, "interrupted"),
    "SIGTERM": (TERMINATED, "stopped by SIGTERM"),
}


class Stopped(Exception):
    """Raised to end a command before its work is done; running the same command resumes it.

    Args:
        code: Exit code.
        reason: The reason, as a phrase.
    """

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code
