"""How far the values that are read are from those that were given, row by row, and what those were like.

The error of a value is its float64 read less what the source holds, as float64.

This module is the specification of the kernel of that name: every other engine gives the same bits. A row's
sums are NumPy's, of contiguous float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .quantization import ZERO_POINT, to_float64

__all__ = ["ROW_FIGURES", "row_errors"]

ROW_FIGURES = 9
"""Numbers that are kept of a row."""

# So that the float64 intermediates stay in the second-level cache.
_PIECE_VALUES = 1 << 14


def row_errors(
    values: NDArray[Any], codes: NDArray[np.uint8], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Errors of rows, and more.

    Parameters
    ----------
    values : ndarray, shape (n, D)
        What the source holds, of any element type; NaN and infinities are taken for 0.
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)

    Returns
    -------
    ndarray of float64, shape (n, 9)
        Sum of squared errors, sum of squared values, largest error, norm of the errors by the norm of the
        values, and 1 - cosine: these two are NaN for rows of zeros. Then how many values are not 0, how many
        of them read as 0, and the least and the largest value of rows that hold whole numbers alone, else
        NaN.
    """
    figures = np.empty((len(codes), ROW_FIGURES))
    step = max(1, _PIECE_VALUES // codes.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(codes), step):
            piece = slice(start, start + step)
            figures[piece] = _piece_errors(to_float64(values[piece]), codes[piece], scales[piece])
    return figures


def _piece_errors(
    given: NDArray[np.float64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    # A sum's order must not depend on how source and codes lie in memory.
    given = np.ascontiguousarray(given)
    given[~np.isfinite(given)] = 0.0
    errors = np.subtract(codes, float(ZERO_POINT), dtype=np.float64, order="C")
    errors *= scales[:, None]
    filled = given != 0
    zeroed = np.count_nonzero(filled & (errors == 0), axis=1)
    whole = np.where((given == np.rint(given)).all(axis=1), [given.min(axis=1), given.max(axis=1)], np.nan)
    whole += 0.0  # no negative zeros
    errors -= given
    max_error = np.abs(errors).max(axis=1)
    error_square, error_exponents = _squares(errors, max_error)
    value_square, value_exponents = _squares(given, np.abs(given).max(axis=1))
    ratio = np.ldexp(1.0, error_exponents - value_exponents)
    relative = np.sqrt(error_square / value_square) * ratio  # NaN for a row of zeros
    errors *= given
    along = errors.sum(axis=1) / value_square * ratio
    return np.stack(
        [
            np.ldexp(error_square, 2 * error_exponents),
            np.ldexp(value_square, 2 * value_exponents),
            max_error,
            relative,
            np.where(value_square > 0, _angle(np.square(relative), along), np.nan),
            np.count_nonzero(filled, axis=1),
            zeroed,
            *whole,
        ],
        axis=1,
    )


def _squares(
    values: NDArray[np.float64], largest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Multiply each row by 2^-exponent, which is exact, so that squares neither overflow nor vanish.

    Returns the sums of squares then, and the exponents.
    """
    exponents = np.clip(np.frexp(largest)[1], -1000, 1000)
    values *= np.ldexp(1.0, -exponents)[:, None]
    return np.square(values).sum(axis=1), exponents


def _angle(relative_square: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - cosine of the angle between x and y = x + e without cancellation, from |e|²/|x|² and e·x/|x|².

    With |x| = 1: |e|² = (|y| - 1)² + 2 |y| (1 - cosine), and |y|² - 1 = 2 e·x + |e|².
    """
    growth = 2 * along + relative_square
    length = np.sqrt(np.maximum(1 + growth, 0.0))
    angle = (relative_square - np.square(growth / (1 + length))) / (2 * length)
    # What is read as zeros, or as infinity, has no direction: it counts as orthogonal.
    return np.where(np.isnan(angle), 1.0, np.clip(angle, 0.0, 2.0))
