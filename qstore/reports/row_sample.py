"""A few evenly spaced rows of a store, to look at: their values, their errors, their two main directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..building.verify_against import open_compared
from ..engine import kernels
from ..engine.row_errors import ROW_FIGURES
from ..errors import SourceError
from ..sources import QuantizedSource, RowSource
from ..sources.row_ranges import limited, row_range
from ..store import Store

__all__ = ["SampledErrors", "errors_of", "plane_of", "sample_errors", "sample_rows"]

_MOST_VALUES = 16 << 20


def sample_rows(store: Store, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` evenly spaced rows, the first one of them; fewer of very long ones."""
    rows, dim = store.shape
    wanted = min(rows, most, max(1, _MOST_VALUES // dim))
    return np.arange(wanted) * rows // max(wanted, 1)


@dataclass(frozen=True, eq=False)
class SampledErrors:
    """Errors of a few rows against the source.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
    rms : ndarray of float64, shape (m,)
        Root mean square error of each row.
    expected : ndarray of float64, shape (m,)
        Scale / √12 of each.
    relative : ndarray of float64, shape (m,)
        Norm of the errors by the norm of the row; NaN for a row of zeros.
    """

    rows: NDArray[np.int64]
    rms: NDArray[np.float64]
    expected: NDArray[np.float64]
    relative: NDArray[np.float64]


def sample_errors(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    rows: slice | tuple[int, int] | None = None,
    most: int = 2000,
) -> SampledErrors:
    """Measure the errors of a few rows.

    Parameters
    ----------
    store : Store
    source, tensor, join, scale, as_stored, rows
        What the store was built from, as for :func:`qstore.build`.
    most : int
        How many rows.

    Raises
    ------
    SourceError
        The source has another shape, or is quantized itself.
    """
    with open_compared(store, source, tensor, join, scale, as_stored) as matrix:
        first, last = row_range(rows, matrix.rows)
        found = (None if last is None else last - first, matrix.dim)
        if found not in (store.shape, (None, store.shape[1])):
            raise SourceError(
                f"the source has shape {found}, the store {store.shape}: it was not built from it"
            )
        if isinstance(matrix, QuantizedSource):
            raise SourceError(
                "the source is quantized itself, expected one of values: there are no errors to measure"
            )
        numbers = sample_rows(store, most)
        if isinstance(matrix, RowSource):
            pieces = [matrix.read(first + row, first + row + 1) for row in numbers.tolist()]
        else:
            pieces = list(
                _picked(limited(matrix.chunks(first), None if last is None else len(store)), numbers)
            )
        codes, scales = store.take_codes(numbers)
        figures = [
            kernels.row_errors(piece, codes[place : place + 1], scales[place : place + 1])
            for place, piece in enumerate(pieces)
        ]
    table = np.concatenate([np.empty((0, ROW_FIGURES)), *figures])
    if len(table) < len(numbers):
        raise SourceError(f"the source ends before row {numbers[len(table)]} of the store")
    return errors_of(store, numbers, table)


def errors_of(store: Store, numbers: NDArray[np.int64], figures: NDArray[np.float64]) -> SampledErrors:
    """What :func:`qstore.engine.row_errors.row_errors` found of rows of these numbers."""
    _, scales = store.take_codes(numbers)
    return SampledErrors(
        numbers, np.sqrt(figures[:, 0] / store.shape[1]), scales / np.sqrt(12), figures[:, 3]
    )


def _picked(chunks: Any, numbers: NDArray[np.int64]) -> Any:
    """Copies of the rows of these ascending numbers, one by one."""
    done = 0
    for chunk in chunks:
        for row in numbers[(numbers >= done) & (numbers < done + len(chunk))].tolist():
            yield chunk[row - done : row - done + 1].copy()
        done += len(chunk)


def plane_of(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two main directions of rows (principal components), and where each row lies in them.

    Parameters
    ----------
    values : ndarray of float64, shape (n, D)
        Finite.

    Returns
    -------
    places : ndarray of float64, shape (n, 2)
    shares : ndarray of float64, shape (2,)
        Share of the variance in each direction.
    """
    centred = values - values.mean(axis=0)
    largest = np.abs(centred).max(initial=0.0)
    centred /= largest or 1.0  # squares must not overflow
    # Of the two matrices of products the smaller one: its eigenvectors give those of the other.
    wide = centred.shape[1] > centred.shape[0]
    products = centred @ centred.T if wide else centred.T @ centred
    powers, vectors = np.linalg.eigh(products)
    powers, vectors = np.maximum(powers[::-1][:2], 0.0), vectors[:, ::-1][:, :2]
    places = vectors * np.sqrt(powers) if wide else centred @ vectors
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    # An eigenvector has no sign: the one that turns the row farthest out to the positive side.
    signs = np.sign(places[np.abs(places).argmax(axis=0), [0, 1]])
    total = float(np.trace(products)) or 1.0
    shares = np.pad(powers / total, (0, 2 - powers.size))
    return places * np.where(signs == 0, 1.0, signs) * (largest or 1.0), shares
