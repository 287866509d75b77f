"""Does a store agree with a source? The source quantized again, every code compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .building import limited, row_range
from .progress import Progress, rows_progress
from .sources import QuantizedSource, Source, open_source
from .store import Store

__all__ = ["AgainstReport", "verify_against"]

_SHOWN = 10

_Quantized = tuple[NDArray[np.uint8], NDArray[np.float64]]


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
    """

    ok: bool
    rows: int
    differing_rows: int
    first_differing_row: int | None
    problems: tuple[str, ...]


def verify_against(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    progress: Progress = None,
) -> AgainstReport:
    """Quantize `source` again and compare every code and every scale with the store.

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
            return _compare(store, _quantized(matrix, first, last), on_rows)


def _quantized(matrix: Source, first: int, last: int | None) -> Iterator[_Quantized]:
    """Codes and scales of the rows, as a build makes them."""
    if isinstance(matrix, QuantizedSource):
        yield from matrix.coded_chunks(first, last)
        return
    for chunk in limited(matrix.chunks(first), None if last is None else last - first):
        yield kernels.quantize(chunk, nonfinite="zero")


def _mismatch(rows: int, problem: str) -> AgainstReport:
    return AgainstReport(False, rows, 0, None, (problem,))


def _compare(store: Store, chunks: Iterator[_Quantized], on_rows: Callable[[int], object]) -> AgainstReport:
    done, differing = 0, 0
    shown: list[int] = []
    for codes, scales in chunks:
        if done + len(codes) > len(store):
            return _mismatch(done, f"the source has more rows than the store's {len(store)}")
        bad = np.empty(len(codes), np.bool_)
        for part in store.parts(done, done + len(codes)):
            held = slice(part.first - done, part.first - done + len(part.codes))
            bad[held] = (codes[held] != part.codes).any(axis=1) | (scales[held] != part.scales)
        differing += int(np.count_nonzero(bad))
        if len(shown) < _SHOWN:
            shown.extend((np.flatnonzero(bad)[: _SHOWN - len(shown)] + done).tolist())
        done += len(codes)
        on_rows(len(codes))
    if done < len(store):
        return _mismatch(done, f"the source has {done} rows, the store {len(store)}")
    problems = (
        (f"{differing} rows differ, the first ones: {', '.join(map(str, shown))}",) if differing else ()
    )
    return AgainstReport(not differing, done, differing, shown[0] if shown else None, problems)
