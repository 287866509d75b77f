"""Stores with exactly one defect, named after it, and the error that each must give."""

from __future__ import annotations

import struct

from defects_by_library import Defect, heaps, library_storage, rebuilt
from h5py import h5t
from hdf5_edit import (
    NULL,
    SCALAR,
    UNDEFINED,
    add_message,
    attribute,
    kind_of,
    patched,
    set_body,
    space,
    string,
    text,
    with_header,
)
from hdf5_seal import (
    ATTRIBUTE,
    CONTINUATION,
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    LAYOUT,
    LINK,
    Header,
    Message,
    lookup3,
)

__all__ = ["all_defects", "fidelity_defects"]

ROOT, CODES_HEADER, CODES = 4096, 8192, 12288
HEADERS = {"root": ROOT, "codes": CODES_HEADER, "scales": 16384, "checksums": 24576, "fidelity": 32768}
"""Of a store of 2 × 3 values; the last one of one that has it."""


def all_defects(good: bytes, no_rows: bytes) -> dict[str, Defect]:
    """Every defect by its name, made from two good stores of 2 × 3 and 0 × 3 values."""
    return {
        **whole_files(good),
        **superblocks(good),
        **storage(good),
        **library_storage(),
        **types(good),
        **spaces(good),
        **spaces_without_rows(no_rows),
        **places(good),
        **links(good),
        **headers(good),
        **heaps(),
        **attributes(no_rows),
        **versions(no_rows),
    }


def whole_files(good: bytes) -> dict[str, Defect]:
    """Files that are something else, or cut short."""
    truncated = "truncated"
    return {
        "empty-file": Defect(b"", "the file is empty"),
        "text-file": Defect(b"the quick brown fox 0.1 0.2 0.3\n", "not an HDF5 file"),
        "unfinished": Defect(bytes(len(good)), "has not been finished"),
        "signature-alone": Defect(good[:8], truncated),
        "truncated-in-superblock": Defect(good[:20], truncated),
        "truncated-after-superblock": Defect(good[:48], truncated),
        "truncated-in-root-header": Defect(good[:4200], truncated),
        "truncated-before-codes": Defect(good[:CODES], truncated),
        "truncated-in-codes": Defect(good[: CODES + 3], truncated),
        "truncated-in-scales": Defect(good[: 20480 + 9], truncated),
        "truncated-by-one-byte": Defect(good[:-1], truncated),
        "user-block": Defect(bytes(512) + good, "has not been finished"),
        "user-block-with-text": Defect(b"#!/bin/sh".ljust(512, b"\n") + good, "not an HDF5 file"),
    }


def superblocks(good: bytes) -> dict[str, Defect]:
    """Superblocks that no writer of stores makes."""
    other = "is not that of a store"
    return {
        "superblock-0": Defect(rebuilt(libver="earliest"), "the superblock has version 0"),
        "superblock-3": Defect(rebuilt(libver="latest"), "the superblock has version 3"),
        "superblock-4": Defect(patched(good, 8, b"\x04"), "the superblock has version 4"),
        "superblock-checksum": Defect(
            good[:44] + b"\0\0\0\0" + good[48:], "the superblock does not match its checksum"
        ),
        "addresses-of-4-bytes": Defect(patched(good, 9, b"\x04"), other),
        "lengths-of-2-bytes": Defect(patched(good, 10, b"\x02"), other),
        "base-address": Defect(patched(good, 12, struct.pack("<Q", 4096)), other),
        "superblock-extension": Defect(patched(good, 20, struct.pack("<Q", CODES_HEADER)), other),
        "root-elsewhere": Defect(patched(good, 36, struct.pack("<Q", CODES_HEADER)), other),
        "root-undefined": Defect(patched(good, 36, struct.pack("<Q", UNDEFINED)), other),
        "end-behind-the-end": Defect(
            patched(good, 28, struct.pack("<Q", 1 << 40)), truncated_message(1 << 40)
        ),
    }


