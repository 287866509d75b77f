"""Files read from front to back, unpacked on the way where they are gzip, xz, bzip2 or a zip of one file."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from typing import Any

from ...errors import SourceError
from ...system.stand_ins import HEAD_BYTES, Archive, archive_of, unpacking
from ..checks import shortened
from ..files import RawFile
from . import zip_members
from .inflate import MemberBytes
from .unpacked import MOST_INFLATION, UnpackedBytes
from .zip_members import Member

__all__ = ["FileBytes", "most_content", "name_inside", "open_stream", "packing_of", "unpacked_head"]

_BUFFER_BYTES = 1 << 20
_ZIP = ".zip"
_SHOWN = 10


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


def packing_of(file: RawFile) -> Archive | None:
    """How a file is packed, where it is so in a way that is unpacked here."""
    kind = archive_of(file.read_bytes(0, min(file.size, HEAD_BYTES)))
    return kind if kind is not None and kind.suffix in (*MOST_INFLATION, _ZIP) else None


def open_stream(file: RawFile) -> io.BufferedReader:
    """The bytes of a file from its start, unpacked if they are packed.

    Memory is that of a buffer however much the file unpacks to. Reading to the end checks what the packing
    says of it: checksums, sizes, and that nothing stands behind it.

    Raises
    ------
    SourceError
        A zip archive does not hold one file; from reads, too: the file cannot be read, is damaged or ends
        early.
    """
    return io.BufferedReader(_raw_stream(file), _BUFFER_BYTES)


def _raw_stream(file: RawFile) -> io.RawIOBase:
    kind = packing_of(file)
    if kind is None:
        return FileBytes(file)
    if kind.suffix == _ZIP:
        archive = zip_members.Archive(file)
        return MemberBytes(file, archive, _only_member(file, kind, archive.members.values()))
    return UnpackedBytes(file, kind)


def unpacked_head(file: RawFile, limit: int = 4096) -> bytes:
    """The first bytes of what :func:`open_stream` gives, at most `limit`, as far as they can be read."""
    data = b""
    with contextlib.suppress(SourceError):  # who reads it all says what is wrong
        stream = _raw_stream(file)
        while len(data) < limit and (piece := stream.read(limit - len(data))):
            data += piece
    return data


def name_inside(file: RawFile, kind: Archive) -> str:
    """Name of what a packed file holds: without the suffix, or that of the only member.

    Raises
    ------
    SourceError
        A zip archive does not hold one file.
    """
    if kind.suffix == _ZIP:
        return _only_member(file, kind, zip_members.Archive(file).members.values()).name
    return file.path[: -len(kind.suffix)] if file.path.lower().endswith(kind.suffix) else file.path


def most_content(file: RawFile) -> int:
    """Most bytes that :func:`open_stream` can give."""
    kind = packing_of(file)
    if kind is None:
        return file.size
    if kind.suffix == _ZIP:
        return _only_member(file, kind, zip_members.Archive(file).members.values()).size
    return file.size * MOST_INFLATION[kind.suffix]


def _only_member(file: RawFile, kind: Archive, members: Iterable[Member]) -> Member:
    """The only file in a zip archive, beside directories and what macOS adds."""
    files = [one for one in members if not one.name.endswith("/") and not one.name.startswith("__MACOSX/")]
    if len(files) != 1:
        names = shortened(", ".join(repr(one.name) for one in files[:_SHOWN]), 1000)
        advice = f"{unpacking(file.path, kind)}, and give one of {names}" if files else "get it again"
        raise SourceError(f"{file.path} is a zip archive of {len(files)} files: expected one; {advice}")
    return files[0]
