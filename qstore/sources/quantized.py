"""Matrices that are quantized already: codes and scales go in as they are, without a second rounding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.quantization import dequantize
from ..errors import SourceError
from .base import Fingerprint, RowSource
from .checks import check_range

__all__ = ["QUANTIZED", "CodesSource", "QuantizedSource", "is_pair"]

QUANTIZED = "quantized"
"""Type name of codes with their scales, in place of an element type."""

_CHUNK_BYTES = 4 << 20


class QuantizedSource(RowSource):
    """A source that gives codes (zero point 128) and one scale a row."""

    dtype = QUANTIZED

    @abstractmethod
    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes of shape (stop - start, dim), 0 to 255, and as many scales; else as :meth:`read`."""

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
    """Codes and scales in two arrays. `read_codes` may run in any number of threads.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, D)
        Zero point 128.
    scales : ndarray of floats, shape (N,)
        Finite, not negative.
    name : str, optional

    Raises
    ------
    SourceError
        Other types or shapes, or a scale that is negative or not finite (its row is named).

    Examples
    --------
    >>> import numpy as np
    >>> source = CodesSource(np.array([[255, 128], [1, 129]], np.uint8), np.array([0.5, 2.0]))
    >>> source.read_codes(1, 2), source.read(1, 2)
    ((array([[  1, 129]], dtype=uint8), array([2.])), array([[-254.,    2.]]))
    """

    def __init__(self, codes: NDArray[Any], scales: NDArray[Any], name: str = "") -> None:
        if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] < 1:
            raise SourceError(
                f"the codes have shape {codes.shape} and type {codes.dtype}: "
                f"expected (rows, columns) of uint8"
            )
        if scales.shape != codes.shape[:1] or scales.dtype.kind != "f" or scales.dtype.itemsize > 8:
            raise SourceError(
                f"the scales have shape {scales.shape} and type {scales.dtype}: "
                f"expected {codes.shape[:1]} of float64"
            )
        self.name = name
        self.rows, self.dim = codes.shape
        self._codes, self._scales = codes, scales.astype(np.float64, copy=False)
        check_scales("the pair of codes and scales", self._scales, 0)

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Views of both arrays; see :meth:`QuantizedSource.read_codes`."""
        check_range("the pair of codes and scales", start, stop, self.rows)
        return self._codes[start:stop], self._scales[start:stop]

    def fingerprint(self) -> Fingerprint:
        """Type and shape: what values arrays hold cannot be told without reading them all."""
        return {"kind": "codes", "dtype": self.dtype, "shape": [self.rows, self.dim]}


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


def is_pair(obj: Any) -> bool:
    """Whether it is a tuple of a matrix of codes and a vector of scales, and no tuple of two chunks."""
    return (
        isinstance(obj, tuple)
        and len(obj) == 2
        and all(isinstance(part, np.ndarray) for part in obj)
        and (obj[0].ndim, obj[1].ndim) == (2, 1)
    )
