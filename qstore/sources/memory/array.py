"""Anything in memory, or behind a library, that has a shape and gives slices of rows."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.arrays import as_array, check_dense
from ...errors import SourceError
from ..base import Fingerprint, RowSource
from ..checks import check_matrix, check_range, shortened, type_name
from ..containers.chunk_rows import ChunkRows, rows_of_chunks

__all__ = ["ArraySource", "nested_list_source"]

# What array libraries raise when a slice cannot be had: files gone, devices that failed.
_SLICE_ERRORS = (OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError)


class ArraySource(RowSource):
    """Rows of an object with `.shape` and row slices: ndarray, memmap, h5py dataset, zarr array, …

    Slices that are not NumPy arrays yet (dask, torch) are made so one range at a time. `read` may run in
    any number of threads if the object's slices may; those of NumPy, h5py and zarr may. A memory-mapped
    object that is cut short while read ends the process: give the path instead where that can happen.

    Parameters
    ----------
    array : object
        Shape (N, D). Never closed, never changed.

    Raises
    ------
    SourceError
        Not a matrix of a supported type.

    Examples
    --------
    >>> import numpy as np
    >>> source = ArraySource(np.arange(6, dtype=np.int8).reshape(3, 2))
    >>> source.rows, source.dim, source.dtype, source.read(1, 2)
    (3, 2, 'int8', array([[2, 3]], dtype=int8))
    """

    def __init__(self, array: Any) -> None:
        self._where = f"the {type(array).__name__}"
        if isinstance(array, (np.ma.MaskedArray, memoryview)):
            array = as_array(array, self._where, SourceError)
        check_dense(array, self._where, SourceError)
        shape = _shape(array, self._where)
        if len(shape) != 2:
            found = getattr(array, "dtype", None)
            check_matrix(self._where, shape, type_name(found) if isinstance(found, np.dtype) else "float32")
        self.dtype = type_name(_dtype(array, self._where))
        check_matrix(self._where, shape, self.dtype)
        self.rows, self.dim = shape
        row_bytes = self.dim * np.dtype(np.float32).itemsize
        self._array = array
        self.unused_names = _unused_names(array)
        self._chunks = ChunkRows(self.rows, rows_of_chunks(array), row_bytes)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, a view where the object gives one; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        return self._chunks.read(start, stop, self._slice)

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        block = _slice(self._array, start, stop, self._where)
        shape = (stop - start, self.dim)
        if block.shape != shape or type_name(block.dtype) != self.dtype:
            raise SourceError(
                f"{self._where}: rows {start}:{stop} expected shape {shape} of {self.dtype}, "
                f"found {block.shape} of {block.dtype}"
            )
        return block

    def fingerprint(self) -> Fingerprint:
        """Type and shape: what values an array holds cannot be told without reading them all."""
        return {"kind": "array", "dtype": self.dtype, "shape": [self.rows, self.dim]}


def _unused_names(array: Any) -> tuple[str, ...]:
    """What to say of the index of a table of pandas, where that holds texts."""
    kind = type(array)
    is_table = kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"
    if not is_table or array.index.inferred_type != "string":
        return ()
    return (
        "the index of the DataFrame holds texts and is left out: to name the rows by it, give "
        "keys=frame.index",
    )


def nested_list_source(rows: list[Any] | tuple[Any, ...]) -> ArraySource:
    """Source of a list of lists of numbers.

    Raises
    ------
    SourceError
        The rows differ in length (the first one that does is named), or NumPy makes no numbers of them.
    """
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise SourceError(
                f"the list is ragged: row {number} expected {len(rows[0])} values, found {len(row)}"
            )
    return ArraySource(as_array(rows, "the list", SourceError))


def _shape(array: Any, where: str) -> tuple[int, ...]:
    try:
        return tuple(operator.index(length) for length in array.shape)
    except TypeError as error:
        raise SourceError(
            f"{where} has shape {array.shape}: expected integers; for dask, call compute_chunk_sizes() first"
        ) from error


def _dtype(array: Any, where: str) -> np.dtype[Any]:
    dtype = getattr(array, "dtype", None)
    return dtype if isinstance(dtype, np.dtype) else _slice(array, 0, 0, where).dtype


def _slice(array: Any, start: int, stop: int, where: str) -> NDArray[Any]:
    try:
        part = array[start:stop]
    except _SLICE_ERRORS as error:
        raise SourceError(
            f"{where}: rows {start}:{stop} cannot be read, expected an array that gives slices of rows: "
            f"{shortened(str(error))}"
        ) from error
    return as_array(part, f"{where}, rows {start}:{stop},", SourceError)
