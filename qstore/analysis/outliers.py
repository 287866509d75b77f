"""Columns that are much larger than the others, and what they cost where a row has one scale.

The largest value of a row sets its scale, and the scale is the step of all its values. A column that is
the largest in most rows makes the others coarser; it is the known weakness of row-wise quantization (see
Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, on such columns in language models).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine.quantization import ZERO_POINT

__all__ = ["OutlierColumns", "SampledRows", "find_outliers"]

_SAMPLED_ROWS = 4096
_SAMPLED_CODES = 16 << 20
# With columns alike, each is the largest in 1 of D rows.
_PEAK_SHARE, _TIMES_AVERAGE = 0.05, 8.0
_MOST_OUTLIERS = 32
_WORTH_A_WARNING = 1.25


@dataclass(frozen=True, eq=False)
class OutlierColumns:
    """Columns that set the scale of many rows.

    Attributes
    ----------
    columns : tuple of int
        Those that have the largest magnitude of 5 % of the rows or more, and of 8 times as many as an
        average column (rows of zeros aside); at most 32, the most frequent first.
    peak_shares : tuple of float
        Share of the rows, not of zeros, in which each of them has the largest magnitude.
    energy_share : float
        Their share of the sum of squares of the whole matrix.
    error_factor : float
        How many times smaller the root mean square error of all the other columns would be without
        them: root mean square of the scales as they are, by that of the scales the other columns alone
        would have. Measured on up to 4,096 evenly spaced rows; 1.0 where there are no such columns.
    """

    columns: tuple[int, ...]
    peak_shares: tuple[float, ...]
    energy_share: float
    error_factor: float

    @property
    def worth_a_warning(self) -> bool:
        """They cost a quarter more error, or more."""
        return self.error_factor >= _WORTH_A_WARNING


class SampledRows:
    """Evenly spaced rows of a matrix of this shape, taken from the parts that pass by."""

    def __init__(self, rows: int, dim: int) -> None:
        wanted = max(1, min(_SAMPLED_ROWS, _SAMPLED_CODES // dim))
        self._numbers = np.unique(np.arange(wanted) * max(rows, 1) // wanted)
        self._taken: list[tuple[NDArray[np.uint8], NDArray[np.float64]]] = []

    def add(self, first_row: int, codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
        """Take what is wanted of these rows."""
        start, stop = np.searchsorted(self._numbers, [first_row, first_row + len(codes)])
        at = self._numbers[start:stop] - first_row
        if at.size:
            self._taken.append((codes[at], scales[at]))

    def merge(self, other: SampledRows) -> None:
        """Take what was taken from the rows that come next."""
        self._taken += other._taken

    def error_factor(self, columns: NDArray[np.int64]) -> float:
        """What `columns` cost all the others, as :class:`OutlierColumns` says."""
        scales = np.concatenate([np.zeros(1), *(scales for _, scales in self._taken)])
        others = (_largest_of_others(codes, columns) for codes, _ in self._taken)
        rest = np.concatenate([np.zeros(1), *others])
        scales = scales / (scales.max() or 1.0)  # their squares must not overflow
        without_them = float(np.sum((scales * rest / 127.0) ** 2))
        return float(np.sqrt(np.sum(scales**2) / without_them)) if without_them else 1.0


def _largest_of_others(codes: NDArray[np.uint8], columns: NDArray[np.int64]) -> NDArray[np.int16]:
    """Largest abs(code - 128) of each row outside `columns`."""
    magnitudes = np.abs(codes.astype(np.int16) - ZERO_POINT)
    magnitudes[:, columns] = 0
    largest: NDArray[np.int16] = magnitudes.max(axis=1)
    return largest


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
    average = float(shares.mean())
    order = np.argsort(-shares, kind="stable")[:_MOST_OUTLIERS]
    found = order[(shares[order] >= _PEAK_SHARE) & (shares[order] >= _TIMES_AVERAGE * average)]
    total = float(energies.sum())
    return OutlierColumns(
        columns=tuple(found.tolist()),
        peak_shares=tuple(shares[found].tolist()),
        energy_share=float(energies[found].sum()) / total if found.size and total > 0 else 0.0,
        error_factor=sample.error_factor(found) if found.size else 1.0,
    )
