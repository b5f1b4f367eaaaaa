"""A study's command line: `main(STUDY)` at the end of its file."""

from __future__ import annotations

import atexit
import signal
import sys
from typing import Any, NoReturn

import click

from studies.harness.command.options import FLAGS, parse, unknown_flag
from studies.harness.command.run import BAD_COMMAND, refuse, run
from studies.harness.kinds.study.study import Study

EXIT_CODES = (
    "Exit codes: 0 complete (diverged trials are results), 1 some trials failed, 2 bad command (nothing started), "
    "3 stopped by the time budget, 4 environment (disk, lock, Ray), 130 SIGINT, 143 SIGTERM. "
    "The same command again goes on where it was."
)
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def main(study: Study) -> NoReturn:
    """Run a study's command line and exit with its code."""

    def execute(**raw: Any) -> int:
        return run([study], *parse(raw))

    help_text = f"{study.title} ({study.citation}).\n\nClaim: {study.claim}"
    leave(click.Command(study.name, SETTINGS, execute, [*FLAGS], help_text, EXIT_CODES))


def leave(command: click.Command) -> NoReturn:
    """Run a click command and exit with its code."""
    code = invoke(command)
    atexit.register(_deaf)
    sys.exit(code)


def _deaf() -> None:
    """All is said and done, and Ray takes two seconds to end: a signal would take the code and the last lines away."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def invoke(command: click.Command) -> int:
    """Run a click command; what it refuses is one line and exit code 2, as everywhere here."""
    try:
        return command.main(standalone_mode=False) or 0
    except click.NoSuchOption as error:
        return refuse([unknown_flag(error.option_name, error.ctx.command.params if error.ctx else FLAGS)])
    except click.UsageError as error:
        return refuse([error.format_message()])
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return BAD_COMMAND
