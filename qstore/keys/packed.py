"""Keys on their way into a store: packed in blocks of bytes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..format.layout import NO_KEY
from .given import BEYOND, as_listed, beyond_int64, is_null

__all__ = [
    "KeyBlock",
    "KeyKind",
    "joined",
    "listed",
    "packed",
    "packed_utf8",
    "said",
    "stored",
    "unpacked",
]

KeyKind = Literal["text", "integer"]

_LONGEST = (1 << 32) - 1
_NO_LENGTHS = np.empty(0, np.uint32)
_NO_KEY = NO_KEY.encode()


def said(kind: KeyKind | None) -> str:
    """What keys a store has, for messages."""
    return "no keys" if kind is None else f"keys of kind {kind}"


class KeyBlock(NamedTuple):
    """Keys of consecutive rows.

    Attributes
    ----------
    kind : {"text", "integer"}
    rows : int
    lengths : ndarray of uint32
        Bytes of each text; none for integers.
    data : bytes or memoryview
        The texts in UTF-8, or the integers as little-endian int64; :data:`.layout.NO_KEY` for no key.
    """

    kind: KeyKind
    rows: int
    lengths: NDArray[np.uint32]
    data: bytes | memoryview

    def payload(self) -> bytes:
        """All of it but kind and rows, as a journal keeps it."""
        return self.lengths.astype("<u4", copy=False).tobytes() + self.data

    def same(self, other: KeyBlock) -> bool:
        """Whether both hold the same keys."""
        return (self.kind, self.rows, self.payload()) == (other.kind, other.rows, other.payload())

    def crc32(self) -> int:
        """CRC-32 of the payload."""
        return zlib.crc32(self.payload())

    def each(self) -> list[bytes]:
        """The bytes of each key."""
        size = [8] * self.rows if self.kind == "integer" else self.lengths.tolist()
        ends = list(accumulate(size, initial=0))
        return [bytes(self.data[start:stop]) for start, stop in pairwise(ends)]

    def unkeyed(self) -> NDArray[np.bool_]:
        """Which of the rows have no key."""
        found = np.zeros(self.rows, np.bool_)
        if self.kind == "integer" or _NO_KEY not in bytes(self.data):
            return found
        places = np.flatnonzero(self.lengths == len(_NO_KEY))
        starts = np.cumsum(self.lengths, dtype=np.int64)[places] - len(_NO_KEY)
        texts = np.frombuffer(self.data, np.uint8)[starts[:, None] + np.arange(len(_NO_KEY))]
        found[places] = (texts == np.frombuffer(_NO_KEY, np.uint8)).all(axis=1)
        return found

    def values(self) -> list[str | int | None]:
        """The keys as users see them."""
        if self.kind == "integer":
            numbers: list[str | int | None] = np.frombuffer(self.data, "<i8").tolist()
            return numbers
        return [None if key == _NO_KEY else key.decode() for key in self.each()]

    def split(self, rows: int) -> tuple[KeyBlock, KeyBlock]:
        """Those of the first rows, and the others. No byte is copied."""
        size = 8 * rows if self.kind == "integer" else int(self.lengths[:rows].sum(dtype=np.int64))
        data = memoryview(self.data)
        return (
            KeyBlock(self.kind, rows, self.lengths[:rows], data[:size]),
            KeyBlock(self.kind, self.rows - rows, self.lengths[rows:], data[size:]),
        )


def unpacked(kind: KeyKind, rows: int, payload: bytes) -> KeyBlock | None:
    """The block whose payload this is; None where it cannot be."""
    head = 4 * rows if kind == "text" else 0
    lengths = np.frombuffer(payload[:head], "<u4") if len(payload) >= head else _NO_LENGTHS
    size = int(lengths.sum(dtype=np.int64)) if kind == "text" else 8 * rows
    return KeyBlock(kind, rows, lengths, payload[head:]) if len(payload) == head + size else None


def stored(arrays: Mapping[str, NDArray[Any]], first: int, last: int) -> KeyBlock:
    """The keys of the rows `first` to before `last` of a store, as its datasets have them."""
    if "ids" in arrays:
        return KeyBlock("integer", last - first, _NO_LENGTHS, arrays["ids"][first:last].tobytes())
    bounds = arrays["offsets"][first : last + 1]
    lengths = np.diff(bounds).astype(np.uint32)
    return KeyBlock("text", last - first, lengths, arrays["bytes"][bounds[0] : bounds[-1]].tobytes())


def joined(blocks: Sequence[KeyBlock]) -> KeyBlock:
    """Several blocks of one kind as one; there is one at least."""
    if len(blocks) == 1:
        return blocks[0]
    lengths = np.concatenate([block.lengths for block in blocks])
    return KeyBlock(
        blocks[0].kind,
        sum(block.rows for block in blocks),
        lengths,
        b"".join(block.data for block in blocks),
    )


def packed(keys: Any, first: int = 0) -> KeyBlock:
    """Pack the keys of the rows from `first` on.

    Parameters
    ----------
    keys : sequence of str or None, array_like of int, or iterable of either
        None where a row has no key, or what stands for it in pandas. None of them: texts.

    Raises
    ------
    SourceError
        A key is neither text nor a whole number of 64 bits, they are not all of one kind, or a text has half
        of a surrogate pair.
    """
    if isinstance(keys, KeyBlock):
        return keys
    keys = listed(keys)
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
        return _packed_ids(keys, first)
    values = list(keys) if not isinstance(keys, np.ndarray) else keys.tolist()
    sample = next((value for value in values if not is_null(value)), None)
    if isinstance(sample, (int, np.integer)) and not isinstance(sample, bool):
        return _packed_ids(_array_of_ids(values, first), first)
    return _packed_texts(values, first)


def listed(keys: Any) -> Any:
    """Something to iterate over, or an array."""
    if isinstance(keys, (str, bytes, Mapping)) or not hasattr(keys, "__iter__"):
        raise SourceError(
            f"keys are of type {type(keys).__name__}, expected one for each row, in a list or iterator"
        )
    if isinstance(keys, (set, frozenset)):
        raise SourceError(
            f"keys are a {type(keys).__name__}, which has no order: expected one for each row, in a list in "
            f"the order of the rows"
        )
    try:
        given = as_listed(keys)
    except TypeError as error:
        raise SourceError(str(error)) from None
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise SourceError(f"keys have shape {given.shape}, expected (n,)")
    return given


def _array_of_ids(values: list[Any], first: int) -> NDArray[Any]:
    for number, value in enumerate(values):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            more = ": rows without a key need texts as keys, str(number)" if is_null(value) else ""
            raise SourceError(
                f"the key of row {first + number} is {value!r:.200}, expected a whole number as others{more}"
            )
        if not -(1 << 63) <= value < 1 << 63:
            raise _too_large(first + number, value)
    return np.array(values, np.int64)


def _packed_ids(ids: NDArray[Any], first: int) -> KeyBlock:
    beyond = beyond_int64(ids)
    if beyond.any():
        bad = int(beyond.argmax())
        raise _too_large(first + bad, ids[bad])
    return KeyBlock("integer", len(ids), _NO_LENGTHS, ids.astype("<i8", copy=False).tobytes())


def _too_large(row: int, value: Any) -> SourceError:
    return SourceError(
        f"the key of row {row} is {value}, expected a whole number of 64 bits with sign: {BEYOND}"
    )


def _packed_texts(texts: list[Any], first: int) -> KeyBlock:
    try:
        parts = [str.encode(text) for text in texts]
    except (TypeError, UnicodeEncodeError):
        parts = [_utf8(text, first + number) for number, text in enumerate(texts)]
    return packed_utf8(parts, first)


def _utf8(text: Any, row: int) -> bytes:
    if is_null(text):
        return _NO_KEY
    try:
        return str.encode(text)
    except TypeError:
        expected = "text; bytes are none before key.decode()" if isinstance(text, bytes) else "text"
        expected += " or a whole number" if isinstance(text, (float, np.bool_, bool)) else ""
    except UnicodeEncodeError:
        expected = "text without half a surrogate pair"
    raise SourceError(f"the key of row {row} is {text!r:.200}, expected {expected}")


def packed_utf8(parts: list[bytes], first: int = 0) -> KeyBlock:
    """Pack texts that are in UTF-8 already; else as :func:`packed`."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    if lengths.size and lengths.max() > _LONGEST:
        raise SourceError(f"the key of row {first + int(lengths.argmax())} has 4 GiB or more")
    return KeyBlock("text", len(parts), lengths.astype(np.uint32), b"".join(parts))
