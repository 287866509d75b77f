"""The metadata of a remote store in few ranges, and small parts of it that stay in memory.

A store's first 64 KiB hold all its headers but two, and say where those are: behind the codes and behind the
scales. These two are read side by side. So opening takes two round trips and 132 KiB at any size.
"""

from __future__ import annotations

import struct

from ..inspection import SHAPE_OFFSET, Description, inspect, places
from ..layout import ALIGNMENT, Extent
from .reader import HEAD_BYTES, Reader

__all__ = ["Window", "describe"]


class Window:
    """Pieces of the object that have been read; others are read when they are asked for, and stay."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pieces = [(0, reader.head)]

    def load(self, extents: list[Extent]) -> None:
        """Read these side by side, as far as they lie in the object and are not here yet."""
        inside = [Extent(one.offset, min(one.stop, self._reader.size) - one.offset) for one in extents]
        missing = [one for one in inside if one.size > 0 and self.find(one) is None]
        if missing:
            bodies = self._reader.fetch(missing)
            self._pieces += zip((one.offset for one in missing), bodies, strict=True)

    def find(self, extent: Extent) -> bytes | None:
        """The bytes of an extent if they are here."""
        for offset, piece in self._pieces:
            if offset <= extent.offset and extent.stop <= offset + len(piece):
                return piece[extent.offset - offset : extent.stop - offset]
        return None

    def read(self, size: int, offset: int) -> bytes:
        """As ``os.pread``."""
        extent = Extent(offset, min(size, self._reader.size - offset))
        if extent.size <= 0:
            return b""
        self.load([extent])
        return self.find(extent) or b""


def describe(reader: Reader) -> tuple[Description, Window]:
    """Check the metadata of the store behind `reader`.

    Raises
    ------
    FormatError, VersionError
        As for a local file.
    """
    window = Window(reader)
    window.load(_headers_to_come(reader.head))
    return inspect(window.read, reader.size, reader.name), window


def _headers_to_come(head: bytes) -> list[Extent]:
    """Where the headers behind the codes and behind the scales must be if this is a store at all."""
    shape = head[SHAPE_OFFSET : SHAPE_OFFSET + 16]
    if len(shape) < 16:
        return []
    data = places(*struct.unpack("<QQ", shape))
    return [
        Extent(data["scales"] - ALIGNMENT, ALIGNMENT),
        Extent(data["checksums"] - ALIGNMENT, HEAD_BYTES),  # the checksums too, if they are not many
    ]
