"""An artefact's command line: `main(STUDY)` at the end of its file."""

from __future__ import annotations

import atexit
import copy
import signal
import sys
from typing import Any, NoReturn

import click

from studies.harness.command.options import FLAGS, unknown_flag
from studies.harness.design.ending import INVALID_COMMAND
from studies.harness.kinds.artefact import Artefact

EXIT_CODES = (
    "Exit codes: 0 complete (diverged trials are results), 1 some trials failed, 2 invalid command (nothing started), "
    "3 stopped by the time budget, 4 environment (disk, lock, Ray), 130 SIGINT, 143 SIGTERM. "
    "The same command again resumes where it stopped."
)
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def main(artefact: Artefact, plugin: str | None = None) -> NoReturn:
    """Run an artefact's command line and exit with its code.

    Args:
        artefact: The artefact.
        plugin: The default of `--plugin`; a file that has both a plugin and a study passes `__file__`.
    """
    leave(command(artefact, plugin))


def command(artefact: Artefact, plugin: str | None = None) -> click.Command:
    """Return the command of an artefact: the common options, and those of its kind."""

    def execute(**raw: Any) -> int:
        from studies.harness.command.options import parse
        from studies.harness.command.run import run

        return run([artefact], *parse(raw, artefact.FLAGS))

    help_text = f"{artefact.title} ({artefact.citation}).\n\nClaim: {artefact.claim}"
    defaults = {} if plugin is None else {"plugin": plugin}
    settings = {**SETTINGS, "default_map": defaults}
    return click.Command(artefact.name, settings, execute, flags(artefact), help_text, EXIT_CODES)


def flags(artefact: Artefact) -> list[click.Parameter]:
    """Return every option of an artefact's command; those that its kind refuses are hidden."""
    offered = [copy.copy(flag) for flag in FLAGS]
    for flag in offered:
        flag.help = artefact.HELP.get(str(flag.name), flag.help)
        flag.hidden = flag.name in artefact.REFUSED
    return [*offered, *artefact.FLAGS]


def leave(command: click.Command) -> NoReturn:
    """Run a click command and exit with its code."""
    code = invoke(command)
    atexit.register(_ignore_signals)
    sys.exit(code)


def _ignore_signals() -> None:
    """Ignore signals during Ray's shutdown (about two seconds), so that the exit code and the last lines are kept."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def invoke(command: click.Command) -> int:
    """Run a click command; an invalid one gives one line for each problem and exit code 2."""
    from studies.harness.command.screen import refuse

    try:
        return command.main(standalone_mode=False) or 0
    except click.NoSuchOption as error:
        return refuse(
            [unknown_flag(error.option_name, error.ctx.command.params if error.ctx else FLAGS)]
        )
    except click.UsageError as error:
        return refuse([error.format_message()])
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return INVALID_COMMAND
