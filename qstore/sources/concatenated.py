"""Several inputs as one matrix, in the order they are given."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from .addresses import as_address
from .base import Fingerprint, Keys, RowSource, Source
from .checks import check_range
from .quantized import QuantizedSource
from .text_encoding import TextEncoding

__all__ = ["ConcatenatedChunks", "ConcatenatedSource", "are_paths", "concatenated", "one_after_another"]


def are_paths(obj: Any) -> TypeGuard[Sequence[str | os.PathLike[str]]]:
    """Whether `obj` is a list of paths, one at least: several inputs."""
    return (
        isinstance(obj, (list, tuple))
        and len(obj) > 0
        and all(isinstance(one, (str, os.PathLike)) for one in obj)
    )


def concatenated(paths: Sequence[str | os.PathLike[str]], open_one: Callable[[str], Source]) -> Source:
    """Source of the rows of all `paths`, one after the other.

    Parameters
    ----------
    paths : sequence of path-like
        At least one. All stay open until the source is closed.
    open_one : callable
        Opens one path.

    Raises
    ------
    SourceError
        A path cannot be opened, or differs from the first in width or element type; it is named.
    """
    return one_after_another([as_address(os.fsdecode(path)) for path in paths], open_one)


def one_after_another(names: Sequence[str], open_one: Callable[[str], Source]) -> Source:
    """Source of the rows of all that is named, as :func:`concatenated`."""
    parts: list[Source] = []
    with contextlib.ExitStack() as on_error:
        for name in names:
            parts.append(on_error.enter_context(open_one(name)))
            _check_alike(name, parts[-1], names[0], parts[0])
        source = _joined(parts)
        on_error.pop_all()
    return source


def _joined(parts: list[Source]) -> Source:
    coded = [part for part in parts if isinstance(part, QuantizedSource)]
    if len(coded) == len(parts):
        return ConcatenatedCodes(coded)
    rows_of = [part for part in parts if isinstance(part, RowSource)]
    return ConcatenatedSource(rows_of) if len(rows_of) == len(parts) else ConcatenatedChunks(parts)


def _check_alike(name: str, part: Source, first_name: str, first: Source) -> None:
    for what, found, expected in (
        ("columns", part.dim, first.dim),
        ("element type", part.dtype, first.dtype),
    ):
        if found != expected:
            raise SourceError(
                f"{name} cannot be put behind {first_name}: {what} expected {expected}, found {found}; "
                f"build a store of each instead"
            )


class _Parts(Source):
    """What both kinds have in common.

    The name is that of the tensor in all parts, or empty where they differ.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        names = {part.name for part in parts}
        self.name = names.pop() if len(names) == 1 else ""
        self.dtype, self.dim = parts[0].dtype, parts[0].dim
        self.keyed = all(part.keyed for part in parts)
        self.convention = " or ".join(dict.fromkeys(part.convention for part in parts if part.convention))
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        self.unused_names = tuple(dict.fromkeys(said for part in parts for said in part.unused_names))
        self._parts = parts
        self._current = 0

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """Yield the rows from `start` on with their keys, where all parts have keys."""
        if not self.keyed:
            return super().keyed_chunks(start)
        return (piece for part, first in self._from(start) for piece in part.keyed_chunks(first))

    def check_keys(self) -> None:
        """Raise `SourceError` where some parts have keys and others have none."""
        bare = [number for number, part in enumerate(self._parts) if not part.keyed]
        if 0 < len(bare) < len(self._parts):
            raise SourceError(
                f"input number {bare[0] + 1} of {len(self._parts)} has no keys for its rows, and others "
                f"have: leave all out with keys=False (--no-keys), or give all rows some with keys= (--keys)"
            )
        for part in self._parts:
            part.check_keys()

    def _from(self, start: int) -> Iterator[tuple[Source, int]]:
        """The parts that have rows from `start` on, and the first of these in each.

        Parts before them are not read, but to count their rows where these are unknown.
        """
        before = start
        for number, part in enumerate(self._parts):
            rows = part.count_rows() if before else 0
            if rows <= before and before:
                before -= rows
                continue
            self._current, part.threads = number, self.threads
            yield part, before
            before = 0
        if before:
            raise SourceError(
                f"the inputs end early: expected more than {start:,} rows, found {start - before:,}"
            )

    def count_rows(self) -> int:
        """Number of rows of all parts together."""
        return sum(part.count_rows() for part in self._parts)

    def bytes_read(self) -> tuple[int, int] | None:
        """Those of all parts together: of the ones before the one that is read, all."""
        found = [part.bytes_read() for part in self._parts]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        before = sum(size for _, size in known[: self._current])
        return before + known[self._current][0], sum(size for _, size in known)

    def key_pieces(self) -> Iterator[Keys] | None:
        """Those of all parts, one after the other.

        Raises
        ------
        SourceError
            Only some parts have keys.
        """
        pieces = [part.key_pieces() for part in self._parts]
        found = [one for one in pieces if one is not None]
        if found and len(found) < len(pieces):
            raise SourceError(
                f"{len(found)} of {len(pieces)} inputs have keys: expected all or none; leave the keys out "
                f"(--no-keys, keys=False), or give them all (--keys, keys=)"
            )
        return itertools.chain.from_iterable(found) if found else None

    def fingerprint(self) -> Fingerprint | None:
        """Those of all parts; None where one has none."""
        found = [part.fingerprint() for part in self._parts]
        times = [one.pop("mtime_ns", None) for one in found if one is not None]
        if len(times) < len(found):
            return None
        errors = {one.pop("key_errors", None) for one in found if one is not None} - {None}
        identity: Fingerprint = {"kind": "concatenated", "parts": found}
        if errors:
            identity["key_errors"] = errors.pop()  # one encoding for all parts
        if None in times:
            return identity
        # One number that is another whenever any of the times is.
        digest = hashlib.blake2b(repr(times).encode(), digest_size=8).digest()
        return {**identity, "mtime_ns": int.from_bytes(digest, "little")}

    def decode_keys(self, encoding: TextEncoding) -> None:
        """Take the keys of all parts for text in this encoding."""
        for part in self._parts:
            part.decode_keys(encoding)

    def check_unchanged(self) -> None:
        """Raise `SourceError` where one of the parts has been changed since it was opened."""
        for part in self._parts:
            part.check_unchanged()

    def close(self) -> None:
        """Close all parts. May be called twice."""
        for part in self._parts:
            part.close()


