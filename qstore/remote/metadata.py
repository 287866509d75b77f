"""The metadata of a remote store in few ranges, and small parts of it that stay in memory.

A store's first 64 KiB hold the headers of the root group and of the codes, and say where the next two are:
behind the codes and behind the scales. These two are read side by side. So opening takes two round trips and
132 KiB at any size. The kind of keys, if there are any, is behind the checksums: in the 64 KiB that are read
there, or one more request away where the checksums are longer. The headers of the keys are read when these
are used.
"""

from __future__ import annotations

import copy
import struct
from typing import Literal

from ..format.inspection import SHAPE_OFFSET, inspect
from ..format.layout import ALIGNMENT, Extent, Facts, KeyPart, Parts, places, shapes
from ..system.remote_objects.reader import HEAD_BYTES, Reader

__all__ = ["Window", "describe", "describe_all"]


class Window:
    """Pieces of the object that have been read; others are read when they are asked for, and stay."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pieces = [(0, reader.head)]

    def read_by(self, reader: Reader) -> Window:
        """The same pieces; what else is asked for is read by another reader of the same object."""
        again = copy.copy(self)
        again._reader, again._pieces = reader, list(self._pieces)
        return again

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


def describe(reader: Reader) -> tuple[Facts, Window]:
    """Check the metadata of the store behind `reader`, but for the optional parts.

    Raises
    ------
    FormatError, VersionError
        As for a local file.
    """
    window = Window(reader)
    window.load(_headers_to_come(reader.head))
    return inspect(window.read, reader.size, reader.name, keys=False), window


def describe_all(reader: Reader, window: Window, about: Facts) -> Facts:
    """The same with the optional parts, keys and measured errors; takes two round trips at most for each.

    Raises
    ------
    FormatError
        As for a local file.
    """
    if about.key_kind is not None:
        window.load(_key_headers(about, about.key_kind))
    return inspect(window.read, reader.size, reader.name)


def _key_headers(about: Facts, kind: Literal["text", "integer"]) -> list[Extent]:
    """Where the headers of the key datasets must be, but that of the checksums: it lies behind the texts."""
    found = places(shapes(about.rows, about.dim, Parts(KeyPart(kind, 1))))
    wanted = (name for name in found if name.startswith("keys/") and name != "keys/checksums")
    return [Extent(found[name].offset - ALIGNMENT, ALIGNMENT) for name in wanted if found[name].size]


def _headers_to_come(head: bytes) -> list[Extent]:
    """Where the headers behind the codes and behind the scales must be if this is a store at all."""
    shape = head[SHAPE_OFFSET : SHAPE_OFFSET + 16]
    if len(shape) < 16:
        return []
    rows, dim = struct.unpack("<QQ", shape)
    if not rows or not dim:
        return []
    data = places(shapes(rows, dim))
    return [
        Extent(data["scales"].offset - ALIGNMENT, ALIGNMENT),
        Extent(data["checksums"].offset - ALIGNMENT, HEAD_BYTES),  # the checksums too, if they are not many
    ]
