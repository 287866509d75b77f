"""Stores with exactly one defect in the structure of their keys."""

from __future__ import annotations

import struct

from defects_by_library import Defect
from h5py import h5t
from hdf5_edit import add_message, kind_of, set_body, space, with_header
from hdf5_seal import ATTRIBUTE_INFO, DATASPACE, DATATYPE, FILTERS, LAYOUT, LINK, LINK_INFO, Header

from qstore import layout

__all__ = ["key_defects"]

_ROOT, _GROUP = 4096, 32768
"""Object headers of the root group and of ``/keys``, in stores of 2 × 3 values."""

_NO_OBJECT = (1 << 64) - 1


def key_defects(text: bytes, integer: bytes) -> dict[str, Defect]:
    """Every defect by its name, made from two good stores of 2 × 3 values: keys "a" and "é", and 7 and -7."""
    return {**groups(text), **members(text, integer), **datasets(text, integer)}


def headers(kind: layout.KeyPart) -> dict[str, int]:
    """Addresses of the object headers of the datasets."""
    found = layout.places(layout.shapes(2, 3, layout.Parts(keys=kind)))
    return {
        name.removeprefix("keys/"): at.offset - 4096 for name, at in found.items() if name.startswith("keys/")
    }


_TEXT = headers(layout.KeyPart("text", 3))
_INTEGER = headers(layout.KeyPart("integer", 0))


def hard(name: str, address: int) -> bytes:
    """Content of a link message."""
    return struct.pack("<BBB", 1, 0, len(name)) + name.encode() + struct.pack("<Q", address)


def soft(name: str, kind: int, target: bytes) -> bytes:
    """The same of a link to a path, or of another kind."""
    raw = name.encode()
    return struct.pack("<BBBB", 1, 8, kind, len(raw)) + raw + struct.pack("<H", len(target)) + target


def linked(content: bytes, group: int, name: str, body: bytes | None) -> bytes:
    """`content` with a link of a group replaced, or removed."""

    def change(header: Header) -> None:
        found = next(
            message
            for message in header.messages
            if message.kind == LINK and message.body[3 : 3 + len(name)] == name.encode()
        )
        if body is None:
            header.messages.remove(found)
        else:
            found.body = body

    return with_header(content, group, change)


def groups(good: bytes) -> dict[str, Defect]:
    """Links that lead to no group, or groups that are more than they should be."""
    elsewhere = "/keys is a soft or external link, expected a group of this file"

    def group(body: bytes) -> bytes:
        return linked(good, _ROOT, "keys", body)

    heap = struct.pack("<BBQQ", 0, 0, 12288, 12288)
    return {
        "soft-link-to-keys": Defect(group(soft("keys", 1, b"/codes")), elsewhere),
        "external-link-to-keys": Defect(group(soft("keys", 64, b"\0outside.h5\0/keys\0")), elsewhere),
        "keys-are-a-dataset": Defect(group(hard("keys", 16384)), "/keys has an HDF5 message of type 1"),
        "keys-are-the-root-group": Defect(
            group(hard("keys", _ROOT)), '/keys must have a dataset "hashes" or one "ids", and not both'
        ),
        "keys-nowhere": Defect(group(hard("keys", _NO_OBJECT)), "/keys has no object header"),
        "keys-in-the-codes": Defect(group(hard("keys", 12288)), "/keys has no object header"),
        "keys-with-a-heap": Defect(
            with_header(good, _GROUP, set_body(LINK_INFO, heap)),
            "/keys keeps its links or attributes in a heap",
        ),
        "keys-with-attributes-in-a-heap": Defect(
            with_header(good, _GROUP, add_message(ATTRIBUTE_INFO, heap)),
            "/keys keeps its links or attributes in a heap",
        ),
        "keys-go-on-elsewhere": Defect(
            with_header(good, _GROUP, add_message(16, struct.pack("<QQ", 12288, 64))),
            "/keys has a continuation",
        ),
    }


