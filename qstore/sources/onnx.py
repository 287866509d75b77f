"""ONNX models: their initializers, in the file or in external data beside it, by a small reader of protobuf.

Layout: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only the fields that tell names, types and
places are read; external data is found by offset and length alone.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.quantization import marker_dtype
from ..errors import SourceError
from .base import RowSource, TensorInfo
from .checks import check_matrix, shortened, type_name
from .containers.checkpoint_index import is_plain_name
from .containers.contiguous import ContiguousRows
from .files import RawFile
from .tensor_choice import only_matrix, unknown_tensor

__all__ = ["OnnxFormat"]

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE = 1, 2, 4
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 1, 2, 4, 8, 9, 10, 13, 14
_MOST_FIELDS = 1 << 21
_LONGEST_TEXT = 1 << 16
_QUANTIZED_NODES = (b"GatherBlockQuantized", b"DequantizeLinear", b"MatMulNBits")
_PASSING_NODES = (b"Gather", b"GatherND", b"Identity", b"Reshape", b"Slice", b"Squeeze", b"Transpose")
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: marker_dtype("bfloat16"),
    17: marker_dtype("float8_e4m3fn"),
    19: marker_dtype("float8_e5m2"),
}
# Values that have no bytes of their own may lie as numbers of these types, packed.
_PLAIN = {_FLOATS: 1, _DOUBLES: 11}


@dataclass
class _Tensor:
    name: str = ""
    shape: list[int] = field(default_factory=list)
    kind: int = 0
    data: tuple[int, int] | None = None
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False
    user: str = ""

    @property
    def dtype(self) -> str:
        """Name of its type."""
        return type_name(_TYPES[self.kind]) if self.kind in _TYPES else f"type {self.kind} of ONNX"


class OnnxFormat:
    """One model; the initializers of its graph are the tensors."""

    name = "ONNX"
    suffixes: tuple[str, ...] = (".onnx",)

    def matches(self, path: str, head: bytes) -> bool:
        """Never: messages of protobuf have no mark. The name tells."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All initializers, sorted by name.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            found, _ = _initializers(file)
        return [TensorInfo(one.name, tuple(one.shape), one.dtype) for _, one in sorted(found.items())]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one initializer.

        Raises
        ------
        SourceError
            The file is malformed or cut short; the tensor is no matrix of a supported type, is quantized, or
            its external data is not where the model says.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            found, crc32 = _initializers(file)
            if tensor is None:
                infos = [TensorInfo(one.name, tuple(one.shape), one.dtype) for one in found.values()]
                tensor = only_matrix(path, infos).name
            if tensor not in found:
                raise unknown_tensor(path, tensor, found)
            source = _rows(file, found[tensor], crc32, on_error)
            on_error.pop_all()
        return source


def _rows(file: RawFile, one: _Tensor, crc32: int, stack: ExitStack) -> RowSource:
    where = f"{file.path}: tensor {shortened(repr(one.name))}"
    if one.user and one.dtype in ("uint8", "int8"):
        raise SourceError(
            f"{where} is quantized: the model gives it to {one.user}, with scales; expected plain values: "
            f"build from those that onnx.numpy_helper and the scales make, or from the model as it was before"
        )
    check_matrix(where, one.shape, one.dtype)
    item = _TYPES[one.kind]
    size = math.prod(one.shape) * item.itemsize
    if one.is_external:
        place = _external(where, one, size)
        _check_length(where, one, place[1], size)
        path = os.path.join(os.path.dirname(file.path), one.external["location"])
        file.close()
        file = stack.enter_context(RawFile(path))
        if place[0] + size > file.size:
            raise SourceError(
                f"{where} ends early: expected {size} bytes from byte {place[0]} of {path} on, found "
                f"{file.size} in all; get it again"
            )
    elif one.data is None:
        raise SourceError(
            f"{where} has its values in a form that is not read: expected bytes; save the model again with "
            f"onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))"
        )
    else:
        place = one.data
    _check_length(where, one, place[1], size)
    return ContiguousRows(
        file,
        kind="onnx",
        name=one.name,
        offset=place[0],
        shape=tuple(one.shape),
        dtype=item,
        header_crc32=crc32,
    )


def _check_length(where: str, one: _Tensor, found: int, expected: int) -> None:
    if found != expected:
        raise SourceError(f"{where} of shape {tuple(one.shape)} expected {expected} bytes, found {found}")


def _external(where: str, one: _Tensor, size: int) -> tuple[int, int]:
    location = one.external.get("location", "").removeprefix("./")
    one.external["location"] = location
    if not is_plain_name(location):
        raise SourceError(
            f"{where} expected external data in a file beside the model, found {shortened(repr(location))}; "
            f"save it again with onnx.save(model, path, save_as_external_data=True, location=NAME)"
        )
    numbers = [one.external.get("offset", "0"), one.external.get("length", str(size))]
    if not all(text.isdecimal() and len(text) < 19 for text in numbers):
        raise SourceError(f"{where} has external data at {shortened(repr(numbers))}: expected two numbers")
    return int(numbers[0]), int(numbers[1])


