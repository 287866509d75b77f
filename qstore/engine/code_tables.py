"""Codes of 8 bits that stand for the floats of a table, scaled by groups of columns, in NumPy.

This module is the specification of the kernel of that name: every other engine gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["look_up"]

_PIECE_VALUES = 1 << 16


def look_up(
    codes: NDArray[np.uint8],
    table: NDArray[np.float32],
    factors: NDArray[np.float32],
    width: int,
    out: NDArray[Any],
) -> None:
    """Fill `out` with ``table[codes] * factors``, one multiplication in float32 each.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, D)
    table : ndarray of float32, shape (256,)
    factors : ndarray of float32, shape (n, G) or (1, G)
        One for each `width` columns: G is D / width, rounded up.
    width : int
        At least 1.
    out : ndarray of float32, shape (n, D)

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty((1, 3), np.float32)
    >>> table = np.arange(256, dtype=np.float32)
    >>> look_up(np.array([[1, 2, 3]], np.uint8), table, np.array([[10, 100]], np.float32), 2, out)
    >>> out
    array([[ 10.,  20., 300.]], dtype=float32)
    """
    rows, dim = codes.shape
    step = max(1, _PIECE_VALUES // dim)
    with np.errstate(all="ignore"):
        for start in range(0, rows, step):
            piece = slice(start, min(start + step, rows))
            values, held = out[piece], factors if len(factors) == 1 else factors[piece]
            values[...] = table[codes[piece]]
            if held.shape[1] * width == dim and values.flags.c_contiguous:
                groups = values.reshape(len(values), -1, width)
                groups *= held[:, :, None]
            else:  # the last group is narrower
                values *= np.repeat(held, width, axis=1)[:, :dim]
