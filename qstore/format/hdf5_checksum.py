"""The checksum of HDF5's metadata: Bob Jenkins' ``hashlittle`` (lookup3) with initial value 0.

https://burtleburtle.net/bob/c/lookup3.c. About 0.13 µs a byte: a store has 1.3 KB of metadata.
"""

from __future__ import annotations

import struct

__all__ = ["lookup3"]

_WORD = 0xFFFFFFFF


def lookup3(data: bytes) -> int:
    """32-bit checksum of `data`.

    Examples
    --------
    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    # The last 1 to 12 bytes, padded with zeros, are mixed in another way.
    count = max(0, len(data) - 1) // 12
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    for x, y, z in struct.iter_unpack("<3I", data[: 12 * count]):
        a, b, c = _mix((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)
    if not data:
        return c
    x, y, z = struct.unpack("<3I", data[12 * count :].ljust(12, b"\0"))
    return _final((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) & _WORD) ^ (c << 4 & _WORD | c >> 28)
    c = (c + b) & _WORD
    b = ((b - a) & _WORD) ^ (a << 6 & _WORD | a >> 26)
    a = (a + c) & _WORD
    c = ((c - b) & _WORD) ^ (b << 8 & _WORD | b >> 24)
    b = (b + a) & _WORD
    a = ((a - c) & _WORD) ^ (c << 16 & _WORD | c >> 16)
    c = (c + b) & _WORD
    b = ((b - a) & _WORD) ^ (a << 19 & _WORD | a >> 13)
    a = (a + c) & _WORD
    c = ((c - b) & _WORD) ^ (b << 4 & _WORD | b >> 28)
    b = (b + a) & _WORD
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - (b << 14 & _WORD | b >> 18)) & _WORD
    a = ((a ^ c) - (c << 11 & _WORD | c >> 21)) & _WORD
    b = ((b ^ a) - (a << 25 & _WORD | a >> 7)) & _WORD
    c = ((c ^ b) - (b << 16 & _WORD | b >> 16)) & _WORD
    a = ((a ^ c) - (c << 4 & _WORD | c >> 28)) & _WORD
    b = ((b ^ a) - (a << 14 & _WORD | a >> 18)) & _WORD
    return ((c ^ b) - (b << 24 & _WORD | b >> 8)) & _WORD
