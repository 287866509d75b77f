"""``qstore keys``: which key a row has, and which row has a key."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import qstore

from ..errors import QStoreError
from .arguments import Command, add_asked_keys, add_json, asked_keys, row_key, rows_of_words, stored_keys
from .printing import print_line, printable

if TYPE_CHECKING:
    from ..reading.stored_keys import StoredKeys
    from ..store import Store

__all__ = ["COMMAND"]

_DESCRIPTION = """\
List rows and their keys: a line each, the number of the row, a tab, and the key. All rows, or those asked
for, by number, slice or key. Rows without a key have an empty one here, and null in JSON."""

_EXAMPLES = """\
  qstore keys words.h5 | head
  qstore keys words.h5 17 100:110
  qstore keys words.h5 --key queen --key king
  qstore keys words.h5 --keys wanted.txt --json"""

# Rows whose keys are read at a time.
_BLOCK = 1 << 14


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store: a file, a directory of shards, or a URL")
    parser.add_argument(
        "rows", metavar="ROW|A:B", type=row_key, nargs="*", default=[], help="row number or slice"
    )
    add_asked_keys(parser, "a key whose row is wanted; may be given several times")
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    words = asked_keys(arguments)
    with qstore.open(arguments.file) as store:
        keys = stored_keys(store)
        asked = [_numbers(key, store) for key in arguments.rows]
        asked += [range(row, row + 1) for row in rows_of_words(store, words)]
        if not asked and arguments.key_file is None:
            asked = [range(len(store))]
        _print(_named(keys, asked), arguments.json)
    return 0


def _numbers(key: int | slice, store: Store) -> range:
    """Out of range must be known before the first line is written."""
    if isinstance(key, slice):
        return range(len(store))[key]
    if not -len(store) <= key < len(store):
        raise QStoreError(f"index {key} is out of bounds for axis 0 with size {len(store)}")
    return range(key % len(store), key % len(store) + 1)


def _named(keys: StoredKeys, asked: list[range]) -> Iterator[tuple[int, Any]]:
    for numbers in asked:
        for first in range(0, len(numbers), _BLOCK):
            rows = list(numbers[first : first + _BLOCK])
            found = keys[rows]
            yield from zip(rows, found if isinstance(found, list) else found.tolist(), strict=True)


def _print(named: Iterator[tuple[int, Any]], as_json: bool) -> None:
    if not as_json:
        for row, key in named:
            print_line(f"{row}\t{'' if key is None else printable(str(key))}")
        return
    separator = "["
    for row, key in named:
        print(f"{separator}{json.dumps({'row': row, 'key': key})}", end="")
        separator = ",\n "
    print("[]" if separator == "[" else "]")


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
