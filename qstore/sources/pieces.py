"""Consecutive pieces of one open source, each a source of its own: what shards are built from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Fingerprint, Keys, RowSource, Source
from .quantized import QuantizedSource

__all__ = ["Rest", "range_of"]


def range_of(matrix: RowSource, first: int, last: int) -> RowSource:
    """The rows `first` to before `last`; closing it leaves `matrix` open."""
    kind = _CodeRange if isinstance(matrix, QuantizedSource) else _RowRange
    return kind(matrix, first, last)


class _RowRange(RowSource):
    def __init__(self, matrix: Any, first: int, last: int) -> None:
        self.name, self.dtype, self.dim = matrix.name, matrix.dtype, matrix.dim
        self.rows = last - first
        self._matrix, self._first = matrix, first

    @property
    def recorded_dtype(self) -> str:
        """That of the whole."""
        name: str = self._matrix.recorded_dtype
        return name

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """See :meth:`.RowSource.read`."""
        rows: NDArray[Any] = self._matrix.read(self._first + start, self._first + stop)
        return rows

    def fingerprint(self) -> Fingerprint | None:
        """That of the whole, with the rows."""
        whole: Fingerprint | None = self._matrix.fingerprint()
        return None if whole is None else {**whole, "piece": [self._first, self._first + self.rows]}

    def check_unchanged(self) -> None:
        """See :meth:`.Source.check_unchanged`."""
        self._matrix.check_unchanged()


class _CodeRange(_RowRange, QuantizedSource):
    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """See :meth:`.QuantizedSource.read_codes`."""
        found: tuple[NDArray[np.uint8], NDArray[np.float64]] = self._matrix.read_codes(
            self._first + start, self._first + stop
        )
        return found


class Rest(Source):
    """What is left of a source that is read from front to back, at most so many rows of it at a time.

    The source is read from the first row that is asked for: pieces that are skipped before are not read.

    Parameters
    ----------
    matrix : Source
    first : int
        Row to begin with.
    total : int or None
        Rows to give in all; None: to the end.
    most : int
        Rows of one piece.
    keyed : bool
        With the keys that the source carries.
    """

    rows: int | None = None

    def __init__(self, matrix: Source, first: int, total: int | None, most: int, keyed: bool) -> None:
        self.name, self.dtype, self.dim, self.keyed = matrix.name, matrix.dtype, matrix.dim, keyed
        self._matrix, self._most, self._row, self._left = matrix, most, first, total
        self._chunks: Iterator[tuple[NDArray[Any], Any]] | None = None
        self._held: tuple[NDArray[Any], Any] | None = None

    @property
    def most(self) -> int:
        """Rows of this piece, at most."""
        return self._most if self._left is None else min(self._most, self._left)

    def skip(self, rows: int) -> None:
        """Leave out the next rows, all of this piece; where it may have more, they are the last ones."""
        self._drop(rows)
        if rows < self._most:
            self._left = 0

    def go_on(self) -> bool:
        """Begin with the next piece; False where no row is left."""
        while self._left != 0 and (self._held is None or not len(self._held[0])):
            self._held = next(self._begun(), None)
            if self._held is None:
                self._left = 0
        return self._left != 0

    def _begun(self) -> Iterator[tuple[NDArray[Any], Any]]:
        if self._chunks is None:
            if self.keyed:
                self._chunks = self._matrix.keyed_chunks(self._row)
            else:
                self._chunks = ((chunk, None) for chunk in self._matrix.chunks(self._row))
        return self._chunks

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """See :meth:`.Source.keyed_chunks`: the rows of this piece."""
        wanted = self._most - start
        self._drop(start)
        while wanted and self.go_on() and self._held is not None:
            chunk: NDArray[Any] = self._held[0]
            keys: Any = self._held[1]
            count = min(len(chunk), wanted, len(chunk) if self._left is None else self._left)
            self._took(count)
            wanted -= count
            yield chunk[:count], keys[:count] if self.keyed else keys

    def _took(self, count: int) -> None:
        if self._held is not None:
            chunk, keys = self._held
            self._held = chunk[count:], None if keys is None else keys[count:]
        self._row += count
        self._left = None if self._left is None else self._left - count

    def _drop(self, rows: int) -> None:
        """Leave out rows of this piece, without reading them where nothing has been read yet."""
        if self._chunks is None:
            self._took(rows)
            return
        while rows and self.go_on() and self._held is not None:
            count = min(rows, len(self._held[0]))
            self._took(count)
            rows -= count

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """See :meth:`.Source.chunks`: the rows of this piece."""
        return (chunk for chunk, _ in self.keyed_chunks(start))

    def fingerprint(self) -> Fingerprint | None:
        """That of the whole, with the rows this piece may have."""
        whole = self._matrix.fingerprint()
        return None if whole is None else {**whole, "piece": [self._row, self._row + self.most]}

    def check_unchanged(self) -> None:
        """See :meth:`.Source.check_unchanged`."""
        self._matrix.check_unchanged()