def truncated_message(size: int) -> str:
    """Words about a file shorter than its superblock says."""
    return f"the file should be {size} bytes"


def storage(good: bytes) -> dict[str, Defect]:
    """Datasets whose header sends HDF5 elsewhere, made by hand."""
    plug_in = struct.pack("<BBHHHH", 2, 1, 32023, 0, 0, 0)
    deflate = struct.pack("<BBHHHI", 2, 1, 1, 0, 1, 6)

    def layout(body: bytes) -> bytes:
        return with_header(good, HEADERS["codes"], set_body(LAYOUT, body))

    contiguous = "is chunked, compact or virtual, expected contiguous storage"
    heap = struct.pack("<QI", 20480, 1)
    filtered = with_header(good, HEADERS["codes"], add_message(FILTERS, deflate))
    plugged = with_header(good, HEADERS["scales"], add_message(FILTERS, plug_in))
    external = struct.pack("<BxxxHHQQQQ", 1, 1, 1, 20480, 0, 0, 6)
    return {
        "compact-codes": Defect(layout(b"\x03\x00\x06\x00" + good[CODES : CODES + 6]), contiguous),
        "layout-version-1": Defect(layout(struct.pack("<BBB5xQIII", 1, 2, 1, CODES, 2, 3, 1)), contiguous),
        "virtual-codes-made-by-hand": Defect(layout(b"\x04\x03" + heap), contiguous),
        "unknown-layout": Defect(layout(b"\x03\x09" + bytes(16)), contiguous),
        "gzip-on-contiguous-codes": Defect(filtered, "/codes has filters"),
        "plug-in-filter-on-scales": Defect(plugged, "/scales has filters"),
        "external-files-made-by-hand": Defect(
            with_header(good, HEADERS["codes"], add_message(EXTERNAL_FILES, external)),
            "/codes has an external file list",
        ),
    }


def types(good: bytes) -> dict[str, Defect]:
    """Element types that look right and are not."""
    four_bits = h5t.STD_U8LE.copy()
    four_bits.set_precision(4)
    shifted = h5t.STD_U8LE.copy()
    shifted.set_precision(7)
    shifted.set_offset(1)
    opaque = h5t.create(h5t.OPAQUE, 1)
    opaque.set_tag(b"codes")
    wrong = {
        "codes": {
            "int8": h5t.STD_I8LE,
            "enum": h5t.enum_create(h5t.STD_U8LE),
            "4-bit": four_bits,
            "7-bit": shifted,
            "bitfield": h5t.STD_B8LE,
            "opaque": opaque,
            "array-type": h5t.array_create(h5t.STD_U8LE, (1,)),
            "variable-length": h5t.vlen_create(h5t.STD_U8LE),
        },
        "scales": {
            "float32": h5t.IEEE_F32LE,
            "big-endian": h5t.IEEE_F64BE,
            "int64": h5t.STD_I64LE,
        },
        "checksums": {"big-endian": h5t.STD_U32BE, "int32": h5t.STD_I32LE},
    }
    return {
        f"{word}-{name}": Defect(
            with_header(good, HEADERS[name], set_body(DATATYPE, kind_of(type_id))),
            f"/{name} has the wrong type",
        )
        for name, kinds in wrong.items()
        for word, type_id in kinds.items()
    }


