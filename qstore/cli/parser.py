"""The command line as a whole: which commands there are, and running one."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection, Sequence

from .. import __version__
from .arguments import Command, shield_slices

__all__ = ["COMMANDS", "find_command", "make_parser", "run_command"]

COMMANDS = {
    "build": "quantize matrices into stores",
    "append": "add stores to a sharded store, or make one of them",
    "concat": "join stores into one file",
    "ls": "list the tensors of a file",
    "info": "show what a store holds",
    "get": "read rows of a store",
    "search": "find the rows nearest to a row or a vector",
    "verify": "check a store against its checksums, and its source",
    "stats": "norms, scales, codes, columns, duplicate rows of a store",
    "compare": "what differs between two stores",
    "plot": "pictures of a store",
    "report": "one HTML page about a store",
    "export": "write a store in another format",
    "env": "show versions, engine and machine",
    "demo": "see it all at work on a made-up matrix",
}
"""What each does, in the order the help lists them; each has a module of its name."""

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


def make_parser(names: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Parser of the command line, with the arguments of these commands."""
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
    for name, summary in COMMANDS.items():
        if name not in names:
            commands.add_parser(name, help=summary)
            continue
        command = find_command(name)
        command.add_arguments(
            commands.add_parser(
                name,
                help=summary,
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
        arguments = make_parser(words[:1]).parse_args(shield_slices(words))
    except SystemExit as leaving:  # argparse has printed help, version or what is wrong
        return int(leaving.code or 0)
    return find_command(arguments.command).run(arguments)
