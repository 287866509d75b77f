"""What a store holds, in one pass over its codes: norms, scales, codes, columns, duplicates, outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.distribution import Distribution, Spread
from ..engine.outliers import OutlierColumns, SampledRows, find_outliers
from ..format import layout
from ..format.fidelity import Fidelity
from ..reading.parts import Part
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.threads import in_order
from .advice import store_warnings
from .duplicates import DuplicateRows, RowHashes

__all__ = ["ReadRow", "StoreStats", "Totals", "part_rows", "survey_parts", "totals_of"]

ReadRow = Callable[[int], tuple[NDArray[np.uint8], float]]
"""Codes and scale of a row."""

_PART_CODES = 4 << 20
_EXAMPLES = 5


@dataclass(frozen=True, eq=False, repr=False)
class StoreStats(Reported):
    """What :meth:`qstore.Store.stats` found.

    All values are those of a float64 read, ``(code - 128) * scale``.

    Attributes
    ----------
    rows, dim : int
        Shape of the matrix.
    zero_rows : int
        Rows whose values are all 0.
    norms : Distribution
        Euclidean norms of the rows: the scale times the square root of the exact whole number sum of
        ``(code - 128)**2``.
    scales : Distribution
        The scales: one step of a row's codes.
    relative_steps : Distribution
        Expected root mean square error of a row, scale / √12, by the root mean square of its values; rows
        of zeros aside.
    code_counts : ndarray of int64, shape (256,)
        How often each code occurs.
    column_means, column_variances, column_energies : ndarray of float64, shape (D,)
        Of each column, over all rows: mean, population variance, sum of squares. The variance is mean
        square less square of the mean: a column whose mean is a million times its deviation has none.
    duplicates : DuplicateRows
        Rows that repeat an earlier one.
    outliers : OutlierColumns
        Columns that make the steps of all the others wider.
    warnings : tuple of str
        What deserves a look, in words.
    """

    rows: int
    dim: int
    zero_rows: int
    norms: Distribution
    scales: Distribution
    relative_steps: Distribution
    code_counts: NDArray[np.int64]
    column_means: NDArray[np.float64]
    column_variances: NDArray[np.float64]
    column_energies: NDArray[np.float64]
    duplicates: DuplicateRows
    outliers: OutlierColumns
    warnings: tuple[str, ...]


def part_rows(dim: int) -> int:
    """Rows of the parts that :func:`survey_parts` likes: whole checksum blocks of about 4 MiB."""
    block = layout.block_rows(dim)
    return block * max(1, _PART_CODES // (block * dim))


def survey_parts(
    parts: Iterable[Part],
    rows: int,
    dim: int,
    read_row: ReadRow,
    *,
    fidelity: Fidelity | None = None,
    threads: int | None = None,
    progress: Progress = None,
) -> StoreStats:
    """Statistics of a matrix that comes in parts.

    Sums are kept for each part and added up in the order of the parts: threads cannot change them.

    Parameters
    ----------
    parts : iterable of (int, ndarray, ndarray)
        First row, codes and scales of rows that follow one another; all the rows, in order.
    rows, dim : int
        Shape of the matrix.
    read_row : callable
        Gives codes and scale of a row, to compare a few that seem to be equal.
    fidelity : Fidelity, optional
        What the build measured: only that tells what is 0 from what reads as 0.
    threads : int, optional
        By default the number of processors.
    progress : bool or callable, optional
    """
    return totals_of(parts, rows, dim, threads=threads, progress=progress).report(read_row, fidelity)


def totals_of(
    parts: Iterable[Part], rows: int, dim: int, *, threads: int | None = None, progress: Progress = None
) -> Totals:
    """What :func:`survey_parts` adds up, of parts that need not be all: of rows of a matrix of this shape."""
    found = Totals(rows, dim)
    with rows_progress(progress, rows) as on_rows:
        for part in in_order(_survey, parts, threads):
            found.add(part)
            on_rows(len(part.scales))
    return found


class _SurveyedPart:
    """Sums of one part. What only needs one row at a time is done here, by several threads."""

    def __init__(self, part: Part) -> None:
        self.first_row, self.codes, self.scales = part
        rows, dim = self.codes.shape
        row_sums = np.empty((2, rows), np.int64)
        self.columns = np.zeros((2, dim))
        self.peaks = np.zeros(dim, np.int64)
        self.histogram = np.zeros(256, np.int64)
        kernels.survey(self.codes, self.scales, row_sums, self.columns, self.peaks, self.histogram)
        self.hashes = row_sums[1].view(np.uint64)
        lengths = np.sqrt(row_sums[0])
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            self.norms = self.scales * lengths
            self.relative_steps = np.sqrt(dim / 12) / lengths
        self.zero = self.norms == 0


def _survey(part: Part) -> _SurveyedPart:
    return _SurveyedPart(part)


class Totals:
    """Everything that has been added up. One thread uses it; it can be pickled."""

    def __init__(self, rows: int, dim: int) -> None:
        self._rows, self._dim = rows, dim
        self._zero_rows = 0
        self._norms, self._scales, self._steps = Spread(), Spread(), Spread()
        self._columns = np.zeros((2, dim))
        self._peaks = np.zeros(dim, np.int64)
        self._histogram = np.zeros(256, np.int64)
        self._hashes = RowHashes()
        self._sample = SampledRows(dim)

    def add(self, part: _SurveyedPart) -> None:
        """Add the next part."""
        filled = ~part.zero
        self._zero_rows += int(np.count_nonzero(part.zero))
        self._norms.add(part.norms)
        self._scales.add(part.scales)
        self._steps.add(part.relative_steps[filled])
        with np.errstate(over="ignore", invalid="ignore"):
            self._columns += part.columns
        self._peaks += part.peaks
        self._histogram += part.histogram
        self._hashes.add(part.hashes[filled], part.first_row + np.flatnonzero(filled))
        self._sample.add(part.first_row, part.codes, part.scales)

    def merge(self, other: Totals) -> None:
        """Add what was found in the rows that come next."""
        self._zero_rows += other._zero_rows
        self._norms.merge(other._norms)
        self._scales.merge(other._scales)
        self._steps.merge(other._steps)
        with np.errstate(over="ignore", invalid="ignore"):
            self._columns += other._columns
        self._peaks += other._peaks
        self._histogram += other._histogram
        self._hashes.merge(other._hashes)
        self._sample.merge(other._sample)

    def report(self, read_row: ReadRow, fidelity: Fidelity | None = None) -> StoreStats:
        """Everything, once all parts are in."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            means, squares = self._columns / self._rows if self._rows else np.full((2, self._dim), np.nan)
            variances = np.maximum(squares - means**2, 0.0)
        duplicates = self._duplicates(read_row)
        scales = self._scales.report()
        outliers = find_outliers(self._peaks, self._columns[1], self._rows - self._zero_rows, self._sample)
        return StoreStats(
            rows=self._rows,
            dim=self._dim,
            zero_rows=self._zero_rows,
            norms=self._norms.report(),
            scales=scales,
            relative_steps=self._steps.report(),
            code_counts=self._histogram,
            column_means=means,
            column_variances=variances,
            column_energies=self._columns[1],
            duplicates=duplicates,
            outliers=outliers,
            warnings=store_warnings(outliers, self._sample, scales.maximum, fidelity),
        )

    def _duplicates(self, read_row: ReadRow) -> DuplicateRows:
        examples = tuple(pair for pair in self._hashes.pairs(_EXAMPLES) if _equal(read_row, *pair[:2]))
        return DuplicateRows(self._hashes.repeated, self._hashes.share_looked_at, examples)


def _equal(read_row: ReadRow, first: int, second: int) -> bool:
    (codes, scale), (other_codes, other_scale) = read_row(first), read_row(second)
    return scale == other_scale and bool(np.array_equal(codes, other_codes))
