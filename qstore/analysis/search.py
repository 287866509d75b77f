"""Exact search: a scan that keeps every row that may be among the best, then their exact scores.

Works on parts, matrices that follow one another in row number, so that a matrix may lie in several files.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..engine import kernels
from ..engine.arguments import as_finite, as_row_numbers, as_row_set
from ..engine.exact_scores import ExactQuery, exact_queries, exact_scores
from ..engine.quantization import first_out_of_range
from ..engine.search_scan import METRICS, Metric, Quantized, quantize_queries
from ..errors import FormatError
from ..reading.backing import Backing
from ..system.options import one_of, shown
from ..system.paging import Pager
from ..system.progress import Progress, rows_progress
from ..system.threads import in_parts, thread_count

__all__ = ["Part", "PartsOf", "RowSet", "search", "search_parts"]

RowSet = range | NDArray[np.int64]
"""Ascending row numbers: ``range(a, b)``, or an array."""

# Between two rounds progress is told and Ctrl-C heard: so many codes a thread, fewer for many queries, take
# some 10 ms in C and less than a second in NumPy.
_ROUND_VALUES = 1 << 28
_GROUP_BYTES, _MOST_QUERIES = 64 << 20, 256
_STEP_VALUES = 1 << 21
_SPARE_ROOM = 1024


class Part(NamedTuple):
    """Rows of a matrix that lie together.

    Attributes
    ----------
    first_row : int
        Number of the first one.
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)
    pager : Pager or None
        For codes of a mapped file.
    """

    first_row: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float64]
    pager: Pager | None = None

    def local(self, rows: RowSet) -> RowSet:
        """Those of `rows` that lie here, counted from the first row of the part."""
        first, last = self.first_row, self.first_row + len(self.codes)
        if isinstance(rows, range):
            start = max(rows.start, first)
            return range(start - first, max(start, min(rows.stop, last)) - first)
        return rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first


class PartsOf:
    """The parts of a store, walked anew for each pass."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def __iter__(self) -> Iterator[Part]:
        for part, pager in self._backing.walk():
            yield Part(*part, pager)


def _numbers(rows: RowSet, places: NDArray[np.int64]) -> NDArray[np.int64]:
    return places + rows.start if isinstance(rows, range) else rows[places]


class _Best(NamedTuple):
    """The best rows of one query so far, the best first."""

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]

    def joined(self, scores: NDArray[np.float64], rows: NDArray[np.int64], k: int, metric: Metric) -> _Best:
        scores, rows = np.concatenate([self.scores, scores]), np.concatenate([self.rows, rows])
        order = np.lexsort((rows, scores if metric == "l2" else -scores))[:k]
        return _Best(scores[order], rows[order])


_NONE = _Best(np.empty(0), np.empty(0, np.int64))


class _Job(NamedTuple):
    queries: NDArray[np.float64]
    quantized: Quantized
    k: int
    metric: Metric


