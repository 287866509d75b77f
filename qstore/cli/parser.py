"""The command line as a whole: which commands there are, and running one."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from .. import __version__
from .arguments import Command, shield_slices

__all__ = ["COMMANDS", "find_command", "make_parser", "run_command"]

COMMANDS = (
    "build",
    "append",
    "concat",
    "ls",
    "info",
    "get",
    "search",
    "verify",
    "stats",
    "compare",
    "plot",
    "report",
    "export",
    "env",
    "demo",
)
"""In the order the help lists them; each has a module of its name."""

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


def find_command(name: str) -> Command:
    """The command of this name. Its module is imported now: all of them take longer than reading a row."""
    command: Command = importlib.import_module(f".{name}", __package__).COMMAND
    return command


def make_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Parser of the command line with these commands."""
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
    for command in map(find_command, names):
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
    names = [name for name in words[:1] if name in COMMANDS] or COMMANDS
    try:
        arguments = make_parser(names).parse_args(shield_slices(words))
    except SystemExit as leaving:  # argparse has printed help, version or what is wrong
        return int(leaving.code or 0)
    return find_command(arguments.command).run(arguments)