def spaces(good: bytes) -> dict[str, Defect]:
    """Shapes that are wrong or do not belong together."""

    def shaped(name: str, body: bytes, size: int | None = None) -> bytes:
        """The shape, and the size in bytes that goes with it where HDF5 compares the two."""

        def change(header: Header) -> None:
            header.first(DATASPACE).body = body
            if size is not None:
                layout = header.first(LAYOUT)
                place = struct.unpack_from("<Q", layout.body, 2)[0] if size else UNDEFINED
                layout.body = struct.pack("<BBQQ", 3, 1, place, size)

        return with_header(good, HEADERS[name], change)

    unlimited = UNDEFINED
    return {
        "scalar-codes": Defect(shaped("codes", SCALAR), "/codes has the wrong rank"),
        "null-codes": Defect(shaped("codes", NULL, 0), "/codes has the wrong rank"),
        "null-scales": Defect(shaped("scales", NULL, 0), "/scales has the wrong rank"),
        "rank-1-codes": Defect(shaped("codes", space(6)), "/codes has the wrong rank"),
        "rank-3-codes": Defect(shaped("codes", space(2, 3, 1)), "/codes has the wrong rank"),
        "rank-2-scales": Defect(shaped("scales", space(2, 1)), "/scales has the wrong rank"),
        "rank-1-checksums": Defect(shaped("checksums", space(2)), "/checksums has the wrong rank"),
        "rank-33-codes": Defect(shaped("codes", space(*[1] * 33)), "/codes has the wrong rank"),
        "unlimited-codes": Defect(shaped("codes", space(2, 3, largest=(unlimited, 3))), "can be extended"),
        "room-for-more-scales": Defect(shaped("scales", space(2, largest=(9,))), "can be extended"),
        "no-columns": Defect(shaped("codes", space(2, 0), 0), "expected 1 to 1099511627776 columns"),
        "columns-of-2-to-the-62-without-rows": Defect(
            shaped("codes", space(0, 1 << 62), 0), "expected 1 to 1099511627776 columns"
        ),
        "product-wraps-to-0": Defect(
            shaped("codes", space(1 << 33, 1 << 31), 0), "/codes has no place in the file"
        ),
        "product-wraps-to-6": Defect(
            shaped("codes", space((1 << 63) + 1, 6), 6),
            "has 6 bytes of storage, expected 55340232221128654854",
        ),
        "most-rows": Defect(
            shaped("codes", space(UNDEFINED - 1, 3)), "has 6 bytes of storage, expected 55340232221128654842"
        ),
        "more-rows-than-fit": Defect(
            shaped("codes", space(200_000, 3), 600_000), "/codes should end at byte 612288"
        ),
        "more-rows-than-have-room": Defect(
            shaped("codes", space(200_000, 3)), "has 6 bytes of storage, expected 600000"
        ),
        "too-few-scales": Defect(shaped("scales", space(1), 8), "/scales has shape (1,), expected (2,)"),
        "too-many-scales": Defect(shaped("scales", space(3), 24), "/scales has shape (3,), expected (2,)"),
        "too-few-checksums": Defect(
            shaped("checksums", space(0, 2), 0), "/checksums has shape (0, 2), expected (1, 2)"
        ),
        "checksums-of-1-column": Defect(
            shaped("checksums", space(1, 1), 4), "/checksums has shape (1, 1), expected (1, 2)"
        ),
        "checksums-of-3-columns": Defect(
            shaped("checksums", space(1, 3), 12), "/checksums should end at byte 28684"
        ),
    }


def spaces_without_rows(no_rows: bytes) -> dict[str, Defect]:
    """Widths that the size of the file does not bound, because there are no rows."""

    def wide(dim: int) -> bytes:
        return with_header(no_rows, CODES_HEADER, set_body(DATASPACE, space(0, dim)))

    return {
        "no-rows-of-no-columns": Defect(wide(0), "expected 1 to 1099511627776 columns"),
        "no-rows-of-2-to-the-60-columns": Defect(wide(1 << 60), "expected 1 to 1099511627776 columns"),
        "no-rows-of-2-to-the-63-columns": Defect(wide(1 << 63), "expected 1 to 1099511627776 columns"),
    }


