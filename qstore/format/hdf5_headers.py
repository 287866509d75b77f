"""The HDF5 structures of a store, parsed from plain bytes; the HDF5 library never sees a file to be read.

It would follow whatever the file tells it to: heaps whose blocks pass through filters, for which it loads
plug-ins, headers that go on elsewhere, shared messages, other files. Even a superblock with a wrong
checksum makes it load every library in its plug-in folders, in search of one that can open the file.
A store needs none of that: a superblock, the header of each group and one for each dataset, each in one
piece. Everything else is refused. Field names are those of the HDF5 file format specification.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..errors import FormatError
from .hdf5_checksum import lookup3

__all__ = ["Attribute", "Dataset", "OtherLayout", "ReadAt", "Root", "read_dataset", "read_links", "read_root"]

ReadAt = Callable[[int, int], bytes]
"""``read(size, offset)``, as ``os.pread``: fewer bytes where the file ends earlier."""

_ROOT_ADDRESS = 4096
_LONGEST_HEADER = 4096
_UNDEFINED = (1 << 64) - 1
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQI")

_SHARED = 0x02
_NIL, _DATASPACE, _LINK_INFO, _DATATYPE, _FILL, _LINK, _LAYOUT = 0, 1, 2, 3, 5, 6, 8
_GROUP_INFO, _ATTRIBUTE, _ATTRIBUTE_INFO = 10, 12, 21
_OF_GROUPS = {_NIL, _LINK_INFO, _LINK, _GROUP_INFO, _ATTRIBUTE, _ATTRIBUTE_INFO}
_OF_DATASETS = {_NIL, _DATASPACE, _DATATYPE, _FILL, _LAYOUT, _ATTRIBUTE, _ATTRIBUTE_INFO}
_WORDS = {
    _LINK_INFO: "the links of a group",
    7: "an external file list",
    11: "filters",
    16: "a continuation",
    17: "the symbol table of a group",
}


class OtherLayout(FormatError):
    """HDF5 that may be right, but lies as no store does: another program has written the file."""


class Attribute(NamedTuple):
    """An attribute of the root group: its datatype message, shape (None: a null space) and raw value."""

    kind: bytes
    shape: tuple[int, ...] | None
    value: bytes


class Root(NamedTuple):
    """Attributes and links of the root group; the address is None for soft, external and other links."""

    attributes: dict[str, Attribute]
    links: dict[str, int | None]


class Dataset(NamedTuple):
    """Datatype message, shape (None: a null space) and place of a contiguous dataset.

    `offset` is None where the data has no place.
    """

    kind: bytes
    shape: tuple[int, ...] | None
    offset: int | None
    size: int


class _Message(NamedTuple):
    kind: int
    body: bytes


def read_root(read: ReadAt, size: int) -> Root:
    """Parse the superblock and the root group.

    Parameters
    ----------
    read : callable
        Gives bytes of the file, see :data:`ReadAt`.
    size : int
        Size of the file in bytes.

    Raises
    ------
    FormatError
        They are damaged, or more than a store needs.
    """
    _check_superblock(read(_SUPERBLOCK.size, 0), size)
    messages = list(_messages(read, size, _ROOT_ADDRESS, "the root group", _OF_GROUPS))
    attributes = [_attribute(message.body) for message in messages if message.kind == _ATTRIBUTE]
    links = [_link(message.body) for message in messages if message.kind == _LINK]
    return Root(
        _unique(attributes, "attributes of the root group"), _unique(links, "links of the root group")
    )


def read_links(read: ReadAt, size: int, address: int, name: str) -> dict[str, int | None]:
    """Parse the header of a group and give its links; `read`, `size` and errors as for :func:`read_root`."""
    messages = _messages(read, size, address, f"/{name}", _OF_GROUPS)
    links = [_link(message.body) for message in messages if message.kind == _LINK]
    return _unique(links, f"links of /{name}")


def read_dataset(read: ReadAt, size: int, address: int, name: str) -> Dataset:
    """Parse the header of a dataset; `read`, `size` and errors as for :func:`read_root`."""
    found: dict[int, bytes] = {}
    for kind, body in _messages(read, size, address, f"/{name}", _OF_DATASETS):
        if kind in found and kind in (_DATASPACE, _DATATYPE, _LAYOUT):
            raise _damaged(f"/{name} has two messages of type {kind}")
        found[kind] = body
    for kind in (_DATASPACE, _DATATYPE, _LAYOUT):
        if kind not in found:
            raise _damaged(f"/{name} is not a dataset: it has no message of type {kind}")
    if found[_LAYOUT][:2] != b"\x03\x01":
        raise OtherLayout(f"/{name} is chunked, compact or virtual, expected contiguous storage")
    offset, stored = _unpack("<QQ", found[_LAYOUT], 2, f"the layout of /{name}")
    shape = _shape(found[_DATASPACE], f"/{name}")
    return Dataset(found[_DATATYPE], shape, None if offset == _UNDEFINED else offset, stored)


def _damaged(what: str) -> FormatError:
    return FormatError(f"the HDF5 metadata is damaged: {what}")


def _unpack(form: str, body: bytes, offset: int, what: str) -> tuple[Any, ...]:
    if offset + struct.calcsize(form) > len(body):
        raise _damaged(f"{what} ends early")
    return struct.unpack_from(form, body, offset)


def _unique(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise FormatError(f"two {what} have one name")
    return members


def _check_superblock(raw: bytes, size: int) -> None:
    if len(raw) < _SUPERBLOCK.size:
        raise FormatError(f"the file ends inside the superblock, at byte {size}: it is truncated")
    _, version, offset_size, length_size, _, base, extension, end, root, checksum = _SUPERBLOCK.unpack(raw)
    if version != 2:
        raise OtherLayout(f"the superblock has version {version}, expected 2")
    if lookup3(raw[:-4]) != checksum:
        raise _damaged("the superblock does not match its checksum")
    if (offset_size, length_size, base, extension, root) != (8, 8, 0, _UNDEFINED, _ROOT_ADDRESS):
        raise OtherLayout("the superblock is not that of a store: other sizes or addresses, or an extension")
    if end > size:
        raise FormatError(f"the file should be {end} bytes, found {size}: it is truncated")


def _messages(read: ReadAt, size: int, address: int, what: str, allowed: set[int]) -> Iterator[_Message]:
    """The messages of an object header that is one piece of at most `_LONGEST_HEADER` bytes."""
    # The system takes no offset from 2**63 on.
    raw = read(_LONGEST_HEADER, address) if address < size else b""
    body, prefix = _only_piece(raw, what)
    position = 0
    while position + prefix <= len(body):  # fewer bytes than a prefix are a gap
        kind, length, flags = struct.unpack_from("<BHB", body, position)
        position += prefix + length
        if position > len(body):
            raise _damaged(f"a message of {what} does not end in its header")
        if kind not in allowed:
            words = _WORDS.get(kind, f"an HDF5 message of type {kind}")
            raise OtherLayout(f"{what} has {words}, as no store has")
        message = _Message(kind, body[position - length : position])
        _check_plain(message, flags, what)
        yield message


def _only_piece(raw: bytes, what: str) -> tuple[bytes, int]:
    """The bytes of all messages, and the size of a message's prefix."""
    if len(raw) < 16 or raw[:5] != b"OHDR\x02":
        raise FormatError(f"{what} has no object header of version 2: the file is truncated or damaged")
    flags = raw[5]
    start = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    width = 1 << (flags & 0x03)
    end = start + width + int.from_bytes(raw[start : start + width], "little")
    if end + 4 > len(raw):
        raise FormatError(f"the header of {what} is longer than {_LONGEST_HEADER} bytes, or truncated")
    if lookup3(raw[:end]) != int.from_bytes(raw[end : end + 4], "little"):
        raise _damaged(f"the header of {what} does not match its checksum")
    return raw[start + width : end], 6 if flags & 0x04 else 4


