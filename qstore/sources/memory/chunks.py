"""Rows that come in 2-D pieces, one after the other, from any iterable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.arrays import as_array
from ...errors import SourceError
from ..base import Source
from ..checks import check_matrix, type_name

__all__ = ["ChunkSource"]


class ChunkSource(Source):
    """Matrix of unknown height that an iterable gives in chunks.

    The first chunk is taken at once: it tells the width and the element type, which every later chunk
    must have too (the byte order may differ). One iterator can be read once; anything that `iter` gives a
    new iterator for, such as a list, as often as wanted. For one thread. Exceptions of the iterable itself
    pass through unchanged.

    Parameters
    ----------
    chunks : iterable of array_like, each of shape (n, D), any n ≥ 0

    Raises
    ------
    SourceError
        No chunk at all, or the first one is not a matrix of a supported type.

    Examples
    --------
    >>> import numpy as np
    >>> source = ChunkSource(np.full((2, 3), value, np.float32) for value in range(4))
    >>> source.rows, source.dim, source.dtype, sum(len(chunk) for chunk in source.chunks(start=3))
    (None, 3, 'float32', 5)
    """

    rows: int | None = None

    def __init__(self, chunks: Iterable[Any]) -> None:
        iterator = iter(chunks)
        try:
            first = as_array(next(iterator), "chunk 0", SourceError)
        except StopIteration:
            raise SourceError(
                "the iterable is empty: expected at least one chunk to tell the number of columns; "
                "for a matrix of 0 rows give one of shape (0, columns)"
            ) from None
        _check_rank(first, 0, 0)
        self.dtype = type_name(first.dtype)
        check_matrix("chunk 0", first.shape, self.dtype)
        self.dim = int(first.shape[1])
        self._iterable = chunks
        self._unread: Iterator[Any] | None = itertools.chain([first], iterator)

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on; the ones before are taken from the iterable and dropped.

        An array is good until the next one is asked for (the iterable may use its memory again).

        Raises
        ------
        SourceError
            A one-time iterator was read before; while iterating: a chunk has another width or element
            type (chunk and row are named), or there are fewer than `start` rows.
        """
        iterator, self._unread = self._unread, None
        if iterator is None:
            iterator = iter(self._iterable)
            if iterator is self._iterable:
                raise SourceError(
                    "the iterator has been read already: make a new one, or give a list of chunks"
                )
        return self._rows_from(iterator, start)

    def _rows_from(self, iterator: Iterator[Any], start: int) -> Iterator[NDArray[Any]]:
        row = 0
        for number, values in enumerate(iterator):
            chunk = self._checked(values, number, row)
            end = row + len(chunk)
            if end > start:
                yield chunk[max(0, start - row) :]
            row = end
        if row < start:
            raise SourceError(f"the chunks end early: expected more than {start:,} rows, found {row:,}")

    def _checked(self, values: Any, number: int, row: int) -> NDArray[np.generic]:
        chunk = as_array(values, f"chunk {number} (from row {row})", SourceError)
        _check_rank(chunk, number, row)
        if chunk.shape[1] != self.dim:
            raise SourceError(
                f"chunk {number} (from row {row}) has {chunk.shape[1]} columns: "
                f"expected {self.dim}, as in chunk 0"
            )
        if type_name(chunk.dtype) != self.dtype:
            raise SourceError(
                f"chunk {number} (from row {row}) holds {chunk.dtype}: expected {self.dtype}, as in chunk 0; "
                f"convert all chunks to one type"
            )
        return chunk


def _check_rank(chunk: NDArray[Any], number: int, row: int) -> None:
    if chunk.ndim == 1:
        raise SourceError(
            f"chunk {number} (from row {row}) is one row of shape {chunk.shape}: expected 2-D chunks; "
            f"stack some rows with np.stack, or give row[None, :]"
        )
    if chunk.ndim != 2:
        raise SourceError(
            f"chunk {number} (from row {row}) has shape {chunk.shape}: expected a 2-D chunk of rows, "
            f"found {chunk.ndim} dimensions"
        )
