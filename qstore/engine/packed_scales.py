"""Scales of which there are few different ones, held in 2 bytes a row: exactly, bit for bit.

A matrix of 16-bit or 8-bit floats has at most 65,536 different scales: the largest value of a row has no more
to choose from.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .quantization import PackedScales

__all__ = ["MOST_VALUES", "add_scales", "packed"]

MOST_VALUES = 1 << 16
"""Different scales that can be told apart by 16 bits."""


def add_scales(
    scales: NDArray[np.float64], values: NDArray[np.float64], count: int, places: NDArray[np.uint16]
) -> int:
    """Fill `places`, of the shape of `scales`, with where they are in `values`, and add those that are new.

    Parameters
    ----------
    values : ndarray of float64, shape (65536,)
        The first `count` are different, bit for bit.

    Returns
    -------
    int
        How many there are now; -1 if they would be more than 65,536, and what is filled is undefined.
    """
    native = kernels.extension()
    if native is not None:
        found: int = native.pack_scales(scales, values, count, places)
        return found
    bits, known = np.unique(scales.view(np.uint64)), values[:count].view(np.uint64)
    new = bits[~np.isin(bits, known)]
    if count + new.size > MOST_VALUES:
        return -1
    values[count : count + new.size] = new.view(np.float64)
    known = values[: count + new.size].view(np.uint64)
    order = np.argsort(known)
    places[:] = order[np.searchsorted(known[order], scales.view(np.uint64))]
    return known.size


def packed(rows: int, parts: Iterable[NDArray[np.float64]]) -> PackedScales | None:
    """The scales of all parts, which have so many rows together; None if too many of them are different."""
    places, values = np.empty(rows, np.uint16), np.zeros(MOST_VALUES)
    count = start = 0
    for part in parts:
        count = add_scales(part, values, count, places[start : start + part.size])
        if count < 0:
            return None
        start += part.size
    return PackedScales(places, values)