def _initializers(file: RawFile) -> tuple[dict[str, _Tensor], int]:
    """The initializers by name, and a CRC-32 of what was read of them."""
    reader = _Reader(file)
    found: dict[str, _Tensor] = {}
    users = _Users()
    graphs = 0
    for number, _, begin, end in reader.fields(0, file.size):
        if number != _MODEL_GRAPH:
            continue
        graphs += 1
        for part, wire, first, last in reader.fields(begin, end):
            if part == _GRAPH_INITIALIZER and wire == 2:
                one = _tensor(reader, first, last)
                if one.name in found:
                    raise SourceError(f"{file.path} has two tensors named {shortened(repr(one.name))}")
                found[one.name] = one
            elif part == _GRAPH_NODE and wire == 2:
                users.add(reader, first, last)
    if graphs != 1:
        raise SourceError(f"{file.path} is no ONNX model: expected one graph, found {graphs}")
    for name, user in users.of_quantized().items():
        if name in found:
            found[name].user = user
    listed = repr([(one.name, one.shape, one.kind, one.data, one.external) for one in found.values()])
    return found, zlib.crc32(listed.encode())


class _Users:
    """Which nodes of a graph take quantized values, straight or from nodes that only pass values on."""

    def __init__(self) -> None:
        self._quantized: list[tuple[str, str]] = []
        self._passed: dict[str, list[str]] = {}

    def add(self, reader: _Reader, begin: int, end: int) -> None:
        """Note one node."""
        texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_TYPE: [""]}
        for number, wire, first, last in reader.fields(begin, end):
            if wire == 2 and number in texts:
                texts[number].append(reader.text(first, last))
        kind, inputs = texts[_NODE_TYPE][-1], texts[_NODE_INPUT]
        if kind.encode() in _QUANTIZED_NODES:
            self._quantized += [(name, kind) for name in inputs]
        elif kind.encode() in _PASSING_NODES:
            self._passed.update(dict.fromkeys(texts[_NODE_OUTPUT], inputs))

    def of_quantized(self) -> dict[str, str]:
        """Names of values that are quantized, and the kind of node that takes them so."""
        found: dict[str, str] = {}
        waiting = list(self._quantized)
        while waiting:
            name, kind = waiting.pop()
            if name not in found:
                found[name] = kind
                waiting += [(before, kind) for before in self._passed.get(name, ())]
        return found


def _tensor(reader: _Reader, begin: int, end: int) -> _Tensor:
    one = _Tensor()
    numbers: tuple[int, int, int] | None = None
    for number, wire, first, last in reader.fields(begin, end):
        if number == _DIMS:
            one.shape += [first] if wire == 0 else reader.varints(first, last)
        elif number == _TYPE and wire == 0:
            one.kind = first
        elif number == _NAME and wire == 2:
            one.name = reader.text(first, last)
        elif number == _RAW and wire == 2:
            one.data = first, last - first
        elif number in _PLAIN and wire == 2:
            numbers = number, first, last - first
        elif number == _LOCATION and wire == 0:
            one.is_external = first == 1
        elif number == _EXTERNAL and wire == 2:
            entry = {
                part: reader.text(*place) for part, kind, *place in reader.fields(first, last) if kind == 2
            }
            one.external[entry.get(1, "")] = entry.get(2, "")
    if one.data is None and numbers is not None and _PLAIN[numbers[0]] == one.kind:
        one.data = numbers[1], numbers[2]
    if len(one.shape) > 64 or any(length >= 1 << 48 for length in one.shape):
        raise SourceError(
            f"{reader.file.path}: tensor {shortened(repr(one.name))} has a shape that cannot be"
        )
    return one


class _Reader:
    """Fields of protobuf messages, at places of a file."""

    def __init__(self, file: RawFile) -> None:
        self.file, self._left = file, _MOST_FIELDS

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number and wire type of each, with where it begins and ends, or its value (wire type 0)."""
        while begin < end:
            self._left -= 1
            if self._left < 0:
                raise SourceError(f"{self.file.path} has more than {_MOST_FIELDS} fields: no ONNX model")
            head = self.file.read_bytes(begin, min(20, end - begin))
            tag, used = self._varint(head, 0)
            wire = tag & 7
            if wire == 0:
                value, used = self._varint(head, used)
                begin += used
                yield tag >> 3, wire, value, value
                continue
            if wire == 2:
                size, used = self._varint(head, used)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise self._malformed()
            first = begin + used
            begin = first + size
            if begin > end:
                raise self._malformed()
            yield tag >> 3, wire, first, begin

    def varints(self, begin: int, end: int) -> list[int]:
        """Those of a packed field."""
        data, place, found = self._bytes(begin, end), 0, []
        while place < len(data):
            value, place = self._varint(data, place)
            found.append(value)
        return found

    def text(self, begin: int, end: int) -> str:
        """A field of text."""
        return self._bytes(begin, end).decode("utf-8", "replace")

    def _bytes(self, begin: int, end: int) -> bytes:
        if end - begin > _LONGEST_TEXT:
            raise self._malformed()
        return self.file.read_bytes(begin, end - begin)

    def _varint(self, data: bytes, place: int) -> tuple[int, int]:
        value = shift = 0
        while place < len(data) and shift < 64:
            byte = data[place]
            value |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                return value, place
        raise self._malformed()

    def _malformed(self) -> SourceError:
        return SourceError(
            f"{self.file.path} is no whole ONNX model: expected messages of protobuf inside each other; it "
            f"was cut short, or is another format: get it again"
        )
