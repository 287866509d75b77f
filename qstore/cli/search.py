"""``qstore search``: the rows nearest to one row, or to the vectors of a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import qstore

from ..errors import QStoreError
from ..system.reported import Reported
from ..system.stand_ins import HEAD_BYTES, stand_in
from .arguments import (
    Command,
    add_json,
    add_quiet,
    any_slice,
    at_least,
    lines_of,
    no_word,
    one_row,
    rows_of_words,
)
from .failures import UsageError
from .printing import print_json, print_table, show_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..store import Store

__all__ = ["COMMAND", "Hit"]

_METRICS = ("cosine", "dot", "l2")
_DESCRIPTION = """\
Find the rows of a store that are best for a query: exactly, over all of them. The query is a row of the
store, by number or key, the rows of several keys, or each vector of a .npy file of shape (D,) or (Q, D).
The scores are of the stored values, in float64: cosine and dot from the largest down, l2 (the squared
distance) from the smallest up; equal ones in the order of their row numbers."""

_EXAMPLES = """\
  qstore search words.h5 --key queen --others
  qstore search words.h5 --row 17
  qstore search words.h5 --row -1 -k 3 --metric dot --rows :10000
  qstore search words.h5 --vector queries.npy --metric l2 --json"""


@dataclass(frozen=True, repr=False)
class Hit(Reported):
    """One row that was found.

    Attributes
    ----------
    query : int
        Place of the query among those asked.
    rank : int
        From 1.
    row : int
    key : str, int or None
        None where the rows, or this one, have no key.
    score : float
    """

    query: int
    rank: int
    row: int
    key: str | int | None
    score: float


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store: a file, a directory of shards, or a URL")
    parser.add_argument("words", metavar="WORD", type=no_word, nargs="*", help=argparse.SUPPRESS)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument(
        "--row", metavar="R", type=one_row, help="a row of FILE as the query; -1 is the last one"
    )
    query.add_argument("--key", metavar="K", help="the key of a row of FILE as the query")
    query.add_argument("--keys", metavar="F.txt", help="a file of such keys, one a line; - is stdin")
    query.add_argument("--vector", metavar="F.npy", help="a file with one query, or one a row")
    parser.add_argument(
        "--others",
        action="store_true",
        help="with --row, --key and --keys: leave the row itself out of what is found for it",
    )
    parser.add_argument("-k", metavar="N", type=at_least(1), default=10, help="rows to find (default: 10)")
    parser.add_argument(
        "--metric",
        choices=_METRICS,
        default="cosine",
        help="default: cosine; l2 is the squared distance",
    )
    parser.add_argument(
        "--rows", metavar="A:B", type=any_slice, help="look only at these rows: A:B or A:B:STEP"
    )
    parser.add_argument("--threads", metavar="N", type=at_least(1), help="default: one a processor")
    add_quiet(parser, "no progress bar; what is found is printed all the same")
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.others and arguments.vector is not None:
        raise UsageError("--others goes with --row, --key and --keys: a vector is no row of FILE")
    with qstore.open(arguments.file) as store:
        numbers = None if arguments.vector is not None else _rows_asked(arguments, store)
        scores, rows = store.search(
            _vectors(arguments.vector, store) if numbers is None else store.astype("float64")[numbers],
            arguments.k,
            arguments.metric,
            rows=arguments.rows,
            exclude=numbers if arguments.others else None,
            threads=arguments.threads,
            progress=show_progress(arguments.quiet),
        )
        found, keyed = list(_hits(store, scores, rows)), store.key_kind is not None
    if arguments.json:
        print_json(found)
    elif found:
        print_table(_columns(hit, len(scores) > 1, keyed) for hit in found)
    return 0


def _columns(hit: Hit, several: bool, keyed: bool) -> list[object]:
    query: list[object] = [hit.query] if several else []
    key: list[object] = ["" if hit.key is None else hit.key] if keyed else []
    return [*query, hit.rank, hit.row, *key, repr(hit.score)]


def _rows_asked(arguments: argparse.Namespace, store: Store) -> NDArray[np.int64]:
    """The rows of FILE that are queries."""
    import numpy as np

    if arguments.row is None:
        words = [arguments.key] if arguments.keys is None else lines_of(arguments.keys)
        return np.array(rows_of_words(store, words), np.int64)
    if not -len(store) <= arguments.row < len(store):
        raise QStoreError(f"{arguments.file} has {len(store):,} rows: there is no row {arguments.row}")
    return np.array([arguments.row], np.int64)


def _vectors(path: str, store: Store) -> NDArray[Any]:
    """Of shape (Q, D)."""
    import numpy as np

    queries = np.atleast_2d(_load(path))
    if queries.ndim != 2 or queries.shape[1] != store.shape[1] or queries.dtype.kind not in "fiu":
        raise QStoreError(
            f"{path} holds {queries.dtype} of shape {queries.shape}, "
            f"expected numbers of shape ({store.shape[1]},) or (Q, {store.shape[1]})"
        )
    if not np.isfinite(queries).all():
        raise QStoreError(f"{path} holds NaN or infinities: a query must be finite")
    return queries


def _load(path: str) -> NDArray[Any]:
    import numpy as np

    from ..sources.files import check_no_url

    check_no_url(path)
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        with open(path, "rb") as file:
            other = stand_in(path, file.read(HEAD_BYTES))
        raise QStoreError(f"{path} is {other or f'not a .npy file: {error}'}") from None
    if not isinstance(loaded, np.ndarray):
        raise UsageError(f"{path} holds several arrays: give a .npy file with the queries")
    return loaded


def _hits(store: Store, scores: NDArray[np.float64], rows: NDArray[np.int64]) -> Iterator[Hit]:
    for query, (some, numbers) in enumerate(zip(scores, rows, strict=True)):
        keys = list(store.key_of(numbers)) if store.key_kind else [None] * len(numbers)
        for rank, (score, row, key) in enumerate(zip(some.tolist(), numbers.tolist(), keys, strict=True), 1):
            yield Hit(query, rank, row, key if key is None or isinstance(key, str) else int(key), score)


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
