"""Files of this machine and objects behind URLs, read at positions alike."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RemoteNotFoundError, SourceError
from .addresses import Address
from .files import RawFile

if TYPE_CHECKING:
    from ..system.remote_objects.session import Window

__all__ = ["RemoteFile", "exists", "open_file"]


def open_file(path: str) -> RawFile:
    """A file, or what is behind an :class:`.Address`.

    Raises
    ------
    SourceError
        As :class:`.RawFile`.
    MissingExtraError, RemoteError
        As :func:`.remote_objects.opening.open_reader`.
    """
    return RemoteFile(path) if isinstance(path, Address) else RawFile(path)


def exists(path: str) -> bool:
    """Whether there is such a file, or an object behind an :class:`.Address`.

    Raises
    ------
    RemoteError
        It cannot be told.
    """
    if not isinstance(path, Address):
        return os.path.exists(path)
    try:
        path.session.open(path.url).release()
    except RemoteNotFoundError:
        return False
    return True


class RemoteFile(RawFile):
    """An object behind a URL, read in ranges: of headers what is asked for, of data large pieces ahead.

    It is closed where no other file of its session uses the object.

    Parameters
    ----------
    path : Address

    Raises
    ------
    SourceError
        It is a pointer in the place of a file (Git LFS).
    MissingExtraError, RemoteError
        It cannot be read.
    """

    mtime_ns = 0

    def __init__(self, path: Address) -> None:
        self.path = path
        self._object = path.session.open(path.url)
        self.size, self.position = self._object.size, 0
        self._begin = self._end = 0
        self._window: Window | None = None
        self._closed = False
        self._refuse_pointers()

    @property
    def identity(self) -> dict[str, Any]:
        """Size and version; the time stands for nothing, and says that there is a version."""
        version = self._object.version
        return {"size": self.size, **({"version": version, "mtime_ns": self.mtime_ns} if version else {})}

    def will_read(self, begin: int, end: int) -> None:
        """See :meth:`.RawFile.will_read`: these bytes are fetched in large pieces."""
        self._begin, self._end = begin, end
        self._window = self._object.window(begin, end)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from position `offset` on.

        Raises
        ------
        SourceError
            The object ends before the buffer is full, or is closed.
        RemoteError
            It cannot be read, or is no longer what it was.
        """
        if self._closed:
            raise SourceError(f"{self.path} is closed: open the source again")
        stop = offset + len(buffer)
        if stop > self.size:
            raise self._ends_early(stop, self.size)
        if stop <= self._object.head_size:
            buffer[:] = self._object.head(stop)[offset:stop]
        elif self._window is not None and self._begin <= offset and stop <= self._end:
            self._window.read_into(buffer, offset)
        elif offset <= self._object.head_size:
            buffer[:] = self._object.head(stop)[offset:stop]
        else:
            buffer[:] = self._object.fetch(offset, len(buffer))
        self.position = stop

    def read_array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.RawFile.read_array`; read-only where the bytes need not be copied."""
        size = math.prod(shape) * dtype.itemsize
        inside = not self._closed and self._object.head_size < offset + size <= self._end
        if self._window is not None and inside and offset >= self._begin:
            view = self._window.view(offset, size)
            if view is not None:
                return np.frombuffer(view, dtype).reshape(shape)
        return super().read_array(offset, shape, dtype)

    def check_unchanged(self) -> None:
        """Nothing is asked: every answer was compared with the first."""

    def close(self) -> None:
        """Give the object back. May be called twice."""
        if not self._closed:
            self._closed = True
            if self._window is not None:
                self._window.close()
            self._object.release()
