"""The command line as a whole: which commands there are, and running one."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from functools import partial

from .. import __version__
from .arguments import Command
from .word_order import in_order

__all__ = ["COMMANDS", "command_parser", "find_command", "make_parser", "run_command"]

COMMANDS = {
    "build": "quantize matrices into stores",
    "append": "add stores to a sharded store, or make one of them",
    "concat": "join stores into one file",
    "ls": "list the tensors of a file",
    "info": "show what a store holds",
    "get": "read rows of a store",
    "keys": "list rows and their keys, find the rows of keys",
    "search": "find the rows nearest to a row or a vector",
    "verify": "check a store against its checksums, and its source",
    "stats": "norms, scales, codes, columns, duplicate rows of a store",
    "compare": "what differs between two stores",
    "plot": "pictures of a store",
    "report": "one HTML page about a store",
    "export": "write a store in another format",
    "env": "show versions, engine and machine",
    "completion": "print a script for bash, zsh or fish that completes commands and options",
    "demo": "see it all at work on a made-up matrix",
}
"""What each does, in the order the help lists them; each has a module of its name."""

_DESCRIPTION = "Embedding matrices on disk in 8 bits: one plain HDF5 file, any row back at memory speed."

_EPILOG = """\
exit status:
  0    done; of verify and compare: all agrees
  1    of verify and compare: something is broken or differs
  2    trouble: wrong usage, or what was asked for cannot be had (file, row, tensor, disk space ...)
  130  interrupted (Ctrl-C)
  141  whoever read the output has gone (as in "qstore get ... | head")

Data goes to stdout, progress and messages to stderr.
"qstore help COMMAND" tells more about a command; "qstore demo" shows them at work."""


def find_command(name: str) -> Command:
    """The command of this name. Its module is imported now: all of them take longer than reading a row."""
    command: Command = importlib.import_module(f".{name}", __package__).COMMAND
    return command


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line as a whole: its help lists the commands."""
    parser = _parser("qstore", _DESCRIPTION, _EPILOG)
    parser.add_argument("--version", action="version", version=f"qstore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """Parser of the arguments of one command."""
    command = find_command(name)
    parser = _parser(f"qstore {name}", command.description, f"examples:\n{command.examples}")
    command.add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=epilog,
        # Each argument that is added is formatted: asking how wide the terminal is imports 6 modules.
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=80),
        # An abbreviation that works today would break scripts with tomorrow's options.
        allow_abbrev=False,
    )


def run_command(words: Sequence[str]) -> int:
    """Parse `words` and run the command they name; exceptions pass."""
    if words[:1] == ["help"]:  # qstore help COMMAND
        words = [*words[1:2], "--help"]
    name = words[0] if words else ""
    try:
        if name not in COMMANDS:
            return _without_command(words)
        parser = command_parser(name)
        arguments = parser.parse_args(in_order(words[1:], parser))
    except SystemExit as leaving:  # argparse has printed help, version or what is wrong
        return int(leaving.code or 0)
    return find_command(name).run(arguments)


def _without_command(words: Sequence[str]) -> int:
    parser = make_parser()
    if words and not words[0].startswith("-"):
        from difflib import get_close_matches  # not when all is well

        near = get_close_matches(words[0], COMMANDS, 1, 0.7)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        parser.error(f"there is no command {words[0]!r}: {advice}")
    parser.parse_args(words)
    return 0
