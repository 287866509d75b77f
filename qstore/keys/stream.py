"""Keys on their way into a store, taken one block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np

from ..errors import SourceError
from .packed import KeyBlock, KeyKind, joined, listed, packed

__all__ = ["SHOWN", "KeyPiece", "KeyStream", "only_rows", "too_few"]

# Keys packed at once: some MiB.
_PIECE = 1 << 16
SHOWN = 5
"""So many keys are named in an error."""


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
    padded : bool
        Whether rows behind the last key are to have none.
    placed : mapping of int to str, or None
        The key of each row, where a vocabulary gives both: for messages.
    compared : bool
        Whether they are compared with those of a store that is there: for messages.
    note : str
        How the keys were found, where that explains their number: for messages.
    """

    def __init__(self, blocks: Iterable[KeyBlock], count: int | None = None) -> None:
        self._blocks = iter(blocks)
        self._held: KeyBlock | None = None
        self._kind: KeyKind = "text"
        self.count = count
        self.taken = 0
        self.rows: int | None = None
        self.padded = False
        self.placed: Mapping[int, Any] | None = None
        self.compared = False
        self.note = ""

    @classmethod
    def of(cls, keys: Any) -> KeyStream:
        """Keys as users give them: those that :func:`packed` takes."""
        keys = listed(keys)
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
            There are fewer, and they are not padded.
        """
        parts = list(self._next(count))
        missing = count - sum(part.rows for part in parts)
        if missing and not self.padded:
            rows = f"at least {self.taken + missing}" if self.rows is None else str(self.rows)
            raise too_few(self, self.taken, f"row: {rows}")
        if missing and self.kind() == "integer":
            raise SourceError(
                f"there are {self.taken:,} keys, and whole numbers cannot leave row {self.taken} and those "
                f"behind it without one: {only_rows(self.taken)}, or give texts, str(number)"
            )
        return joined([*parts, packed([None] * missing)]) if missing or not parts else joined(parts)

    def _next(self, count: int) -> Iterator[KeyBlock]:
        """As many keys as there are of the next `count`."""
        while (part := self._look()) is not None:
            part, rest = part.split(min(count, part.rows))
            self._held = rest if rest.rows else None
            self.taken += part.rows
            count -= part.rows
            yield part
            if not count:
                break

    def behind(self, rows: int) -> list[str | int | None]:
        """The first keys behind those of the first `rows` rows."""
        for _ in self._next(rows - self.taken) if rows > self.taken else ():
            pass
        return [key for block in self._next(SHOWN) for key in block.values()]

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


class KeyPiece(KeyStream):
    """The keys of some rows, taken from those of all; what is left is for others."""

    def __init__(self, whole: KeyStream) -> None:
        super().__init__(())
        self._whole = whole

    def kind(self) -> KeyKind:
        """See :meth:`KeyStream.kind`."""
        return self._whole.kind()

    def take(self, count: int) -> KeyBlock:
        """See :meth:`KeyStream.take`."""
        self.taken += count
        return self._whole.take(count)

    def give_back(self, block: KeyBlock) -> None:
        """See :meth:`KeyStream.give_back`."""
        self.taken -= block.rows
        self._whole.give_back(block)

    def drain(self) -> int:
        """See :meth:`KeyStream.drain`: nothing is left of this piece."""
        return self.taken


def too_few(stream: KeyStream, keys: int, whom: str) -> SourceError:
    """What to raise where a stream has so many keys, and not one for each …"""
    if stream.compared:
        none = ', or missing_keys="none" (--missing-keys none) if the store was built so'
        remedy = "give the keys that the store was built with" + ("" if stream.kind() == "integer" else none)
        return SourceError(f"there are {keys:,} keys, expected one for each {whom}: {remedy}{stream.note}")
    none = 'leave the others without one with missing_keys="none" (--missing-keys none), or '
    remedy = only_rows(keys) if stream.kind() == "integer" else none + only_rows(keys)
    return SourceError(f"there are {keys:,} keys, expected one for each {whom}; {remedy}{stream.note}")


def only_rows(keys: int) -> str:
    """How to take only the first rows."""
    return f"take only the rows that have one with rows=(0, {keys}) (--rows 0:{keys})"


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
