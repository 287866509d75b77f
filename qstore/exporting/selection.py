"""What is exported: consecutive rows of a store, given block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from ..keys.packed import KeyKind
from ..store import Store

__all__ = ["Selection"]

# Values of one block: 4 MiB as float32.
_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class Selection:
    """Consecutive rows of a store.

    Attributes
    ----------
    store : Store
        Read as the type to export.
    first, last : int
        The first row, and the one behind the last.
    keys : callable or None
        Gives the keys of the rows from a first to before a last one: texts or whole numbers.
    key_kind : {"text", "integer"}
    on_rows : callable
        Gets the number of rows that were just given.
    """

    store: Store
    first: int
    last: int
    keys: Callable[[int, int], Sequence[Any]] | None
    key_kind: KeyKind
    on_rows: Callable[[int], object]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.last - self.first, self.store.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian type of the values."""
        return self.store.dtype.newbyteorder("<")

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def tensor(self) -> str:
        """Name of the tensor, where the format wants one."""
        return self.store.tensor or "weight"

    def blocks(self, values: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, fresh array of whole rows of about so many values)."""
        for start, stop in self._ranges(values or _BLOCK_VALUES):
            yield start, self.store[start:stop].astype(self.dtype, copy=False)
            self.on_rows(stop - start)

    def codes(self) -> Iterator[NDArray[np.uint8]]:
        """Yield copies of the codes: views that an error holds on to would keep the store from closing."""
        for start, stop in self._ranges(4 * _BLOCK_VALUES):
            for part in self.store.parts(start, stop):
                codes = part.codes.copy()
                del part
                yield codes
            self.on_rows(stop - start)

    def scales(self) -> Iterator[NDArray[np.float64]]:
        """Yield copies of the scales."""
        for start in range(self.first, self.last, _BLOCK_VALUES):
            for part in self.store.parts(start, min(start + _BLOCK_VALUES, self.last)):
                scales = part.scales.astype("<f8")
                del part
                yield scales

    def _ranges(self, values: int) -> Iterator[tuple[int, int]]:
        step = max(1, values // self.store.shape[1])
        for start in range(self.first, self.last, step):
            yield start, min(start + step, self.last)

    def words(self, first: int, count: int, most: int) -> list[bytes]:
        """The words of `count` rows from `first` on: their keys, or else their numbers.

        Parameters
        ----------
        first, count : int
        most : int
            Bytes that a word may have.

        Raises
        ------
        ExportError
            A row has no key, or one that is empty, too long or holds white space, which separates words where
            this is used, or NUL.
        """
        if self.keys is None:
            return [str(row).encode() for row in range(first, first + count)]
        keys = self.keys(first, first + count)
        if self.key_kind == "integer":
            return [b"%d" % key for key in keys]
        words = [_word(key, first + number) for number, key in enumerate(keys)]
        for number, word in enumerate(words):
            if len(word) > most:
                raise _unfit(keys[number], first + number, f"at most {most} bytes")
        return words


def _word(key: str | None, row: int) -> bytes:
    if key is None:
        raise ExportError(
            f"row {row} has no key, expected a word for each row: export to .parquet, leave the keys out "
            f"with keys=False (--no-keys), or export only rows that have one with rows= (--rows A:B)"
        )
    try:
        word = key.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ExportError(f"the key of row {row} is {key!r:.200}, expected text") from None
    if word.split() != [word] or b"\0" in word:
        raise _unfit(key, row, "one character or more, without white space and NUL")
    return word


def _unfit(key: str, row: int, expected: str) -> ExportError:
    return ExportError(
        f"the key of row {row} is {key!r:.200}, expected a word of {expected}, which is all this format can "
        f"hold; replace it with keys=, leave the keys out with keys=False (--no-keys), or export to .parquet"
    )
