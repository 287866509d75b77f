"""What a build finds out about its source, from all rows or from those it measures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.nonfinite import NonFiniteValues
from ..engine.outliers import OutlierColumns, SampledRows, find_outliers

__all__ = ["Findings"]

# Of a row that is quantized well, one value in a hundred reads as 0.
_MUCH_OF_A_ROW = 0.25


class Findings:
    """Adds up what is found, block by block. One thread uses it.

    Attributes
    ----------
    nonfinite : NonFiniteValues
        What was replaced by 0, in all rows.
    measured : int
        Rows that were measured: their values are known, not their codes alone.
    filled, zeroed : int
        Values of these that are not 0, and those of them that read as 0.
    coarse : int
        Measured rows in which more than a quarter of the values that are not 0, and two at least, read as 0.
    least, largest : float
        Of measured rows, if all of them hold whole numbers alone; else NaN.
    max_error, relative_error : float
        The largest error of a value, and of a row by its norm, that was measured.
    largest_scale : float
        Of all rows.
    """

    def __init__(self, dim: int) -> None:
        self.nonfinite = NonFiniteValues()
        self.measured = self.filled = self.zeroed = self.coarse = 0
        self.least, self.largest = math.inf, -math.inf
        self.max_error = self.relative_error = 0.0
        self.largest_scale = 0.0
        self._dim = dim
        self._sample = SampledRows(dim)

    def add(
        self,
        first_row: int,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
        figures: NDArray[np.float64] | None,
        nonfinite: NonFiniteValues,
    ) -> None:
        """Take in rows that follow one another, and what :func:`.row_errors` found of the first of them."""
        self.nonfinite += nonfinite
        self.largest_scale = max(self.largest_scale, float(scales.max(initial=0.0)))
        self._sample.add(first_row, codes, scales)
        if figures is None or not len(figures):
            return
        filled, zeroed, least, largest = figures[:, 5:].T
        self.measured += len(figures)
        self.filled += int(filled.sum())
        self.zeroed += int(zeroed.sum())
        self.coarse += int(np.count_nonzero((zeroed > _MUCH_OF_A_ROW * filled) & (zeroed > 1)))
        self.least = float(np.minimum(self.least, least.min()))
        self.largest = float(np.maximum(self.largest, largest.max()))
        self.max_error = max(self.max_error, float(figures[:, 2].max()))
        self.relative_error = max(self.relative_error, float(np.nan_to_num(figures[:, 3]).max()))

    def outliers(self) -> OutlierColumns:
        """Outlier columns of evenly spaced rows."""
        _, codes, scales = self._sample.rows()
        rows, columns = np.empty((2, len(codes)), np.int64), np.zeros((2, self._dim))
        peaks, histogram = np.zeros(self._dim, np.int64), np.zeros(256, np.int64)
        kernels.survey(codes, scales, rows, columns, peaks, histogram)
        filled = int(np.count_nonzero((rows[0] > 0) & (scales > 0)))
        return find_outliers(peaks, columns[1], filled, self._sample)
