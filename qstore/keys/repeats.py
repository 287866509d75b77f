"""Rows whose key an earlier row has, in one file or over many: found in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .equal_keys import LARGEST, NO_KEY_HASH, SIGN, Repeat, repeats, repeats_among, value_ranges
from .lookup import KeyIndex, key_index_of
from .packed import KeyKind

__all__ = ["KeyFile", "find_repeats"]

_MOST_VALUES = 2 << 20
"""Values in memory at once: 128 MiB with what sorting takes where all of them stand twice."""

_MOST_INDICES = 32
_BINS = 1 << 14
_STEP_ROWS = 1 << 18

Arrays = Mapping[str, NDArray[Any]]


class KeyFile(NamedTuple):
    """The keys of one file of a store.

    Attributes
    ----------
    path : str
    first, rows : int
        Number of its first row in the whole, and how many there are.
    arrays : callable
        Gives the datasets of ``/keys``. They are not trusted, but an index out of order may hide rows.
    """

    path: str
    first: int
    rows: int
    arrays: Callable[[], Arrays]


def find_repeats(kind: KeyKind, files: Sequence[KeyFile]) -> Iterator[Repeat]:
    """Yield each row that is not found by its key, as one before has the same.

    Raises
    ------
    FormatError
        An index is damaged, where it was looked at.
    """
    return _Search(kind, files).found()


def _between(values: NDArray[Any], low: int, high: int) -> range:
    """Places of the values from `low` to `high` in ascending ones."""
    bounds = _as(values, [low, high])
    return range(int(values.searchsorted(bounds[0])), int(values.searchsorted(bounds[1], "right")))


def _as(values: NDArray[Any], numbers: list[int]) -> NDArray[Any]:
    """Values as the index has them: hashes, or whole numbers with their sign."""
    unsigned = np.array(numbers, np.uint64)
    return unsigned if values.dtype == np.uint64 else (unsigned ^ np.uint64(SIGN)).view(np.int64)


class _Search:
    """No array of a file is held for longer than it is looked at: there may be many files."""

    def __init__(self, kind: KeyKind, files: Sequence[KeyFile]) -> None:
        self._texts = kind == "text"
        self._files = files
        self._firsts = [file.first for file in files]
        self._indices: dict[int, KeyIndex] = {}

    def found(self) -> Iterator[Repeat]:
        count = sum(file.rows for file in self._files)
        for low, high, held in value_ranges(0, LARGEST, count, self._histogram, _MOST_VALUES, _BINS):
            yield from self._in_range(low, high) if held <= _MOST_VALUES else self._of_value(low)

    def _sorted(self, file: KeyFile) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Values in ascending order, and their rows."""
        arrays, name = file.arrays(), "hashes" if self._texts else "sorted"
        if name not in arrays:
            raise FormatError(
                f"{file.path} has no keys of the kind that the others have; qstore verify says more"
            )
        return arrays[name], arrays["rows"]

    def _histogram(self, low: int, high: int, width: int) -> NDArray[np.int64]:
        ends = [min(low + width * (number + 1) - 1, high) for number in range(_BINS)]
        counts = np.zeros(_BINS, np.int64)
        for file in self._files:
            values, _ = self._sorted(file)
            places = values.searchsorted(_as(values, ends), "right")
            counts += np.diff(places, prepend=_between(values, low, high).start)
        return counts

    def _in_range(self, low: int, high: int) -> Iterator[Repeat]:
        twice = self._standing_twice(low, high)
        if not len(twice):
            return
        found, found_rows = [], []
        for file in self._files:
            values, rows = self._sorted(file)
            held = _between(values, low, high)
            some = values[held.start : held.stop]
            places = np.flatnonzero(twice[np.minimum(twice.searchsorted(some), len(twice) - 1)] == some)
            found.append(some[places])
            found_rows.append(_rows(file, rows[places + held.start]))
        every = np.concatenate(found)
        order = np.argsort(every, kind="stable")
        yield from repeats(every[order], np.concatenate(found_rows)[order], self._key_of, self._texts)

    def _standing_twice(self, low: int, high: int) -> NDArray[Any]:
        """The values of a range that more than one row has, in ascending order."""
        found = []
        for file in self._files:
            values, _ = self._sorted(file)
            held = _between(values, low, high)
            found.append(values[held.start : held.stop].copy())
        every = np.concatenate(found)
        every.sort()
        twice = every[1:][every[1:] == every[:-1]]
        return np.unique(twice[twice != np.uint64(NO_KEY_HASH)] if self._texts else twice)

    def _of_value(self, value: int) -> Iterator[Repeat]:
        """Rows of a single value, more than are sorted."""
        seen: dict[str | int, int] = {}
        for file in self._files if value != NO_KEY_HASH or not self._texts else ():
            values, rows = self._sorted(file)
            held = _between(values, value, value)
            for start in range(held.start, held.stop, _STEP_ROWS):
                some = rows[start : min(start + _STEP_ROWS, held.stop)]
                yield from repeats_among(_rows(file, some), self._key_of, seen)

    def _key_of(self, row: int) -> str | int | None:
        number = bisect_right(self._firsts, row) - 1
        file, index = self._files[number], self._indices.get(number)
        if index is None:
            if len(self._indices) == _MOST_INDICES:
                self._indices.clear()
            index = self._indices[number] = key_index_of(file.path, file.arrays())
        key = index.keys_of(np.array([row - file.first]))[0]
        return int(key) if isinstance(key, np.integer) else key


def _rows(file: KeyFile, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers in the whole of rows that an index of a file names."""
    if ((rows < 0) | (rows >= file.rows)).any():
        raise FormatError(f"{file.path}: the keys are damaged: /keys/rows names rows that are not there")
    return rows + file.first
