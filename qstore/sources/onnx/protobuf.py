"""Fields of protobuf messages at places of a file: as much of the format as models of ONNX use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..files import RawFile

__all__ = ["Reader", "packed_varints", "signed"]

_MOST_FIELDS = 1 << 21
_LONGEST_TEXT = 1 << 16
_WINDOW = 1 << 16
# Of 64 bits; only 32 of them are asked for.
_LONGEST_VARINT, _USED_BYTES = 10, 5


class Reader:
    """Fields of protobuf messages, at places of a file."""

    def __init__(self, file: RawFile) -> None:
        self.file, self._left = file, _MOST_FIELDS
        self._window, self._begin = b"", 0

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number and wire type of each, with where it begins and ends, or its value (wire type 0)."""
        while begin < end:
            self._left -= 1
            if self._left < 0:
                raise SourceError(f"{self.file.path} has more than {_MOST_FIELDS} fields: no ONNX model")
            head = self._read(begin, min(20, end - begin))
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
        return self._read(begin, end - begin)

    def _read(self, begin: int, count: int) -> bytes:
        """Bytes of the file; what comes behind them is kept: small fields follow one another."""
        place = begin - self._begin
        if place < 0 or place + count > len(self._window):
            self._begin, place = begin, 0
            self._window = self.file.read_bytes(begin, max(count, min(_WINDOW, self.file.size - begin)))
        return self._window[place : place + count]

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


def signed(value: int) -> int:
    """A number of 64 bits that may be negative.

    Examples
    --------
    >>> signed(7), signed((1 << 64) - 1)
    (7, -1)
    """
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def packed_varints(data: bytes) -> NDArray[np.uint32] | None:
    """The lowest 32 bits of each number of a packed field; None where it is malformed.

    Examples
    --------
    >>> packed_varints(bytes([5, 128, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1])).astype(np.int32)
    array([  5, 128,  -1], dtype=int32)
    """
    raw: NDArray[Any] = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if (len(raw) and (not len(ends) or ends[-1] + 1 != len(raw))) or (ends - starts >= _LONGEST_VARINT).any():
        return None
    found = np.zeros(len(ends), np.uint64)
    for place in range(_USED_BYTES):
        here = np.minimum(starts + place, ends)
        bits = (raw[here] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
        found |= np.where(starts + place <= ends, bits, np.uint64(0))
    return found.astype(np.uint32)
