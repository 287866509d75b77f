"""safetensors files: 8 bytes of header length, JSON, data.

The rules of the format's own library are kept: https://github.com/huggingface/safetensors#format. The
parser is our own because that library reads no float8 into NumPy, and bfloat16 only with another package.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.quantization import ELEMENT_TYPES, marker_dtype
from ...errors import SourceError
from ..base import RowSource, TensorInfo
from ..checks import check_matrix, shortened
from ..containers.contiguous import ContiguousRows
from ..containers.json_object import LONGEST_JSON, parse_json
from ..containers.tensor_file import TensorFile, byte_shape
from ..files import RawFile
from ..remote_files import open_file
from ..tensor_choice import only_matrix, unknown_tensor
from .sharding_info import Offsets, check_whole, saved_offsets

__all__ = [
    "Entry",
    "Header",
    "SafetensorsFormat",
    "byte_layout_of",
    "conversion",
    "item_bits",
    "item_dtype",
    "layout_of",
    "read_header",
]

_TYPES = {  # name in the file: (name here, bits)
    "F64": ("float64", 64),
    "F32": ("float32", 32),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "I64": ("int64", 64),
    "I32": ("int32", 32),
    "I16": ("int16", 16),
    "I8": ("int8", 8),
    "U64": ("uint64", 64),
    "U32": ("uint32", 32),
    "U16": ("uint16", 16),
    "U8": ("uint8", 8),
    "BOOL": ("bool", 8),
    "C64": ("complex64", 64),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F4": ("float4_e2m1fn", 4),
}
_BITS = dict(_TYPES.values())

_MEMBERS = ("dtype", "shape", "data_offsets")


class SafetensorsFormat:
    """One `.safetensors` file."""

    name = "safetensors"
    suffixes: tuple[str, ...] = (".safetensors",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether a plausible header length and a `{` start the file."""
        return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_JSON

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors, sorted by name.

        Raises
        ------
        SourceError
        """
        with open_file(path) as file:
            header = read_header(file)
        return [header.entries[name].info for name in sorted(header.entries)]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor.

        Raises
        ------
        SourceError
            The file is malformed or cut short, or the tensor is not a matrix of a supported type.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(open_file(path))
            header = read_header(file)
            source = ContiguousRows(file, **layout_of(path, header, tensor))
            on_error.pop_all()
        return source

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors by name."""
        return _SafetensorsFile(path)


class _SafetensorsFile(TensorFile):
    def __init__(self, path: str) -> None:
        self.path = path
        with open_file(path) as file:
            self._header = read_header(file)
            self._version = file.identity
        self.names = self._header.entries.keys()

    def info(self, name: str) -> TensorInfo:
        return self._header.entries[name].info

    def open(self, name: str) -> RowSource:
        return self._rows(layout_of(self.path, self._header, name))

    def open_bytes(self, name: str) -> RowSource:
        return self._rows(byte_layout_of(self._header, name))

    def metadata_beside(self, name: str) -> dict[str, str]:
        return self._header.metadata

    def _rows(self, layout: dict[str, Any]) -> RowSource:
        with ExitStack() as on_error:
            file = on_error.enter_context(open_file(self.path))
            if file.identity != self._version:
                raise SourceError(f"{self.path} was changed while it was read; build again")
            source = ContiguousRows(file, **layout)
            on_error.pop_all()
        return source


