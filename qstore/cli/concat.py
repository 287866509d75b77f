"""``qstore concat``: stores joined into one file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import qstore

from .arguments import Command, add_json, add_quiet, add_threads, consecutive
from .printing import KEY_WORDS, byte_size, print_facts, print_json, show_progress

if TYPE_CHECKING:
    from ..building.concatenation import ConcatReport

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Join stores into one file whose rows are theirs in order: files, directories of shards, quoted patterns of
names. Codes and scales are copied as they are, without a second rounding, and compared with their checksums
on the way. Keys go along: all rows must have some of one kind, or none. OUT appears only when it is
complete, and is what one build of all the rows would have made. With one STORE and --rows, a piece is cut
out of it."""

_EXAMPLES = """\
  qstore concat monday.h5 tuesday.h5 -o both.h5
  qstore concat words/ -o words.h5
  qstore concat words.h5 --rows 0:1000 -o first.h5"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stores", metavar="STORE", nargs="+", help="a store: a file, or a directory of shards"
    )
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="the store to make")
    parser.add_argument("--rows", metavar="A:B", type=consecutive, help="only these rows of the whole")
    parser.add_argument("--no-keys", action="store_true", help="leave all keys out")
    parser.add_argument(
        "--duplicates",
        choices=("error", "first"),
        default="error",
        help="stop where two rows have the same key (default), or let it stand for the first of them",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    add_threads(parser)
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    report = qstore.concat(
        arguments.stores,
        arguments.output,
        keys=False if arguments.no_keys else None,
        rows=arguments.rows,
        duplicates=arguments.duplicates,
        overwrite=arguments.force,
        threads=arguments.threads,
        progress=show_progress(arguments.quiet),
    )
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_facts(_facts(report))
    return 0


def _facts(report: ConcatReport) -> list[tuple[str, object]]:
    return [
        ("store", report.path),
        ("matrix", f"{report.rows:,} × {report.dim:,}, from {report.files:,} files"),
        ("keys", KEY_WORDS[report.key_kind] if report.key_kind else "(none)"),
        ("size", byte_size(report.file_bytes)),
        ("time", f"{report.seconds:.2f} s"),
    ]


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
