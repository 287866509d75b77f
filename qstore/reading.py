"""From the codes and scales of a mapped store to values: one row, a slice, scattered rows, NumPy's keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .indexing import ALL
from .mapping import MappedStore
from .paging import MANY_ROWS, Pager
from .quantization import ZERO_POINT

__all__ = ["Part", "gather", "parts", "read_by_numpy", "read_row", "read_slice"]

Part = tuple[int, NDArray[np.uint8], NDArray[np.float64]]
"""First row, codes and scales of some rows that follow one another."""

# Asked for before it is needed, beyond the part that is next: a disk works on many requests at a time.
_AHEAD_BYTES = 16 << 20


def read_row(mapping: MappedStore, number: int, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One row with the least Python in the way."""
    try:
        codes, scales = mapping.row_codes, mapping.row_scales
    except AttributeError:
        codes, scales = mapping.row_arrays()
    if columns is not ALL:
        codes = codes[:, columns]
    out = np.empty(codes.shape[1], dtype)
    try:
        kernels.gather_row(codes, scales, number, out)
    except OverflowError:  # more than 64 bits: NumPy has its own words for that
        return read_by_numpy(mapping, number, dtype)
    return out


def read_slice(mapping: MappedStore, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows at a constant distance."""
    codes, scales = mapping.view("codes")[rows, columns], mapping.view("scales")[rows]
    out = np.empty(codes.shape, dtype)

    def work(start: int, stop: int) -> None:
        kernels.dequantize_into(codes[start:stop], scales[start:stop], out[start:stop])

    first, _, step = rows.indices(mapping.description.rows)
    if step == 1 and len(codes) >= MANY_ROWS:
        mapping.pager.sequential(first, len(codes), work)
    else:
        work(0, len(codes))
    return out


def parts(mapping: MappedStore, rows: int) -> Iterator[Part]:
    """Walk a store once, `rows` rows at a time, with the pages to come asked for in advance.

    The arrays are views of the file.
    """
    codes, scales = mapping.view("codes"), mapping.view("scales")
    total, dim = codes.shape
    ahead = rows * max(1, _AHEAD_BYTES // (rows * dim))
    asked = 0
    for first in range(0, total, rows):
        wanted = min(total, first + rows + ahead)
        mapping.pager.ask(asked, wanted)
        asked = wanted
        yield first, codes[first : first + rows], scales[first : first + rows]


def gather(
    pager: Pager,
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    rows: NDArray[np.int64],
    out: NDArray[Any],
    threads: int | None = None,
) -> None:
    """Fill `out` with rows in any order; codes (some of the columns, or all) and scales are a mapping's."""
    if rows.size < MANY_ROWS and not pager.cold:
        begun = time.perf_counter_ns()
        kernels.gather(codes, scales, rows, out, threads)
        pager.note_few(rows.size, time.perf_counter_ns() - begun)
        return

    def work(start: int, stop: int) -> None:
        kernels.gather(codes, scales, rows[start:stop], out[start:stop], threads)

    kernels.check_rows(codes, scales, rows, out)  # all of them before any is written
    pager.scattered(rows, len(scales), work)


def read_by_numpy(mapping: MappedStore, key: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Let NumPy index codes and scales alike: its rules and exceptions, whatever the key."""
    codes, scales = mapping.view("codes")[key], mapping.view("spread")[key]
    values = np.empty(np.shape(codes), np.float64)
    np.subtract(codes, float(ZERO_POINT), out=values)
    with np.errstate(over="ignore", under="ignore"):
        values *= scales
        result = values.astype(dtype)
    return result if isinstance(codes, np.ndarray) else result[()]
