"""An artefact's command line: `main(STUDY)` at the end of its file."""

from __future__ import annotations

import atexit
import copy
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from studies.harness.command.flags import FLAGS, unknown_flag
from studies.harness.design.claims import Claim
from studies.harness.design.ending import ENVIRONMENT, INVALID_COMMAND
from studies.harness.kinds.artefact import Artefact
from trainables import streams

EXIT_CODES = """\b
Exit codes:
  0    complete; diverged trials count as results
  1    some trials failed
  2    invalid command; nothing was started
  3    stopped by the time budget
  4    a problem with the disk, the data or Ray, or OUT is in use
  130  stopped by SIGINT
  143  stopped by SIGTERM

Run the same command again to resume from the last checkpoints.
"""
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def main(artefact: Artefact, plugin: str | None = None) -> None:
    """Run an artefact's command line and exit with its code.

    In a notebook or an interactive interpreter, which have no command line, only print what to call
    instead.

    Args:
        artefact: The artefact.
        plugin: A plugin in addition to those of `--plugin`. A file with a plugin and a study passes
            `__file__`.

    Raises:
        PluginError: The call is not under `if __name__ == "__main__":`, and another program imports
            the file.
    """
    # An import would load torch, which `--help` does not need.
    plugins = sys.modules.get("trainables.plugins")
    if plugins is not None and plugins.is_loading():
        raise plugins.PluginError(
            'main is called when the file is imported: call it under `if __name__ == "__main__":`'
        )
    if _is_interactive():
        print("main(STUDY) needs a command line: call studies.run(STUDY) instead")
        return
    leave(command(artefact, plugin))


def _is_interactive() -> bool:
    """Return True in a notebook or an interactive interpreter, unless it runs a file.

    IPython's `%run` and `python -i` run a file, whose `__main__` module has `__file__`.
    """
    if hasattr(sys.modules["__main__"], "__file__"):
        return False
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or (ipython is not None and ipython.get_ipython() is not None)


def command(artefact: Artefact, plugin: str | None = None) -> click.Command:
    """Return the click command of an artefact, with the common options and those of its kind."""
    builtin = () if plugin is None else (plugin,)

    def execute(**raw: Any) -> int:
        from studies.harness.command.options import parse
        from studies.harness.command.run import run_command

        raw["plugin"] = (*builtin, *raw["plugin"])
        return run_command([artefact], *parse(raw, artefact.FLAGS))

    help_text = f"{artefact.title} ({artefact.citation}).\n\n{_claims(artefact)}"
    return click.Command(artefact.name, SETTINGS, execute, flags(artefact), help_text, EXIT_CODES)


def _claims(artefact: Artefact) -> str:
    """Return the list of the claims for `--help`; empty for an exploratory artefact."""
    claims = artefact.claims if isinstance(artefact.claims, Sequence) else ()  # reported by a run
    lines = [f"  - {claim.text}" for claim in claims if isinstance(claim, Claim)]
    # `\\b` keeps the line breaks of a paragraph.
    return "\n".join(["\b", "Claims to test:", *lines]) if lines else ""


def flags(artefact: Artefact) -> list[click.Parameter]:
    """Return the options of an artefact's command; the options that its kind refuses are hidden."""
    offered = [copy.copy(flag) for flag in FLAGS]
    for flag in offered:
        flag.help = artefact.HELP.get(str(flag.name), flag.help)
        flag.hidden = flag.name in artefact.REFUSED
    return [*offered, *artefact.FLAGS]


def leave(command: click.Command) -> NoReturn:
    """Run a click command and exit with its code."""
    streams.protect()
    code = invoke(command)
    if problem := streams.problem():
        print(f"error: {problem}", file=sys.stderr)
        code = code or ENVIRONMENT
    atexit.register(_ignore_signals)
    sys.exit(code)


def _ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM during Ray's shutdown, which takes about two seconds.

    Otherwise a signal would replace the exit code and suppress the last lines of output.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def invoke(command: click.Command) -> int:
    """Run a click command and return its exit code; print one line for each invalid argument."""
    from studies.harness.command.screen import refuse

    try:
        return command.main(standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return INVALID_COMMAND
    except click.NoSuchOption as error:
        params = error.ctx.command.params if error.ctx else FLAGS
        return refuse([unknown_flag(error.option_name, params)])
    except click.UsageError as error:
        return refuse([f"{error.format_message().rstrip('.')}. See --help"])
    except click.exceptions.Exit as error:
        return error.exit_code
    except Exception as error:
        from studies.harness.command.problems import exit_code

        # click raises Abort for Ctrl-C
        return exit_code(KeyboardInterrupt() if isinstance(error, click.Abort) else error)
