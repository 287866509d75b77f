"""The header of GGUF files: typed metadata, which is passed over, and where each tensor lies.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The parser is our own:
the format's library maps the whole file, and a map of a file that is cut short kills the process.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engine.quantization import marker_dtype
from ...errors import SourceError
from ..base import TensorInfo
from ..checks import shortened, type_name
from ..files import RawFile

__all__ = ["MAGIC", "PLAIN_TYPES", "QUANTIZED_TYPES", "Entry", "Header", "read_header"]

MAGIC = b"GGUF"
_LONGEST_HEADER = 32 << 20
_FIRST_READ = 1 << 20
_MOST_DIMENSIONS = 4
# The largest models hold some thousands; each takes microseconds.
_MOST_ENTRIES = 1 << 16

# Numbers of the metadata's value types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9

PLAIN_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    24: np.dtype("i1"),
    25: np.dtype("<i2"),
    26: np.dtype("<i4"),
    27: np.dtype("<i8"),
    28: np.dtype("<f8"),
    30: marker_dtype("bfloat16"),
}
QUANTIZED_TYPES = {  # number in the file: (name, values in a block, bytes of a block)
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}


@dataclass(frozen=True)
class Entry:
    """One tensor: what it is, and where it lies in the file."""

    info: TensorInfo
    type: int
    """Its number in the file."""
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name."""

    entries: dict[str, Entry]
    crc32: int


class _Cursor:
    """Reads a header from front to back, as much of the file as it takes and no more than may be."""

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self.data = b""
        self.position = 0

    def skip(self, count: int) -> int:
        """Move on by `count` bytes, which must be there; where they began."""
        begin, self.position = self.position, self.position + count
        if self.position > len(self.data):
            self._read_on()
        return begin

    def _read_on(self) -> None:
        if self.position > min(self._file.size, _LONGEST_HEADER):
            most = min(self._file.size, _LONGEST_HEADER)
            raise SourceError(
                f"{self._file.path} ends early: its header expected at least "
                f"{shortened(str(self.position))} bytes, found {most}; the header is wrong, or the file was "
                f"cut short while being saved or copied"
            )
        wanted = min(self._file.size, _LONGEST_HEADER, max(2 * self.position, _FIRST_READ))
        self.data += self._file.read_bytes(len(self.data), wanted - len(self.data))

    def number(self, layout: struct.Struct) -> int:
        """The next whole number."""
        begin = self.skip(layout.size)
        value: int = layout.unpack_from(self.data, begin)[0]
        return value

    def skip_strings(self, count: int) -> None:
        """Pass over strings: vocabularies hold some 100,000."""
        data, position = self.data, self.position
        for _ in range(count):
            if position + 8 > len(data):
                self.position = position
                self.skip(8)
                data = self.data
            position += 8 + int.from_bytes(data[position : position + 8], "little")
        self.position = position
        self.skip(0)

    def text(self) -> bytes:
        """The next string."""
        length = self.number(_U64)
        begin = self.skip(length)
        return self.data[begin : begin + length]


_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def read_header(file: RawFile) -> Header:
    """Parse and check the header of a GGUF file.

    Raises
    ------
    SourceError
        It is malformed, or tells of data that the file does not hold.
    """
    cursor = _Cursor(file)
    if file.size < len(MAGIC) or file.read_bytes(0, len(MAGIC)) != MAGIC:
        raise SourceError(f"{file.path} is no GGUF file: expected {MAGIC!r} at its start")
    cursor.skip(len(MAGIC))
    _check_version(file.path, cursor.number(_U32))
    tensors, values = cursor.number(_U64), cursor.number(_U64)
    if max(tensors, values) > _MOST_ENTRIES:
        raise SourceError(
            f"{file.path}: its header says {tensors} tensors and {values} values of metadata, expected at "
            f"most {_MOST_ENTRIES}; the header is damaged"
        )
    alignment = _skip_metadata(file.path, cursor, values)
    infos = [_read_info(file.path, cursor) for _ in range(tensors)]
    data = _aligned(cursor.position, alignment)
    entries = [_entry(file.path, info, type_number, data + offset) for info, type_number, offset in infos]
    _check_places(file, entries, alignment, data)
    return Header({entry.info.name: entry for entry in entries}, zlib.crc32(cursor.data[: cursor.position]))


def _check_version(path: str, version: int) -> None:
    if version in (2, 3):
        return
    hint = "; big-endian files are not read: convert it" if version & 0xFFFF == 0 else ""
    raise SourceError(f"{path} is GGUF version {version}: expected 2 or 3{hint}")


