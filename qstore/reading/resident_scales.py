"""The scales of a file in private memory: read at once, or in the background where there are many."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..engine.kernels import RowScales
from ..engine.packed_scales import MOST_VALUES, packed

__all__ = ["load_scales"]

# More are read in the background: these take some milliseconds.
_AT_ONCE_ROWS = 1 << 20
_PART_ROWS = 1 << 19

TakeUp = Callable[[RowScales], None]


def load_scales(fd: int, offset: int, rows: int, take_up: TakeUp) -> None:
    """Call `take_up`, a method, with all scales: before this returns, or from another thread later.

    Parameters
    ----------
    fd : int
        Of the file; it is closed when all has been read.
    offset : int
        Where the scales begin.
    take_up : method
        The loading ends when the object is gone that it is of. What cannot be read then is not told: reading
        rows tells.

    Raises
    ------
    OSError
        They cannot be read.
    """
    load = _Load(fd, offset, rows, weakref.WeakMethod(take_up))
    if rows <= _AT_ONCE_ROWS or not load.start():
        load.run()


class _Load:
    """One file that is being read."""

    def __init__(self, fd: int, offset: int, rows: int, take_up: weakref.WeakMethod[TakeUp]) -> None:
        self._fd, self._offset, self._rows = fd, offset, rows
        self._take_up = take_up

    def start(self) -> bool:
        """On a thread of its own, if there can be one."""
        _started.add(self)
        try:
            threading.Thread(target=self._run_silently, name="qstore-scales", daemon=True).start()
        except RuntimeError:
            _started.discard(self)
            return False
        return True

    def _run_silently(self) -> None:
        try:
            self.run()
        except OSError:
            pass
        finally:
            _started.discard(self)

    def run(self) -> None:
        """Read, and hand on."""
        try:
            scales = self._read()
        finally:
            os.close(self._fd)
        take_up = self._take_up()
        if take_up is not None:
            take_up(scales)

    def _read(self) -> RowScales:
        if 8 * self._rows > 2 * self._rows + 8 * MOST_VALUES:
            few = packed(self._rows, self._parts())
            if few is not None:
                return few
        scales, start = np.empty(self._rows), 0
        for part in self._parts():
            scales[start : start + part.size] = part
            start += part.size
        scales.flags.writeable = False
        return scales

    def _parts(self) -> Iterator[NDArray[np.float64]]:
        """All scales in order, in memory that is used again; none any more when nobody wants them."""
        memory = np.empty(min(self._rows, _PART_ROWS), "<f8")
        for start in range(0, self._rows, _PART_ROWS):
            if self._take_up() is None:
                return
            part = memory[: self._rows - start]
            _fill(self._fd, part.data.cast("B"), self._offset + 8 * start)
            yield part.astype(np.float64, copy=False)


def _fill(fd: int, memory: memoryview, offset: int) -> None:
    done = 0
    while done < len(memory):
        got = os.preadv(fd, [memory[done:]], offset + done)
        if not got:
            raise OSError("the file has been cut off")
        done += got


_started: set[_Load] = set()


def _start_again() -> None:
    """In a forked child: the threads stayed with the parent."""
    for load in list(_started):
        load.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_again)
