"""How much of a file is mapped, and whether reads have to wait for the disk.

Touching a mapped page that is not in memory waits for one read; 10,000 scattered rows wait 10,000 times.
Where that may happen, scattered rows are read otherwise (:mod:`qstore.engine.file_rows`), until many in a row
were found in memory. Ranges are asked for ahead of use (``MADV_WILLNEED``) while pages are missing, which the
kernel's count of major faults of this thread tells at 1 µs a look.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import resource
import weakref
from collections.abc import Callable, Iterator

import numpy as np

__all__ = [
    "MANY_ROWS",
    "SLOW_NS",
    "Pager",
    "Resident",
    "Steps",
    "Work",
    "memory_bytes",
    "usual_resident_bytes",
]

Work = Callable[[int, int], object]

_PAGE = mmap.PAGESIZE
_LEAST_RESIDENT_BYTES = 1 << 30
MANY_ROWS = 1024
"""From so many rows on, a request is worth being done in steps."""
SLOW_NS = 100_000
"""What a request takes at least that had to wait."""
_SLOW_ROW_NS = 2_000
# Rows that were found in memory one after the other, before others are expected there; fewer of large ones.
_ENOUGH_ROWS, _ENOUGH_BYTES = 4096, 16 << 20
# Pages asked for ahead of use: enough to keep a disk busy, and little beside the memory of any machine.
_AHEAD_BYTES = 64 << 20
# Linux reads no more for one request than the device's read-ahead, which is 128 KiB by default.
_ASKED_BYTES = 128 << 10
_FIRST_ROWS = 16
# Ranges are mapped by so much or more at a time, whatever may stay mapped.
_LEAST_BYTES = 64 << 20
# Between two steps the caches forget the caller: in memory, few large ones are faster.
_WARM_STEPS = 4


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or what control groups that it is in allow, if less.

    Looked up anew each time, in some small files of the kernel.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    with contextlib.suppress(OSError):
        for line in _text("/proc/self/cgroup").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                limits += _group_limits(controllers, group)
    return min(limits)


def _group_limits(controllers: str, group: str) -> Iterator[int]:
    """Limits of a control group and those around it; of version 2 where no controllers are named."""
    root, name = (
        ("/sys/fs/cgroup", "memory.max")
        if not controllers
        else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    )
    while True:
        with contextlib.suppress(OSError, ValueError):  # "max", or the group is not seen from here
            yield int(_text(f"{root}{group}/{name}"))
        if group in ("", "/"):
            return
        group = group.rpartition("/")[0]


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


@functools.cache
def usual_resident_bytes() -> int:
    """What may stay mapped where nobody says: half of :func:`memory_bytes`, and 1 GiB at least.

    What fits is in memory as a whole before long, and a mapped row takes a tenth of the time of one that is
    copied out of the page cache.
    """
    return max(_LEAST_RESIDENT_BYTES, memory_bytes() // 2)


class Resident:
    """How much of the files of a store may stay mapped in this process. They share it, and so do all threads.

    Nothing is measured. Scattered rows may map half of it, window by window, scales before codes, and what
    is mapped for them stays. What is mapped for ranges is added up; above a quarter all maps are given back,
    which leaves the pages in memory. A step of a range is an eighth at most.

    Parameters
    ----------
    most : int or None
        Bytes; None for any number.
    size : int
        Bytes of all files together.
    window : int
        Bytes of a window.

    Attributes
    ----------
    bounded : bool
        Whether the files are larger than what may be mapped.
    left : ndarray of int64, shape (1,)
        Windows that scattered rows may still map.
    """

    def __init__(self, most: int | None, size: int, window: int) -> None:
        self.most = most
        self.bounded = most is not None and size > most
        self.left = np.array([min(most or 0, size) // 2 // window], np.int64)
        self._window = window
        self._noted = 0
        self._maps: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()

    def watch(self, mapped: mmap.mmap) -> None:
        """Give this map back, too, as long as it is there."""
        self._maps[id(mapped)] = mapped

    def note(self, size: int) -> None:
        """So many bytes in a row have been read through a map, and what lies around them."""
        if not self.bounded:
            return
        self._noted += size + 4 * self._window  # at both ends of codes and scales
        if self._noted > (self.most or 0) // 4:
            self._noted = 0
            for held in self._maps.valuerefs():
                mapped = held()
                if mapped is not None:
                    with contextlib.suppress(ValueError):  # another thread has closed it
                        mapped.madvise(mmap.MADV_DONTNEED)


class Steps:
    """Knows whether rows may have to be waited for. Threads may share one: all they share is that guess.

    Parameters
    ----------
    rows, dim : int
    bounded : bool
        Whether rows are never simply read through the map.

    Attributes
    ----------
    cold : bool
        Whether rows are to be read without the map, or with that part of it which may be mapped.
    """

    def __init__(self, rows: int, dim: int, bounded: bool) -> None:
        self._dim = dim
        self._bounded = bounded
        self._enough = min(rows, max(_FIRST_ROWS, min(_ENOUGH_ROWS, _ENOUGH_BYTES // max(dim, 1))))
        self._found, self._faults = 0, resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        self.cold = True

    @property
    def found(self) -> bool:
        """Whether enough rows in a row were in memory."""
        return self._found >= self._enough

    def note_read(self, rows: int, missing: int, nanoseconds: int) -> None:
        """So many rows were read without the map, and so many were missing; negative: nobody knows."""
        if missing > 0 or (missing < 0 and self._is_slow(rows, nanoseconds)):
            self._found, self.cold = 0, True
        else:
            self._found += rows
            self.cold = self._bounded or not self.found

    def note_few(self, rows: int, nanoseconds: int) -> None:
        """Guess from the time that rows took whether reading them through the map had to wait for the disk.

        Where it took long, the kernel's count of major faults tells that from a busy processor.
        """
        if self._is_slow(rows, nanoseconds):
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            if faults != self._faults:
                self._faults, self._found, self.cold = faults, 0, True

    def _is_slow(self, rows: int, nanoseconds: int) -> bool:
        return nanoseconds > SLOW_NS + (_SLOW_ROW_NS + self._dim) * rows


class Pager(Steps):
    """Brings in ranges of one mapped file.

    Parameters
    ----------
    mapped : mmap
        Any map of the whole file: what is asked for is there for all of them.
    codes_offset, rows, dim : int
        Where the codes begin, how many rows there are, and the bytes of one.
    scales_offset : int or None
        Where the scales begin; None where they are not read from the map.
    resident : Resident
    """

    def __init__(
        self,
        mapped: mmap.mmap,
        codes_offset: int,
        rows: int,
        dim: int,
        scales_offset: int | None,
        resident: Resident,
    ) -> None:
        super().__init__(rows, dim, resident.bounded)
        self._map = mapped
        self._resident = resident
        self._range_cold = False
        self._tables = [(codes_offset, dim)]
        if scales_offset is not None:
            self._tables.append((scales_offset, 8))

    def sequential(self, first: int, rows: int, work: Work) -> None:
        """Call ``work(start, stop)`` over parts of the `rows` rows from `first` on, counted from 0.

        Small steps first: they tell whether pages are missing before many faults have been taken.
        """
        most = self.range_rows(max(1, _AHEAD_BYTES // (2 * max(self._dim, 1))))
        start, asked, step, cold = 0, 0, _FIRST_ROWS, self._range_cold
        while start < rows:
            largest = most if cold or self._resident.bounded else _WARM_STEPS * most
            stop = min(rows, start + min(step, largest))
            step = min(16 * step, largest)
            before = resource.getrusage(resource.RUSAGE_THREAD)
            if cold and asked < min(rows, stop + step):
                # One step further than needed now: the disk works while this step is computed.
                upto = min(rows, stop + step)
                with contextlib.suppress(ValueError):  # another thread has closed the map, not what is read
                    self.ask(first + max(asked, start), first + upto)
                asked = upto
            work(start, stop)
            after = resource.getrusage(resource.RUSAGE_THREAD)
            cold = after.ru_majflt > before.ru_majflt or (cold and after.ru_inblock > before.ru_inblock)
            self.note(stop - start)
            start = stop
        self._range_cold = cold

    def range_rows(self, rows: int) -> int:
        """How many of so many rows are to be read from the map before it is given back."""
        if not self._resident.bounded:
            return rows
        return max(1, min(rows, max(self._resident.most or 0, _LEAST_BYTES) // (8 * (self._dim + 8))))

    def note(self, rows: int) -> None:
        """So many rows in a row have been read through a map."""
        self._resident.note(rows * (self._dim + 8))

    def ask(self, first: int, last: int) -> None:
        """Have the rows `first` to before `last` read, without waiting."""
        for offset, size in self._tables:
            start = (offset + first * size) // _PAGE * _PAGE
            stop = min(offset + last * size, len(self._map))
            for begin in range(start, stop, _ASKED_BYTES):
                self._map.madvise(mmap.MADV_WILLNEED, begin, min(_ASKED_BYTES, stop - begin))
