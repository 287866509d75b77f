"""The keys that a build is given, for the rows of its source: as many as there are rows, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal

from numpy.typing import NDArray

from ..errors import SourceError
from ..sources import Source, TextEncoding
from ..system.options import one_of
from .files import read_key_file
from .stream import SHOWN, KeyStream, too_few

__all__ = ["MissingKeys", "check_all_taken", "check_missing_keys", "given_keys", "inline_keys"]

MissingKeys = Literal["error", "none"]
"""What to do where a row has no key: stop, or let it have none."""


def check_missing_keys(missing_keys: str) -> bool:
    """Whether rows may have no key."""
    return one_of("missing_keys", missing_keys, ("error", "none")) == "none"


def given_keys(
    keys: Any,
    matrix: Source,
    first: int,
    last: int | None,
    key_encoding: str | None,
    missing_keys: MissingKeys,
    compared: bool = False,
) -> KeyStream | None:
    """The keys of the rows `first` to before `last` (None: to the end), where they lie apart from the rows.

    They are given, or the source has them so: those of all its rows, or of the rows before `last`. None where
    there are none, they are not wanted (False), or each chunk of the source brings its own.

    `key_encoding` says how the bytes of a key file, or else of the keys that the source carries, are text;
    `compared`, that they are not for a new store but for a look at one.

    Raises
    ------
    SourceError
        It is known that there are fewer or more; the source's own cannot be read; the encoding is unknown, or
        there are no bytes that it could be of.
    """
    padded = check_missing_keys(missing_keys)
    if isinstance(keys, KeyStream):
        return keys
    encoding = None if key_encoding is None else TextEncoding.parse(key_encoding)
    if keys is None:
        matrix.check_keys()
    stream = _stream(keys, matrix, encoding, padded)
    if stream is None:
        return None
    stream.rows, stream.padded, stream.compared = matrix.rows, padded, compared
    if stream.count is not None and matrix.rows is not None:
        _check_count(stream, stream.count, matrix.rows, last)
    stream.skip(first)
    return stream


def _stream(keys: Any, matrix: Source, encoding: TextEncoding | None, padded: bool) -> KeyStream | None:
    if isinstance(keys, (str, os.PathLike)):
        return read_key_file(keys, encoding, padded)
    if keys is None or keys is False:
        if encoding is not None:
            _decode_carried(matrix, encoding, wanted=keys is None)
        pieces = matrix.key_pieces() if keys is None else None
        return None if pieces is None else KeyStream.in_pieces(pieces, matrix.rows)
    if encoding is not None:
        raise SourceError(
            "the keys are given as they are: leave key_encoding= out, or give a text file of keys"
        )
    return KeyStream.of(keys)


def _decode_carried(matrix: Source, encoding: TextEncoding, wanted: bool) -> None:
    if not wanted:
        raise SourceError(
            "keys are left out (keys=False, --no-keys): leave key_encoding= (--key-encoding) out too"
        )
    matrix.decode_keys(encoding)


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
    behind = stream.behind(rows) if count > rows and stream.placed is None else []
    _check(stream, count, rows, last, behind)


def _check(stream: KeyStream, count: int, rows: int, last: int | None, behind: list[Any]) -> None:
    end = "" if stream.compared else "; nothing is published"
    if count > rows and stream.placed is not None:
        beyond = sorted(row for row in stream.placed if row >= rows)
        named = ", ".join(f"{stream.placed[row]!r:.80} (row {row})" for row in beyond[:SHOWN])
        more = ", …" if len(beyond) > SHOWN else ""
        raise SourceError(
            f"keys lie beyond the last of the source's {rows:,} rows: {named}{more}; expected rows up to "
            f"{rows - 1}{end}: leave these keys out, if the others belong to its rows"
        )
    if count > rows:
        more = ", …" if count - rows > len(behind) else ""
        raise SourceError(
            f"there are {count:,} keys, expected one for each of the source's {rows:,} rows: none is left "
            f"for {', '.join(f'{key!r:.80}' for key in behind)}{more}{end}: give only the first "
            f"{rows:,}, if these belong to its rows{stream.note}"
        )
    if count < rows and count != last and (not stream.padded or stream.kind() == "integer"):
        end = "" if stream.compared else ": nothing is published"
        raise too_few(stream, count, f"of the source's {rows:,} rows{end}")


def inline_keys(matrix: Source, first: int, rows: int | None) -> Iterator[tuple[NDArray[Any], Any]]:
    """Chunks of the source with the keys it carries: `rows` rows from `first` on."""
    left = rows
    for chunk, keys in matrix.keyed_chunks(first):
        yield chunk[:left], keys[:left]
        if left is not None:
            left -= min(left, len(chunk))
            if not left:
                return
