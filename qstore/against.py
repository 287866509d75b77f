"""Does a store agree with a source? The source quantized again, every code compared, every error measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels, layout
from .building import limited, row_range
from .fidelity import Fidelity, FidelityTotals, row_errors
from .journal import ROW_FIGURES
from .progress import Progress, rows_progress
from .sources import QuantizedSource, RowSource, Source, open_source
from .store import Store
from .threads import in_order

__all__ = ["AgainstReport", "verify_against"]

_SHOWN = 10


@dataclass(frozen=True)
class AgainstReport:
    """Result of quantizing a source again and comparing every code and scale.

    Attributes
    ----------
    ok : bool
    rows : int
        Rows compared.
    differing_rows : int
        Rows with another code or scale.
    first_differing_row : int or None
    problems : tuple of str
        The same in words.
    fidelity : Fidelity or None
        Errors of what the store reads against what the source holds, over all rows. None where the shapes
        differ, or where the source is quantized itself.
    """

    ok: bool
    rows: int
    differing_rows: int
    first_differing_row: int | None
    problems: tuple[str, ...]
    fidelity: Fidelity | None = None


def verify_against(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    progress: Progress = None,
) -> AgainstReport:
    """Quantize `source` again and compare every code and every scale; measure the errors of what is read.

    Parameters
    ----------
    store : Store
    source, tensor, rows
        As for :func:`qstore.build`.
    progress : bool or callable, optional
    """
    with open_source(source, tensor) as matrix:
        first, last = row_range(rows, matrix.rows)
        if matrix.dim != store.shape[1]:
            return _mismatch(0, f"the source has {matrix.dim} columns, the store {store.shape[1]}")
        if last is not None and last - first != len(store):
            return _mismatch(0, f"the source has {last - first} rows, the store {len(store)}")
        with rows_progress(progress, len(store)) as on_rows:
            return _compare(store, _compared(store, matrix, first, last), on_rows)


class _Compared(NamedTuple):
    """What became of some rows."""

    first_row: int
    differs: NDArray[np.bool_]
    figures: NDArray[np.float64] | None


class _TooLong(Exception):
    """The source has more rows than the store."""


def _compared(store: Store, matrix: Source, first: int, last: int | None) -> Iterator[_Compared]:
    """Compare all rows, in order: whole checksum blocks by several threads where the source allows it."""
    if isinstance(matrix, QuantizedSource):
        done = 0
        for codes, scales in matrix.coded_chunks(first, last):
            yield _compare_codes(store, done, codes, scales, None)
            done += len(codes)
    elif isinstance(matrix, RowSource):
        rows, step = len(store), layout.block_rows(store.shape[1])
        read = matrix.read
        yield from in_order(
            lambda row: _compare_values(store, row, read(first + row, first + min(row + step, rows))),
            range(0, rows, step),
            None,
        )
    else:
        done = 0
        for chunk in limited(matrix.chunks(first), None if last is None else last - first):
            yield _compare_values(store, done, chunk)
            done += len(chunk)


def _compare_values(store: Store, row: int, values: NDArray[Any]) -> _Compared:
    held = slice(row, row + len(values))
    if held.stop > len(store):
        raise _TooLong
    codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
    kernels.quantize_into(values, codes, scales, nonfinite="zero")
    return _compare_codes(
        store, row, codes, scales, row_errors(values, store.codes[held], store.scales[held])
    )


def _compare_codes(
    store: Store,
    row: int,
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    figures: NDArray[np.float64] | None,
) -> _Compared:
    held = slice(row, row + len(codes))
    if held.stop > len(store):
        raise _TooLong
    differs = (codes != store.codes[held]).any(axis=1) | (scales != store.scales[held])
    return _Compared(row, differs, figures)


def _mismatch(rows: int, problem: str) -> AgainstReport:
    return AgainstReport(False, rows, 0, None, (problem,))


def _compare(store: Store, parts: Iterator[_Compared], on_rows: Callable[[int], object]) -> AgainstReport:
    done, differing, measured = 0, 0, True
    shown: list[int] = []
    errors = _BlockErrors(store)
    try:
        for part in parts:
            differing += int(np.count_nonzero(part.differs))
            if len(shown) < _SHOWN:
                shown.extend((np.flatnonzero(part.differs)[: _SHOWN - len(shown)] + done).tolist())
            if part.figures is None:
                measured = False
            else:
                errors.add(part.figures)
            done += len(part.differs)
            on_rows(len(part.differs))
    except _TooLong:
        return _mismatch(done, f"the source has more rows than the store's {len(store)}")
    if done < len(store):
        return _mismatch(done, f"the source has {done} rows, the store {len(store)}")
    problems = (
        (f"{differing} rows differ, the first ones: {', '.join(map(str, shown))}",) if differing else ()
    )
    fidelity = errors.report() if measured else None
    return AgainstReport(not differing, done, differing, shown[0] if shown else None, problems, fidelity)


class _BlockErrors:
    """Gathers the errors of rows that come in any pieces, so that they are summed within checksum blocks."""

    def __init__(self, store: Store) -> None:
        self._scales = store.scales
        self._step = layout.block_rows(store.shape[1])
        self._totals = FidelityTotals(store.shape[1])
        self._waiting = np.empty((0, ROW_FIGURES))

    def add(self, figures: NDArray[np.float64]) -> None:
        """The rows that follow."""
        self._waiting = np.concatenate([self._waiting, figures])
        while len(self._waiting) >= self._step:
            self._add_block(self._step)

    def _add_block(self, count: int) -> None:
        row = self._totals.rows
        block, self._waiting = self._waiting[:count], self._waiting[count:]
        self._totals.add_block(row, block, self._scales[row : row + count])

    def report(self) -> Fidelity:
        """What all rows give together."""
        if len(self._waiting):
            self._add_block(len(self._waiting))
        return self._totals.report()