def members(text: bytes, integer: bytes) -> dict[str, Defect]:
    """Datasets that are missing, or lead elsewhere."""
    neither = '/keys must have a dataset "hashes" or one "ids", and not both'
    both = with_header(text, _GROUP, add_message(LINK, hard("ids", _TEXT["rows"])))
    twice = with_header(text, _GROUP, add_message(LINK, hard("rows", _TEXT["offsets"])))
    found = {
        f"keys-without-{name}": Defect(
            linked(text, _GROUP, name, None),
            neither if name == "hashes" else f"there is no dataset /keys/{name}",
        )
        for name in _TEXT
    }
    return found | {
        "integer-keys-without-ids": Defect(linked(integer, _GROUP, "ids", None), neither),
        "integer-keys-without-sorted": Defect(
            linked(integer, _GROUP, "sorted", None), "there is no dataset /keys/sorted"
        ),
        "keys-of-both-kinds": Defect(both, neither),
        "two-rows-of-keys": Defect(twice, "two links of /keys have one name"),
        "soft-link-to-hashes": Defect(
            linked(text, _GROUP, "hashes", soft("hashes", 1, b"/scales")),
            "/keys/hashes is a soft or external link",
        ),
        "external-link-to-bytes": Defect(
            linked(text, _GROUP, "bytes", soft("bytes", 64, b"\0outside.bin\0/b\0")),
            "/keys/bytes is a soft or external link",
        ),
        "hashes-are-the-codes": Defect(
            linked(text, _GROUP, "hashes", hard("hashes", 8192)), "/keys/hashes has the wrong type"
        ),
        "rows-are-the-offsets": Defect(
            linked(text, _GROUP, "rows", hard("rows", _TEXT["offsets"])),
            "/keys/rows has shape (3,), expected (2,)",
        ),
    }


def datasets(text: bytes, integer: bytes) -> dict[str, Defect]:
    """Datasets of a wrong type, shape or place."""

    def typed(name: str, kind: h5t.TypeID) -> bytes:
        return with_header(text, _TEXT[name], set_body(DATATYPE, kind_of(kind)))

    def placed(name: str, offset: int, size: int) -> bytes:
        return with_header(text, _TEXT[name], set_body(LAYOUT, struct.pack("<BBQQ", 3, 1, offset, size)))

    def shaped(name: str, shape: bytes, size: int) -> bytes:
        content = with_header(text, _TEXT[name], set_body(DATASPACE, shape))
        place = struct.pack("<BBQQ", 3, 1, _TEXT[name] + 4096, size)
        return with_header(content, _TEXT[name], set_body(LAYOUT, place))

    filtered = struct.pack("<BBHHHI", 2, 1, 1, 0, 1, 6)
    wrong = {
        "hashes": h5t.STD_I64LE,
        "rows": h5t.STD_I64BE,
        "offsets": h5t.STD_I32LE,
        "bytes": h5t.STD_I8LE,
        "checksums": h5t.STD_U64LE,
    }
    types = {
        f"wrong-type-of-{name}": Defect(typed(name, kind), f"/keys/{name} has the wrong type")
        for name, kind in wrong.items()
    }
    return types | {
        "ids-without-sign": Defect(
            with_header(integer, _INTEGER["ids"], set_body(DATATYPE, kind_of(h5t.STD_U64LE))),
            "/keys/ids has the wrong type",
        ),
        "filtered-bytes": Defect(
            with_header(text, _TEXT["bytes"], add_message(FILTERS, filtered)), "/keys/bytes has filters"
        ),
        "too-few-hashes": Defect(shaped("hashes", space(1), 8), "/keys/hashes has shape (1,), expected (2,)"),
        "too-many-offsets": Defect(
            shaped("offsets", space(4), 32), "/keys/offsets has shape (4,), expected (3,)"
        ),
        "rows-of-2-columns": Defect(shaped("rows", space(2, 1), 16), "/keys/rows has the wrong rank"),
        "key-checksums-of-3": Defect(
            shaped("checksums", space(3), 12), "/keys/checksums has shape (3,), expected (4,)"
        ),
        "bytes-behind-the-end": Defect(
            shaped("bytes", space(1 << 40), 1 << 40), "/keys/bytes should end at byte"
        ),
        "bytes-of-another-size": Defect(
            placed("bytes", _TEXT["bytes"] + 4096, 2), "/keys/bytes has 2 bytes of storage, expected 3"
        ),
        "more-bytes-than-have-room": Defect(
            shaped("bytes", space(4097), 4097), "/keys/checksums lies at byte 73728, expected 77824"
        ),
        "bytes-in-their-header": Defect(
            placed("bytes", _TEXT["bytes"], 3),
            f"/keys/bytes lies at byte {_TEXT['bytes']}, expected {_TEXT['bytes'] + 4096}",
        ),
        "hashes-over-codes": Defect(
            placed("hashes", 12288, 16), f"/keys/hashes lies at byte 12288, expected {_TEXT['hashes'] + 4096}"
        ),
        "rows-over-hashes": Defect(
            placed("rows", _TEXT["hashes"] + 4096, 16), f"expected {_TEXT['rows'] + 4096}"
        ),
        "offsets-nowhere": Defect(
            placed("offsets", _NO_OBJECT, 24), "/keys/offsets has no place in the file"
        ),
        "chunked-hashes": Defect(
            with_header(text, _TEXT["hashes"], set_body(LAYOUT, b"\x03\x02" + bytes(16))),
            "/keys/hashes is chunked, compact or virtual",
        ),
        "keys-cut-off": Defect(text[: _TEXT["checksums"]], "truncated"),
    }