def _check_plain(message: _Message, flags: int, what: str) -> None:
    """Refuse messages that only point to where the content is."""
    kind, body = message
    if flags & _SHARED or (kind == _ATTRIBUTE and body[1:2] != b"\0"):
        raise OtherLayout(f"{what} has a shared message (such as a named datatype), as no store has")
    if kind in (_LINK_INFO, _ATTRIBUTE_INFO):
        numbered = (8 if kind == _LINK_INFO else 2) * (body[1] & 1 if len(body) > 1 else 0)
        if body[2 + numbered : 18 + numbered] != b"\xff" * 16:
            raise OtherLayout(f"{what} keeps its links or attributes in a heap, as no store does")


def _link(body: bytes) -> tuple[str, int | None]:
    what = "a link of a group"
    version, flags = _unpack("<BB", body, 0, what)
    kind = _unpack("<B", body, 2, what)[0] if flags & 0x08 else 0
    position = 2 + bool(flags & 0x08) + 8 * bool(flags & 0x04) + bool(flags & 0x10)
    width = 1 << (flags & 0x03)
    length = int.from_bytes(body[position : position + width], "little")
    name = body[position + width : position + width + length]
    if version != 1 or len(name) < length:
        raise _damaged(what)
    address = _unpack("<Q", body, position + width + length, what)[0] if kind == 0 else None
    return _text(name, what), address


def _attribute(body: bytes) -> tuple[str, Attribute]:
    what = "an attribute of the root group"
    version, name_size, kind_size, shape_size = _unpack("<BxHHH", body, 0, what)
    ends = (9, 9 + name_size, 9 + name_size + kind_size, 9 + name_size + kind_size + shape_size)
    if version != 3 or ends[-1] > len(body):
        raise _damaged(f"{what} ends early or has version {version}")
    name, kind, shape = (body[start:end] for start, end in itertools.pairwise(ends))
    return _text(name.rstrip(b"\0"), what), Attribute(kind, _shape(shape, what), body[ends[-1] :])


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _damaged(f"the name of {what} is not UTF-8") from None


def _shape(body: bytes, what: str) -> tuple[int, ...] | None:
    version, rank, flags, kind = _unpack("<BBBB", body, 0, f"the shape of {what}")
    if version != 2 or kind > 2:
        raise _damaged(f"the shape of {what} has version {version} and class {kind}")
    if kind == 2:
        return None
    dims = _unpack(f"<{rank}Q", body, 4, f"the shape of {what}")
    if flags & 0x01 and _unpack(f"<{rank}Q", body, 4 + 8 * rank, f"the shape of {what}") != dims:
        raise OtherLayout(f"{what} can be extended, expected a fixed shape")
    return dims
