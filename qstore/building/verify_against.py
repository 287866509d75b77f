"""Does a store agree with a source? The source quantized again, all compared, every error measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..engine.row_errors import ROW_FIGURES
from ..errors import TensorError
from ..format import layout
from ..format.fidelity import Fidelity, FidelityTotals
from ..keys.packed import KeyBlock, packed
from ..keys.stream import KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys, inline_keys
from ..reading.parts import coded_rows
from ..sources import QuantizedSource, RowSource, Source, names_several, open_source
from ..sources.row_ranges import limited, row_range
from ..store import Store, StorePath, opened
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.threads import in_order, thread_count
from ..writing.findings import Findings
from .one import check_coding

__all__ = ["AgainstReport", "Noted", "compared_with", "open_compared", "verify_against"]

_SHOWN = 10
_ROUNDED = Coding()
# Source values compared in one go: with float32, 1 MiB, which stays in cache from one step to the next.
_PIECE_VALUES = 1 << 18


@dataclass(frozen=True, repr=False)
class AgainstReport(Reported):
    """Result of quantizing a source again and comparing every code and scale.

    Attributes
    ----------
    ok : bool
    rows : int
        Rows compared.
    differing_rows : int
        Rows with another code or scale, or another key where keys were compared.
    first_differing_row : int or None
    problems : tuple of str
        The same in words.
    fidelity : Fidelity or None
        Errors of what the store reads against what the source holds, over all rows. None where the shapes
        differ, or where the source is quantized itself or was stored as it is.
    keys_compared : bool
        Whether every key was compared, too.
    nonfinite : NonFiniteValues
        Values of the source that are NaN or infinite. They were compared as 0, and have no error.
    """

    ok: bool
    rows: int
    differing_rows: int
    first_differing_row: int | None
    problems: tuple[str, ...]
    fidelity: Fidelity | None = None
    keys_compared: bool = False
    nonfinite: NonFiniteValues = field(default_factory=NonFiniteValues)


def verify_against(
    store: Store | StorePath,
    source: Any,
    *,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    missing_keys: MissingKeys = "error",
    threads: int | None = None,
    progress: Progress = None,
    step: float | None = None,
    zero_point: int = 0,
) -> AgainstReport:
    """Quantize `source` again, compare every code, scale and key, and measure the errors of what is read.

    Parameters
    ----------
    store : Store or path-like
        Of shape (N, D).
    source, tensor, join, scale, as_stored, keys, key_encoding, rows, missing_keys, step, zero_point
        As for :func:`qstore.build`, and as they were there: N rows of D columns. Of a source of several
        tensors, where no name is given, the one that the store was built from, or those that were joined.
        Keys of the store are not looked at where the source has none and none are given, or with
        ``keys=False``.
    threads : int, optional
        For sources that give any rows at any time. By default `QSTORE_THREADS`, or one a processor.
    progress : bool or callable, optional
        True shows a bar on stderr; a callable gets (rows done, rows in all).

    Returns
    -------
    AgainstReport
        Of another shape, other values and other keys it says so: these are no errors.

    Raises
    ------
    SourceError, TensorError
        The source cannot be read, names are ambiguous or unknown, or there are fewer or more keys than rows.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> _ = qstore.build(np.eye(3, 2), path)
    >>> found = verify_against(qstore.open(path), np.eye(3, 2) * [1, 0.5])
    >>> found.ok, found.differing_rows, found.first_differing_row
    (False, 1, 1)
    """
    coding = Coding(step, zero_point)
    with opened(store) as held:
        return compared_with(
            held,
            source,
            tensor=tensor,
            join=join,
            scale=scale,
            as_stored=as_stored,
            keys=keys,
            key_encoding=key_encoding,
            rows=rows,
            missing_keys=missing_keys,
            threads=threads,
            progress=progress,
            coding=coding,
        )[0]


def open_compared(
    store: Store,
    source: Any,
    tensor: str | None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
) -> Source:
    """Open what a store is compared with: of several tensors, the one, or those, that it was built from.

    Raises
    ------
    TensorError
        The store does not say which one, or says one that is not there.
    """
    try:
        return open_source(source, tensor, join, scale, as_stored)
    except TensorError as error:
        joined = store.tensor not in error.candidates
        if tensor is not None or (joined and not names_several(error.candidates, store.tensor)):
            raise
    return open_source(source, store.tensor, joined, scale, as_stored)


def compared_with(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    missing_keys: MissingKeys = "error",
    progress: Progress = None,
    coding: Coding = _ROUNDED,
    threads: int | None = None,
    noted: Noted | None = None,
) -> tuple[AgainstReport, Findings]:
    """What :func:`verify_against` reports, and what a build of all of that source would have found.

    `noted` is given the errors of its rows from the same pass.
    """
    findings, workers = Findings(store.shape[1]), thread_count(threads)
    with open_compared(store, source, tensor, join, scale, as_stored) as matrix:
        matrix.threads = workers
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        if matrix.dim != store.shape[1]:
            found = f"the source has {matrix.dim} columns, the store {store.shape[1]}"
            return _mismatch(0, found), findings
        if last is not None and last - first != len(store):
            return _mismatch(0, f"the source has {last - first:,} rows, the store {len(store):,}"), findings
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys, compared=True)
        carried = matrix.keyed and keys is None
        if (carried or stream is not None) and store.key_kind is None:
            return _mismatch(0, "the rows of the store have no keys"), findings
        comparison = _Comparison(store, matrix, coding, workers)
        with rows_progress(progress, len(store)) as on_rows:
            parts = comparison.parts(first, last, carried)
            passed = parts if noted is None else noted.of(parts)
            report = _compare(store, passed, stream, findings, on_rows)
        check_all_taken(stream, first + report.rows, last, matrix)
        return report, findings


class _Compared(NamedTuple):
    """What became of some rows, and the keys that the source itself has for them."""

    differs: NDArray[np.bool_]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float64]
    held_scales: NDArray[np.float64]
    figures: NDArray[np.float64] | None = None
    nonfinite: NonFiniteValues = NonFiniteValues()
    keys: KeyBlock | None = None


class Noted:
    """Keeps the errors of some rows of a matrix that passes by.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
        Numbers of these rows, in ascending order.
    """

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._rows = rows
        self._kept: list[NDArray[np.float64]] = []

    def of(self, parts: Iterator[_Compared]) -> Iterator[_Compared]:
        """The same parts of the matrix."""
        done = 0
        for part in parts:
            if part.figures is not None:
                start, stop = np.searchsorted(self._rows, [done, done + len(part.figures)])
                self._kept.append(part.figures[self._rows[start:stop] - done])
            done += len(part.differs)
            yield part

    def figures(self) -> NDArray[np.float64]:
        """What :func:`qstore.engine.row_errors.row_errors` found of them, shape (m, ROW_FIGURES).

        Fewer lines where not all were compared, or where there are no errors to measure.
        """
        return np.concatenate([np.empty((0, ROW_FIGURES)), *self._kept])


class _TooLong(Exception):
    """The source has more rows than the store."""


class _Comparison:
    """Rows of a source, coded again, beside those of a store."""

    def __init__(self, store: Store, matrix: Source, coding: Coding, threads: int) -> None:
        self._store, self._matrix, self._coding, self._threads = store, matrix, coding, threads

    def parts(self, first: int, last: int | None, carried: bool) -> Iterator[_Compared]:
        """Compare all rows, in order: whole checksum blocks by several threads where the source allows it.

        `carried`: with the keys that the source carries.
        """
        matrix, done, rows = self._matrix, 0, None if last is None else last - first
        if isinstance(matrix, QuantizedSource):
            for codes, scales in matrix.coded_chunks(first, last):
                yield _compared(codes, scales, *self._held(done, len(codes)))
                done += len(codes)
        elif carried:
            for chunk, keys in inline_keys(matrix, first, rows):
                if len(chunk):
                    yield self._of_chunk(done, chunk)._replace(keys=packed(keys))
                done += len(chunk)
        elif isinstance(matrix, RowSource):
            yield from self._of_blocks(matrix, first)
        else:
            for chunk in limited(matrix.chunks(first), rows):
                if len(chunk):
                    yield self._of_chunk(done, chunk)
                done += len(chunk)

    def _of_blocks(self, matrix: RowSource, first: int) -> Iterator[_Compared]:
        rows, step = len(self._store), layout.block_rows(self._store.shape[1])

        def compare(row: int) -> _Compared:
            count = min(step, rows - row)
            return self._of_values(row, count, lambda a, b: matrix.read(first + row + a, first + row + b))

        starts = range(0, rows, step)
        return in_order(compare, starts, min(self._threads, max(1, len(starts))))

    def _of_chunk(self, row: int, values: NDArray[Any]) -> _Compared:
        return self._of_values(row, len(values), lambda a, b: values[a:b])

    def _of_values(self, row: int, count: int, read: Callable[[int, int], NDArray[Any]]) -> _Compared:
        """Of `count` rows, which `read` gives piece by piece, counted from 0."""
        held_codes, held_scales = self._held(row, count)
        codes, scales = np.empty(held_codes.shape, np.uint8), np.empty(count)
        figures = np.empty((count, ROW_FIGURES)) if self._coding.rounds else None
        nonfinite, step = NonFiniteValues(), max(1, _PIECE_VALUES // self._store.shape[1])
        for start in range(0, count, step):
            piece = slice(start, min(start + step, count))
            values = read(piece.start, piece.stop)
            nonfinite += self._coding.encode(values, codes[piece], scales[piece], "zero", row + start)
            if figures is not None:
                figures[piece] = kernels.row_errors(values, held_codes[piece], held_scales[piece])
        found = _compared(codes, scales, held_codes, held_scales)
        return found._replace(figures=figures, nonfinite=nonfinite)

    def _held(self, row: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """What the store has there."""
        if row + count > len(self._store):
            raise _TooLong
        return coded_rows(self._store.parts(row, row + count))


def _compared(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    held_codes: NDArray[np.uint8],
    held_scales: NDArray[np.float64],
) -> _Compared:
    differs = scales != held_scales
    if not np.array_equal(codes, held_codes):
        differs |= (codes != held_codes).any(axis=1)
    # A copy: a view that an error holds on to would keep the store from closing.
    return _Compared(differs, codes, scales, held_scales.copy())


def _other_keys(one: KeyBlock, other: KeyBlock) -> NDArray[np.bool_]:
    """Which of as many keys differ."""
    if one.kind != other.kind:
        return np.ones(one.rows, np.bool_)
    if one.payload() == other.payload():
        return np.zeros(one.rows, np.bool_)
    return np.array([a != b for a, b in zip(one.each(), other.each(), strict=True)])


def _mismatch(rows: int, problem: str) -> AgainstReport:
    return AgainstReport(False, rows, 0, None, (problem,))


def _compare(
    store: Store,
    parts: Iterator[_Compared],
    stream: KeyStream | None,
    findings: Findings,
    on_rows: Callable[[int], object],
) -> AgainstReport:
    done, differing, measured, keyed = 0, 0, True, False
    shown: list[int] = []
    steps: set[float] = set()
    errors = _BlockErrors(store.shape[1])
    try:
        for part in parts:
            bad = part.differs
            keys = part.keys if stream is None else stream.take(len(bad))
            if keys is not None:
                keyed = True
                bad = bad | _other_keys(keys, packed(store.key_of(slice(done, done + len(bad))), done))
            differing += int(np.count_nonzero(bad))
            if len(shown) < _SHOWN:
                shown.extend((np.flatnonzero(bad)[: _SHOWN - len(shown)] + done).tolist())
            if part.figures is None:
                measured = False
            else:
                errors.add(part.figures, part.held_scales)
            findings.add(done, part.codes, part.scales, part.figures, part.nonfinite)
            if len(steps) < 2:
                steps.update(np.unique(part.held_scales).tolist())
            done += len(bad)
            on_rows(len(bad))
    except _TooLong:
        return _mismatch(done, f"the source has more rows than the store's {len(store)}")
    if done < len(store):
        return _mismatch(done, f"the source has {done:,} rows, the store {len(store):,}")
    problems = []
    if differing:
        named = f"1 row differs: row {shown[0]}"
        several = f"{differing:,} rows differ, the first ones: {', '.join(map(str, shown))}"
        problems.append(named if differing == 1 else several)
    if differing and measured and len(steps) == 1:
        problems.append(
            f"all scales of the store are {steps.pop()}: if it was built with a step (step=, --step), give "
            f"that here, too"
        )
    return AgainstReport(
        ok=not differing,
        rows=done,
        differing_rows=differing,
        first_differing_row=shown[0] if shown else None,
        problems=tuple(problems),
        fidelity=errors.report() if measured else None,
        keys_compared=keyed,
        nonfinite=findings.nonfinite,
    )


class _BlockErrors:
    """Gathers the errors of rows that come in any pieces, so that they are summed within checksum blocks."""

    def __init__(self, dim: int) -> None:
        self._step = layout.block_rows(dim)
        self._totals = FidelityTotals(dim)
        self._waiting = np.empty((0, ROW_FIGURES + 1))  # their scales last

    def add(self, figures: NDArray[np.float64], scales: NDArray[np.float64]) -> None:
        """The rows that follow."""
        self._waiting = np.concatenate([self._waiting, np.column_stack([figures, scales])])
        while len(self._waiting) >= self._step:
            self._add_block(self._step)

    def _add_block(self, count: int) -> None:
        block, self._waiting = self._waiting[:count], self._waiting[count:]
        self._totals.add_block(self._totals.rows, block[:, :-1], block[:, -1])

    def report(self) -> Fidelity:
        """What all rows give together."""
        if len(self._waiting):
            self._add_block(len(self._waiting))
        return self._totals.report()
