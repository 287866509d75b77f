"""Linux's page cache: throw files out of it, see what is in it, count what is read from the disk."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["PAGE", "NotCold", "bytes_read", "cached_pages", "drop"]

PAGE = os.sysconf("SC_PAGE_SIZE")

_CACHESTAT = 451
_ALLOWED = 0.001


class NotCold(Exception):
    """The page cache kept the file, as it does while someone has its pages mapped."""


def cached_pages(path: Path) -> int | None:
    """Pages of a file that are in the page cache; None where the kernel cannot say (before Linux 6.5)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        everything, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        failed = ctypes.CDLL(None).syscall(_CACHESTAT, fd, everything, counts, 0)
        return None if failed else int(counts[0])
    finally:
        os.close(fd)


def drop(path: Path) -> None:
    """Throw a file out of the page cache.

    Raises
    ------
    NotCold
        More than a thousandth of it is still there.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # only clean pages can go
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    left = cached_pages(path)
    if left is not None and left > 2 + _ALLOWED * size / PAGE:
        raise NotCold(f"{left} pages of {path} are still cached")


def bytes_read() -> int:
    """Bytes that this process has caused to be read from disks so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    raise OSError("/proc/self/io has no read_bytes")
