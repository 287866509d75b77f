"""A range of bytes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Extent"]


class Extent(NamedTuple):
    """Where some bytes lie in a file or an object."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First byte behind it."""
        return self.offset + self.size
