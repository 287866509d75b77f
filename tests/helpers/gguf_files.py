"""GGUF files made by hand, byte by byte."""

from __future__ import annotations

import struct

__all__ = [
    "ARRAY",
    "INT32",
    "STRING",
    "UINT16",
    "UINT32",
    "info",
    "layout",
    "number",
    "padded",
    "text",
    "texts",
]

ALIGNMENT = 32
STRING, ARRAY, UINT16, UINT32, INT32 = 8, 9, 2, 4, 5


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    """Description of one tensor; `dims` in the order of the file, columns first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def layout(
    infos: list[bytes],
    data: bytes = b"",
    values: tuple[bytes, ...] = (),
    version: int = 3,
    tensor_count: int | None = None,
    value_count: int | None = None,
) -> bytes:
    """A file of these descriptions, and of metadata made by :func:`text` and friends."""
    tensors = len(infos) if tensor_count is None else tensor_count
    head = struct.pack(
        "<4sIQQ", b"GGUF", version, tensors, len(values) if value_count is None else value_count
    )
    head += b"".join([*values, *infos])
    return head + bytes(-len(head) % ALIGNMENT) + data


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % ALIGNMENT)


def number(key: bytes, value: int, kind: int = UINT16) -> bytes:
    """A whole number in the metadata."""
    return text(key) + struct.pack("<I", kind) + value.to_bytes(2 if kind == UINT16 else 4, "little")


def texts(key: bytes, values: list[bytes]) -> bytes:
    """An array of strings in the metadata."""
    return text(key) + struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(text, values))
