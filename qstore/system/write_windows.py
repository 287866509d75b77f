"""Writing a long stream in windows: those the page cache can hold in its largest pages, or around it."""

from __future__ import annotations

import errno
import mmap
from collections import deque
from typing import TYPE_CHECKING

from . import durable_files

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["WindowedWriter"]

# Linux caches what one call writes in pages of up to 2 MiB where it covers them, and maps those as they are.
# Scattered reads of the mapped file then miss the TLB far less: 10,000 rows of 768 out of a store written so
# took 1.4 ms, and 1.7 ms out of one written 1 MiB at a time.
_WINDOW = 2 << 20
# Windows that are written around the page cache meanwhile: two by the disk, and as many waiting for it.
_MOST_UNDER_WAY = 4


class WindowedWriter:
    """Writes pieces one behind the other, and only whole aligned windows until it is flushed.

    Parameters
    ----------
    fd : int
    offset : int
        Where in the file the first piece goes.
    direct : int, optional
        Descriptor of the same file that whole windows are written to, in the background: see
        :func:`durable_files.open_direct`. What does not fill one goes to `fd`, and all does once the file
        system takes none.

    Attributes
    ----------
    written : int
        Everything before this place in the file is written.
    """

    def __init__(self, fd: int, offset: int, direct: int | None = None) -> None:
        self._fd = fd
        self._around = None if direct is None else _Around(direct, fd)
        self._pieces: list[memoryview] = []
        self.end = self._begun = self.written = offset

    def add(self, piece: memoryview) -> None:
        """Take the next piece; it may not change until it is written."""
        self._pieces.append(piece.cast("B"))
        self.end += piece.nbytes
        self._write(self.end // _WINDOW * _WINDOW)
        if self._around is not None:
            self._around.wait(most=_MOST_UNDER_WAY)
            self.written = self._around.first(self._begun)

    def flush(self) -> None:
        """Write what is left, and wait for all."""
        self._write(self.end)
        if self._around is not None:
            self._around.wait()
        self.written = self._begun

    def close(self) -> None:
        """End the writing in the background; what was not flushed may or may not be written."""
        if self._around is not None:
            self._around.close()

    def _write(self, stop: int) -> None:
        while self._begun < stop:
            end = stop if self._around is None else min(stop, (self._begun // _WINDOW + 1) * _WINDOW)
            now, later = _split(self._pieces, end - self._begun)
            if self._around is not None and end - self._begun == _WINDOW:
                self._around.begin(now, self._begun)
            else:
                durable_files.write_pieces(self._fd, now, self._begun)
            self._pieces, self._begun = later, end
        if self._around is None:
            self.written = self._begun


class _Around:
    """Writes whole windows around the page cache, two at a time, on threads of their own."""

    def __init__(self, direct: int, cached: int) -> None:
        from concurrent.futures import ThreadPoolExecutor  # 5 ms, not at import

        self._direct: int | None = direct
        self._cached = cached
        self._pool = ThreadPoolExecutor(2, "qstore-windows")
        self._under_way: deque[tuple[int, memoryview, Future[None]]] = deque()
        self._spare: list[memoryview] = []

    def begin(self, pieces: list[memoryview], offset: int) -> None:
        """Take the pieces of one window, which may change once this returns."""
        window = self._spare.pop() if self._spare else memoryview(mmap.mmap(-1, _WINDOW))  # at a page's edge
        place = 0
        for piece in pieces:
            window[place : place + piece.nbytes] = piece
            place += piece.nbytes
        self._under_way.append((offset, window, self._pool.submit(self._put, window, offset)))

    def _put(self, window: memoryview, offset: int) -> None:
        if self._direct is not None:
            try:
                durable_files.write_all(self._direct, window, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = None  # the file system wants that otherwise
            else:
                return
        durable_files.write_all(self._cached, window, offset)

    def wait(self, most: int = 0) -> None:
        """Wait until not more than so many windows are under way; raise what went wrong with one."""
        while self._under_way and (len(self._under_way) > most or self._under_way[0][2].done()):
            self._under_way[0][2].result()
            self._spare.append(self._under_way.popleft()[1])

    def first(self, otherwise: int) -> int:
        """Where the first window lies that is under way."""
        return self._under_way[0][0] if self._under_way else otherwise

    def close(self) -> None:
        """End the threads, once what they are at is done."""
        self._pool.shutdown(cancel_futures=True)


def _split(pieces: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `size` bytes, and the rest."""
    now: list[memoryview] = []
    for number, piece in enumerate(pieces):
        if size < piece.nbytes:
            rest = [piece[size:], *pieces[number + 1 :]]
            return [*now, piece[:size]] if size else now, rest
        now.append(piece)
        size -= piece.nbytes
    return now, []
