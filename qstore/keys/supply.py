"""The keys that a build is given, for the rows of its source: as many as there are rows, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal

from numpy.typing import NDArray

from ..errors import SourceError
from ..sources import Source
from .files import read_key_file
from .stream import KeyStream, too_few

__all__ = ["MissingKeys", "check_all_taken", "check_missing_keys", "given_keys", "inline_keys"]

MissingKeys = Literal["error", "none"]
"""What to do where a row has no key: stop, or let it have none."""


def check_missing_keys(missing_keys: str) -> bool:
    """Whether rows may have no key."""
    if missing_keys not in ("error", "none"):
        raise ValueError(f'missing_keys is {missing_keys!r}, expected "error" or "none"')
    return missing_keys == "none"


def given_keys(
    keys: Any, matrix: Source, first: int, last: int | None, missing_keys: MissingKeys
) -> KeyStream | None:
    """The keys of the rows `first` to before `last` (None: to the end); None where the source has its own.

    They are those of all rows of the source, or of the rows before `last`.

    Raises
    ------
    SourceError
        It is known that there are fewer or more; the source's own cannot be read.
    """
    padded = check_missing_keys(missing_keys)
    if isinstance(keys, KeyStream):
        return keys
    if keys is None:
        matrix.check_keys()
    if keys is None or keys is False:
        return None
    stream = read_key_file(keys, padded) if isinstance(keys, (str, os.PathLike)) else KeyStream.of(keys)
    stream.rows, stream.padded = matrix.rows, padded
    if stream.count is not None and matrix.rows is not None:
        _check_count(stream, stream.count, matrix.rows, last)
    stream.skip(first)
    return stream


def check_all_taken(stream: KeyStream | None, rows: int, last: int | None, matrix: Source) -> None:
    """Raise if there are other keys than rows, where that was not known before.

    The source was read up to row `rows`, and `last` is where the rows taken were to end.
    """
    if stream is None or (matrix.rows is None and last is not None):
        return
    total = rows if matrix.rows is None else matrix.rows
    if stream.count is not None:
        _check_count(stream, stream.count, total, last)
        return
    behind = stream.behind(total)
    _check(stream, stream.drain(), total, last, behind)


def _check_count(stream: KeyStream, count: int, rows: int, last: int | None) -> None:
    _check(stream, count, rows, last, stream.behind(rows) if count > rows else [])


def _check(stream: KeyStream, count: int, rows: int, last: int | None, behind: list[Any]) -> None:
    if count > rows:
        more = ", …" if count - rows > len(behind) else ""
        raise SourceError(
            f"there are {count} keys, expected one for each of the source's {rows} rows: none is left for "
            f"{', '.join(f'{key!r:.80}' for key in behind)}{more}; nothing is published: give only the first "
            f"{rows}, if these belong to its rows{stream.note}"
        )
    if count < rows and count != last and (not stream.padded or stream.kind() == "integer"):
        raise too_few(stream, count, f"of the source's {rows} rows: nothing is published")


def inline_keys(matrix: Source, first: int, rows: int | None) -> Iterator[tuple[NDArray[Any], Any]]:
    """Chunks of the source with the keys it carries: `rows` rows from `first` on."""
    left = rows
    for chunk, keys in matrix.keyed_chunks(first):
        yield chunk[:left], keys[:left]
        if left is not None:
            left -= min(left, len(chunk))
            if not left:
                return
