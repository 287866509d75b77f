"""A matrix that lies in a file as plain rows, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Fingerprint, RowSource
from ..checks import check_matrix, check_range, shortened, type_name
from ..files import RawFile

__all__ = ["ContiguousRows"]


class ContiguousRows(RowSource):
    """Rows of one item type at one place of a file, read by position.

    `read` may run in any number of threads and holds just the rows it returns.

    Parameters
    ----------
    file : RawFile
        Closed by :meth:`close`; stays the caller's when this raises.
    kind : str
        Name of the format, for the fingerprint.
    name : str
        Name of the tensor, or "".
    offset : int
        Position of the first value.
    shape : tuple of int
    dtype : numpy.dtype
        Items as they lie in the file; :func:`qstore.engine.quantization.marker_dtype` for types NumPy lacks.
    header_crc32 : int
        CRC-32 of whatever told the above.
    origin : dict, optional
        What else belongs to the fingerprint: the index that led to this file.

    Raises
    ------
    SourceError
        Not a matrix of a supported type, or the file is too short for it.
    """

    def __init__(
        self,
        file: RawFile,
        *,
        kind: str,
        name: str,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        header_crc32: int,
        origin: Fingerprint | None = None,
    ) -> None:
        where = f"{file.path}: tensor {shortened(repr(name))}" if name else file.path
        self.dtype = type_name(dtype)
        check_matrix(where, shape, self.dtype)
        self.name = name
        self.rows, self.dim = shape
        end = offset + self.rows * self.dim * dtype.itemsize
        if end > file.size:
            raise SourceError(
                f"{where} ends early: {self.rows} × {self.dim} {self.dtype} expected {end} bytes, "
                f"found {file.size}; the file was cut short while being saved or copied: get it again"
            )
        self._where, self._file, self._kind, self._header_crc32 = where, file, kind, header_crc32
        self._offset, self._item, self._origin = offset, dtype, origin or {}
        file.will_read(offset, end)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        position = self._offset + start * self.dim * self._item.itemsize
        return self._file.read_array(position, (stop - start, self.dim), self._item)

    def fingerprint(self) -> Fingerprint:
        """Size, time and header of the file as they were when it was opened."""
        return {
            "kind": self._kind,
            **self._file.identity,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._header_crc32,
            **self._origin,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._file.close()
