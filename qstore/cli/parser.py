"""The command line as a whole: which commands there are, and running one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import __version__
from . import build, demo, env, export, get, info, ls, search, verify
from .arguments import Command, shield_slices

__all__ = ["COMMANDS", "make_parser", "run_command"]

COMMANDS: tuple[Command, ...] = (
    build.COMMAND,
    ls.COMMAND,
    info.COMMAND,
    get.COMMAND,
    search.COMMAND,
    verify.COMMAND,
    export.COMMAND,
    env.COMMAND,
    demo.COMMAND,
)
"""In the order the help lists them."""

_DESCRIPTION = "Embedding matrices on disk in 8 bits: one plain HDF5 file, any row back at memory speed."

_EPILOG = """\
exit status:
  0    done
  1    a check failed, or what was asked for cannot be had (file, row, disk space ...)
  2    wrong usage; a tensor name that is missing or not there
  130  interrupted (Ctrl-C)
  141  whoever read the output has gone (as in "qstore get ... | head")

Data goes to stdout, progress and messages to stderr.
"qstore COMMAND --help" tells more about a command; "qstore demo" shows them at work."""


def make_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="qstore",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation that works today would break scripts with tomorrow's options.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qstore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        command.add_arguments(
            commands.add_parser(
                command.name,
                help=command.summary,
                description=command.description,
                epilog=f"examples:\n{command.examples}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )
    return parser


def run_command(words: Sequence[str]) -> int:
    """Parse `words` and run the command they name; exceptions pass."""
    try:
        arguments = make_parser().parse_args(shield_slices(words))
    except SystemExit as leaving:  # argparse has printed help, version or what is wrong
        return int(leaving.code or 0)
    command = next(command for command in COMMANDS if command.name == arguments.command)
    return command.run(arguments)
