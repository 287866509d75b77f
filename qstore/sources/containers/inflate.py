"""Zip members as streams of bytes, in bounded memory."""

from __future__ import annotations

import io
import shlex
import zlib
from typing import Any

from ...errors import SourceError
from ..checks import shortened
from ..files import RawFile
from .zip_members import DEFLATED, STORED, Archive, Member

__all__ = ["Inflated", "MemberBytes"]

_PIECE_BYTES = 1 << 18
# Deflate codes at most 258 bytes in 2 bits.
_MOST_RATIO = 1032


class Inflated:
    """The content of a deflated member, read once from front to back. For one thread.

    Parameters
    ----------
    file : RawFile
    where : str
        Starts errors.
    begin : int
        Position of the compressed data.
    member : Member

    Raises
    ------
    SourceError
        It claims more than so few bytes can hold.
    """

    def __init__(self, file: RawFile, where: str, begin: int, member: Member) -> None:
        if member.size > _MOST_RATIO * member.packed:
            raise SourceError(
                f"{where} expected at most {_MOST_RATIO * member.packed} bytes from {member.packed} "
                f"compressed ones, found a claim of {member.size}"
            )
        self._file, self._where, self._member = file, where, member
        self._position, self._end = begin, begin + member.packed
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""
        self._crc32 = 0

    def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer` with the next bytes.

        Raises
        ------
        SourceError
            The data is damaged or ends early.
        """
        done = 0
        while done < len(buffer):
            piece = self._next(min(len(buffer) - done, _PIECE_BYTES))
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; errors as those of :meth:`read_into`."""
        found = bytearray(count)
        self.read_into(memoryview(found))
        return bytes(found)

    def skip(self, count: int) -> None:
        """Leave out the next `count` bytes; errors as those of :meth:`read_into`."""
        while count:
            count -= len(self._next(min(count, _PIECE_BYTES)))

    def finish(self) -> None:
        """Check that the data ends here and has its CRC.

        Raises
        ------
        SourceError
        """
        more = not self._inflate.eof
        while more:
            if self._inflated(1):
                raise SourceError(
                    f"{self._where} goes on after its {self._member.size} bytes: expected its end; "
                    f"get the file again"
                )
            more = not self._inflate.eof and (bool(self._waiting) or self._position < self._end)
        if self._crc32 != self._member.crc32:
            raise SourceError(f"{self._where} is damaged: its CRC-32 differs; get the file again")

    def _next(self, most: int) -> bytes:
        """At least one and at most `most` bytes."""
        while True:
            found = self._inflated(most)
            if found:
                self._crc32 = zlib.crc32(found, self._crc32)
                return found
            if self._inflate.eof or (not self._waiting and self._position == self._end):
                raise SourceError(
                    f"{self._where} ends early: expected {self._member.size} bytes, found fewer; "
                    f"get the file again"
                )

    def _inflated(self, most: int) -> bytes:
        """At most so many bytes; none where more input is needed, or there is none."""
        if not self._waiting and not self._inflate.eof:
            self._waiting = self._compressed()
        try:
            found = self._inflate.decompress(self._waiting, most)
        except zlib.error as error:
            raise SourceError(f"{self._where} is damaged: {error}; get the file again") from error
        self._waiting = self._inflate.unconsumed_tail
        return found

    def _compressed(self) -> bytes:
        count = min(self._end - self._position, _PIECE_BYTES)
        found = self._file.read_bytes(self._position, count)
        self._position += count
        return found


class MemberBytes(io.RawIOBase):
    """The content of a stored or deflated member from front to back. For one thread.

    A read past the end checks what stands there: the CRC, and that nothing follows.

    Parameters
    ----------
    file : RawFile
    archive : Archive
    member : Member

    Raises
    ------
    SourceError
        It is compressed with another method, or is not where and what the directory says; while reading, it
        is damaged or ends early.
    """

    def __init__(self, file: RawFile, archive: Archive, member: Member) -> None:
        self._file, self._member = file, member
        self._where = f"{file.path}: member {shortened(repr(member.name))}"
        self._begin = archive.offset_of(member)
        self._left, self._crc32 = member.size, 0
        self._inflated = None
        if member.method == DEFLATED:
            self._inflated = Inflated(file, self._where, self._begin, member)
        elif member.method != STORED:
            raise SourceError(
                f"{self._where} is compressed with method {member.method}: expected deflate; "
                f"unpack it first: unzip {shlex.quote(file.path)}"
            )

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of the buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")
        if len(view) and not self._left:
            self._finish()
        view = view[: min(self._left, _PIECE_BYTES)]
        if self._inflated is not None:
            self._inflated.read_into(view)
        else:
            self._file.read_into(view, self._begin + self._member.size - self._left)
            self._crc32 = zlib.crc32(view, self._crc32)
        self._left -= len(view)
        return len(view)

    def _finish(self) -> None:
        if self._inflated is not None:
            self._inflated.finish()
        elif self._crc32 != self._member.crc32:
            raise SourceError(f"{self._where} is damaged: its CRC-32 differs; get the file again")