def places(good: bytes) -> dict[str, Defect]:
    """Data that lies where it must not."""

    def placed(name: str, offset: int, size: int) -> bytes:
        return with_header(good, HEADERS[name], set_body(LAYOUT, struct.pack("<BBQQ", 3, 1, offset, size)))

    return {
        "codes-unaligned": Defect(placed("codes", CODES + 1, 6), "/codes lies at byte 12289, expected 12288"),
        "codes-in-a-header": Defect(placed("codes", ROOT, 6), "/codes lies at byte 4096, expected 12288"),
        "codes-behind-the-end": Defect(placed("codes", 1 << 40, 6), "/codes should end at byte"),
        "codes-across-2-to-the-64": Defect(placed("codes", (1 << 64) - 4096, 6), "/codes should end at byte"),
        "codes-nowhere": Defect(placed("codes", UNDEFINED, 6), "/codes has no place in the file"),
        "codes-of-5-bytes": Defect(placed("codes", CODES, 5), "/codes has 5 bytes of storage, expected 6"),
        "codes-of-7-bytes": Defect(placed("codes", CODES, 7), "/codes has 7 bytes of storage, expected 6"),
        "scales-unaligned": Defect(placed("scales", 20481, 16), "/scales lies at byte 20481, expected 20480"),
        "scales-over-codes": Defect(
            placed("scales", CODES, 16), "/scales lies at byte 12288, expected 20480"
        ),
        "scales-over-checksums": Defect(
            placed("scales", 28664, 16), "/scales lies at byte 28664, expected 20480"
        ),
        "scales-in-the-superblock": Defect(placed("scales", 0, 16), "/scales lies at byte 0, expected 20480"),
        "scales-behind-the-end": Defect(placed("scales", 28672, 16), "/scales should end at byte 28688"),
        "checksums-over-scales": Defect(
            placed("checksums", 20480, 8), "/checksums lies at byte 20480, expected 28672"
        ),
        "checksums-nowhere": Defect(placed("checksums", UNDEFINED, 8), "/checksums has no place in the file"),
    }


def fidelity_defects(good: bytes) -> dict[str, Defect]:
    """What a build measured, in another form than the format has it; `good` is of 2 × 3 values."""

    def changed(kind: int, body: bytes, size: int = 360, place: int = 36864) -> bytes:
        def change(header: Header) -> None:
            header.first(LAYOUT).body = struct.pack("<BBQQ", 3, 1, place, size)
            if kind != LAYOUT:
                header.first(kind).body = body

        return with_header(good, HEADERS["fidelity"], change)

    def soft(header: Header) -> None:
        found = next(message for message in header.messages if b"fidelity" in message.body)
        found.body = struct.pack("<BBBB", 1, 8, 1, 8) + b"fidelity" + struct.pack("<H", 7) + b"/scales"

    return {
        "fidelity-of-44-numbers": Defect(
            changed(DATASPACE, space(44), 352), "/fidelity has shape (44,), expected (45,)"
        ),
        "fidelity-of-rank-2": Defect(changed(DATASPACE, space(45, 1)), "/fidelity has the wrong rank"),
        "fidelity-of-integers": Defect(
            changed(DATATYPE, kind_of(h5t.STD_I64LE)), "/fidelity has the wrong type"
        ),
        "fidelity-over-scales": Defect(
            changed(LAYOUT, b"", place=20480), "/fidelity lies at byte 20480, expected 36864"
        ),
        "fidelity-behind-the-end": Defect(
            changed(LAYOUT, b"", place=1 << 40), "/fidelity should end at byte"
        ),
        "fidelity-by-a-soft-link": Defect(
            with_header(good, ROOT, soft), "/fidelity is a soft or external link"
        ),
    }


