"""Files packed as gzip, xz or bzip2, unpacked as they are read: in bounded memory, and to their very end."""

from __future__ import annotations

import io
import zlib
from typing import Any, Protocol

from ...errors import SourceError
from ...system.stand_ins import Archive, unpacking
from ..checks import shortened
from ..files import RawFile

__all__ = ["MOST_INFLATION", "UnpackedBytes"]

MOST_INFLATION = {".gz": 1032, ".xz": 8192, ".bz2": 1 << 21}
"""So many bytes can one byte become, at most.

DEFLATE: https://zlib.net/zlib_tech.html. LZMA: a match of 273 bytes takes 14 decisions of 0.022 bits
at least. bzip2: a block holds 900,000 bytes, of which 5 stand for up to 259, and has at least 24 bytes.
"""

_PIECE_BYTES = 1 << 16
# xz -9 makes files that take 65 MiB to unpack; by hand they can be made to take 4 GiB.
_MOST_XZ_MEMORY = 128 << 20


class _Engine(Protocol):
    """What unpacks one stream: that of `bz2` and `lzma`."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing is held back."""

    @property
    def unused_data(self) -> bytes:
        """What came behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Up to so many bytes more, from what is held back and `data`."""


class _GzipEngine:
    """zlib's, with that face. Length and CRC of the content are checked by zlib."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return self._needs_input

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        # Where all that was asked for came, there may be more without any input.
        self._needs_input = not self._zlib.unconsumed_tail and len(found) < max_length
        return found


class UnpackedBytes(io.RawIOBase):
    """The content of a packed file, of one stream or several after each other, from front to back.

    For one thread. A read past the end checks what stands there: checksums, and that nothing follows.

    Parameters
    ----------
    file : RawFile
    kind : Archive
        gzip, xz or bzip2.

    Raises
    ------
    SourceError
        This Python has no such module; while reading, the file is damaged, ends early, or goes on behind its
        last stream.
    """

    def __init__(self, file: RawFile, kind: Archive) -> None:
        self._file, self._kind = file, kind
        self._position = 0
        self._waiting = b""
        self._engine = self._new_engine()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of the buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")
        while len(view):
            if self._engine.eof and not self._begin_next():
                return 0
            found = self._unpack(len(view))
            if found:
                view[: len(found)] = found
                return len(found)
        return 0

    def _begin_next(self) -> bool:
        """Begin with the next stream, behind zeros that fill up; False where the file ends."""
        self._waiting = self._engine.unused_data
        while True:
            self._waiting = self._waiting.lstrip(b"\0") if self._kind.suffix != ".bz2" else self._waiting
            if self._waiting:
                break
            self._waiting = self._packed()
            if not self._waiting:
                return False
        self._engine = self._new_engine()
        return True

    def _unpack(self, most: int) -> bytes:
        data = b""
        if self._engine.needs_input:
            data, self._waiting = self._waiting or self._packed(), b""
            if not data:
                raise SourceError(
                    f"{self._file.path} ends early: expected the end of {self._kind.name}, found none in "
                    f"{self._file.size} bytes; it was cut short while being saved or copied: get it again"
                )
        try:
            return self._engine.decompress(data, most)
        except MemoryError:
            raise
        except Exception as error:  # each of the three modules has errors of its own
            if "Memory usage limit" in str(error):
                raise SourceError(
                    f"{self._file.path} is an xz file that takes more memory to unpack than was expected, "
                    f"{_MOST_XZ_MEMORY >> 20} MiB; {unpacking(self._file.path, self._kind)}"
                ) from error
            raise SourceError(
                f"{self._file.path} is damaged: expected {self._kind.name}, found something else "
                f"({shortened(str(error))}); get the file again"
            ) from error

    def _packed(self) -> bytes:
        piece = self._file.read_bytes(
            self._position, min(_PIECE_BYTES, max(0, self._file.size - self._position))
        )
        self._position += len(piece)
        return piece

    def _new_engine(self) -> _Engine:
        try:
            if self._kind.suffix == ".xz":
                import lzma

                return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_XZ_MEMORY)
            if self._kind.suffix == ".bz2":
                import bz2

                return bz2.BZ2Decompressor()
        except ImportError as error:
            raise SourceError(
                f"{self._file.path} is {self._kind.name}, which this Python cannot read ({error}); "
                f"{unpacking(self._file.path, self._kind)}"
            ) from error
        return _GzipEngine()
