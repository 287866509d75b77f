"""The checksums of a store's blocks: CRC-32, of pieces and of pieces joined.

Joining is the arithmetic of zlib's ``crc32_combine``: a CRC is a polynomial over GF(2) modulo that of
CRC-32, and appending n bytes multiplies it by x^(8n).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from ..engine import kernels

__all__ = ["crc32", "joined_crc32"]

_POLYNOMIAL = 0xEDB88320
_ONE, _X = 1 << 31, 1 << 30  # bits are reflected: the highest is the constant term


def crc32(array: NDArray[Any]) -> int:
    """CRC-32 (zlib's) of the bytes of a C-contiguous array."""
    return kernels.crc32(array.data) if array.size else 0


def joined_crc32(first: int, second: int, second_bytes: int) -> int:
    """CRC-32 of two pieces, one after the other, from theirs: each byte is read once.

    Examples
    --------
    >>> from zlib import crc32
    >>> joined_crc32(crc32(b"embed"), crc32(b"ding"), 4) == crc32(b"embedding")
    True
    """
    return _times(_shift(second_bytes), first) ^ second


@lru_cache(maxsize=256)
def _shift(size: int) -> int:
    """x to the power of 8 · size."""
    power, result, exponent = _X, _ONE, 8 * size
    while exponent:
        if exponent & 1:
            result = _times(power, result)
        power = _times(power, power)
        exponent >>= 1
    return result


def _times(one: int, other: int) -> int:
    """Product of two polynomials."""
    product, bit = 0, _ONE
    while one:
        if one & bit:
            product ^= other
            one ^= bit
        bit >>= 1
        other = (other >> 1) ^ _POLYNOMIAL if other & 1 else other >> 1
    return product