def links(good: bytes) -> dict[str, Defect]:
    """Names that are missing or lead elsewhere."""

    def linked(name: str, body: bytes | None) -> bytes:
        def change(header: Header) -> None:
            found = next(
                message
                for message in header.messages
                if message.kind == LINK and name.encode() in message.body
            )
            if body is None:
                header.messages.remove(found)
            else:
                found.body = body

        return with_header(good, ROOT, change)

    def link(name: str, kind: int, target: bytes) -> bytes:
        raw = name.encode()
        return struct.pack("<BBBB", 1, 8, kind, len(raw)) + raw + struct.pack("<H", len(target)) + target

    def hard(name: str, address: int) -> bytes:
        return struct.pack("<BBB", 1, 0, len(name)) + name.encode() + struct.pack("<Q", address)

    elsewhere = "is a soft or external link"
    moved = bytearray(linked("codes", hard("codes", ROOT + 2048)))
    moved[ROOT + 2048 : ROOT + 2048 + 268] = good[CODES_HEADER : CODES_HEADER + 268]
    moved[CODES_HEADER : CODES_HEADER + 268] = bytes(268)
    outside = b"\0outside.h5\0/codes\0"
    twice = with_header(good, ROOT, add_message(LINK, hard("codes", HEADERS["scales"])))
    return {
        "codes-missing": Defect(linked("codes", None), "there is no dataset /codes"),
        "scales-missing": Defect(linked("scales", None), "there is no dataset /scales"),
        "checksums-missing": Defect(linked("checksums", None), "there is no dataset /checksums"),
        "codes-in-capitals": Defect(
            linked("codes", hard("CODES", CODES_HEADER)), "there is no dataset /codes"
        ),
        "soft-link-to-codes": Defect(linked("codes", link("codes", 1, b"/scales")), f"/codes {elsewhere}"),
        "soft-link-into-a-group": Defect(
            linked("codes", link("codes", 1, b"/data/codes")), f"/codes {elsewhere}"
        ),
        "soft-link-to-itself": Defect(
            linked("scales", link("scales", 1, b"/scales")), f"/scales {elsewhere}"
        ),
        "external-link-to-codes": Defect(linked("codes", link("codes", 64, outside)), f"/codes {elsewhere}"),
        "external-link-to-checksums": Defect(
            linked("checksums", link("checksums", 64, outside)), f"/checksums {elsewhere}"
        ),
        "user-defined-link": Defect(linked("codes", link("codes", 200, b"x")), f"/codes {elsewhere}"),
        "reserved-link": Defect(
            linked("codes", link("codes", 30, b"x")), "/codes is a soft or external link"
        ),
        "two-codes": Defect(twice, "two links of the root group have one name"),
        "codes-header-elsewhere": Defect(
            bytes(moved), "the shape of /codes is not at byte 8208, where other readers look"
        ),
        "codes-are-the-root-group": Defect(
            linked("codes", hard("codes", ROOT)), "/codes has the links of a group"
        ),
        "codes-are-the-scales": Defect(
            linked("codes", hard("codes", HEADERS["scales"])), "/codes has the wrong type"
        ),
        "codes-in-the-superblock": Defect(linked("codes", hard("codes", 0)), "/codes has no object header"),
        "codes-header-behind-the-end": Defect(
            linked("codes", hard("codes", 1 << 30)), "/codes has no object header"
        ),
        "codes-header-nowhere": Defect(
            linked("codes", hard("codes", UNDEFINED)), "/codes has no object header"
        ),
    }


