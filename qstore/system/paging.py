"""Reads that have to wait for the disk: ask for all pages at once instead of one page fault after another.

Touching a mapped page that is not in memory waits for one read; 10,000 scattered rows wait 10,000 times.
Where that happens, the pages of the rows to come are asked for in advance (``MADV_WILLNEED``), with all
reads under way together. Asking costs about 0.5 µs a row, so it is done only while pages turn out to be
missing: the kernel's count of major faults of this thread tells, at 1 µs a look.
"""

from __future__ import annotations

import contextlib
import mmap
import resource
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["MANY_ROWS", "SLOW_NS", "Pager", "Steps", "Work"]

Work = Callable[[int, int], object]

_PAGE = mmap.PAGESIZE
MANY_ROWS = 1024
"""From so many rows on, a request is worth being done in steps."""
SLOW_NS = 100_000
"""What a request takes at least that had to wait."""
_SLOW_ROW_NS = 2_000
# Pages asked for ahead of use: enough to keep a disk busy, and little beside the memory of any machine.
_AHEAD_BYTES = 64 << 20
# Linux reads no more for one request than the device's read-ahead, which is 128 KiB by default.
_WINDOW = 128 << 10
_FIRST_ROWS = 16
# Between two steps the caches forget the caller: in memory, few large ones are faster.
_WARM_STEPS = 4


class Steps(ABC):
    """Knows whether the last reads had to wait, and has pages brought in ahead where they did.

    Threads may share one: what they share is only that guess.

    Parameters
    ----------
    dim : int
        Bytes of the codes of one row.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.cold = False

    @abstractmethod
    def ask_scattered(self, rows: NDArray[np.int64], total: int) -> None:
        """Have these rows read, numbers from -total to before total, without waiting."""

    def scattered(self, rows: NDArray[np.int64], total: int, work: Work) -> None:
        """Call ``work(start, stop)`` over parts of `rows`, numbers from -total to before total."""
        most = _AHEAD_BYTES // (2 * max(self._dim, _PAGE))  # a page or more each
        self._in_steps(rows.size, (most, most), work, lambda a, b: self.ask_scattered(rows[a:b], total))

    def note_few(self, rows: int, nanoseconds: int) -> None:
        """Guess from the time that few rows took whether reading them had to wait."""
        self.cold = nanoseconds > SLOW_NS + _SLOW_ROW_NS * rows

    def _in_steps(
        self, count: int, most: tuple[int, int], work: Work, ask: Callable[[int, int], None]
    ) -> None:
        """Small steps first: they tell whether pages are missing before many faults have been taken.

        At most so many rows a step where they are missing, and where they are not.
        """
        start, asked, step, cold = 0, 0, _FIRST_ROWS, self.cold
        while start < count:
            largest = max(1, most[0] if cold else most[1])
            stop = min(count, start + min(step, largest))
            step = min(16 * step, largest)
            before = resource.getrusage(resource.RUSAGE_THREAD)
            if cold and asked < min(count, stop + step):
                # One step further than needed now: the disk works while this step is computed.
                with contextlib.suppress(ValueError):  # another thread has closed the map, not what is read
                    ask(max(asked, start), min(count, stop + step))
                asked = min(count, stop + step)
            work(start, stop)
            after = resource.getrusage(resource.RUSAGE_THREAD)
            cold = after.ru_majflt > before.ru_majflt or (cold and after.ru_inblock > before.ru_inblock)
            start = stop
        self.cold = cold


class Pager(Steps):
    """Brings in the pages of one mapped file.

    Parameters
    ----------
    mapped : mmap
        Any map of the whole file: what is asked for is there for all of them.
    codes_offset, dim : int
        Where the codes begin, and the bytes of one row.
    scales_offset : int or None
        Where the scales begin; None where they are not read from the map.
    """

    def __init__(self, mapped: mmap.mmap, codes_offset: int, dim: int, scales_offset: int | None) -> None:
        super().__init__(dim)
        self._map = mapped
        self._tables = [(codes_offset, dim)]
        if scales_offset is not None:
            self._tables.append((scales_offset, 8))

    def sequential(self, first: int, rows: int, work: Work) -> None:
        """Call ``work(start, stop)`` over parts of the `rows` rows from `first` on, counted from 0."""
        most = _AHEAD_BYTES // (2 * max(self._dim, 1))
        steps = most, _WARM_STEPS * most
        self._in_steps(rows, steps, work, lambda a, b: self.ask(first + a, first + b))

    def ask(self, first: int, last: int) -> None:
        """Have the rows `first` to before `last` read, without waiting."""
        for offset, size in self._tables:
            start = (offset + first * size) // _PAGE * _PAGE
            stop = min(offset + last * size, len(self._map))
            for begin in range(start, stop, _WINDOW):
                self._map.madvise(mmap.MADV_WILLNEED, begin, min(_WINDOW, stop - begin))

    def ask_scattered(self, rows: NDArray[np.int64], total: int) -> None:
        """See :meth:`Steps.ask_scattered`."""
        ordered = np.sort(np.where(rows < 0, rows + total, rows))
        for offset, size in self._tables:
            starts = offset + ordered * size
            first, last = starts // _PAGE, (starts + size - 1) // _PAGE
            # Rows on the same or neighboring pages are asked for together.
            breaks = np.flatnonzero(first[1:] > last[:-1] + 1) + 1
            begins = first[np.concatenate(([0], breaks))] * _PAGE
            ends = (last[np.concatenate((breaks - 1, [-1]))] + 1) * _PAGE
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                self._map.madvise(mmap.MADV_WILLNEED, begin, min(end, len(self._map)) - begin)
