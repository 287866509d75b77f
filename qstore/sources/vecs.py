""".fvecs, .bvecs and .ivecs files: each row is its number of columns (int32), then its values.

Layout: http://corpus-texmex.irisa.fr/.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from .base import Fingerprint, RowSource, TensorInfo
from .checks import check_range, type_name
from .files import RawFile

__all__ = ["VecsFormat", "VecsRows"]

_TYPES: dict[str, np.dtype[Any]] = {
    ".fvecs": np.dtype("<f4"),
    ".bvecs": np.dtype("u1"),
    ".ivecs": np.dtype("<i4"),
}
_HEAD_BYTES = 4


class VecsFormat:
    """One unnamed matrix a file. Nothing but its name tells the format."""

    name = "vecs"
    suffixes: tuple[str, ...] = tuple(_TYPES)

    def matches(self, path: str, head: bytes) -> bool:
        """Never: the bytes could be anything."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """The matrix.

        Raises
        ------
        SourceError
        """
        source = self.open(path, None)
        source.close()
        return [TensorInfo("", (source.rows, source.dim), source.dtype)]

    def open(self, path: str, tensor: str | None) -> VecsRows:
        """Source of the rows.

        Raises
        ------
        SourceError
            `tensor` is not None, or the size is not that of whole rows as wide as the first one.
        """
        if tensor is not None:
            raise SourceError(f"{path}: a .fvecs file holds one matrix without a name; leave tensor= out")
        item = next(item for suffix, item in _TYPES.items() if path.lower().endswith(suffix))
        with ExitStack() as on_error:
            source = VecsRows(on_error.enter_context(RawFile(path)), item)
            on_error.pop_all()
        return source


class VecsRows(RowSource):
    """Rows that each begin with their number of columns, which is checked as they are read.

    Parameters
    ----------
    file : RawFile
        Closed by :meth:`close`; stays the caller's when this raises.
    item : numpy.dtype
        Type of the values.

    Raises
    ------
    SourceError
        The size is not that of whole rows as wide as the first one.
    """

    def __init__(self, file: RawFile, item: np.dtype[Any]) -> None:
        self._file, self._item = file, item
        self.dtype = type_name(item)
        self.dim = int.from_bytes(file.read_bytes(0, _HEAD_BYTES), "little", signed=True)
        self._row_bytes = _HEAD_BYTES + self.dim * item.itemsize
        if self.dim < 1 or file.size % self._row_bytes:
            raise SourceError(
                f"{file.path}: row 0 has {self.dim} columns: expected at least 1, and a file of whole "
                f"rows of {self._row_bytes} bytes, found {file.size}; it is cut short, or another format"
            )
        self.rows = file.size // self._row_bytes

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`.

        Raises
        ------
        SourceError
            A row has another number of columns than the first one.
        """
        check_range(self._file.path, start, stop, self.rows)
        shape = (stop - start, self._row_bytes)
        raw = self._file.read_array(start * self._row_bytes, shape, np.dtype(np.uint8))
        widths = raw[:, :_HEAD_BYTES].view("<i4")[:, 0]
        other = widths != self.dim
        if other.any():
            row = int(other.argmax())
            raise SourceError(
                f"{self._file.path}: row {start + row} has {widths[row]} columns: "
                f"expected {self.dim}, as in row 0"
            )
        return raw[:, _HEAD_BYTES:].view(self._item)

    def fingerprint(self) -> Fingerprint:
        """Size and time of the file as they were when it was opened."""
        return {
            "kind": "vecs",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        self._file.close()
