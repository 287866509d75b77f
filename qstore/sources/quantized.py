"""Matrices that are quantized already: codes and scales go in as they are, without a second rounding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.arrays import as_array
from ..engine.quantization import ZERO_POINT, dequantize, to_float64
from ..errors import SourceError
from .base import Fingerprint, RowSource
from .checks import check_range
from .memory.array import ArraySource

__all__ = ["QUANTIZED", "CodesSource", "QuantizedSource", "check_scales"]

QUANTIZED = "quantized"
"""Type name of codes with their scales, in place of an element type."""

_CHUNK_BYTES = 4 << 20
_ZERO_POINTS = {"uint8": ZERO_POINT, "int8": 0}
_EXPECTED_CODES = (
    "(rows, columns) of uint8, which mean (code - 128) * scale, or of int8, which mean code * scale"
)


class QuantizedSource(RowSource):
    """A source that gives codes (zero point 128) and one scale a row."""

    dtype = QUANTIZED

    @abstractmethod
    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes of shape (stop - start, dim), 0 to 255, and as many scales; else as :meth:`read`."""

    def measured(self) -> NDArray[np.float64] | None:
        """The errors that were measured when the codes were made, as a store keeps them; None: unknown."""
        return None

    def coded_chunks(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
        """Yield codes and scales of the rows from `start` to before `stop` in pieces of about 4 MiB."""
        end = self.rows if stop is None else stop
        step = max(1, _CHUNK_BYTES // self.dim)
        for first in range(start, end, step):
            yield self.read_codes(first, min(first + step, end))

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """Rows `start` to `stop` as the float64 values that codes and scales stand for."""
        codes, scales = self.read_codes(start, stop)
        values = np.empty(codes.shape)
        dequantize(codes, scales, values)
        return values


class CodesSource(QuantizedSource):
    """Codes and scales in two arrays, read range by range; see :class:`ArraySource` for both.

    Parameters
    ----------
    codes : RowSource, or what :class:`ArraySource` takes, shape (N, D)
        Of uint8 with zero point 128, or of int8 with zero point 0.
    scales : the same, shape (N,) or (N, 1)
        Of floats, finite and not negative.

    Raises
    ------
    SourceError
        Other types or shapes, or a scale that is negative or not finite (its row is named); only when it is
        read, where scales are not in memory.

    Examples
    --------
    >>> import numpy as np
    >>> source = CodesSource(np.array([[255, 128], [1, 129]], np.uint8), np.array([0.5, 2.0]))
    >>> source.read_codes(1, 2), source.read(1, 2)
    ((array([[  1, 129]], dtype=uint8), array([2.])), array([[-254.,    2.]]))
    """

    def __init__(self, codes: Any, scales: Any) -> None:
        self._codes = _rows_of("codes", codes, _EXPECTED_CODES)
        self.rows, self.dim = self._codes.rows, self._codes.dim
        if self._codes.dtype not in _ZERO_POINTS:
            raise _unfit("codes", codes, _EXPECTED_CODES)
        expected = f"{(self.rows,)} of float64, or {(self.rows, 1)}, one scale a row"
        self._scales = _rows_of("scales", scales, expected)
        if (self._scales.rows, self._scales.dim) != (self.rows, 1) or "float" not in self._scales.dtype:
            if (self._scales.rows, self._scales.dim) == (1, 1):
                expected += "; codes that share one are built alone, with step= and zero_point="
            raise _unfit("scales", scales, expected)
        if isinstance(scales, np.ndarray):
            check_scales("the pair of codes and scales", self._read_scales(0, self.rows), 0)
        # Codes around 0 differ from those around 128 in their first bit alone.
        self._flip = np.uint8(ZERO_POINT - _ZERO_POINTS[self._codes.dtype])

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Views where nothing is to be converted; see :meth:`QuantizedSource.read_codes`."""
        check_range("the pair of codes and scales", start, stop, self.rows)
        scales = self._read_scales(start, stop)
        check_scales("the pair of codes and scales", scales, start)
        codes: NDArray[np.uint8] = self._codes.read(start, stop).view(np.uint8)
        return (codes ^ self._flip if self._flip else codes), scales

    def _read_scales(self, start: int, stop: int) -> NDArray[np.float64]:
        return to_float64(self._scales.read(start, stop)[:, 0])

    def fingerprint(self) -> Fingerprint:
        """Type and shape: what values arrays hold cannot be told without reading them all."""
        return {"kind": "codes", "dtype": self.dtype, "shape": [self.rows, self.dim]}


class _Column:
    """A vector as a matrix of one column, for slices of rows alone."""

    def __init__(self, vector: Any) -> None:
        self.shape = (*vector.shape, 1)
        self.dtype = getattr(vector, "dtype", None)
        self._vector = vector

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return as_array(self._vector[rows], "the vector", SourceError).reshape(-1, 1)


def _rows_of(what: str, given: Any, expected: str) -> RowSource:
    """Rows of an array; a vector is one column."""
    if isinstance(given, RowSource):
        return given
    try:
        return ArraySource(_Column(given) if len(given.shape) == 1 else given)
    except SourceError as error:
        raise _unfit(what, given, f"{expected} ({error})") from error


def _unfit(what: str, given: Any, expected: str) -> SourceError:
    shape = (given.rows, given.dim) if isinstance(given, RowSource) else tuple(given.shape)
    return SourceError(
        f"the {what} have shape {shape} and type {getattr(given, 'dtype', 'unknown')}: expected {expected}"
    )


def check_scales(where: str, scales: NDArray[np.float64], first: int) -> None:
    """Refuse scales that are negative or not finite; `first` is the row of the first one.

    Raises
    ------
    SourceError
    """
    bad = ~(np.isfinite(scales) & (scales >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise SourceError(
            f"{where}: row {first + row} has scale {scales[row]}: expected scales that are finite and not "
            f"negative; quantize the values again"
        )
