"""The header of GGUF files: typed metadata, little of which is kept, and where each tensor lies.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The parser is our own:
the format's library maps the whole file, and a map of a file that is cut short kills the process.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from ...errors import SourceError
from ..base import TensorInfo
from ..checks import shortened, type_name
from ..files import RawFile
from .types import PLAIN_TYPES, QUANTIZED_TYPES

__all__ = [
    "MAGIC",
    "Entry",
    "Header",
    "Split",
    "Texts",
    "read_header",
    "read_texts",
]

MAGIC = b"GGUF"
_LONGEST_HEADER = 32 << 20
_FIRST_READ = 64 << 10
_MOST_DIMENSIONS = 4
# The largest models hold some thousands; each takes microseconds.
_MOST_ENTRIES = 1 << 16

# Numbers of the metadata's value types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}

_ALIGNMENT = b"general.alignment"
_SPLIT = (b"split.no", b"split.count", b"split.tensors.count")
_TOKENS = b"tokenizer.ggml.tokens"


@dataclass(frozen=True)
class Entry:
    """One tensor: what it is, and where it lies in the file."""

    info: TensorInfo
    type: int
    """Its number in the file."""
    begin: int
    end: int


@dataclass(frozen=True)
class Split:
    """What a file says of itself as a part of several.

    Attributes
    ----------
    number : int
        From 0 on.
    count : int
    tensors : int or None
        Those of all parts together.
    """

    number: int
    count: int
    tensors: int | None


@dataclass(frozen=True)
class Texts:
    """Where the strings of an array lie, lengths included."""

    begin: int
    end: int
    count: int


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name.

    Attributes
    ----------
    entries : dict
    crc32 : int
        Of all of it.
    split : Split or None
        None where the file is a whole.
    tokens : Texts or None
        The vocabulary, if there is one.
    """

    entries: dict[str, Entry]
    crc32: int
    split: Split | None = None
    tokens: Texts | None = None


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
    numbers, tokens = _read_metadata(file.path, cursor, values)
    alignment = _alignment(file.path, numbers)
    infos = [_read_info(file.path, cursor) for _ in range(tensors)]
    data = _aligned(cursor.position, alignment)
    entries = [_entry(file.path, info, type_number, data + offset) for info, type_number, offset in infos]
    _check_places(file, entries, alignment, data)
    return Header(
        {entry.info.name: entry for entry in entries},
        zlib.crc32(cursor.data[: cursor.position]),
        _split(file.path, numbers),
        tokens,
    )


def read_texts(file: RawFile, texts: Texts) -> list[bytes]:
    """The strings of an array, which :func:`read_header` has found to be whole."""
    data = file.read_bytes(texts.begin, texts.end - texts.begin)
    found, position = [], 0
    for _ in range(texts.count):
        stop = position + 8 + int.from_bytes(data[position : position + 8], "little")
        found.append(data[position + 8 : stop])
        position = stop
    return found


def _check_version(path: str, version: int) -> None:
    if version in (2, 3):
        return
    hint = "; big-endian files are not read: convert it" if version & 0xFFFF == 0 else ""
    raise SourceError(f"{path} is GGUF version {version}: expected 2 or 3{hint}")


def _read_metadata(path: str, cursor: _Cursor, count: int) -> tuple[dict[bytes, int], Texts | None]:
    """Pass over all keys and values; the few whole numbers that count, and where the vocabulary lies."""
    numbers: dict[bytes, int] = {}
    tokens = None
    for _ in range(count):
        key, kind = cursor.text(), cursor.number(_U32)
        begin = cursor.position
        if key == _ALIGNMENT and kind != _UINT32:
            raise SourceError(f"{path}: general.alignment expected type {_UINT32}, found {kind}")
        _skip_value(path, cursor, kind)
        if key == _ALIGNMENT or (key in _SPLIT and kind in _INTEGERS):
            numbers[key] = struct.unpack_from(_INTEGERS[kind], cursor.data, begin)[0]
        elif kind == _ARRAY and key == _TOKENS:
            tokens = _texts(cursor, begin)
    return numbers, tokens


def _alignment(path: str, numbers: dict[bytes, int]) -> int:
    alignment = numbers.get(_ALIGNMENT, 32)
    if alignment < 1 or alignment & (alignment - 1):
        raise SourceError(f"{path}: general.alignment expected a power of two, found {alignment}")
    return alignment


def _texts(cursor: _Cursor, begin: int) -> Texts | None:
    """The array that has just been passed over, if it is one of strings."""
    kind, count = struct.unpack_from("<IQ", cursor.data, begin)
    return Texts(begin + 12, cursor.position, count) if kind == _STRING else None


def _split(path: str, numbers: dict[bytes, int]) -> Split | None:
    number, count, tensors = (numbers.get(name) for name in _SPLIT)
    if count is None or count <= 1:
        return None
    if number is None or not 0 <= number < count:
        raise SourceError(f"{path}: expected split.no from 0 to {count - 1}, found {number}")
    return Split(number, count, tensors)


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
    return _info(name, shape, type_number), type_number, offset


def _info(name: str, shape: tuple[int, ...], type_number: int) -> TensorInfo:
    if type_number in QUANTIZED_TYPES:
        return TensorInfo(name, shape, "float32", QUANTIZED_TYPES[type_number][0])
    item = PLAIN_TYPES.get(type_number)
    return TensorInfo(name, shape, f"GGML type {type_number}" if item is None else type_name(item))


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
