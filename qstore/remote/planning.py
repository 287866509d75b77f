"""From the places of many small pieces to few ranges: what lies close together is read in one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..format.layout import Extent

__all__ = ["LONGEST_GAP", "LONGEST_RANGE", "Plan", "coalesce", "split"]

LONGEST_GAP = 64 << 10
"""A request costs about as much as so many bytes: a longer gap is left out, however few there are."""
LONGEST_RANGE = 4 << 20
"""More is read in several ranges side by side, since one connection seldom gives all there is."""


class Plan(NamedTuple):
    """Ranges to read, and where the pieces lie in them."""

    ranges: list[Extent]
    places: NDArray[np.int64]
    """Where each piece begins, with the ranges laid end to end."""


def coalesce(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Plan:
    """Ranges that hold pieces of `sizes` bytes at ascending `offsets`, which do not overlap.

    The smallest gaps are read along, as long as all of them together take at most half the bytes of the
    pieces plus 64 KiB: requests are saved, and never more than so much is read in vain.

    Examples
    --------
    >>> coalesce(np.array([0, 150, 900_000]), np.array([100, 100, 100]))
    Plan(ranges=[Extent(offset=0, size=250), Extent(offset=900000, size=100)], places=array([  0, 150, 250]))
    """
    ends = offsets + sizes
    begins = np.ones(offsets.size, bool)
    begins[1:] = ~_affordable(offsets[1:] - ends[:-1], int(sizes.sum()))
    starts = offsets[begins]
    stops = ends[np.append(begins[1:], True)]
    lengths = stops - starts
    shift = starts - (np.cumsum(lengths) - lengths)
    places = offsets - shift[np.cumsum(begins) - 1]
    spans = zip(starts.tolist(), lengths.tolist(), strict=True)
    return Plan([part for span in spans for part in split(Extent(*span))], places)


def _affordable(gaps: NDArray[np.int64], asked: int) -> NDArray[np.bool_]:
    """Which gaps to read along."""
    order = np.argsort(gaps, kind="stable")
    ordered = gaps[order]
    chosen = (np.cumsum(ordered) <= asked // 2 + LONGEST_GAP) & (ordered <= LONGEST_GAP)
    read = np.empty(gaps.size, bool)
    read[order] = chosen
    return read


def split(extent: Extent) -> list[Extent]:
    """The same bytes in ranges of at most :data:`LONGEST_RANGE`."""
    starts = range(extent.offset, extent.stop, LONGEST_RANGE)
    return [Extent(start, min(LONGEST_RANGE, extent.stop - start)) for start in starts]
