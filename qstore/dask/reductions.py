"""Work on whole stores as Dask reductions: a task for each range of rows, and the results joined."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..analysis.stats import StoreStats, Totals, part_rows, totals_of
from ..engine.arguments import as_count, as_finite, as_row_set
from ..engine.search_scan import Metric
from ..reading.parts import Part
from ..store import Store
from ..store import open as open_store
from .lazy import StoreRows
from .library import Delayed, delayed, tokenize

__all__ = ["search", "stats"]

Found = tuple[NDArray[np.float64], NDArray[np.int64]]

# A tenth of a second and more of work, beside which the 20 ms of a task of distributed are little.
_TASK_CODES = 256 << 20

# Results that are joined at a time: more would have to be held together in one worker.
_JOINED = 8


def search(
    store: Store | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    queries: ArrayLike,
    k: int = 10,
    metric: Metric = "cosine",
    *,
    rows: ArrayLike | slice | None = None,
    task_rows: int | None = None,
) -> Delayed:
    """:meth:`qstore.Store.search` by many workers: nothing is read before it is computed.

    A task searches a range of rows on one thread and opens the store where it runs; scores and row numbers
    of the best rows are all that travels. The result is that of one machine, bit for bit.

    Parameters
    ----------
    store : Store, or what :func:`qstore.open` takes
    queries, k, metric, rows
        As for :meth:`qstore.Store.search`, and checked at once.
    task_rows : int, optional
        Most rows of a task. By default 256 MiB of codes, which may be several whole shards.

    Returns
    -------
    dask.delayed.Delayed
        Computes to what :meth:`qstore.Store.search` returns: scores and row numbers. Its name is made of the
        content and the arguments.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    ValueError, IndexError
        As :meth:`qstore.Store.search` raises them.
    SourceError
        `task_rows` is no whole number of at least 1.
    FormatError
        When tasks run: a scale is not finite, or what is at the path has another content by then.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "points.h5")
    >>> _ = qstore.build(np.array([[127.0, 0], [0, 127], [127, 127]]), path)
    >>> search(path, [1.0, 0.0], k=2, metric="dot").compute()
    (array([127., 127.]), array([0, 2]))
    """
    opened = store if isinstance(store, Store) else open_store(store)
    opened.search(queries, k, metric, rows=slice(0, 0))  # says what is wrong
    task_rows = None if task_rows is None else as_count("task_rows", task_rows)
    given, picked = as_finite("queries", queries, (1, 2)), as_row_set(rows, len(opened))
    token = tokenize(opened.content_id, given, k, metric, picked, task_rows)
    shared = delayed(given, name=f"qstore-queries-{token}")  # once in the graph, not in every task
    place = StoreRows.of(opened)
    found = [
        _task(_search_rows, token, number, place, shared, k, metric, some)
        for number, some in enumerate(_cut(picked, _ranges(opened, task_rows)))
    ]
    return _joined(found, functools.partial(_best, k=k, metric=metric), token)


def stats(
    store: Store | str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, task_rows: int | None = None
) -> Delayed:
    """:meth:`qstore.Store.stats` by many workers: nothing is read before it is computed.

    A task surveys a range of rows on one thread and opens the store where it runs; what travels are sums and
    counts, some 50 bytes a row, and from a task never more than about 100 MiB. They are joined in the
    order of the rows, so the same tasks give the same bits.

    Parameters
    ----------
    store : Store, or what :func:`qstore.open` takes
    task_rows : int, optional
        Most rows of a task. By default 256 MiB of codes, which may be several whole shards.

    Returns
    -------
    dask.delayed.Delayed
        Computes to a :class:`~qstore.StoreStats`. Whole numbers, extremes and percentiles are those of
        :meth:`qstore.Store.stats`; sums of values, and what is made of them, may be rounded otherwise.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    SourceError
        `task_rows` is no whole number of at least 1.
    FormatError
        When tasks run: what is at the path has another content by then.

    Examples
    --------
    >>> import os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "store.h5")
    >>> _ = qstore.build([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]], path)
    >>> stats(path).compute().duplicates.examples
    ((0, 2, 2),)
    """
    opened = store if isinstance(store, Store) else open_store(store)
    task_rows = None if task_rows is None else as_count("task_rows", task_rows)
    token = tokenize(opened.content_id, "stats", task_rows)
    place = StoreRows.of(opened)
    found = [
        _task(_survey_rows, token, number, place, *some)
        for number, some in enumerate(_ranges(opened, task_rows) or [(0, 0)])
    ]
    total = _joined(found, functools.partial(_sum, shape=opened.shape), token)
    return _task(_report, token, 0, place, total)


def _ranges(store: Store, task_rows: int | None) -> list[tuple[int, int]]:
    """Ranges of at most so many rows: several whole shards, or whole checksum blocks of one."""
    piece = part_rows(store.shape[1])
    default = piece * max(1, _TASK_CODES // (piece * store.shape[1]))
    most = default if task_rows is None else as_count("task_rows", task_rows)
    ranges: list[tuple[int, int]] = []
    first = 0
    for shard in store.shards:
        for start in range(first, first + shard.rows, most):
            stop = min(start + most, first + shard.rows)
            if ranges and stop - ranges[-1][0] <= most:
                ranges[-1] = ranges[-1][0], stop
            else:
                ranges.append((start, stop))
        first += shard.rows
    return ranges


def _cut(picked: range | NDArray[np.int64], ranges: list[tuple[int, int]]) -> Iterator[Any]:
    """The picked rows of each range that has some; one that has none where nothing is picked at all."""
    if not len(picked):
        yield slice(0, 0)
    elif isinstance(picked, range):
        cut = ((max(a, picked.start), min(b, picked.stop)) for a, b in ranges)
        yield from (slice(a, b) for a, b in cut if a < b)
    else:
        cut = np.searchsorted(picked, ranges).tolist()
        yield from (picked[a:b] for a, b in cut if a < b)


def _task(work: Callable[..., Any], token: str, number: int, *arguments: Any) -> Delayed:
    name = f"{work.__name__.strip('_')}-{token}"
    return delayed(work, pure=True)(*arguments, dask_key_name=f"qstore-{name}-{number}")


def _joined(results: list[Delayed], join: Callable[[list[Any]], Any], token: str) -> Delayed:
    """All results joined, each group of them with what came before it: in order, as sums need it."""
    total = results[:1]
    task = delayed(join, pure=True)
    for number, start in enumerate(range(1, max(len(results), 2), _JOINED)):
        group = [*total, *results[start : start + _JOINED]]
        total = [task(group, dask_key_name=f"qstore-joined-{token}-{number}")]
    return total[0]


def _search_rows(place: StoreRows, queries: NDArray[np.float64], k: int, metric: Metric, rows: Any) -> Found:
    return place.store.search(queries, k, metric, rows=rows, threads=1)


def _best(found: list[Found], k: int, metric: Metric) -> Found:
    """The best of what was found, equal scores in the order of their rows."""
    scores = np.concatenate([scores for scores, _ in found], axis=-1)
    rows = np.concatenate([rows for _, rows in found], axis=-1)
    order = np.lexsort((rows, scores if metric == "l2" else -scores), axis=-1)[..., :k]
    return np.take_along_axis(scores, order, -1), np.take_along_axis(rows, order, -1)


def _survey_rows(place: StoreRows, first: int, last: int) -> Totals:
    return totals_of(_pieces(place.store, first, last), *place.shape, threads=1)


def _pieces(store: Store, first: int, last: int) -> Iterator[Part]:
    step = part_rows(store.shape[1])
    for start, codes, scales in store.parts(first, last):
        for place in range(0, len(codes), step):
            yield Part(start + place, codes[place : place + step], scales[place : place + step])


def _sum(found: list[Totals], shape: tuple[int, int]) -> Totals:
    """Into a new one: a task that runs again must find what it was given as it was."""
    total = Totals(*shape)
    for totals in found:
        total.merge(totals)
    return total


def _report(place: StoreRows, total: Totals) -> StoreStats:
    def read_row(row: int) -> tuple[NDArray[np.uint8], float]:
        codes, scales = place.store.take_codes([row])
        return codes[0], float(scales[0])

    return total.report(read_row)
