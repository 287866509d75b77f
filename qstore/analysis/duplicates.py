"""Rows that occur more than once, counted by their hashes in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..system.reported import Reported

__all__ = ["DuplicateRows", "RowHashes"]

MOST_HASHES = 1 << 20
"""Different hashes that are kept: 32 MiB."""

_BATCH = 1 << 18
_NO_ROW = np.iinfo(np.int64).max


@dataclass(frozen=True, repr=False)
class DuplicateRows(Reported):
    """Rows that repeat an earlier row: the same codes and the same scale. Rows of zeros are not among them.

    Attributes
    ----------
    rows : int
        How many rows repeat an earlier one, by 64-bit hashes of codes and scale (of a billion rows, two
        different ones are taken for equal with a chance of 3 %; of a million, of 3 in 100 million).
    share_looked_at : float
        1.0 up to 1,048,576 different rows. Of more, so many different rows were looked at, those with
        the least hashes, and `rows` is an estimate from them: their repetitions divided by this share.
    examples : tuple of (int, int, int)
        Number of the first of some equal rows, number of another of them, and how many there are in all.
        Codes and scales of both were compared.
    """

    rows: int
    share_looked_at: float
    examples: tuple[tuple[int, int, int], ...]


class RowHashes:
    """Counts equal hashes. One thread may use it at a time.

    Of more than `limit` different hashes only those below 2^(64 - level) are kept, with the least level
    for which they fit (adaptive sampling: Flajolet 1990, "On adaptive sampling"). What is kept, and so the
    estimate, depends on the rows alone, not on the order in which they come.
    """

    def __init__(self, limit: int = MOST_HASHES) -> None:
        self._limit = limit
        self._level = 0
        self._waiting: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._count_waiting = 0
        # Ascending and different; the two least rows of each, and how many there are.
        self._hashes = np.empty(0, np.uint64)
        self._firsts, self._seconds = np.empty(0, np.int64), np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def add(self, hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Take in rows of these numbers."""
        kept = self._below(hashes)
        self._waiting.append((hashes[kept], rows[kept]))
        self._count_waiting += int(np.count_nonzero(kept))
        if self._count_waiting >= _BATCH:
            self._fold()

    def _below(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not self._level:
            return np.ones(hashes.size, np.bool_)
        below: NDArray[np.bool_] = hashes >> np.uint64(64 - self._level) == 0
        return below

    def merge(self, other: RowHashes, first_row: int = 0) -> None:
        """Take in what another one has, whose row 0 is `first_row` here."""
        other._fold()
        self._fold()
        if other._level > self._level:
            self._cut(other._level)
        seconds = np.where(other._seconds == _NO_ROW, _NO_ROW, other._seconds + first_row)
        self._join(other._hashes, other._firsts + first_row, seconds, other._counts)

    def _fold(self) -> None:
        hashes = np.concatenate([h for h, _ in self._waiting] or [self._hashes[:0]])
        rows = np.concatenate([r for _, r in self._waiting] or [self._firsts[:0]])
        self._waiting, self._count_waiting = [], 0
        if not hashes.size:
            return
        order = np.argsort(hashes)  # not stable, but three times as fast
        hashes, rows = hashes[order], rows[order]
        starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
        counts = np.diff(np.append(starts, hashes.size))
        firsts = np.minimum.reduceat(rows, starts)
        rows[rows == np.repeat(firsts, counts)] = _NO_ROW
        seconds = np.minimum.reduceat(rows, starts)
        self._join(hashes[starts], firsts, seconds, counts)

    def _join(
        self,
        hashes: NDArray[np.uint64],
        firsts: NDArray[np.int64],
        seconds: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """Take in different, ascending hashes."""
        kept = self._below(hashes)
        hashes, firsts, seconds, counts = hashes[kept], firsts[kept], seconds[kept], counts[kept]
        places = np.searchsorted(self._hashes, hashes)
        known = np.zeros(hashes.size, np.bool_)
        inside = places < self._hashes.size
        known[inside] = self._hashes[places[inside]] == hashes[inside]
        at = places[known]
        self._counts[at] += counts[known]
        both = np.sort([self._firsts[at], self._seconds[at], firsts[known], seconds[known]], axis=0)
        self._firsts[at], self._seconds[at] = both[0], both[1]
        # One array after the other: only one of them is there twice at a time.
        new = ~known
        self._hashes = np.insert(self._hashes, places[new], hashes[new])
        self._firsts = np.insert(self._firsts, places[new], firsts[new])
        self._seconds = np.insert(self._seconds, places[new], seconds[new])
        self._counts = np.insert(self._counts, places[new], counts[new])
        self._thin()

    def _thin(self) -> None:
        while self._hashes.size > self._limit:
            self._cut(self._level + 1)

    def _cut(self, level: int) -> None:
        self._level = level
        kept = int(np.searchsorted(self._hashes, np.uint64(1 << (64 - level))))
        self._hashes, self._firsts = self._hashes[:kept].copy(), self._firsts[:kept].copy()
        self._seconds, self._counts = self._seconds[:kept].copy(), self._counts[:kept].copy()

    @property
    def repeated(self) -> int:
        """Rows that repeat an earlier one: counted, or estimated from the share that was looked at."""
        self._fold()
        return int(self._counts.sum() - self._counts.size) << self._level

    @property
    def share_looked_at(self) -> float:
        """Share of the different rows that were looked at."""
        self._fold()
        return 0.5**self._level

    def pairs(self, most: int) -> list[tuple[int, int, int]]:
        """The first rows that repeat: (first, second, how many), the least first rows first."""
        self._fold()
        places = np.flatnonzero(self._counts > 1)
        places = places[np.argsort(self._firsts[places])][:most]
        found = zip(self._firsts[places], self._seconds[places], self._counts[places], strict=True)
        return [(int(first), int(second), int(count)) for first, second, count in found]
