"""Keys on their way into a store: packed in blocks of bytes, and taken one block of rows at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError

__all__ = ["KeyBlock", "KeyKind", "KeyStream", "joined", "packed", "packed_utf8", "unpacked"]

KeyKind = Literal["text", "integer"]

# Keys packed at once: some MiB.
_PIECE = 1 << 16
_LONGEST = (1 << 32) - 1
_NO_LENGTHS = np.empty(0, np.uint32)


class KeyBlock(NamedTuple):
    """Keys of consecutive rows.

    Attributes
    ----------
    kind : {"text", "integer"}
    rows : int
    lengths : ndarray of uint32
        Bytes of each text; none for integers.
    data : bytes or memoryview
        The texts in UTF-8, or the integers as little-endian int64.
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
    keys : sequence of str, array_like of int, or iterable of either
        None of them: texts.

    Raises
    ------
    SourceError
        A key is neither text nor a whole number of 64 bits, they are not all of one kind, or a text has half
        of a surrogate pair.
    """
    if isinstance(keys, KeyBlock):
        return keys
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            raise SourceError(f"keys have shape {keys.shape}, expected (n,)")
        if keys.dtype.kind in "iu":
            return _packed_ids(keys, first)
    _check_iterable(keys)
    values = list(keys) if not isinstance(keys, np.ndarray) else keys.tolist()
    if values and isinstance(values[0], (int, np.integer)) and not isinstance(values[0], bool):
        return _packed_ids(_array_of_ids(values, first), first)
    return _packed_texts(values, first)


def _check_iterable(keys: Any) -> None:
    if isinstance(keys, (str, bytes, Mapping)) or not hasattr(keys, "__iter__"):
        raise SourceError(
            f"keys are of type {type(keys).__name__}, expected one for each row, in a list or iterator"
        )


def _array_of_ids(values: list[Any], first: int) -> NDArray[Any]:
    for number, value in enumerate(values):
        if not isinstance(value, (int, np.integer)):
            raise SourceError(
                f"the key of row {first + number} is {value!r:.200}, expected a whole number as before"
            )
        if not -(1 << 63) <= value < 1 << 63:
            raise _too_large(first + number, value)
    return np.array(values, np.int64)


def _packed_ids(ids: NDArray[Any], first: int) -> KeyBlock:
    if ids.dtype == np.uint64 and ids.size and ids.max() > np.iinfo(np.int64).max:
        bad = int((ids > np.iinfo(np.int64).max).argmax())
        raise _too_large(first + bad, ids[bad])
    return KeyBlock("integer", len(ids), _NO_LENGTHS, ids.astype("<i8", copy=False).tobytes())


def _too_large(row: int, value: Any) -> SourceError:
    return SourceError(f"the key of row {row} is {value}, expected a whole number of 64 bits with sign")


def _packed_texts(texts: list[Any], first: int) -> KeyBlock:
    try:
        parts = [str.encode(text) for text in texts]
    except (TypeError, UnicodeEncodeError):
        row, bad = next((first + number, text) for number, text in enumerate(texts) if not _is_text(text))
        raise SourceError(
            f"the key of row {row} is {bad!r:.200}, expected "
            + ("text without half a surrogate pair" if isinstance(bad, str) else "text")
        ) from None
    return packed_utf8(parts, first)


def packed_utf8(parts: list[bytes], first: int = 0) -> KeyBlock:
    """Pack texts that are in UTF-8 already; else as :func:`packed`."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    if lengths.size and lengths.max() > _LONGEST:
        raise SourceError(f"the key of row {first + int(lengths.argmax())} has 4 GiB or more")
    return KeyBlock("text", len(parts), lengths.astype(np.uint32), b"".join(parts))


def _is_text(value: Any) -> bool:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        return False
    return isinstance(value, str)


class KeyStream:
    """Keys of all rows in order, taken as rows are. For one thread.

    Parameters
    ----------
    blocks : iterable of KeyBlock
    count : int, optional
        How many keys there are, where it is known.

    Attributes
    ----------
    taken : int
        Keys taken so far.
    rows : int or None
        How many are needed in all, where it is known: for messages.
    """

    def __init__(self, blocks: Iterable[KeyBlock], count: int | None = None) -> None:
        self._blocks = iter(blocks)
        self._held: KeyBlock | None = None
        self._kind: KeyKind = "text"
        self.count = count
        self.taken = 0
        self.rows: int | None = None

    @classmethod
    def of(cls, keys: Any) -> KeyStream:
        """Keys as users give them: those that :func:`packed` takes."""
        _check_iterable(keys)
        if isinstance(keys, (list, tuple, np.ndarray)):
            pieces: Iterator[Any] = (keys[at : at + _PIECE] for at in range(0, max(1, len(keys)), _PIECE))
            return cls(_packed_in_turn(pieces), len(keys))
        return cls(_packed_in_turn(_pieces(iter(keys))))

    @classmethod
    def in_pieces(cls, pieces: Iterable[Any], count: int | None = None) -> KeyStream:
        """Keys that come some at a time, each piece as :func:`packed` takes it; one piece at least."""
        return cls(_packed_in_turn(pieces), count)

    def kind(self) -> KeyKind:
        """What the keys are; texts where there are none."""
        self._look()
        return self._kind

    def _look(self) -> KeyBlock | None:
        """The block that the next key is in; None behind the last key."""
        if self._held is None:
            self._held = next(self._blocks, None)
            self._kind = self._kind if self._held is None else self._held.kind
        return self._held

    def take(self, count: int) -> KeyBlock:
        """The next `count` keys.

        Raises
        ------
        SourceError
            There are fewer.
        """
        parts, wanted = [], count
        while (part := self._look()) is not None:
            part, rest = part.split(min(wanted, part.rows))
            self._held = rest if rest.rows else None
            parts.append(part)
            wanted -= part.rows
            if not wanted:
                break
        self.taken += count - wanted
        if wanted:
            expected = f"at least {self.taken + wanted}" if self.rows is None else str(self.rows)
            raise SourceError(f"there are {self.taken} keys, expected one for each row: {expected}")
        return joined(parts) if parts else packed([])

    def give_back(self, block: KeyBlock) -> None:
        """Put back what was taken last: it comes again."""
        if block.rows:
            held = [] if self._held is None else [self._held]
            self._held, self._blocks = block, chain(held, self._blocks)
            self.taken -= block.rows

    def skip(self, count: int) -> None:
        """Drop the next `count` keys; errors as for :meth:`take`."""
        for start in range(0, count, _PIECE):
            self.take(min(_PIECE, count - start))

    def drain(self) -> int:
        """Take all that are left; return how many keys there were."""
        self.taken += self._held.rows if self._held is not None else 0
        self.taken += sum(block.rows for block in self._blocks)
        self._held = None
        return self.taken


def _pieces(keys: Iterator[Any]) -> Iterator[list[Any]]:
    """Lists of the keys of an iterator; one at least."""
    piece = list(islice(keys, _PIECE))
    yield piece
    for first in keys:
        yield list(chain([first], islice(keys, _PIECE - 1)))


def _packed_in_turn(pieces: Iterable[Any]) -> Iterator[KeyBlock]:
    first, kind = 0, None
    for piece in pieces:
        block = packed(piece, first)
        if first and kind != block.kind:
            raise SourceError(
                f"the keys from row {first} on are of kind {block.kind}, expected {kind} as before"
            )
        kind = block.kind
        first += block.rows
        yield block
