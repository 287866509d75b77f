"""Files read from front to back, unpacked on the way where they are gzip."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from typing import Any, BinaryIO, cast

from ...errors import SourceError
from ..checks import shortened
from ..files import RawFile

__all__ = ["MOST_INFLATION", "FileBytes", "is_gzip", "open_stream", "read_up_to", "unpacked_head"]

MOST_INFLATION = 1032
"""DEFLATE makes at most so many bytes of one: https://zlib.net/zlib_tech.html."""

_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 20


class FileBytes(io.RawIOBase):
    """File object over a :class:`RawFile`, for libraries that want one. It can open nothing else.

    For one thread at a time, and good until the file is closed.
    """

    def __init__(self, file: RawFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read starts."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set where the next read starts."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; fewer at the end of the file only, as it was when opened."""
        # Not inherited: that takes memory for all that is asked for, and a hostile file asks for exabytes.
        left = max(0, self._file.size - self._position)
        data = self._file.read_bytes(self._position, left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self._file.size - self._position)]
        self._file.read_into(view, self._position)
        self._position += len(view)
        return len(view)


def is_gzip(head: bytes) -> bool:
    """Whether a file that starts so is gzip."""
    return head.startswith(_GZIP_MAGIC)


def unpacked_head(head: bytes, limit: int = 4096) -> bytes:
    """The first bytes of a file as they are once unpacked, at most `limit` of them."""
    if not is_gzip(head):
        return head[:limit]
    data = b""
    while head and len(data) < limit:
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            data += unpacker.decompress(head, limit - len(data))
        except zlib.error:
            break
        head = unpacker.unused_data
    return data


def open_stream(file: RawFile) -> BinaryIO:
    """The bytes of a file from its start, unpacked if they are gzip (of one member or many).

    Memory is that of a buffer however much the file unpacks to. Read it with :func:`read_up_to`.
    """
    stream = io.BufferedReader(FileBytes(file), _BUFFER_BYTES)
    if is_gzip(file.read_bytes(0, min(file.size, len(_GZIP_MAGIC)))):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    return stream


def read_up_to(file: RawFile, stream: BinaryIO, count: int, *, line: bool = False) -> bytes:
    """Up to `count` bytes of a stream, or of one line of it; fewer only at its end.

    Raises
    ------
    SourceError
        The file cannot be read, or is gzip that is damaged or ends early.
    """
    try:
        return stream.readline(count) if line else stream.read(count)
    except EOFError as error:
        raise SourceError(
            f"{file.path} ends early: expected the end mark of gzip, found none in {file.size} bytes; "
            f"it was cut short while being saved or copied: get it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{file.path} is damaged: expected gzip, found {shortened(str(error))}; get the file again"
        ) from error