def _skip_metadata(path: str, cursor: _Cursor, count: int) -> int:
    """Pass over all keys and values; the alignment that they tell."""
    alignment = 32
    for _ in range(count):
        key, kind = cursor.text(), cursor.number(_U32)
        if key == b"general.alignment" and kind == _UINT32:
            alignment = cursor.number(_U32)
        else:
            _skip_value(path, cursor, kind)
    if alignment < 1 or alignment & (alignment - 1):
        raise SourceError(f"{path}: general.alignment expected a power of two, found {alignment}")
    return alignment


def _skip_value(path: str, cursor: _Cursor, kind: int) -> None:
    if kind in _VALUE_BYTES:
        cursor.skip(_VALUE_BYTES[kind])
    elif kind == _STRING:
        cursor.skip_strings(1)
    elif kind == _ARRAY:
        _skip_array(path, cursor)
    else:
        raise SourceError(f"{path}: metadata of unknown type {kind}; the header is damaged")


def _skip_array(path: str, cursor: _Cursor) -> None:
    kind, count = cursor.number(_U32), cursor.number(_U64)
    if kind in _VALUE_BYTES:
        cursor.skip(count * _VALUE_BYTES[kind])
    elif kind == _STRING:
        cursor.skip_strings(count)
    else:  # llama.cpp takes no arrays of arrays either
        raise SourceError(f"{path}: metadata in an array of unknown type {kind}; the header is damaged")


def _read_info(path: str, cursor: _Cursor) -> tuple[TensorInfo, int, int]:
    raw = cursor.text()
    dimensions = cursor.number(_U32)
    if dimensions > _MOST_DIMENSIONS:
        raise SourceError(
            f"{path}: tensor {shortened(repr(raw))} expected at most {_MOST_DIMENSIONS} dimensions, "
            f"found {dimensions}"
        )
    shape = tuple(cursor.number(_U64) for _ in range(dimensions))[::-1]
    type_number, offset = cursor.number(_U32), cursor.number(_U64)
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: the name of tensor {shortened(repr(raw))} is no UTF-8") from error
    return TensorInfo(name, shape, _dtype_name(type_number)), type_number, offset


def _dtype_name(type_number: int) -> str:
    if type_number in QUANTIZED_TYPES:
        return "float32"  # what reading gives
    item = PLAIN_TYPES.get(type_number)
    return f"GGML type {type_number}" if item is None else type_name(item)


def _entry(path: str, info: TensorInfo, type_number: int, begin: int) -> Entry:
    # A type of a later version of the format has no known size; it must not hide the other tensors.
    _, block, block_bytes = QUANTIZED_TYPES.get(type_number, ("", 1, 0))
    if type_number in PLAIN_TYPES:
        block_bytes = PLAIN_TYPES[type_number].itemsize
    columns = info.shape[-1] if info.shape else 1
    if columns % block:
        raise SourceError(
            f"{path}: tensor {shortened(repr(info.name))} expected a multiple of {block} columns, found "
            f"{columns}"
        )
    size = block_bytes
    for length in (*info.shape[:-1], columns // block):
        size *= length
    return Entry(info, type_number, begin, begin + size)


def _check_places(file: RawFile, entries: list[Entry], alignment: int, data: int) -> None:
    """Every name stands once; tensors lie one after the other, aligned, and fill the file: no hole, no rest.

    llama.cpp takes no holes either. What stands behind the last one tells that the header counts too few.
    """
    if len({entry.info.name for entry in entries}) < len(entries):
        raise SourceError(f"{file.path}: two tensors have one name")
    end, known = data, True
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        where = f"{file.path}: tensor {shortened(repr(entry.info.name))}"
        if entry.begin % alignment or entry.begin < end:
            raise SourceError(
                f"{where} expected data at a multiple of {alignment} from byte {end} on, found it at "
                f"{entry.begin}: tensors overlap, or the header is wrong"
            )
        if entry.end > file.size:
            raise SourceError(
                f"{where} ends early: {shortened(str(entry.info.shape))} {entry.info.dtype} expected "
                f"{shortened(str(entry.end))} bytes, found {file.size}; the file was cut short while being "
                f"saved or copied: get it again"
            )
        if known and entry.begin > _aligned(end, alignment):
            raise SourceError(
                f"{where} expected data at byte {_aligned(end, alignment)}, found it at {entry.begin}: "
                f"there is a hole before it, and the header is wrong"
            )
        end, known = entry.end, entry.type in PLAIN_TYPES or entry.type in QUANTIZED_TYPES
    if known and file.size > _aligned(end, alignment):
        raise SourceError(
            f"{file.path} goes on behind its {len(entries)} tensors: expected at most "
            f"{_aligned(end, alignment)} bytes, found {file.size}; its header is wrong, or parts of a model "
            f"were joined byte by byte: get it again"
        )


def _aligned(position: int, alignment: int) -> int:
    """The first multiple of the alignment from a position on."""
    return -(-position // alignment) * alignment
