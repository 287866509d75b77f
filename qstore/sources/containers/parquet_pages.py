"""Columns of lists in Parquet, page by page, where the values lie as in memory or in a dictionary.

Layout: https://parquet.apache.org/docs/file-format/. pyarrow has read the footer and unpacks the pages; what
lies in them is read here, where each row has all its values and none is null. :class:`Declined` says that it
is not so, or that something is wrong: pyarrow then reads the rows, or says what is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...engine import kernels
from ..files import RawFile

__all__ = ["Declined", "ListColumn", "Page"]

_CODECS = {"UNCOMPRESSED": None, "SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli"}
_PHYSICAL = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "FIXED_LEN_BYTE_ARRAY"}
# Numbers of Parquet's enums and of the fields of its structs.
_DATA_1, _DICTIONARY, _DATA_2 = 0, 2, 3
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY, _SPLIT = 0, 2, 3, 8, 9
_KIND, _UNPACKED, _PACKED, _DATA_1_HEADER, _DICTIONARY_HEADER, _DATA_2_HEADER = 1, 2, 3, 5, 7, 8
_COUNT, _ENCODING = 1, 2
_DEFINITION_ENCODING, _REPETITION_ENCODING = 3, 4
_ENCODING_2, _DEFINITION_BYTES, _REPETITION_BYTES, _IS_PACKED = 4, 5, 6, 7

_HEADER_BYTES = 1 << 10
_MOST_DEPTH = 4
# Pages of fewer values are read no faster here; of larger ones, not several are to be held.
_LEAST_VALUES, _MOST_BYTES = 1 << 13, 64 << 20


class Declined(Exception):
    """The rows do not lie as is expected here."""


class Page(NamedTuple):
    """A page of values as it lies in the file.

    Attributes
    ----------
    header : dict
        Fields of its header by their numbers.
    version : {1, 2}
    payload : ndarray of uint8
    unpacked_bytes : int
    codec : str or None
    first : int
        Number of its first value in the row group.
    dropped : int
        So many values at its beginning are not wanted.
    dictionary : ndarray or None
    """

    header: dict[int, Any]
    version: int
    payload: NDArray[np.uint8]
    unpacked_bytes: int
    codec: str | None
    first: int
    dropped: int
    dictionary: NDArray[Any] | None


class ListColumn:
    """A column of lists of floats, each list of `dim`. Its :meth:`values` may be asked for in any thread.

    Parameters
    ----------
    file : RawFile
    parquet : pyarrow.parquet.ParquetFile
        The same file.
    name : str
    dim : int
    dtype : str

    Raises
    ------
    Declined
        It is of another kind, or NumPy computes.
    """

    def __init__(self, file: RawFile, parquet: Any, name: str, dim: int, dtype: str) -> None:
        self._native = kernels.extension()
        leaves = [parquet.schema.column(number) for number in range(len(parquet.schema))]
        found = [number for number, leaf in enumerate(leaves) if leaf.path.startswith(f"{name}.")]
        if self._native is None or sys.byteorder != "little" or dtype not in _PHYSICAL or len(found) != 1:
            raise Declined
        self._number, leaf = found[0], leaves[found[0]]
        self._file, self._metadata, self._dim, self._dtype = file, parquet.metadata, dim, np.dtype(dtype)
        self._level = leaf.max_definition_level
        of_this_type = leaf.physical_type == _PHYSICAL[dtype] and (dtype != "float16" or leaf.length == 2)
        if not of_this_type or leaf.max_repetition_level != 1 or not 1 <= self._level <= 3:
            raise Declined

    @property
    def takes_time(self) -> bool:
        """Whether pages take longer to unpack than to copy."""
        groups = range(min(1, self._metadata.num_row_groups))
        packings = {self._metadata.row_group(group).column(self._number).compression for group in groups}
        return not packings <= {"UNCOMPRESSED", "SNAPPY"}

    def pages(self, group: int, first_row: int) -> Iterator[Page]:
        """The pages of a row group that hold its rows from `first_row` on.

        Raises
        ------
        Declined
            While iterating: the pages are of another kind, not these, or damaged.
        """
        whole = self._metadata.row_group(group)
        chunk = whole.column(self._number)
        if (
            chunk.compression not in _CODECS
            or chunk.file_path
            or chunk.num_values != whole.num_rows * self._dim
        ):
            raise Declined
        place, end = chunk.data_page_offset, 0
        if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < place:
            place = chunk.dictionary_page_offset
        end = place + chunk.total_compressed_size
        dictionary: NDArray[Any] | None = None
        codec, done, wanted = _CODECS[chunk.compression], 0, first_row * self._dim
        while done < chunk.num_values:
            header, place = self._header(place, min(end, self._file.size))
            packed, unpacked = header[_PACKED], header[_UNPACKED]
            if not (0 <= packed <= _MOST_BYTES and packed <= end - place and 0 <= unpacked <= _MOST_BYTES):
                raise Declined
            payload = self._file.read_array(place, (packed,), np.dtype(np.uint8))
            place += packed
            if header[_KIND] == _DICTIONARY:
                if header[_DICTIONARY_HEADER][_ENCODING] not in (_PLAIN, _PLAIN_DICTIONARY):
                    raise Declined
                dictionary = np.frombuffer(_unpacked(payload, unpacked, codec), self._dtype).copy()
                continue
            if header[_KIND] not in (_DATA_1, _DATA_2):
                raise Declined
            version = 1 if header[_KIND] == _DATA_1 else 2
            about = header[_DATA_1_HEADER if version == 1 else _DATA_2_HEADER]
            count, left = about[_COUNT], chunk.num_values - done
            if count == 0:  # pyarrow writes such, too
                continue
            if not min(left, _LEAST_VALUES) <= count <= min(left, _MOST_BYTES // self._dtype.itemsize):
                raise Declined
            dropped = min(max(0, wanted - done), count)
            if dropped < count:
                yield Page(about, version, payload, unpacked, codec, done, dropped, dictionary)
            done += count

    def _header(self, place: int, end: int) -> tuple[dict[int, Any], int]:
        """Fields of the header at a place, and where the page begins."""
        if not 0 <= place < end:
            raise Declined
        data = self._file.read_bytes(place, min(_HEADER_BYTES, end - place))
        header, length = _fields(data, 0, 0)
        return header, place + length

    def values(self, page: Page) -> NDArray[Any]:
        """The values of a page, in memory of its own, which may lie anywhere in it.

        Raises
        ------
        Declined
            Not all rows have all values, or the page is damaged.
        """
        header, count = page.header, page.header[_COUNT]
        if page.version == 1:
            if header[_DEFINITION_ENCODING] != _RLE or header[_REPETITION_ENCODING] != _RLE:
                raise Declined
            data = _unpacked(page.payload, page.unpacked_bytes, page.codec)
            repetition, data = _split(data[4:], _length(data))
            definition, data = _split(data[4:], _length(data))
            encoding = header[_ENCODING]
        else:
            repetition, data = _split(page.payload, header[_REPETITION_BYTES])
            definition, data = _split(data, header[_DEFINITION_BYTES])
            levels = len(repetition) + len(definition)
            codec = page.codec if header.get(_IS_PACKED, True) else None
            data = _unpacked(data, page.unpacked_bytes - levels, codec)
            encoding = header[_ENCODING_2]
        place = page.first % self._dim
        bits = self._level.bit_length()
        if not (
            self._native.levels_are(repetition, 1, count, 1, self._dim, place)
            and self._native.levels_are(definition, bits, count, self._level, 0, 0)
        ):
            raise Declined
        return self._decoded(data, encoding, count, page.dictionary)[page.dropped :]

    def _decoded(
        self, data: NDArray[np.uint8], encoding: int, count: int, dictionary: NDArray[Any] | None
    ) -> NDArray[Any]:
        if encoding in (_RLE_DICTIONARY, _PLAIN_DICTIONARY) and dictionary is not None and len(data):
            found = np.empty(count, self._dtype)
            if data[0] > 32 or not self._native.look_up_runs(data[1:], int(data[0]), dictionary, found):
                raise Declined
            return found
        if encoding not in (_PLAIN, _SPLIT) or len(data) != count * self._dtype.itemsize:
            raise Declined
        if encoding == _SPLIT:
            data = np.ascontiguousarray(data.reshape(self._dtype.itemsize, count).T).reshape(-1)
        return np.frombuffer(data, self._dtype)


def _unpacked(payload: NDArray[np.uint8], size: int, codec: str | None) -> NDArray[np.uint8]:
    if codec is not None and size > 0:
        import pyarrow

        return np.frombuffer(pyarrow.decompress(payload, size, codec), np.uint8)
    if len(payload) != size:
        raise Declined
    return payload


def _length(data: NDArray[np.uint8]) -> int:
    return int.from_bytes(data[:4].tobytes(), "little")


def _split(data: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if not 0 <= size <= len(data):
        raise Declined
    return data[:size], data[size:]


def _fields(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """A struct in Thrift's compact protocol, and where it ends; bytes are left out, numbers are whole."""
    found: dict[int, Any] = {}
    number = 0
    while kind := data[at] & 15:
        step, at = data[at] >> 4, at + 1
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        if kind in (1, 2):
            found[number] = kind == 1
        elif kind in (4, 5, 6):
            found[number], at = _signed(data, at)
        elif kind == 8:
            length, at = _unsigned(data, at)
            at += length
        elif kind == 12 and depth < _MOST_DEPTH:
            found[number], at = _fields(data, at, depth + 1)
        else:
            raise Declined
    return found, at + 1


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at