class _Worker:
    """What one thread has found. It gets rows in ascending order."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        count, room = len(job.queries), 2 * job.k + _SPARE_ROOM
        self.heaps = np.full((count, job.k), -np.inf)
        self._rows, self._uppers = np.empty((count, room), np.int64), np.empty((count, room))
        self._found = np.zeros((count, 1), np.int64)
        self.best = [_NONE] * count

    def scan(self, part: Part, rows: RowSet, start: int, stop: int) -> None:
        """Go through ``rows[start:stop]``."""
        if isinstance(rows, range) and part.pager:
            first = rows.start + start
            part.pager.sequential(
                first, stop - start, lambda a, b: self._scan_block(part, rows, start + a, start + b)
            )
            return
        step = max(1, _STEP_VALUES // part.codes.shape[1])
        for place in range(start, stop, step):
            self._scan_block(part, rows, place, min(stop, place + step))

    def _scan_block(self, part: Part, rows: RowSet, start: int, stop: int) -> None:
        """Row numbers are noted as places in `rows`."""
        picked = rows[start:stop]
        key = slice(picked.start, picked.stop) if isinstance(picked, range) else picked
        codes, scales = part.codes[key], part.scales[key]
        noted = (self.heaps, self._rows, self._uppers, self._found)
        done, metric = 0, METRICS.index(self._job.metric)
        while done < len(codes):
            got = kernels.scan(codes[done:], scales[done:], self._job.quantized, metric, start + done, noted)
            if got < 0:
                _raise_bad_scale(part, int(_numbers(rows, np.array(start + done - 1 - got))))
            done += got
            if done < len(codes):  # more rows may be among the best than there is room for
                self.settle(part, rows, [self])

    def settle(self, part: Part, rows: RowSet, workers: list[_Worker]) -> None:
        """Score what these have noted, except what is beaten by what they have seen."""
        limits = _limits(workers, self._job.k)
        step = max(1, _STEP_VALUES // part.codes.shape[1])
        noted = [
            np.concatenate([worker._noted(query, limit) for worker in workers])
            for query, limit in enumerate(limits.tolist())
        ]
        wanted = [query for query, places in enumerate(noted) if places.size]
        for query, vector in zip(wanted, exact_queries(self._job.queries, wanted), strict=True):
            for start in range(0, noted[query].size, step):
                self._score(part, query, vector, _numbers(rows, noted[query][start : start + step]))
        for worker in workers:
            worker._found[:] = 0

    def _noted(self, query: int, limit: float) -> NDArray[np.int64]:
        count = self._found[query, 0]
        return self._rows[query, :count][self._uppers[query, :count] >= limit]

    def _score(self, part: Part, query: int, vector: ExactQuery, numbers: NDArray[np.int64]) -> None:
        job = self._job
        scores = exact_scores(part.codes[numbers], part.scales[numbers], vector, job.metric)
        self.best[query] = self.best[query].joined(scores, part.first_row + numbers, job.k, job.metric)


def _raise_bad_scale(part: Part, row: int) -> None:
    raise FormatError(
        f"row {part.first_row + row} has scale {part.scales[row]}, expected a finite number: "
        f"the store is damaged, or was not written by qstore; qstore verify tells more"
    )


def search(
    parts: Iterable[Part],
    shape: tuple[int, int],
    queries: ArrayLike,
    k: int,
    metric: Metric,
    rows: ArrayLike | slice | None,
    exclude: ArrayLike | None,
    threads: int | None,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """:meth:`qstore.Store.search` in parts that together have this shape: checks what users hand in."""
    _refuse_text(queries)
    given, dim = as_finite("queries", queries, (1, 2)), shape[1]
    if given.shape[-1] != dim:
        raise ValueError(f"queries have shape {given.shape}, expected ({dim},) or (Q, {dim})")
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"k is {shown(k)}, expected an integer of at least 1")
    one_of("metric", metric, METRICS)
    workers = thread_count(threads)
    picked = as_row_set(rows, shape[0])
    vectors = np.atleast_2d(given)
    if exclude is None:
        found = search_parts(parts, vectors, int(k), metric, picked, workers, progress)
    else:
        left_out = _excluded(exclude, len(vectors), shape[0])
        found = search_parts(parts, vectors, int(k) + 1, metric, picked, workers, progress)
        found = _without(found, left_out, min(int(k), _most_found(picked, left_out)))
    return found if given.ndim == 2 else (found[0][0], found[1][0])


def _refuse_text(queries: Any) -> None:
    """Keys are no vectors, and what NumPy makes of them is no help."""
    first = queries[0] if isinstance(queries, (list, tuple)) and queries else queries
    if isinstance(first, str):
        raise TypeError(
            f"queries are vectors, found the text {first!r:.80}: to search with the row of a key, give that "
            f"row, store[{first!r:.80}]"
        )


def _excluded(exclude: ArrayLike, queries: int, total: int) -> NDArray[np.int64]:
    """A row for each query."""
    numbers = as_row_numbers(exclude, "exclude")
    if numbers.shape not in ((), (queries,)):
        raise ValueError(f"exclude has shape {numbers.shape}, expected one row for each query, ({queries},)")
    flat = numbers.reshape(-1)
    bad = first_out_of_range(flat, total)
    if bad >= 0:
        raise IndexError(f"exclude: index {flat[bad]} is out of bounds for axis 0 with size {total}")
    return np.broadcast_to(np.where(numbers < 0, numbers + total, numbers), (queries,))


def _most_found(rows: RowSet, left_out: NDArray[np.int64]) -> int:
    """Rows that can be found for each query."""
    if isinstance(rows, range):
        inside = (left_out >= rows.start) & (left_out < rows.stop)
    else:
        inside = np.isin(left_out, rows)
    return len(rows) - bool(inside.any())


def _without(
    found: tuple[NDArray[np.float64], NDArray[np.int64]], left_out: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The first `k` columns of what was found, without the row that is left out of each line."""
    scores, rows = found
    order = np.argsort(rows == left_out[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def search_parts(
    parts: Iterable[Part],
    queries: NDArray[np.float64],
    k: int,
    metric: Metric,
    rows: RowSet,
    threads: int | None = None,
    progress: Progress = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The best rows of each query: scores and row numbers, of shape (Q, min(k, number of rows)).

    Parameters
    ----------
    parts : iterable of Part
        In ascending order; walked once for each group of queries.
    queries : ndarray of float64, shape (Q, D)
        Finite. Worked on in groups of up to 256, each a pass over the codes.
    k : int
        At least 1.
    metric : {"cosine", "dot", "l2"}
        See :mod:`qstore.engine.search_scan`.
    rows : range or ndarray of int64
        Where to look.
    threads, progress
        As for :meth:`qstore.Store.search`.

    Raises
    ------
    FormatError
        A scale is not finite.
    """
    k, dim = min(k, len(rows)), queries.shape[1]
    scores, numbers = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    if k == 0 or not len(queries):
        return scores, numbers
    group = max(1, min(_MOST_QUERIES, _GROUP_BYTES // (40 * k + 16 * _SPARE_ROOM), _STEP_VALUES * 8 // dim))
    starts = range(0, len(queries), group)
    with rows_progress(progress, len(rows) * len(starts)) as on_rows:
        for start in starts:
            some = slice(start, start + group)
            job = _Job(queries[some], quantize_queries(queries[some], metric), k, metric)
            found = _search_group(job, parts, rows, threads, on_rows)
            scores[some] = [best.scores for best in found]
            numbers[some] = [best.rows for best in found]
    return scores, numbers


def _search_group(
    job: _Job, parts: Iterable[Part], rows: RowSet, threads: int | None, on_rows: Callable[[int], object]
) -> list[_Best]:
    """One pass. Workers rest in `idle` between rounds, and every round takes them to later rows."""
    workers: list[_Worker] = []
    idle: deque[_Worker] = deque()

    def scan(part: Part, local: RowSet, first: int, start: int, stop: int) -> None:
        try:
            worker = idle.pop()
        except IndexError:
            worker = _Worker(job)
            workers.append(worker)
        worker.scan(part, local, first + start, first + stop)
        idle.append(worker)

    work = job.queries.shape[1] * (1 + len(job.queries) // 8)  # of one row, in codes read
    step = max(1, thread_count(threads) * _ROUND_VALUES // work)
    for part in parts:
        local = part.local(rows)
        for first in range(0, len(local), step):
            count = min(step, len(local) - first)
            in_parts(functools.partial(scan, part, local, first), count, count * work, threads)
            on_rows(count)
        if workers:
            workers[0].settle(part, local, workers)
    return [_joined([worker.best[query] for worker in workers], job) for query in range(len(job.queries))]


def _limits(workers: list[_Worker], k: int) -> NDArray[np.float64]:
    """The k-th best lower bound of each query."""
    heaps = np.concatenate([worker.heaps for worker in workers], axis=1)
    return np.partition(heaps, heaps.shape[1] - k, axis=1)[:, heaps.shape[1] - k]


def _joined(found: list[_Best], job: _Job) -> _Best:
    total = found[0]
    for other in found[1:]:
        total = total.joined(*other, job.k, job.metric)
    return total
