"""``qstore compare``: what differs between two stores."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

import qstore

from ..reports.wording import distribution_table, number
from .arguments import Command, add_json, add_quiet, add_threads, at_least
from .printing import print_facts, print_json, print_line, print_table, show_progress

if TYPE_CHECKING:
    from ..reports.comparison import DriftedRow, KeyChanges, StoreComparison

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Compare two stores row by row: how many rows changed, how far they drifted, which drifted most, and which
keys were added, removed or moved. Rows are matched by their keys where both stores have keys, else by their
numbers. The exit status is 0 if the stores are equal, 1 if anything differs, 2 if a file cannot be read."""

_EXAMPLES = """\
  qstore compare before.h5 after.h5
  qstore compare before.h5 after.h5 -k 50 --json
  qstore compare one.h5 other.h5 -q && echo equal"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a store")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument(
        "-k",
        metavar="N",
        type=at_least(0),
        default=10,
        help="how many of the most drifted rows to name (default: 10)",
    )
    add_threads(parser)
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    progress = show_progress(arguments.quiet)
    found = qstore.compare(
        arguments.a, arguments.b, k=arguments.k, threads=arguments.threads, progress=progress
    )
    if arguments.json:
        print_json(found)
    elif not arguments.quiet:
        _print(found)
    return 0 if found.equal else 1


def _print(found: StoreComparison) -> None:
    if found.equal:
        print_line(f"equal: {found.rows_compared:,} rows")
        return
    print_facts([("differs", difference) for difference in found.differences])
    if found.keys is not None:
        print_facts(_key_facts(found.keys))
    if found.rows_changed:
        print_line("")
        print_table(distribution_table({"drift": found.drift, "1 - cosine": found.angles}))
    if found.most_drifted:
        print_line("")
        print_table(_table(found.most_drifted))


def _key_facts(keys: KeyChanges) -> Iterator[tuple[str, object]]:
    examples = {"added": keys.added_examples, "removed": keys.removed_examples, "moved": keys.moved_examples}
    for name, shown in examples.items():
        if shown:
            yield name, ", ".join(map(str, shown)) + (", …" if getattr(keys, name) > len(shown) else "")


def _table(rows: tuple[DriftedRow, ...]) -> Iterator[tuple[object, ...]]:
    yield "row in A", "row in B", "drift", "cosine", "key"
    for one in rows:
        key = "" if one.key is None else one.key
        yield one.row_a, one.row_b, number(one.drift), f"{one.cosine:.6f}", key


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
