"""Rows of a file, read without mapping them: in C, or by Python's own system calls with the same bytes.

What is in memory is copied at once (``preadv2`` with ``RWF_NOWAIT``). What is not is asked for
(``posix_fadvise``), and waited for when all of it has been asked for, so that a disk works on many pages at a
time: those asked for and no others, each once.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels, quantization

__all__ = ["UNKNOWN", "WINDOW_BYTES", "Piece", "Window", "how", "read_rows"]

UNKNOWN = -1
"""The system or the file system cannot tell what is in memory."""

WINDOW_BYTES = 1 << 21
"""A fault maps bytes within one of these at most: a page table or the largest folio."""


class Piece(NamedTuple):
    """What there is of each row: `size` bytes at ``offset + row * stride``.

    `out`, of uint8 and shape (n, size), is filled; with None, its pages are only asked for.
    """

    offset: int
    stride: int
    size: int
    out: NDArray[np.uint8] | None


class Window(NamedTuple):
    """What may be read through a map of the file.

    Attributes
    ----------
    mapped : ndarray of uint8
        The whole file.
    taken : ndarray of uint8
        One for each :data:`WINDOW_BYTES` of the file, and one more: whether it may be.
    left : ndarray of int64, shape (1,)
        How many more may be taken: of all files that share it.
    """

    mapped: NDArray[np.uint8]
    taken: NDArray[np.uint8]
    left: NDArray[np.int64]


def read_rows(
    fd: int, rows: NDArray[np.int64], total: int, pieces: tuple[Piece, ...], window: Window | None = None
) -> int:
    """Read one or two pieces of each row. Any thread may call this.

    Parameters
    ----------
    fd : int
        Open until this returns.
    rows : ndarray of int64, shape (n,)
        From -total to before total.
    total : int
        Rows of the file.
    pieces : tuple of Piece
    window : Window, optional
        By default nothing is read through a map. NumPy's engine never does.

    Returns
    -------
    int
        Pieces that were not in memory, or :data:`UNKNOWN`.

    Raises
    ------
    IndexError
        A row is out of range.
    OSError
        The file cannot be read, or ends too early.
    """
    native = kernels.extension()
    if native is not None:
        found: int = native.read_rows(fd, rows, total, pieces, *(window or (None, None, None)))
        return found
    bad = quantization.first_out_of_range(rows, total)
    if bad >= 0:
        raise IndexError(f"row number {bad} is out of range")
    knows = hasattr(os, "RWF_NOWAIT")
    waiting: list[tuple[int, memoryview]] = []
    for number, row in enumerate((rows % total).tolist() if total else ()):
        for offset, stride, size, out in pieces:
            at = offset + row * stride
            if out is not None:
                to, got = memoryview(out[number]), -1
                if knows:
                    try:
                        got = os.preadv(fd, [to], at, os.RWF_NOWAIT)
                    except (BlockingIOError, InterruptedError):
                        pass
                    except OSError:
                        knows = False
                if got == size:
                    continue
                waiting.append((at, to))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, at, size, os.POSIX_FADV_WILLNEED)
    for at, to in waiting:
        done = 0
        while done < len(to):
            got = os.preadv(fd, [to[done:]], at + done)
            if not got:
                raise OSError(errno.EIO, "the file has been cut off")
            done += got
    return len(waiting) if knows else UNKNOWN


def how() -> str:
    """How rows that are not in memory are read here, in words; a file system may know less."""
    if not hasattr(os, "posix_fadvise"):
        return "pread"
    with open(__file__, "rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except (OSError, AttributeError):
            return "posix_fadvise, pread"
    return "preadv2 (RWF_NOWAIT), posix_fadvise, pread"