def headers(good: bytes) -> dict[str, Defect]:
    """Object headers that go on elsewhere or do not add up."""

    def continued(address: int, target: int, length: int) -> bytes:
        goes_on = struct.pack("<QQ", target, length)
        return with_header(good, address, add_message(CONTINUATION, goes_on))

    page = bytearray(continued(ROOT, ROOT + 2048, 64))
    piece = b"OCHK" + struct.pack("<BHBH", CONTINUATION, 16, 0, 0) + struct.pack("<QQ", ROOT + 2048, 64)
    piece = piece.ljust(60, b"\0")
    page[ROOT + 2048 : ROOT + 2112] = piece + struct.pack("<I", lookup3(piece))
    flipped = bytearray(good)
    flipped[CODES_HEADER + 16] ^= 1
    no_type = with_header(good, CODES_HEADER, lambda header: header.messages.remove(header.first(DATATYPE)))
    return {
        "header-checksum": Defect(bytes(flipped), "the header of /codes does not match its checksum"),
        "header-of-version-1": Defect(
            patched(good, CODES_HEADER + 4, b"\x01"), "/codes has no object header"
        ),
        "header-of-64-kilobytes": Defect(
            patched(good, CODES_HEADER + 6, b"\xff\xff"), "the header of /codes is longer"
        ),
        "message-across-the-end": Defect(
            patched(good, CODES_HEADER + 9, b"\xff\xff"),
            "a message of /codes does not end in its header",
        ),
        "message-of-unknown-type": Defect(
            with_header(good, CODES_HEADER, add_message(200, b"?")), "/codes has an HDF5 message of type 200"
        ),
        "codes-without-a-type": Defect(no_type, "is not a dataset"),
        "continued-root-header": Defect(
            continued(ROOT, ROOT + 2048, 64), "the root group has a continuation"
        ),
        "continued-for-ever": Defect(bytes(page), "the root group has a continuation"),
        "continued-behind-the-end": Defect(continued(ROOT, 1 << 40, 64), "the root group has a continuation"),
        "continued-codes-header": Defect(continued(CODES_HEADER, CODES, 64), "/codes has a continuation"),
        "shared-type-of-codes": Defect(
            with_header(good, CODES_HEADER, add_message(DATATYPE, struct.pack("<BBQ", 3, 2, ROOT), 2)),
            "/codes has a shared message",
        ),
    }


def with_attribute(content: bytes, name: str, body: bytes | None) -> bytes:
    """`content` with an attribute of the root group replaced, added or, with None, removed."""

    def change(header: Header) -> None:
        mark = struct.pack("<H", len(name) + 1)
        kept = [
            message
            for message in header.messages
            if message.kind != ATTRIBUTE
            or message.body[2:4] != mark
            or message.body[9 : 9 + len(name)] != name.encode()
        ]
        header.messages = kept if body is None else [*kept, Message(ATTRIBUTE, body)]

    return with_header(content, ROOT, change)


