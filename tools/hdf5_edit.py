"""Edits of HDF5 files that leave all the rest, and every checksum, right."""

from __future__ import annotations

import struct
from collections.abc import Callable

from h5py import h5t
from hdf5_seal import Header, Message, seal

__all__ = [
    "NULL",
    "SCALAR",
    "UNDEFINED",
    "Change",
    "add_message",
    "attribute",
    "kind_of",
    "patched",
    "set_body",
    "set_header",
    "space",
    "string",
    "text",
    "with_header",
]

UNDEFINED = (1 << 64) - 1
SCALAR, NULL = b"\x02\x00\x00\x00", b"\x02\x00\x00\x02"

Change = Callable[[Header], None]


def patched(content: bytes, at: int, new: bytes) -> bytes:
    """`content` with some bytes replaced and the metadata sealed again."""
    changed = bytearray(content)
    changed[at : at + len(new)] = new
    return bytes(seal(changed))


def with_header(content: bytes, address: int, change: Change) -> bytes:
    """`content` with the object header at `address` changed; what lies behind it in its page goes."""
    header = Header.decode(content, address)
    change(header)
    raw = header.encode()
    page = raw.ljust(min(4096, len(content) - address), b"\0")
    changed = content[:address] + page + content[address + len(page) :]
    # The file may end with the last header: HDF5 compares the end in the superblock with the file's.
    return patched(changed, 28, struct.pack("<Q", len(changed)))


def set_body(kind: int, body: bytes) -> Change:
    """Replace the content of the first message of a type."""

    def change(header: Header) -> None:
        header.first(kind).body = body

    return change


def add_message(kind: int, body: bytes, flags: int = 0) -> Change:
    """Add a message at the end."""
    return lambda header: header.messages.append(Message(kind, body, flags))


def space(*dims: int, largest: tuple[int, ...] | None = None) -> bytes:
    """Content of a dataspace message."""
    return struct.pack("<BBBB", 2, len(dims), 1, 1) + struct.pack(
        f"<{2 * len(dims)}Q", *dims, *(largest or dims)
    )


def kind_of(type_id: h5t.TypeID) -> bytes:
    """Content of a datatype message."""
    return bytes(type_id.encode()[2:])


def string(length: int, **options: int) -> bytes:
    """Type of a string of fixed length."""
    kind = h5t.C_S1.copy()
    kind.set_size(length)
    kind.set_strpad(h5t.STR_NULLPAD)
    kind.set_cset(options.get("cset", h5t.CSET_ASCII))
    return kind_of(kind)


def attribute(name: str, kind: bytes, shape: bytes, value: bytes) -> bytes:
    """Content of an attribute message."""
    raw = name.encode() + b"\0"
    return struct.pack("<BBHHHB", 3, 0, len(raw), len(kind), len(shape), 0) + raw + kind + shape + value


def text(name: str, value: bytes) -> bytes:
    """Content of the message of a text attribute as stores have them."""
    return attribute(name, string(len(value)), SCALAR, value)


def set_header(content: bytearray, address: int, header: Header) -> None:
    """Write a header over the one at `address`, in place, without care for what it runs over."""
    raw = header.encode()
    content[address : address + len(raw)] = raw
