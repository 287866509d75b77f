"""Scattered rows of a matrix that lies in several parts: in C, or in NumPy with the same bits.

Parts are given by the number of the first row of each (rising; those of equal first rows but the last are
empty), their codes (n, D) and their scales (n,). Arguments are trusted; the extension checks them all the
same. Any thread may call these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..system.threads import in_parts
from . import kernels, quantization
from .arguments import lies_well

__all__ = ["by_part", "copy_parts", "gather_parts", "touch_parts"]

# Values that NumPy makes at a time before they go to their places.
_PIECE_VALUES = 1 << 18

Numbers = NDArray[np.int64]
Codes = tuple[NDArray[np.uint8], ...]
Scales = tuple[kernels.RowScales, ...]


def touch_parts(firsts: Numbers, total: int, rows: Numbers) -> NDArray[np.bool_]:
    """Which parts the rows lie in; `firsts` has all parts.

    Raises
    ------
    IndexError
        A number is not from -total to before total.
    """
    touched = np.zeros(len(firsts), np.uint8)
    native = kernels.extension()
    if native is not None:
        bad = native.touch_parts(firsts, total, rows, touched)
    else:
        bad = quantization.first_out_of_range(rows, total)
        if bad < 0:
            touched[_parts_of(firsts, total, rows)] = 1
    if bad >= 0:
        raise IndexError(f"index {rows[bad]} is out of bounds for axis 0 with size {total}")
    return touched.view(np.bool_)


def _parts_of(firsts: Numbers, total: int, rows: Numbers) -> NDArray[np.intp]:
    return np.searchsorted(firsts, np.where(rows < 0, rows + total, rows), side="right") - 1


def gather_parts(
    firsts: Numbers,
    total: int,
    codes: Codes,
    scales: Scales,
    rows: Numbers,
    out: NDArray[Any],
    threads: int | None = None,
) -> None:
    """Fill `out`, of shape (m, D), with the values of rows of the parts given, which need not be all."""
    native = kernels.extension()
    if native is None or not all(map(lies_well, codes)):
        step = max(1, _PIECE_VALUES // max(out.shape[1], 1))
        for start in range(0, rows.size, step):
            filled = out[start : start + step]
            for k, at, local in by_part(firsts, total, rows[start : start + step]):
                values = np.empty((len(local), out.shape[1]), out.dtype)
                quantization.gather(codes[k], scales[k], local, values)
                filled[at] = values
        return

    def part(start: int, stop: int) -> None:
        _check(native.gather_parts(firsts, total, codes, scales, rows[start:stop], out[start:stop]))

    in_parts(part, rows.size, out.size, threads)


def copy_parts(
    firsts: Numbers,
    total: int,
    codes: Codes,
    scales: Scales,
    rows: Numbers,
    out: NDArray[np.uint8],
    out_scales: NDArray[np.float64],
) -> None:
    """Fill `out`, of shape (m, D), and `out_scales` with the codes and scales of rows of the parts given."""
    native = kernels.extension()
    if native is not None:
        _check(native.copy_parts(firsts, total, codes, scales, rows, out, out_scales))
        return
    for k, at, local in by_part(firsts, total, rows):
        out[at], out_scales[at] = codes[k][local], quantization.scales_at(scales[k], local)


def _check(bad: int) -> None:
    if bad >= 0:
        raise ValueError(f"row number {bad} lies in none of the parts")


def by_part(firsts: Numbers, total: int, rows: Numbers) -> Iterator[tuple[int, Numbers, Numbers]]:
    """Yield (part, places in `rows`, row numbers within the part)."""
    positive = np.where(rows < 0, rows + total, rows)
    parts = np.searchsorted(firsts, positive, side="right") - 1
    order = np.argsort(parts, kind="stable")
    for at in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1) if rows.size else ():
        k = int(parts[at[0]])
        yield k, at, positive[at] - firsts[k]