def attributes(good: bytes) -> dict[str, Defect]:
    """Attributes that are missing, of another type, or dangerous to read."""
    short = "is not a short fixed-length string"
    wrong = "has the wrong type or shape"
    id_word = "is not 32 hexadecimal digits"
    vlen = kind_of(variable_string())
    pointer = struct.pack("<IQI", 6, CODES, 1)
    u32, u8 = kind_of(h5t.STD_U32LE), kind_of(h5t.STD_U8LE)
    pair = struct.pack("<II", 1, 0)

    def having(name: str, body: bytes | None) -> bytes:
        return with_attribute(good, name, body)

    missing = {
        "format": 'the root attribute "format" is not "qstore"',
        "version": 'the root attribute "version" is missing',
        "zero_point": 'the root attribute "zero_point" is missing',
        "formula": 'the root attribute "formula" is not',
        "content_id": id_word,
    }
    gone = {
        f"{name.replace('_', '-')}-attribute-missing": Defect(having(name, None), words)
        for name, words in missing.items()
    }
    return gone | {
        "format-of-another-program": Defect(having("format", text("format", b"pandas")), missing["format"]),
        "format-as-number": Defect(having("format", attribute("format", u8, SCALAR, b"q")), short),
        "format-of-variable-length": Defect(
            having("format", attribute("format", vlen, SCALAR, pointer)), short
        ),
        "format-as-array": Defect(
            having("format", attribute("format", string(6), space(1), b"qstore")), short
        ),
        "format-null": Defect(having("format", attribute("format", string(6), NULL, b"")), short),
        "format-bad-utf-8": Defect(having("format", text("format", b"qstor\xff")), "is not UTF-8"),
        "formula-other": Defect(
            having("formula", text("formula", b"(codes - 127) * scales")), missing["formula"]
        ),
        "version-as-int32": Defect(
            having("version", attribute("version", kind_of(h5t.STD_I32LE), space(2), pair)), wrong
        ),
        "version-as-float64": Defect(
            having(
                "version", attribute("version", kind_of(h5t.IEEE_F64LE), space(2), struct.pack("<2d", 1, 0))
            ),
            wrong,
        ),
        "version-as-text": Defect(having("version", text("version", b"1.0")), wrong),
        "version-scalar": Defect(having("version", attribute("version", u32, SCALAR, pair[:4])), wrong),
        "version-of-3-numbers": Defect(
            having("version", attribute("version", u32, space(3), pair + bytes(4))), wrong
        ),
        "version-of-a-billion-numbers": Defect(
            having("version", attribute("version", u32, space(1 << 30), pair)),
            '"version" has the wrong type or shape',
        ),
        "zero-point-127": Defect(
            having("zero_point", attribute("zero_point", u8, SCALAR, b"\x7f")), "is 127, expected 128"
        ),
        "zero-point-as-uint16": Defect(
            having("zero_point", attribute("zero_point", kind_of(h5t.STD_U16LE), SCALAR, b"\x80\0")), wrong
        ),
        "content-id-not-hexadecimal": Defect(having("content_id", text("content_id", b"z" * 32)), id_word),
        "content-id-in-capitals": Defect(having("content_id", text("content_id", b"A" * 32)), id_word),
        "content-id-too-short": Defect(having("content_id", text("content_id", b"a" * 31)), id_word),
        "tensor-bad-utf-8": Defect(having("tensor", text("tensor", b"emb\xc3")), "is not UTF-8"),
        "tensor-of-variable-length": Defect(
            having("tensor", attribute("tensor", vlen, SCALAR, pointer)), short
        ),
        "tensor-of-3000-bytes": Defect(having("tensor", text("tensor", b"t" * 3000)), short),
        "tensor-of-2-gigabytes": Defect(
            having("tensor", attribute("tensor", string(0x7FFFFFFF), SCALAR, b"emb")),
            "is not a short fixed-length string",
        ),
        "tensor-of-types-in-types": Defect(
            having("tensor", attribute("tensor", nested_type(300), SCALAR, bytes(16))), short
        ),
        "tensor-of-a-named-type": Defect(
            having("tensor", shared_type("tensor")), "the root group has a shared message"
        ),
        "source-dtype-as-array": Defect(
            having("source_dtype", attribute("source_dtype", string(7), space(1), b"float32")), short
        ),
    }


def variable_string() -> h5t.TypeID:
    """Type of text of variable length, whose bytes lie in a heap without checksums."""
    kind = h5t.C_S1.copy()
    kind.set_size(h5t.VARIABLE)
    return kind


def nested_type(depth: int) -> bytes:
    """Variable-length sequences of sequences of … bytes."""
    kind = kind_of(h5t.STD_U8LE)
    for _ in range(depth):
        kind = struct.pack("<BBBBI", 0x19, 0, 0, 0, 16) + kind
    return kind


def shared_type(name: str) -> bytes:
    """An attribute whose type lies in another object header."""
    body = bytearray(attribute(name, struct.pack("<BBQ", 3, 2, CODES_HEADER), SCALAR, b"x"))
    body[1] = 1
    return bytes(body)


def versions(good: bytes) -> dict[str, Defect]:
    """Other versions of the format."""

    def version(major: int, minor: int) -> bytes:
        raw = struct.pack("<II", major, minor)
        return with_attribute(good, "version", attribute("version", kind_of(h5t.STD_U32LE), space(2), raw))

    return {
        "version-2": Defect(
            version(2, 0), "format version 2.0 is newer than this library reads: upgrade", "VersionError"
        ),
        "version-of-4-billion": Defect(version(0xFFFFFFFF, 7), "upgrade qstore", "VersionError"),
        "version-0": Defect(version(0, 9), "format version 0.9 was never published"),
    }
