"""How a command ends: exceptions become one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from ..errors import OutputError, QStoreError
from .printing import printable

__all__ = ["TROUBLE", "UsageError", "complain", "exit_status", "in_words", "messages_on_stderr"]

TROUBLE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class UsageError(Exception):
    """Arguments that are fine one by one, but not together."""


def exit_status(command: Callable[[], int]) -> int:
    """Run `command`; return its exit status, or that of the exception it ended with."""
    try:
        with _short_warnings():
            status = command()
            _flush()
            return status
    except KeyboardInterrupt as interrupt:
        complain(": ".join(["interrupted", *map(str, interrupt.args)]))
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        return BROKEN_PIPE
    except (UsageError, QStoreError, OSError) as error:
        complain(f"error: {in_words(error)}")
    except MemoryError:
        complain("error: there is not enough memory for this")
    _give_up_stdout()
    return TROUBLE


def in_words(error: Exception) -> str:
    """What an error says, with its notes."""
    return _with_notes(_said(error), error)


def _said(error: Exception) -> str:
    if isinstance(error, OutputError):
        return str(error.strerror)  # names the file already
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _with_notes(text: str, error: Exception) -> str:
    return "; ".join([text, *getattr(error, "__notes__", ())])


def complain(message: str) -> None:
    """Say it on stderr, if that takes anything."""
    with contextlib.suppress(OSError):
        print("qstore:", "\n".join(map(printable, message.split("\n"))), file=sys.stderr)


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Show warnings without the line of code they come from."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        complain(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Show what the library warns of with `logging`; for commands that take long."""
    import logging  # 9 ms

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complain(record.getMessage())

    logger, shown = logging.getLogger("qstore"), Shown(logging.WARNING)
    logger.addHandler(shown)
    try:
        yield
    finally:
        logger.removeHandler(shown)


def _flush() -> None:
    if sys.stdout is not None:  # None where the shell closed it: >&-
        sys.stdout.flush()


def _give_up_stdout() -> None:
    """Where stdout can take no more, drop what is left, or Python complains about it on leaving."""
    try:
        _flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
