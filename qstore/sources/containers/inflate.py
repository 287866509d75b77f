"""A compressed zip member as a stream of bytes, in bounded memory."""

from __future__ import annotations

import zlib

from ...errors import SourceError
from ..files import RawFile
from .zip_members import Member

__all__ = ["Inflated"]

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
        if self._crc32 != self._member.crc32:
            raise SourceError(f"{self._where} is damaged: its CRC-32 differs; get the file again")

    def _next(self, most: int) -> bytes:
        """At least one and at most `most` bytes."""
        while True:
            if not self._waiting and not self._inflate.eof:
                self._waiting = self._compressed()
            try:
                found = self._inflate.decompress(self._waiting, most)
            except zlib.error as error:
                raise SourceError(f"{self._where} is damaged: {error}; get the file again") from error
            self._waiting = self._inflate.unconsumed_tail
            if found:
                self._crc32 = zlib.crc32(found, self._crc32)
                return found
            if self._inflate.eof or (not self._waiting and self._position == self._end):
                raise SourceError(
                    f"{self._where} ends early: expected {self._member.size} bytes, found fewer; "
                    f"get the file again"
                )

    def _compressed(self) -> bytes:
        count = min(self._end - self._position, _PIECE_BYTES)
        found = self._file.read_bytes(self._position, count)
        self._position += count
        return found
