"""The checksum of a store's blocks."""

from __future__ import annotations

import zlib
from typing import Any

from numpy.typing import NDArray

__all__ = ["crc32"]


def crc32(array: NDArray[Any]) -> int:
    """CRC-32 (zlib's) of the bytes of a C-contiguous array."""
    return zlib.crc32(array.data.cast("B")) if array.size else 0
