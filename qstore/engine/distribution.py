"""How many values of which size: counted exactly or in logarithmic bins, in bounded memory, in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..system.reported import Reported

__all__ = ["PERCENTILES", "Distribution", "Spread"]

PERCENTILES = (0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9)
"""The ones that are reported."""

_EXACT_VALUES = 1 << 18
# Bins are the upper bits of a float64: sign, exponent and 10 bits of the fraction, 2^-10 of the value wide.
_DROPPED_BITS = 42
_BINS = 1 << (63 - _DROPPED_BITS)
_FEW_BINS = 1 << 16
_SHOWN_BINS = 96
_SMALLEST = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False, repr=False)
class Distribution(Reported):
    """How values that are not negative are distributed.

    Attributes
    ----------
    count : int
        Number of values.
    minimum, mean, maximum : float
        NaN where there are no values.
    percentiles : dict of str to float
        The p-th is the least value that p % of all values do not exceed. Exact up to 262,144 values; of
        more, the middle of a bin that holds it, which is at most 0.05 % away.
    edges : ndarray of float64, shape (K + 1,)
        Edges of the bins below: even in the logarithm where values span more than a factor of 4, else even.
    counts : ndarray of int64, shape (K,)
        Values in each bin: all but 0, infinity and subnormal numbers.
    """

    count: int
    minimum: float
    mean: float
    maximum: float
    percentiles: dict[str, float]
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


class Spread:
    """Collects values that are not negative. One thread may use it at a time.

    Everything but the mean is independent of the order in which values and other spreads are added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._total = 0.0
        self._minimum, self._maximum = np.inf, -np.inf
        self._kept: list[NDArray[np.float64]] | None = []
        self._bins = np.zeros(0, np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in an array of values; NaN are left out."""
        values = values[~np.isnan(values)]
        if not values.size:
            return
        self.count += values.size
        with np.errstate(over="ignore"):
            self._total += float(values.sum())
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))
        self._keep(values)

    def merge(self, other: Spread) -> None:
        """Take in what another one has."""
        self.count += other.count
        self._total += other._total
        self._minimum = min(self._minimum, other._minimum)
        self._maximum = max(self._maximum, other._maximum)
        if other._kept is None:
            self._use_bins()
            self._bins += other._bins
        else:
            for values in other._kept:
                self._keep(values)

    def _keep(self, values: NDArray[np.float64]) -> None:
        if self._kept is not None and self.count <= _EXACT_VALUES:
            self._kept.append(values)
        else:
            self._use_bins()
            self._bin(values)

    def _use_bins(self) -> None:
        """Once there are too many values to keep: those kept so far are counted in bins."""
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        self._bins = np.zeros(_BINS, np.int64)  # 16 MiB, of which only the pages that are used take memory
        for values in kept:
            self._bin(values)

    def _bin(self, values: NDArray[np.float64]) -> None:
        places = np.abs(values).view(np.int64) >> _DROPPED_BITS
        first, last = int(places.min()), int(places.max())
        if last - first < _FEW_BINS:
            self._bins[first : last + 1] += np.bincount(places - first, minlength=last - first + 1)
        else:
            np.add.at(self._bins, places, 1)

    def _counted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Values in ascending order and how often each occurs."""
        if self._kept is not None:
            values = np.sort(np.concatenate([*self._kept, np.empty(0)]))
            return values, np.ones(values.size, np.int64)
        used = np.flatnonzero(self._bins)
        middles = (used << _DROPPED_BITS) | (1 << (_DROPPED_BITS - 1))
        values = np.where(used == 0, 0.0, middles.view(np.float64))
        return np.clip(values, self._minimum, self._maximum), self._bins[used]

    def report(self) -> Distribution:
        """What has been collected."""
        if not self.count:
            nothing = {_name(p): np.nan for p in PERCENTILES}
            return Distribution(0, np.nan, np.nan, np.nan, nothing, np.zeros(2), np.zeros(1, np.int64))
        values, counts = self._counted()
        ranks = np.ceil(np.array(PERCENTILES) / 100 * self.count)
        found = values[np.searchsorted(np.cumsum(counts), ranks)]
        positive = values > 0
        edges = _edges(values[positive])
        shown, _ = np.histogram(values[positive], edges, weights=counts[positive])
        return Distribution(
            count=self.count,
            minimum=self._minimum,
            mean=self._total / self.count,
            maximum=self._maximum,
            percentiles={_name(p): float(value) for p, value in zip(PERCENTILES, found, strict=True)},
            edges=edges,
            counts=shown.astype(np.int64),
        )


def _name(percentile: float) -> str:
    return f"{percentile:g}"


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of about a hundred bins that hold these ascending values, but subnormal numbers and infinity."""
    finite = values[np.isfinite(values) & (values >= _SMALLEST)]
    if not finite.size:
        return np.array([0.0, 1.0])
    low, high = float(finite[0]), float(finite[-1])
    if high <= 4 * low:
        room = 1e-3 * low if low == high else 0.0
        return np.linspace(low - room, min(high + room, np.finfo(np.float64).max), _SHOWN_BINS + 1)
    edges = np.exp2(np.linspace(np.log2(low), np.log2(high), _SHOWN_BINS + 1))
    edges[0], edges[-1] = low, high
    return edges
