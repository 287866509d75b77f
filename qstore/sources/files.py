"""Regular files read at given positions: no map, no shared position, nothing else opened."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..system.stand_ins import HEAD_BYTES, LONGEST_POINTER, pointer
from ..system.urls import is_url, printable_url

__all__ = ["FilePart", "RawFile", "check_no_url", "one_of_many"]

# Linux moves at most 0x7ffff000 bytes in one call.
_MOST_BYTES_A_CALL = 1 << 30
# Of one checkpoint: a process may commonly hold 1024.
_MOST_OPEN = 256


def check_no_url(path: str) -> None:
    """Refuse a URL that is not, by chance, the path of a file.

    Raises
    ------
    SourceError
    """
    if is_url(path) and not os.path.lexists(path):
        raise SourceError(
            f"{printable_url(path)} is a URL: expected a file of this machine; download it first, and give "
            f"its path (a store need not be built: qstore.open reads it where it is)"
        )


def _open_without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a FIFO that nobody writes to never returns.
    return os.open(path, flags | os.O_NONBLOCK)


class RawFile:
    """A regular file opened for reading at positions.

    Memory maps are left alone on purpose: a file that is cut short while mapped kills the process
    (SIGBUS), and here it must be an error. Reads may run in any number of threads; `close` may not run
    beside them.

    Parameters
    ----------
    path : str

    Attributes
    ----------
    path : str
    size, mtime_ns : int
        Taken from the open file, once.
    position : int
        Where the last read ended.

    Raises
    ------
    SourceError
        The file is missing, unreadable, not a regular file, or a pointer in the place of one (Git LFS).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = io.FileIO(path, "r", opener=_open_without_waiting)
        except FileNotFoundError as error:
            check_no_url(path)
            raise SourceError(f"{path} does not exist: expected a file to read") from error
        except IsADirectoryError as error:
            raise SourceError(f"{path} is a directory: expected a regular file") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            wanted = "" if isinstance(error, OSError) else "; expected the name of a file"
            raise SourceError(f"{path} cannot be opened: {reason}{wanted}") from error
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise SourceError(
                f"{path} is a pipe, socket or device: expected a regular file; save it to one first"
            )
        self.position = 0
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        self._refuse_pointers()

    def _refuse_pointers(self) -> None:
        try:
            short = self.size <= LONGEST_POINTER
            found = pointer(self.read_bytes(0, min(self.size, HEAD_BYTES))) if short else None
            if found is not None:
                raise SourceError(f"{self.path} is {found}")
        except SourceError:
            self.close()
            raise

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the file from another one in its place, as it stands in a fingerprint."""
        return {"size": self.size, "mtime_ns": self.mtime_ns}

    def will_read(self, begin: int, end: int) -> None:
        """Say that the bytes from `begin` to before `end` are read next, from front to back for the most."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from position `offset` on.

        Raises
        ------
        SourceError
            The file ends before the buffer is full, cannot be read, or is closed.
        """
        done = 0
        while done < len(buffer):
            position, piece = offset + done, buffer[done : done + _MOST_BYTES_A_CALL]
            try:
                got = os.preadv(self._file.fileno(), [piece], position)
            except OSError as error:
                raise SourceError(
                    f"{self.path} cannot be read at byte {position}: {error.strerror}"
                ) from error
            except ValueError as error:
                raise SourceError(f"{self.path} is closed: open the source again") from error
            if got == 0:
                raise self._ends_early(offset + len(buffer), position)
            done += got
        self.position = offset + done

    def read_array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Fresh array of `shape` and `dtype` (C order) with the bytes from `offset` on.

        Raises
        ------
        SourceError
            As :meth:`read_into`; checked before any memory is taken.
        """
        count = dtype.itemsize
        for length in shape:
            count *= length
        if offset + count > self.size:
            raise self._ends_early(offset + count, self.size)
        raw = np.empty(count, np.uint8)
        self.read_into(raw.data, offset)
        return raw.view(dtype).reshape(shape)

    def read_bytes(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on; errors as :meth:`read_array`."""
        return self.read_array(offset, (count,), np.dtype(np.uint8)).tobytes()

    def _ends_early(self, expected: int, found: int) -> SourceError:
        return SourceError(
            f"{self.path} ends early: expected at least {expected} bytes, found {found}; "
            f"it was cut short while being saved or copied: get it again"
        )

    def check_unchanged(self) -> None:
        """Raise `SourceError` where size or time of change are others than when the file was opened."""
        status = os.fstat(self._file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise SourceError(f"{self.path} was changed while it was read; build again")

    def close(self) -> None:
        """Give the file back. May be called twice."""
        with contextlib.suppress(OSError):  # it was only read: nothing can be lost
            self._file.close()

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FilePart(RawFile):
    """Some bytes of a file, read like a file of their own.

    Parameters
    ----------
    whole : RawFile
        Closed with this one.
    begin, size : int
        Where it begins, and how many bytes it has; they must lie in the file.

    Raises
    ------
    SourceError
        The file ends before.
    """

    def __init__(self, whole: RawFile, begin: int, size: int) -> None:
        self.path = f"{whole.path}: what begins at byte {begin}"
        self.size, self.mtime_ns = size, whole.mtime_ns
        self._whole, self._begin = whole, begin
        if begin + size > whole.size:
            raise whole._ends_early(begin + size, whole.size)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from position `offset` of the part on; see :meth:`RawFile.read_into`."""
        if offset + len(buffer) > self.size:
            raise self._ends_early(offset + len(buffer), self.size)
        self._whole.read_into(buffer, self._begin + offset)

    def check_unchanged(self) -> None:
        """Raise `SourceError` where the file has been changed since it was opened."""
        self._whole.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        self._whole.close()


def one_of_many(path: str, count: int) -> RawFile:
    """One of `count` files that are needed together, held open unless those are too many.

    Raises
    ------
    SourceError
        As :class:`RawFile`.
    """
    return RawFile(path) if count <= _MOST_OPEN else _ReopenedFile(path)


class _ReopenedFile(RawFile):
    """A file that is open only while it is read, and must then be the one that it was."""

    def __init__(self, path: str) -> None:
        with RawFile(path) as file:
            self.path, self.size, self.mtime_ns = path, file.size, file.mtime_ns
        self._closed = False

    def _opened(self) -> RawFile:
        if self._closed:
            raise SourceError(f"{self.path} is closed: open the source again")
        file = RawFile(self.path)
        if (file.size, file.mtime_ns) != (self.size, self.mtime_ns):
            file.close()
            raise SourceError(f"{self.path} was changed while it was read; build again")
        return file

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from position `offset` on; see :meth:`RawFile.read_into`."""
        with self._opened() as file:
            file.read_into(buffer, offset)

    def check_unchanged(self) -> None:
        """Raise `SourceError` where size or time of change are others than at first."""
        self._opened().close()

    def close(self) -> None:
        """Read it no more. May be called twice."""
        self._closed = True
