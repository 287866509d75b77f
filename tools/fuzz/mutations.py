"""Mutated stores: damage that knows where the fields are, most of it with right checksums."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fixtures.hdf5_edit import set_header
from fixtures.hdf5_seal import LINK, Header, Message, header_parts, message_places, seal, sealed_parts

__all__ = ["Mutated", "Mutator"]

_PAGE = 4096
_SEALED = 0.7
_WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_KINDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 200)


@dataclass(frozen=True)
class Mutated:
    """A mutated store.

    Attributes
    ----------
    content : bytes
    sealed : bool
        The checksums of the metadata are right.
    """

    content: bytes
    sealed: bool


class Mutator:
    """Makes the n-th mutation of a set of stores: the same one each time.

    Parameters
    ----------
    good, malformed : sequence of bytes
        Stores.
    seed : int
    """

    def __init__(self, good: Sequence[bytes], malformed: Sequence[bytes], seed: int) -> None:
        self._good = len(good)
        self._stores = [*good, *(store for store in malformed if store)]
        self._found = [sealed_parts(store) for store in self._stores]
        self._seed = seed

    def mutated(self, number: int) -> Mutated:
        """The n-th mutation."""
        chance = random.Random(f"{self._seed}/{number}")
        # Good ones come first and are taken as often as all the others: those die of their own defect.
        which = chance.randrange(self._good if chance.random() < 0.5 else len(self._stores))
        content = bytearray(self._stores[which])
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 6))):
            change = chance.choice(_CHANGES)
            change(content, chance, self._stores)
        sealed = chance.random() < _SEALED
        if sealed:
            seal(content, [*self._found[which], *header_parts(content)])
        return Mutated(bytes(content), sealed)


def _headers(content: bytearray) -> list[int]:
    return [start for start, _ in header_parts(content) if start]


def _number(chance: random.Random, width: int, old: int, size: int) -> int:
    """A number that is special for some reason: limits, neighbours, addresses."""
    bit = 1 << chance.randrange(8 * width)
    special = (0, 1, 2, bit, bit - 1, old + 1, old - 1, old * 2, old ^ bit, -1, size, size - 1, old + size)
    places = (_PAGE * chance.randrange(12), chance.randrange(size + 1), size - old)
    return chance.choice((*special, *places)) & ((1 << 8 * width) - 1)


def _set_number(content: bytearray, chance: random.Random, at: int, width: int) -> None:
    if at + width <= len(content):
        old = int.from_bytes(content[at : at + width], "little")
        struct.pack_into(f"<{_WIDTHS[width]}", content, at, _number(chance, width, old, len(content)))


def _flip_metadata(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    parts = header_parts(content)
    if parts:
        start, end = chance.choice(parts)
        content[chance.randrange(start, end)] ^= 1 << chance.randrange(8)


def _flip_anything(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _change_superblock(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at, width = chance.choice(((8, 1), (9, 1), (10, 1), (11, 1), (12, 8), (20, 8), (28, 8), (36, 8)))
    _set_number(content, chance, at, width)


def _change_prefix(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    """Version, flags and length of an object header."""
    headers = _headers(content)
    if headers:
        at, width = chance.choice(((4, 1), (5, 1), (6, 1), (6, 2)))
        _set_number(content, chance, chance.choice(headers) + at, width)


def _change_message(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    """Type, length or flags of a message, or a field of what it holds: dims, offsets, sizes, link types."""
    headers = _headers(content)
    places = list(message_places(content, chance.choice(headers))) if headers else []
    if not places:
        return
    place, length = chance.choice(places)
    what = chance.random()
    if what < 0.1:
        content[place] = chance.choice(_KINDS)
    elif what < 0.2:
        _set_number(content, chance, place + chance.choice((1, 3)), chance.choice((1, 2)))
    elif length:
        width = chance.choice((1, 1, 2, 4, 8, 8))
        _set_number(content, chance, place + 4 + chance.randrange(length + 1), width)


def _change_link(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    """Another kind of link under the old name, or another name."""
    header = _some_header(content, chance)
    links = [message for message in header[1].messages if message.kind == LINK] if header else []
    if not header or not links:
        return
    link = chance.choice(links)
    name = chance.choice((b"codes", b"scales", b"checksums", b"", b"/", b"codes\0", b"x" * 200))
    target = chance.choice((b"/codes", b"/", b"\0other.h5\0/codes\0", b"/scales", b"\xff" * 40))
    kind = chance.choice((0, 1, 64, 65, 255, 2))
    body = struct.pack("<BBBB", 1, 8, kind, len(name)) + name
    tail = (
        struct.pack("<Q", _PAGE * chance.randrange(9))
        if kind == 0
        else struct.pack("<H", len(target)) + target
    )
    link.body = body + tail
    set_header(content, *header)


def _some_header(content: bytearray, chance: random.Random) -> tuple[int, Header] | None:
    headers = _headers(content)
    if not headers:
        return None
    address = chance.choice(headers)
    return address, Header.decode(content, address)


def _rearrange_messages(content: bytearray, chance: random.Random, stores: Sequence[bytes]) -> None:
    """Drop, repeat or swap messages, or take some of another header."""
    found = _some_header(content, chance)
    other = _some_header(bytearray(chance.choice(stores)), chance)
    if not found or not found[1].messages:
        return
    messages = found[1].messages
    at = chance.randrange(len(messages))
    kind = chance.randrange(4)
    if kind == 0:
        del messages[at]
    elif kind == 1:
        messages.insert(at, Message(chance.choice(_KINDS), chance.choice(messages).body, chance.randrange(4)))
    elif kind == 2:
        messages[at], messages[-1] = messages[-1], messages[at]
    elif other:
        messages[at : at + 1] = chance.sample(other[1].messages, min(2, len(other[1].messages)))
    set_header(content, *found)


def _splice(content: bytearray, chance: random.Random, stores: Sequence[bytes]) -> None:
    """A page, or all from a page on, of another store."""
    other = chance.choice(stores)
    source = _PAGE * chance.randrange(len(other) // _PAGE + 1)
    target = source if chance.random() < 0.7 else _PAGE * chance.randrange(len(content) // _PAGE + 1)
    end = len(other) if chance.random() < 0.3 else source + _PAGE
    piece = other[source:end]
    content[target : target + len(piece)] = piece


def _resize(content: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    """Cut or lengthen; the superblock may be told of it."""
    size = chance.choice((chance.randrange(len(content) + 1), len(content) - 1, len(content) + _PAGE))
    del content[max(0, size) :]
    content.extend(bytes(max(0, size - len(content))))
    if len(content) >= 48 and chance.random() < 0.5:
        struct.pack_into("<Q", content, 28, len(content))


_CHANGES = (
    *[_change_message] * 8,
    *[_rearrange_messages] * 3,
    *[_splice] * 2,
    _change_link,
    _change_prefix,
    _change_superblock,
    _flip_metadata,
    _flip_anything,
    _resize,
)
