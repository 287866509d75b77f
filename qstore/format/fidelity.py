"""The dataset ``/fidelity``: errors of rows, summed up block by block, in the file and as a report.

Errors of rows (:mod:`.row_errors`) are summed within the rows of a checksum block and then block after block:
neither threads nor the sizes of chunks change a bit of it. What is expected, scale / √12, is the root mean
square error of rounding to steps of `scale` (Bennett 1948, "Spectra of quantized signals").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine.distribution import PERCENTILES, Spread
from ..errors import FormatError
from ..system.reported import Reported
from .layout import fidelity_checksum, fidelity_intact

__all__ = ["Fidelity", "FidelityTotals", "fidelity_of"]

_WORST_ROWS = 8
_NO_ROW = -1


@dataclass(frozen=True, repr=False)
class Fidelity(Reported):
    """Errors of a store against its source.

    Attributes
    ----------
    rows : int
        Rows that were measured.
    zero_rows : int
        Those of them that hold zeros alone.
    max_error : float
        Largest error of a value, without its sign.
    rms_error : float
        Root mean square error of all values. Values beyond 1e154 or below 1e-154 leave the range of its
        squares; the relative figures have no such limits.
    expected_rms_error : float
        The same, as theory has it: root mean square of scale / √12.
    snr_db : float
        Signal to noise ratio in decibels: 10 log10 of the sum of squares of the values by that of the errors.
    relative_error_mean, relative_error_max : float
        Of the norm of a row's errors by the norm of the row; rows of zeros aside.
    relative_error_percentiles : dict of str to float
        As of :class:`qstore.engine.distribution.Distribution`.
    cosine_min, cosine_mean : float
        Cosine of the angle between a row as it was and as it is read; rows of zeros aside.
    cosine_percentiles : dict of str to float
        The p-th is what (100 - p) % of all rows reach.
    worst_rows : tuple of (int, float)
        Rows of the largest relative errors, and these.
    """

    rows: int
    zero_rows: int
    max_error: float
    rms_error: float
    expected_rms_error: float
    snr_db: float
    relative_error_mean: float
    relative_error_max: float
    relative_error_percentiles: dict[str, float]
    cosine_min: float
    cosine_mean: float
    cosine_percentiles: dict[str, float]
    worst_rows: tuple[tuple[int, float], ...]


class FidelityTotals:
    """Adds up the errors of rows, block by block. One thread uses it.

    Parameters
    ----------
    dim : int
        Number of columns.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.rows = 0
        self._max_error = 0.0
        self._error_square = self._value_square = self._expected_square = 0.0
        self._relative, self._angles = Spread(), Spread()
        self._worst = np.zeros((0, 2))

    def add_block(self, first_row: int, figures: NDArray[np.float64], scales: NDArray[np.float64]) -> None:
        """Take in rows of one block, what :func:`row_errors` found of them and their scales."""
        self.rows += len(figures)
        with np.errstate(over="ignore", under="ignore"):
            error_square, value_square, max_error = np.ascontiguousarray(figures[:, :3].T)
            self._error_square += float(error_square.sum())
            self._value_square += float(value_square.sum())
            self._expected_square += float(np.square(scales).sum()) * self._dim / 12
        self._max_error = max(self._max_error, float(max_error.max(initial=0.0)))
        self._relative.add(figures[:, 3])
        self._angles.add(figures[:, 4])
        self._note_worst(first_row, figures[:, 3])

    def _note_worst(self, first_row: int, relative: NDArray[np.float64]) -> None:
        numbered = np.stack([first_row + np.arange(relative.size), relative], axis=1)
        numbered = np.concatenate([self._worst, numbered[relative > 0]])
        self._worst = numbered[np.argsort(-numbered[:, 1], kind="stable")[:_WORST_ROWS]]

    def numbers(self) -> NDArray[np.float64]:
        """What has been added up, as ``/fidelity`` has it; ``docs/format.md`` says what is where."""
        relative, angles = self._relative.report(), self._angles.report()
        worst = np.tile([_NO_ROW, 0.0], (_WORST_ROWS, 1))
        worst[: len(self._worst)] = self._worst
        numbers = np.concatenate(
            [
                [self.rows, relative.count, self._max_error],
                [self._error_square, self._value_square, self._expected_square],
                [relative.mean, relative.maximum, angles.mean, angles.maximum],
                [*relative.percentiles.values()],
                [*angles.percentiles.values()],
                worst.reshape(-1),
            ]
        )
        numbers[np.isnan(numbers)] = np.nan  # one of the many there are
        return np.append(numbers, fidelity_checksum(numbers)).astype("<f8")

    def report(self) -> Fidelity:
        """What has been added up."""
        return fidelity_of(self.numbers(), self._dim)


def fidelity_of(numbers: NDArray[np.float64], dim: int) -> Fidelity:
    """What the numbers of ``/fidelity`` say of a matrix of so many columns.

    Raises
    ------
    FormatError
        They differ from their checksum, or are none that a build could have measured.
    """
    if not fidelity_intact(numbers):
        raise FormatError("/fidelity differs from its checksum; the rows may be whole: qstore verify tells")
    if not np.isfinite(numbers[[0, 1, *range(28, 44, 2)]]).all() or (numbers[:6] < 0).any():
        raise FormatError("/fidelity holds what no build can have measured")
    rows, filled, max_error, error_square, value_square, expected_square = numbers[:6].tolist()
    relative_mean, relative_max, angle_mean, angle_max = numbers[6:10].tolist()
    percentiles = numbers[10:28].reshape(2, -1).tolist()
    worst = numbers[28:-1].reshape(-1, 2).tolist()
    values = int(rows) * dim
    return Fidelity(
        rows=int(rows),
        zero_rows=int(rows - filled),
        max_error=max_error,
        rms_error=_root_mean(error_square, values),
        expected_rms_error=_root_mean(expected_square, values),
        snr_db=_decibels(value_square, error_square),
        relative_error_mean=relative_mean,
        relative_error_max=relative_max,
        relative_error_percentiles=_named(percentiles[0]),
        cosine_min=1 - angle_max,
        cosine_mean=1 - angle_mean,
        cosine_percentiles=_named([1 - angle for angle in reversed(percentiles[1])]),
        worst_rows=tuple((int(row), error) for row, error in worst if row != _NO_ROW),
    )


def _named(values: list[float]) -> dict[str, float]:
    return {f"{percentile:g}": value for percentile, value in zip(PERCENTILES, values, strict=True)}


def _root_mean(square: float, count: int) -> float:
    return math.sqrt(square / count) if count else math.nan


def _decibels(signal: float, noise: float) -> float:
    if not signal or not noise:
        return math.nan if not signal else math.inf
    return 10 * math.log10(signal / noise)
