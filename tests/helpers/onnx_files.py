"""Models of ONNX in bytes of protobuf, as the library writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "KINDS",
    "ONNX_DATA",
    "TABLES",
    "external",
    "held",
    "initializer",
    "model",
    "node",
    "part",
    "varint",
]

ONNX_DATA = Path(__file__).parents[1] / "data" / "onnx"
TABLES = sorted(path.stem for path in ONNX_DATA.glob("*.onnx"))
"""Models with quantized tables, beside each the values that onnx or ONNX Runtime makes of it."""
KINDS = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "float16": 10,
    "float64": 11,
}
"""Numbers of element types."""


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def part(number: int, content: bytes | int) -> bytes:
    """One field: a number, or bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def initializer(values: NDArray[Any], name: bytes = b"emb", kind: int = 1, *, packed: bool = True) -> bytes:
    dims = (
        part(1, b"".join(map(varint, values.shape))) if packed else b"".join(part(1, n) for n in values.shape)
    )
    return dims + part(2, kind) + part(8, name) + part(9, values.tobytes())


def model(*tensors: bytes, nodes: tuple[bytes, ...] = ()) -> bytes:
    graph = (
        b"".join(part(1, node) for node in nodes) + part(2, b"g") + b"".join(part(5, one) for one in tensors)
    )
    return part(1, 8) + part(2, b"pytorch") + part(7, graph) + part(8, part(2, 17))


def external(shape: tuple[int, ...], **entries: str) -> bytes:
    listed = [part(13, part(1, key.encode()) + part(2, value.encode())) for key, value in entries.items()]
    return (
        part(1, b"".join(map(varint, shape))) + part(2, 1) + part(8, b"emb") + b"".join(listed) + part(14, 1)
    )


def held(values: NDArray[Any], name: str, kind: int = 0, shape: tuple[int, ...] | None = None) -> bytes:
    """An initializer of these bytes; `kind` and `shape` where they are of a type that NumPy lacks."""
    dims = b"".join(map(varint, values.shape if shape is None else shape))
    kind = kind or KINDS[values.dtype.name]
    return (
        part(1, dims)
        + part(2, kind)
        + part(8, name.encode())
        + part(9, np.ascontiguousarray(values).tobytes())
    )


def node(kind: str, inputs: str, outputs: str, domain: str = "", **numbers: int | bytes) -> bytes:
    """An operator; names are separated by blanks, "_" is one that is left out. Bytes are a graph."""
    listed = b"".join(part(1, b"" if one == "_" else one.encode()) for one in inputs.split())
    listed += b"".join(part(2, one.encode()) for one in outputs.split()) + part(4, kind.encode())
    for name, value in numbers.items():
        held = part(6, value) if isinstance(value, bytes) else part(3, value & (1 << 64) - 1)
        listed += part(5, part(1, name.encode()) + held)
    return listed + (part(7, domain.encode()) if domain else b"")
