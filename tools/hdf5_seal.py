"""HDF5 metadata, taken apart and put together again with right checksums.

Damage without a new checksum dies at the checksum and shows nothing of the checks behind it. Helper of
``make_fixtures.py``, ``fuzz.py`` and of the tests: superblock 2 and 3, object headers of version 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

__all__ = [
    "ATTRIBUTE",
    "ATTRIBUTE_INFO",
    "CONTINUATION",
    "DATASPACE",
    "DATATYPE",
    "EXTERNAL_FILES",
    "FILL",
    "FILTERS",
    "GROUP_INFO",
    "LAYOUT",
    "LINK",
    "LINK_INFO",
    "NIL",
    "Header",
    "Message",
    "header_parts",
    "lookup3",
    "message_places",
    "seal",
    "sealed_parts",
]

NIL, DATASPACE, LINK_INFO, DATATYPE, FILL, LINK, EXTERNAL_FILES, LAYOUT = 0, 1, 2, 3, 5, 6, 7, 8
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, ATTRIBUTE_INFO = 10, 11, 12, 16, 21

_WORD = 0xFFFFFFFF
_SUPERBLOCK_SIZE = 44
_MOST_BYTES = 1024
"""Structures other than object headers have no length field of their own: it is searched for up to here."""

_MIX = ((0, 2, 4), (1, 0, 6), (2, 1, 8), (0, 2, 16), (1, 0, 19), (2, 1, 4))
_FINAL = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def _rotated(value: int, count: int) -> int:
    return ((value << count) | (value >> (32 - count))) & _WORD


def lookup3(data: bytes | bytearray | memoryview) -> int:
    """Bob Jenkins' ``hashlittle`` with initial value 0, which HDF5 uses for its metadata.

    Examples
    --------
    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    blocks = max(0, len(data) - 1) // 12
    state = [(0xDEADBEEF + len(data)) & _WORD] * 3
    words = struct.unpack(f"<{3 * blocks}I", data[: 12 * blocks])
    for first in range(0, 3 * blocks, 3):
        for register in range(3):
            state[register] = (state[register] + words[first + register]) & _WORD
        for target, other, count in _MIX:
            state[target] = ((state[target] - state[other]) & _WORD) ^ _rotated(state[other], count)
            state[other] = (state[other] + state[3 - target - other]) & _WORD
    if not data:
        return state[2]
    tail = struct.unpack("<3I", bytes(data[12 * blocks :]).ljust(12, b"\0"))
    state = [(register + word) & _WORD for register, word in zip(state, tail, strict=True)]
    for target, other, count in _FINAL:
        state[target] = ((state[target] ^ state[other]) - _rotated(state[other], count)) & _WORD
    return state[2]


def sealed_parts(data: bytes | bytearray) -> list[tuple[int, int]]:
    """(start, end) of every piece of metadata that has its checksum right behind it, at `end`.

    Superblock and object headers are found by their form, so a broken checksum does not hide them;
    everything else (heaps, indexes, continued headers) by signature and a checksum that is right.
    """
    parts = header_parts(data)
    for match in re.finditer(b"OCHK|FRHP|BTHD|BTLF|BTIN|SMTB|SMLI", data):
        parts += _by_checksum(data, match.start())
    return parts


def header_parts(data: bytes | bytearray) -> list[tuple[int, int]]:
    """The parts that :func:`sealed_parts` finds by their form: superblock and object headers."""
    parts = [(0, _SUPERBLOCK_SIZE)] if data[8:9] in (b"\x02", b"\x03") and len(data) >= 48 else []
    addresses = [match.start() for match in re.finditer(b"OHDR\x02", data)]
    parts += [(address, _messages_of(data, address)[1]) for address in addresses]
    return [(start, end) for start, end in parts if end + 4 <= len(data)]


def _by_checksum(data: bytes | bytearray, start: int) -> list[tuple[int, int]]:
    for end in range(start + 8, min(start + _MOST_BYTES, len(data) - 4)):
        if lookup3(data[start:end]) == int.from_bytes(data[end : end + 4], "little"):
            return [(start, end)]
    return []


def seal(data: bytearray, parts: Iterable[tuple[int, int]] | None = None) -> bytearray:
    """Write right checksums behind `parts` (by default: behind all that is found), in place."""
    for start, end in sealed_parts(data) if parts is None else parts:
        if end + 4 <= len(data):
            struct.pack_into("<I", data, end, lookup3(data[start:end]))
    return data


def _messages_of(data: bytes | bytearray, address: int) -> tuple[int, int]:
    """Where the messages of an object header start and end."""
    flags = data[address + 5] if address + 5 < len(data) else 0
    start = address + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    width = 1 << (flags & 3)
    return start + width, start + width + int.from_bytes(data[start : start + width], "little")


@dataclass
class Message:
    """One header message: its type, flags and content."""

    kind: int
    body: bytes
    flags: int = 0


@dataclass
class Header:
    """An object header of one chunk, to be changed and encoded again."""

    flags: int
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def decode(cls, data: bytes | bytearray, address: int) -> Header:
        """Take the header at `address` apart; bytes it does not use (NIL messages) are dropped."""
        header = cls(data[address + 5])
        for place, length in message_places(data, address):
            kind, flags = data[place], data[place + 3]
            body = bytes(data[place + header.prefix : place + header.prefix + length])
            if kind != NIL:
                header.messages.append(Message(kind, body, flags))
        return header

    @property
    def prefix(self) -> int:
        """Bytes before the content of a message."""
        return 6 if self.flags & 0x04 else 4

    def first(self, kind: int) -> Message:
        """The first message of a type."""
        return next(message for message in self.messages if message.kind == kind)

    def encode(self) -> bytes:
        """The bytes of the header with its checksum."""
        body = b"".join(self._encoded(number, message) for number, message in enumerate(self.messages))
        # No times, no phase-change limits; a length as wide as it was, so that nothing moves without need.
        width = max(self.flags & 0x03, int(len(body) > 0xFF), 2 * int(len(body) > 0xFFFF))
        raw = (
            b"OHDR\x02"
            + bytes([self.flags & ~0x33 | width])
            + len(body).to_bytes(1 << width, "little")
            + body
        )
        return raw + struct.pack("<I", lookup3(raw))

    def _encoded(self, number: int, message: Message) -> bytes:
        head = struct.pack("<BHB", message.kind, len(message.body), message.flags)
        return head + (struct.pack("<H", number) if self.flags & 0x04 else b"") + message.body


def message_places(data: bytes | bytearray, address: int) -> Iterator[tuple[int, int]]:
    """(position, length of the content) of each message of the header at `address`."""
    position, end = _messages_of(data, address)
    prefix = 6 if data[address + 5] & 0x04 else 4
    while position + prefix <= min(end, len(data)):
        length = int.from_bytes(data[position + 1 : position + 3], "little")
        yield position, length
        position += prefix + length
