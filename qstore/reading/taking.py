"""``store.take`` along other axes and with other modes than those of rows that are simply there."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.arguments import whole_out
from ..engine.quantization import OUTPUT_TYPES
from ..system.options import one_of, shown
from .any_key import fill_outer, read_values
from .backing import Backing

__all__ = ["along", "in_range", "take"]

# Values that are taken of the matrix as one line at a time, 32 bytes each for where they are.
_BLOCK_VALUES = 1 << 17


def along(axis: Any) -> int | None:
    """0 for rows, 1 for columns, None for the values one after the other.

    Raises
    ------
    AxisError
        NumPy's own, which is a ValueError and an IndexError.
    """
    if axis is None:
        return None
    try:
        number = operator.index(axis)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"axis is {shown(axis)}, expected 0, 1 or None") from None
    if not -2 <= number < 2:
        raise np.exceptions.AxisError(number, 2)
    return number % 2


def in_range(numbers: NDArray[np.int64], mode: str, total: int, axis: int | None) -> NDArray[np.int64]:
    """Numbers from 0 to before `total`, by the rules of ``numpy.take``.

    Raises
    ------
    IndexError
        A number is out of range, where the mode is "raise"; or there is nothing to take from.
    ValueError
        Another mode.
    """
    one_of("mode", mode, ("raise", "wrap", "clip"))
    if not total and numbers.size:
        raise IndexError("cannot do a non-empty take from an empty axes.")
    if mode == "clip":
        return np.clip(numbers, 0, total - 1) if total else numbers
    if mode == "wrap":
        return numbers % total if total else numbers
    bad = (numbers < -total) | (numbers >= total)
    if bad.any():
        raise IndexError(
            f"index {numbers[bad].flat[0]} is out of bounds for axis {axis or 0} with size {total}"
        )
    return np.where(numbers < 0, numbers + total, numbers)


def take(
    backing: Backing, numbers: NDArray[np.int64], axis: int | None, mode: str, out: Any, dtype: np.dtype[Any]
) -> Any:
    """Columns, or values of the matrix as one line: as :meth:`.Store.take`."""
    rows, dim = backing.facts.rows, backing.facts.dim
    places = in_range(numbers, mode, rows * dim if axis is None else dim, axis)
    shape = numbers.shape if axis is None else (rows, *numbers.shape)
    made = kernels.fresh(shape, dtype) if out is None else out
    memory, flat = whole_out(made, shape, OUTPUT_TYPES), places.reshape(-1)
    if axis is None:
        line = memory.reshape(-1)
        for start in range(0, flat.size, _BLOCK_VALUES):
            block = slice(start, start + _BLOCK_VALUES)
            read_values(backing, *np.divmod(flat[block], dim), line[block])
    elif memory.size:
        fill_outer(backing, range(rows), flat, memory.reshape(rows, flat.size))
    return made if shape or out is not None else made[()]
