"""Columns that are much larger than the others, and what they cost where a row has one scale.

The largest value of a row sets its scale, and the scale is the step of all its values. A column that is
the largest in most rows makes the steps of the others wider; it is the known weakness of row-wise
quantization (see Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, on such columns in language models).

Codes alone tell how wide the steps of the others would be without it, as long as the others have codes
left. Where all of them have the code of 0, their values are known to be at most half a step, and no more:
the steps would then be 254 times finer, or any more than that. So what is said is the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..system.reported import Reported
from .quantization import ZERO_POINT

__all__ = ["OutlierColumns", "SampledRows", "find_outliers"]

_SAMPLED_ROWS = 4096
_SAMPLED_CODES = 4 << 20
# Of few rows, any column may be the largest of some by chance.
_PEAK_ROWS, _PEAK_SHARE, _TIMES_TYPICAL = 5, 0.05, 8.0
_WORTH_A_WARNING = 1.25
_LARGEST_CODE = 127

_Rows = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]
"""Numbers of rows, their codes and their scales."""


@dataclass(frozen=True, eq=False, repr=False)
class OutlierColumns(Reported):
    """Columns that set the scale of many rows.

    Attributes
    ----------
    columns : tuple of int
        Those that have the largest magnitude of 5 % of the rows or more, of 5 rows at least, and of 8 times
        as many as the median column (rows of zeros aside); the most frequent first.
    peak_shares : tuple of float
        Share of the rows, not of zeros, in which each of them has the largest magnitude.
    energy_share : float
        Their share of the sum of squares of the whole matrix.
    step_factor : float
        How many times finer, at least, the steps of all the other columns would be without them: root mean
        square of the scales as they are, by the most that those of the other columns alone can be. At most
        254, where the others all read as 0. Measured on up to 4,096 evenly spaced rows; 1.0 where there are
        no such columns.
    zeroed_share : float
        Share of these rows, not of zeros, in which all the other columns read as 0.
    """

    columns: tuple[int, ...] = ()
    peak_shares: tuple[float, ...] = ()
    energy_share: float = 0.0
    step_factor: float = 1.0
    zeroed_share: float = 0.0

    @property
    def worth_a_warning(self) -> bool:
        """Steps would be a quarter finer, or more."""
        return self.step_factor >= _WORTH_A_WARNING


class SampledRows:
    """Evenly spaced rows of a matrix, taken from the parts that pass by.

    Rows are taken whose number is a multiple of a power of 2: which one follows from the number of rows, not
    from the parts.
    """

    def __init__(self, dim: int) -> None:
        self._most = max(1, min(_SAMPLED_ROWS, _SAMPLED_CODES // dim))
        self._stride, self._count = 1, 0
        self._taken: list[_Rows] = [(np.empty(0, np.int64), np.empty((0, dim), np.uint8), np.empty(0))]

    def add(self, first_row: int, codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
        """Take what is wanted of these rows."""
        while len(codes) > self._most * self._stride:
            self._double()
        at = np.arange(-first_row % self._stride, len(codes), self._stride)
        if at.size:
            self._take(first_row + at, codes[at], scales[at])

    def merge(self, other: SampledRows) -> None:
        """Take what was taken from other rows."""
        while self._stride < other._stride:
            self._double()
        self._take(*_thinned(other.rows(), self._stride))

    def _take(self, *rows: NDArray[Any]) -> None:
        self._taken.append((rows[0], rows[1], rows[2]))
        self._count += rows[0].size
        while self._count > self._most:
            self._double()

    def _double(self) -> None:
        self._stride *= 2
        self._taken = [_thinned(self.rows(), self._stride)]
        self._count = self._taken[0][0].size

    def rows(self) -> _Rows:
        """Numbers, codes and scales of the rows that were taken."""
        if len(self._taken) > 1:
            numbers, codes, scales = (np.concatenate(parts) for parts in zip(*self._taken, strict=True))
            self._taken = [(numbers, codes, scales)]
        return self._taken[0]

    def cost(self, columns: NDArray[np.int64]) -> tuple[float, float]:
        """What `columns` cost the others: ``step_factor`` and ``zeroed_share`` of :class:`OutlierColumns`."""
        _, codes, scales = self.rows()
        magnitudes = np.abs(codes.astype(np.int16) - ZERO_POINT)
        filled = (magnitudes.max(axis=1) > 0) & (scales > 0)
        magnitudes, scales = magnitudes[filled], scales[filled]
        magnitudes[:, columns] = 0
        largest = magnitudes.max(axis=1)
        # A code stands for values of up to half a step more; the largest of a row, for itself.
        most = np.minimum(largest + 0.5, np.maximum(largest, _LARGEST_CODE)) / _LARGEST_CODE
        scales = scales / scales.max(initial=0.0)  # their squares must not overflow
        without_them = float(np.sum(np.square(scales * most)))
        if not without_them:
            return 1.0, 0.0
        return float(np.sqrt(np.sum(np.square(scales)) / without_them)), float(np.mean(largest == 0))


def _thinned(rows: _Rows, stride: int) -> _Rows:
    """Those whose numbers are multiples of `stride`."""
    held = rows[0] % stride == 0
    return rows[0][held], rows[1][held], rows[2][held]


def find_outliers(
    peaks: NDArray[np.int64], energies: NDArray[np.float64], rows: int, sample: SampledRows
) -> OutlierColumns:
    """Find them among D columns.

    Parameters
    ----------
    peaks : ndarray of int64, shape (D,)
        In how many rows each column has the largest magnitude.
    energies : ndarray of float64, shape (D,)
        Sum of squares of each column.
    rows : int
        Rows that are not zero.
    sample : SampledRows
        To measure what they cost.
    """
    shares = peaks / max(rows, 1)
    # The lower median: of two columns, one can be an outlier.
    typical = float(np.sort(shares)[(shares.size - 1) // 2])
    order = np.argsort(-shares, kind="stable")
    many = (shares >= _PEAK_SHARE) & (shares >= _TIMES_TYPICAL * typical) & (peaks >= _PEAK_ROWS)
    found = order[many[order]]
    if not found.size:
        return OutlierColumns()
    total = float(energies.sum())
    step_factor, zeroed_share = sample.cost(found)
    return OutlierColumns(
        columns=tuple(found.tolist()),
        peak_shares=tuple(shares[found].tolist()),
        energy_share=float(energies[found].sum()) / total if total > 0 else 0.0,
        step_factor=step_factor,
        zeroed_share=zeroed_share,
    )
