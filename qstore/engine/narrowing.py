"""What rounding to a narrower type does to values: some become infinite, some become 0."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Narrowing", "may_lose", "narrowed", "tell_infinite"]

_Place = tuple[int, int, float]
"""Row, column and exact value."""

_LARGEST_CODE = 128


@dataclass(frozen=True)
class Narrowing:
    """Values that a type does not hold.

    Attributes
    ----------
    infinite, zeroed : int
        How many are infinite in it, and how many are 0 though they are not. In float64, values within a
        rounding of its largest are infinite.
    first_infinite, first_zeroed : (int, int, float) or None
        Row, column and exact value of the first of each.
    """

    infinite: int = 0
    zeroed: int = 0
    first_infinite: _Place | None = None
    first_zeroed: _Place | None = None

    def __add__(self, later: Narrowing) -> Narrowing:
        """With what comes later."""
        return Narrowing(
            self.infinite + later.infinite,
            self.zeroed + later.zeroed,
            self.first_infinite or later.first_infinite,
            self.first_zeroed or later.first_zeroed,
        )

    def infinite_in_words(self, dtype: DTypeLike) -> str:
        """Empty where there are none."""
        return _words(self.infinite, "too large", "infinite", dtype, self.first_infinite)

    def zeroed_in_words(self, dtype: DTypeLike) -> str:
        """Empty where there are none."""
        return _words(self.zeroed, "too small", "0", dtype, self.first_zeroed)


def _words(count: int, size: str, become: str, dtype: DTypeLike, place: _Place | None) -> str:
    if place is None:
        return ""
    row, column, value = place
    values = "value is" if count == 1 else "values are"
    return (
        f"{count:,} {values} {size} for {np.dtype(dtype).name} and {become} in it, the first in row {row}, "
        f"column {column} ({value:g})"
    )


def may_lose(scales: NDArray[np.float64], dtype: DTypeLike) -> bool:
    """False where no value of rows of these scales can be infinite or 0 in `dtype`, whatever the codes."""
    limits = np.finfo(np.dtype(dtype))
    with np.errstate(over="ignore"):
        largest = scales.max(initial=0.0) * _LARGEST_CODE
    smallest = scales[scales > 0].min(initial=np.inf)
    return bool(largest >= float(limits.max) or smallest < float(limits.smallest_subnormal))


def narrowed(
    exact: NDArray[np.float64], dtype: DTypeLike, rows: Sequence[int], columns: Sequence[int]
) -> tuple[NDArray[Any], Narrowing]:
    """Values rounded once to `dtype`, and what became of them.

    Parameters
    ----------
    exact : ndarray of float64, shape (n, m)
    dtype : {"float32", "float16", "float64"}
    rows, columns : sequence of int, length n and m
        Their numbers.

    Examples
    --------
    >>> import numpy as np
    >>> narrow, found = narrowed(np.array([[1.5, 70000.0], [1e-9, 0.0]]), "float16", [4, 5], [0, 1])
    >>> narrow.tolist(), found.infinite, found.first_zeroed
    ([[1.5, inf], [0.0, 0.0]], 1, (5, 0, 1e-09))
    """
    with np.errstate(over="ignore", under="ignore"):
        narrow = exact.astype(dtype)
    infinite = np.isinf(narrow)
    zeroed = (narrow == 0) & (exact != 0)
    return narrow, Narrowing(
        int(np.count_nonzero(infinite)),
        int(np.count_nonzero(zeroed)),
        _first(infinite, exact, rows, columns),
        _first(zeroed, exact, rows, columns),
    )


def _first(
    found: NDArray[np.bool_], exact: NDArray[np.float64], rows: Sequence[int], columns: Sequence[int]
) -> _Place | None:
    if not found.any():
        return None
    row, column = divmod(int(found.argmax()), found.shape[1])
    return int(rows[row]), int(columns[column]), float(exact[row, column])


def tell_infinite(values: NDArray[Any], stacklevel: int = 3) -> NDArray[Any]:
    """`values`, of float16; a RuntimeWarning where some are infinite, as NumPy gives for such a cast."""
    # Takes a fifth of the time of numpy.isinf.
    if count := int(np.count_nonzero((values.view(np.uint16) & 0x7FFF) == 0x7C00)):
        warnings.warn(
            f"{count:,} of {values.size:,} values are too large for float16 and read as infinity; float32 "
            f"and float64 have a wider range",
            RuntimeWarning,
            stacklevel,
        )
    return values