@dataclass(frozen=True)
class Entry:
    """One tensor: what it is, and where it lies after the header."""

    info: TensorInfo
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name."""

    entries: dict[str, Entry]
    data: int
    """Position of the first byte after the header."""
    crc32: int
    metadata: dict[str, str]
    """What the file says about itself: the texts of ``__metadata__``."""
    offsets: Offsets | None = None
    """Where each tensor begins in the whole one, where the file says that it holds pieces."""


def layout_of(path: str, header: Header, tensor: str | None) -> dict[str, Any]:
    """Arguments of :class:`ContiguousRows` for one tensor; None: the only matrix.

    Raises
    ------
    SourceError, TensorError
    """
    if tensor is None:
        tensor = only_matrix(path, [entry.info for entry in header.entries.values()]).name
    if tensor not in header.entries:
        raise unknown_tensor(path, tensor, header.entries)
    entry = header.entries[tensor]
    where, word = shortened(repr(tensor)), entry.info.dtype
    check_matrix(f"{path}: tensor {where}", entry.info.shape, word, conversion(where, word))
    return {
        "kind": "safetensors",
        "name": tensor,
        "offset": header.data + entry.begin,
        "shape": entry.info.shape,
        "dtype": item_dtype(entry.info.dtype),
        "header_crc32": header.crc32,
    }


def byte_layout_of(header: Header, tensor: str) -> dict[str, Any]:
    """Arguments of :class:`ContiguousRows` for the bytes of one tensor that is there."""
    entry = header.entries[tensor]
    return {
        "kind": "safetensors",
        "name": tensor,
        "offset": header.data + entry.begin,
        "shape": byte_shape(entry.info.shape, entry.end - entry.begin),
        "dtype": np.dtype(np.uint8),
        "header_crc32": header.crc32,
    }


def conversion(tensor: str, word: str) -> str:
    """How to make numbers that can be quantized of a tensor of this type; `tensor` is quoted."""
    values = f"safetensors.torch.load_file(path)[{tensor}]"
    if word.startswith("complex"):
        return f"give its parts, a store of each: {values}.real and {values}.imag"
    return f"give {values}.float(), where torch has the type"


def item_dtype(name: str) -> np.dtype[Any]:
    """Dtype of the items of an element type as they lie in the file."""
    raw = name == "bfloat16" or name.startswith("float8")
    return marker_dtype(name) if raw else np.dtype(name).newbyteorder("<")


def item_bits(where: str, name: str) -> int:
    """Bits of an item of an element type; `where` starts the `SourceError` of one that is not known."""
    if name not in _BITS:
        raise SourceError(f"{where} holds {shortened(name)}: expected one of {', '.join(_BITS)}")
    return _BITS[name]


def read_header(file: RawFile, pieces: bool = False) -> Header:
    """Parse and check everything before the data.

    Parameters
    ----------
    file : RawFile
    pieces : bool
        Its tensors may be pieces of others, as those of torch's Hugging Face storage writer.

    Raises
    ------
    SourceError
        Something is not as the format has it: the length, the JSON, a tensor's place or size. Or its tensors
        are pieces.
    """
    length = int.from_bytes(file.read_bytes(0, 8), "little")
    if length > LONGEST_JSON or length > file.size - 8:
        raise SourceError(
            f"{file.path} is no complete safetensors file: expected a header of at most "
            f"{min(LONGEST_JSON, file.size - 8)} bytes, found a length of {length}"
        )
    text = file.read_bytes(8, length)
    members = parse_json(file.path, text)
    told = members.pop("__metadata__", None)
    metadata = (
        {key: text for key, text in told.items() if isinstance(text, str)} if isinstance(told, dict) else {}
    )
    entries = {name: _entry(file.path, name, member) for name, member in members.items()}
    _check_offsets(file.path, entries.values(), file.size - 8 - length)
    offsets = saved_offsets(file.path, told, {name: entry.info.shape for name, entry in entries.items()})
    if offsets is not None and not pieces:
        check_whole(file.path, offsets)
    return Header(entries, 8 + length, zlib.crc32(text), metadata, offsets)


def _entry(path: str, name: str, member: Any) -> Entry:
    try:
        type_name, shape, (begin, end) = member["dtype"], member["shape"], member["data_offsets"]
        well_formed = (
            isinstance(type_name, str) and isinstance(shape, list) and _are_sizes([*shape, begin, end])
        )
    except (TypeError, KeyError, ValueError):
        well_formed = False
    if not well_formed:
        raise SourceError(
            f"{path}: tensor {shortened(repr(name))} expected dtype, shape, two data_offsets (integers ≥ 0), "
            f"found {shortened(repr(member))}"
        )
    word, bits = _TYPES.get(type_name, (type_name, None))
    if bits is None and word in ELEMENT_TYPES:
        word = f"unknown type {word}"
    more = [key for key in member if key not in _MEMBERS]
    if more:  # the format has no such thing: who knows what it says about the values
        word = f"{word} with {shortened(repr(more[0]))}"
    _check_size(path, name, shape, bits, end - begin)
    return Entry(TensorInfo(name, tuple(shape), word), begin, end)


def _are_sizes(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _check_size(path: str, name: str, shape: list[int], bits: int | None, found: int) -> None:
    # A type of a later version of the format has no known size; it must not hide the other tensors.
    if bits is None:
        return
    expected = bits
    for length in shape:
        expected *= length
    if expected != found * 8:
        raise SourceError(
            f"{path}: tensor {shortened(repr(name))} of shape {shortened(str(tuple(shape)))} expected "
            f"{expected / 8 if expected % 8 else expected // 8} bytes, found data_offsets that hold {found}"
        )


def _check_offsets(path: str, entries: Iterable[Entry], size: int) -> None:
    """Tensors must lie one after the other and fill the file: no hole, no overlap, nothing behind."""
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position or entry.end < entry.begin:
            raise SourceError(
                f"{path}: tensor {shortened(repr(entry.info.name))} expected data from byte {position} on, "
                f"found {entry.begin} to {entry.end}: tensors overlap or leave a hole"
            )
        position = entry.end
    if position != size:
        what = "ends early" if position > size else "has bytes that belong to no tensor"
        raise SourceError(
            f"{path} {what}: expected {position} bytes of data, found {size}; get the file again"
        )
