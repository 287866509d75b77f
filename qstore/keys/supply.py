"""The keys that a build is given, for the rows of its source: as many as there are rows, or an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from ..errors import SourceError
from ..sources import Source, TextEncoding
from .files import read_key_file
from .packed import KeyStream

__all__ = ["check_all_taken", "given_keys", "inline_keys"]


def given_keys(keys: Any, matrix: Source, first: int, key_encoding: str | None = None) -> KeyStream | None:
    """The keys of the rows from `first` on, as they are given, or as the source has them apart from its rows.

    None where there are none, or they are not wanted (False).

    `key_encoding` says how the bytes of a key file, or else of the keys that the source carries, are text.

    Raises
    ------
    SourceError
        It is known that there are fewer or more than the source has rows; the encoding is unknown, or there
        are no bytes that it could be of.
    """
    encoding = None if key_encoding is None else TextEncoding.parse(key_encoding)
    stream = _stream(keys, matrix, encoding)
    if stream is None:
        return None
    if stream.count is not None and matrix.rows is not None and stream.count != matrix.rows:
        raise _wrong_count(stream.count, matrix.rows)
    stream.rows = matrix.rows
    stream.skip(first)
    return stream


def _stream(keys: Any, matrix: Source, encoding: TextEncoding | None) -> KeyStream | None:
    if isinstance(keys, (str, os.PathLike)):
        return read_key_file(keys, encoding)
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


def check_all_taken(stream: KeyStream | None, rows: int, matrix: Source, whole: bool) -> None:
    """Raise if there are more keys than rows: `rows` have been read, to the source's end if `whole`."""
    if stream is None or (matrix.rows is None and not whole):
        return
    total = rows if matrix.rows is None else matrix.rows
    if stream.count != total and stream.drain() != total:
        raise _wrong_count(stream.taken, total)


def _wrong_count(keys: int, rows: int) -> SourceError:
    return SourceError(
        f"there are {keys} keys, expected one for each of the source's {rows} rows: nothing is published"
    )


def inline_keys(matrix: Source, first: int, rows: int | None) -> Iterator[tuple[NDArray[Any], Any]]:
    """Chunks of the source with the keys it carries: `rows` rows from `first` on."""
    left = rows
    for chunk, keys in matrix.keyed_chunks(first):
        yield chunk[:left], keys[:left]
        if left is not None:
            left -= min(left, len(chunk))
            if not left:
                return