class ConcatenatedSource(_Parts, RowSource):
    """Several sources of rows as one. Reads may run in any number of threads if those of the parts may.

    Parameters
    ----------
    parts : sequence of RowSource
        At least one, of the same width and element type.

    Examples
    --------
    >>> import numpy as np
    >>> from qstore.sources.memory.array import ArraySource
    >>> source = ConcatenatedSource([ArraySource(np.zeros((2, 1))), ArraySource(np.ones((3, 1)))])
    >>> source.rows, source.read(1, 4).T
    (5, array([[0., 1., 1.]]))
    """

    def __init__(self, parts: Sequence[RowSource]) -> None:
        super().__init__(parts)
        self._row_parts = parts
        # Where each part begins, and the end of the last one.
        self._bounds = [0, *itertools.accumulate(part.rows for part in parts)]
        self.rows = self._bounds[-1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, of one part or put together; see :meth:`RowSource.read`."""
        pieces = [self._row_parts[number].read(*rows) for number, *rows in self._split(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _split(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (part, its first row, and the one behind its last), one part at least."""
        check_range("the concatenated source", start, stop, self.rows)
        # The last part that begins at or before `start`: parts without rows are passed over.
        number = min(bisect.bisect_right(self._bounds, start), len(self._row_parts)) - 1
        while True:
            begin, end = self._bounds[number : number + 2]
            yield number, max(start, begin) - begin, min(stop, end) - begin
            if stop <= end:
                return
            number += 1


class ConcatenatedCodes(ConcatenatedSource, QuantizedSource):
    """Several sources of codes and scales as one.

    Parameters
    ----------
    parts : sequence of QuantizedSource
        At least one, of the same width.
    """

    def __init__(self, parts: Sequence[QuantizedSource]) -> None:
        super().__init__(parts)
        self._coded_parts = parts

    @property
    def recorded_dtype(self) -> str:
        """What all parts say; that they are codes where they do not agree."""
        found = {part.recorded_dtype for part in self._coded_parts}
        return found.pop() if len(found) == 1 else self.dtype

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales, of one part or put together; see :meth:`QuantizedSource.read_codes`."""
        pieces = [self._coded_parts[number].read_codes(*rows) for number, *rows in self._split(start, stop)]
        return np.concatenate([codes for codes, _ in pieces]), np.concatenate(
            [scales for _, scales in pieces]
        )


class ConcatenatedChunks(_Parts):
    """Several sources as one, some of which can only be read from front to back. For one thread.

    Parameters
    ----------
    parts : sequence of Source
        At least one, of the same width and element type.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        super().__init__(parts)
        rows = [part.rows for part in parts]
        self.rows = None if None in rows else sum(count or 0 for count in rows)

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on."""
        return (chunk for part, first in self._from(start) for chunk in part.chunks(first))
