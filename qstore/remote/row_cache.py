"""Rows that were read lately, up to a number of bytes."""

from __future__ import annotations

import itertools
import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowCache"]

_OVERHEAD = 128
"""Bytes that a row costs beside its codes and scale: its entry in a dict, and three numbers."""
_EVICTED = 16
"""When it is full, at least one row in so many goes at once: finding the oldest takes a pass over all."""


class RowCache:
    """The rows used least recently go first. Any number of threads may share one.

    It holds rows, not blocks of the file: 4 KiB around each of 1,000 scattered rows of 768 bytes would be
    five times what was asked for.

    Parameters
    ----------
    rows, dim : int
        Shape of the matrix.
    limit : int
        Most bytes that the cache may take; 0 keeps nothing.
    """

    def __init__(self, rows: int, dim: int, limit: int) -> None:
        self.capacity = min(rows, limit // (dim + 8 + _OVERHEAD))
        self._lock = threading.Lock()
        self._slot_of: dict[int, int] = {}
        self._clock = 0
        # Memory that nothing was written to is only reserved.
        self._codes = np.empty((self.capacity, dim), np.uint8)
        self._scales = np.empty(self.capacity)
        self._row_in = np.empty(self.capacity, np.int64)
        self._used = np.empty(self.capacity, np.int64)
        self._free = np.arange(self.capacity)

    def __len__(self) -> int:
        return len(self._slot_of)

    def fill(
        self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Copy rows that are here to their places in `codes` and `scales`; return the places of others."""
        if not self._slot_of:
            return np.arange(rows.size)
        with self._lock:
            held = map(self._slot_of.get, rows.tolist(), itertools.repeat(-1))
            slots = np.fromiter(held, np.int64, rows.size)
            here = np.flatnonzero(slots >= 0)
            found = slots[here]
            codes[here], scales[here] = self._codes[found], self._scales[found]
            self._touch(found)
        return np.flatnonzero(slots < 0)

    def keep(self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
        """Take in rows, all different; of more than there is room for, the last ones."""
        with self._lock:
            new = np.fromiter((row not in self._slot_of for row in rows.tolist()), bool, rows.size)
            chosen = np.flatnonzero(new)[max(0, int(new.sum()) - self.capacity) :]
            self._make_room(chosen.size)
            slots, self._free = self._free[: chosen.size], self._free[chosen.size :]
            self._codes[slots], self._scales[slots] = codes[chosen], scales[chosen]
            self._row_in[slots] = rows[chosen]
            self._slot_of.update(zip(rows[chosen].tolist(), slots.tolist(), strict=True))
            self._touch(slots)

    def _touch(self, slots: NDArray[np.int64]) -> None:
        self._clock += 1
        self._used[slots] = self._clock

    def _make_room(self, count: int) -> None:
        if count <= self._free.size:
            return
        taken = np.fromiter(self._slot_of.values(), np.int64, len(self._slot_of))
        leaving = min(taken.size, max(count - self._free.size, self.capacity // _EVICTED))
        oldest = taken[np.argpartition(self._used[taken], leaving - 1)[:leaving]]
        for row in self._row_in[oldest].tolist():
            del self._slot_of[row]
        self._free = np.concatenate((self._free, oldest))
