"""The exceptions that a command expects, each as an exit code and one line."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from precond.hyperparameters import HyperparameterError
from studies.harness.command import screen
from studies.harness.design.ending import (
    ENVIRONMENT,
    INTERRUPTED,
    INVALID_COMMAND,
    STOPS,
    Stopped,
)
from studies.harness.design.signals import handlers
from trainables.data import DataError
from trainables.store import StoreError


class ActivityError(Exception):
    """An `OSError` with the activity of the command in which it occurred.

    Args:
        activity: What the command could not do, as an infinitive such as "write the report".
        error: The error.
    """

    def __init__(self, activity: str, error: OSError):
        super().__init__(f"cannot {activity} ({described(error)})")


@contextmanager
def activity(name: str) -> Iterator[None]:
    """Raise an `OSError` of the context as an `ActivityError` (`DataError` has its own message)."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise ActivityError(name, error) from error


def described(error: OSError) -> str:
    """Return the file and the reason of an error, such as `/data/x: Permission denied`."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def explain(error: BaseException) -> tuple[int, str] | None:
    """Return the exit code and the line of an expected exception, or None for any other.

    The line has no "error:" in front, so that a Python caller can raise it as a message.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, Stopped):
        return error.code, str(error)
    if isinstance(error, HyperparameterError):
        return INVALID_COMMAND, str(error)
    if isinstance(error, StoreError | DataError | ActivityError):
        return ENVIRONMENT, str(error)
    if isinstance(error, OSError):
        return ENVIRONMENT, described(error)
    return None


def guarded(work: Callable[[], int]) -> int:
    """Do a command's work and return its exit code; print an expected exception as one line.

    Signals end the work by an exception, unless the work handles them itself, as training does.
    """
    try:
        with terminable():
            return work()
    except BaseException as error:
        return exit_code(error)


def exit_code(error: BaseException) -> int:
    """Print an expected exception as one line, and return its exit code; raise any other."""
    explained = explain(error)
    if explained is None:
        raise error
    code, line = explained
    if isinstance(error, KeyboardInterrupt | Stopped):
        return screen.stopped(code, line)
    if code == INVALID_COMMAND:
        return screen.refuse(line.splitlines())
    return screen.environment(line)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Stopped`. While trials run, `cluster/execute.py` replaces this handler."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(*STOPS["SIGTERM"])

    with handlers({signal.SIGTERM: stop}):
        yield
