"""The ``qstore`` command: a thin layer over the library, one module a command.

Comes in: words of a command line. Goes out: data on stdout, messages and progress on stderr, an exit status.
`parser` knows the commands, `failures` makes one line and a status of every exception. A command's module is
imported when it runs.

May use: everything below it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .failures import exit_status
from .parser import run_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after ``qstore``; by default those of this process.

    Returns
    -------
    int
        Exit status: 0 done; 1 of verify and compare: something is broken or differs; 2 trouble: wrong
        usage, or what was asked for cannot be had; 130 interrupted; 141 whoever read the output has gone.
    """
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: run_command(words))
