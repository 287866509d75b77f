"""``qstore get``: rows of a store, for people and for other programs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import qstore

from ..errors import QStoreError
from .arguments import Command, add_asked_keys, any_slice, asked_keys, row_key, rows_of_words, stored_keys
from .failures import UsageError, complain
from .output import open_output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..store import Store
    from .formats import Named

__all__ = ["COMMAND"]

_FORMATS = ("text", "json", "csv", "npy")
_DESCRIPTION = """\
Read rows, by number or by slice, with Python's rules: from 0, negative from the end, A:B or A:B:STEP; or by
the key of a row. Several come one after the other, keys last. Numbers are the shortest that read back as the
same value.
An infinity (possible where values were near the largest float) is 1e999 in JSON, a NaN is null. Values that
the type does not hold, which are infinite or 0 in it, are counted on stderr at the end."""

_EXAMPLES = """\
  qstore get words.h5 7
  qstore get words.h5 -1 --format json
  qstore get words.h5 --key queen --key king --format csv --with-keys
  cut -f1 counts.tsv | qstore get words.h5 --keys - --format npy -o counted.npy
  qstore get words.h5 0:1000:10 --columns :8 --format csv -o sample.csv
  qstore get words.h5 : --format npy --dtype float16 -o all.npy"""

# Rows are read and formatted in pieces of about this many values: text takes 50 bytes a value on its way.
_PIECE_VALUES = 1 << 16

Key = int | slice


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store: a file, a directory of shards, or a URL")
    parser.add_argument(
        "rows", metavar="ROW|A:B", type=row_key, nargs="*", default=[], help="row number or slice"
    )
    add_asked_keys(parser, "key of a row; may be given several times")
    parser.add_argument(
        "--with-keys",
        action="store_true",
        help="the key of each row before its values: a first column, divided from them by a tab in text; in "
        'JSON {"row": …, "key": …, "values": […]}',
    )
    parser.add_argument(
        "--columns", metavar="A:B", type=any_slice, default=slice(None), help="only these columns"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16"),
        default="float32",
        help="type of the values (default: float32); float64 is exact, the others are it rounded once",
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="text",
        help="text: a row a line (default); json: an array a row; csv: without a header; npy: binary",
    )
    parser.add_argument(
        "-o", dest="output", metavar="OUT", help="a file, made whole or not at all; else stdout"
    )


def _run(arguments: argparse.Namespace) -> int:
    words = asked_keys(arguments)
    if not arguments.rows and not words and arguments.key_file is None:
        raise UsageError("say which rows: ROW, A:B, --key K or --keys FILE")
    if arguments.with_keys and arguments.format == "npy":
        raise UsageError("--with-keys: npy holds numbers only; qstore keys gives the keys")
    with qstore.open(arguments.file) as store:
        _check_output(arguments, store)
        keys = [*(_checked(key, store) for key in arguments.rows), *rows_of_words(store, words)]
        single = len(keys) == 1 and isinstance(keys[0], int)
        columns = range(store.shape[1])[arguments.columns]
        shape = (sum(len(_numbers(key, len(store))) for key in keys), len(columns))
        import numpy as np

        from .formats import FORMATS

        make = FORMATS[arguments.format]
        rows = _Rows(store, arguments.dtype, columns, stored_keys(store) if arguments.with_keys else None)
        with open_output(arguments.output) as write:
            for piece in make(rows.blocks(keys), shape, np.dtype(arguments.dtype), single):
                write(piece)
    instead = "" if arguments.dtype == "float64" else "; --dtype float64 has a wider range"
    for lost in rows.lost.infinite_in_words(arguments.dtype), rows.lost.zeroed_in_words(arguments.dtype):
        if lost:
            complain(f"warning: {lost}{instead}")
    return 0


def _check_output(arguments: argparse.Namespace, store: Store) -> None:
    if arguments.output is None:
        if arguments.format == "npy" and sys.stdout is not None and sys.stdout.isatty():
            raise UsageError("npy is binary and stdout is a terminal: give -o FILE, or pipe it somewhere")
    elif any(_same_file(arguments.output, shard.path) for shard in store.shards):
        raise UsageError(f"-o {arguments.output} would replace the store itself: choose another name")


def _same_file(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _checked(key: Key, store: Store) -> Key:
    """Out of range must be known before the first row is written."""
    if isinstance(key, int) and not -len(store) <= key < len(store):
        raise QStoreError(f"index {key} is out of bounds for axis 0 with size {len(store)}")
    return key


def _numbers(key: Key, total: int) -> range:
    if isinstance(key, slice):
        return range(total)[key]
    row = range(total)[key]
    return range(row, row + 1)


class _Rows:
    """Some columns of rows, rounded once to the type, and what that type does not hold.

    `keys` are those of all rows, where they are wanted beside the values, else None.
    """

    def __init__(self, store: Store, dtype: str, columns: range, keys: Any) -> None:
        from ..engine.narrowing import Narrowing

        self._exact, self._dtype, self._columns, self._keys = store.astype("float64"), dtype, columns, keys
        self.lost = Narrowing()

    def blocks(self, keys: list[Key]) -> Iterator[tuple[NDArray[Any], list[Named] | None]]:
        """The rows of all keys in order, a few at a time, and their numbers and keys."""
        from ..engine.narrowing import narrowed

        step = max(1, _PIECE_VALUES // self._exact.shape[1])
        for key in keys:
            numbers = _numbers(key, len(self._exact))
            for first in range(0, len(numbers), step):
                rows = numbers[first : first + step]
                exact = self._exact[_slice_of(rows), _slice_of(self._columns)]
                values, lost = narrowed(exact, self._dtype, rows, self._columns)
                self.lost += lost
                yield values, self._named(rows)

    def _named(self, rows: range) -> list[Named] | None:
        if self._keys is None:
            return None
        found = self._keys[_slice_of(rows)]
        return list(zip(rows, found if isinstance(found, list) else found.tolist(), strict=True))


def _slice_of(numbers: range) -> slice:
    # A range down to row 0 stops at -1, which a slice takes for the last row.
    return slice(numbers.start, numbers.stop if numbers.stop >= 0 else None, numbers.step)


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
