"""Rows as text, JSON, CSV and .npy, made piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exporting.npy_header import npy_header
from ..exporting.shortest_decimals import shortest_words
from .printing import printable

__all__ = ["FORMATS", "Format", "Named"]

Named = tuple[int, str | int | None]
"""Number and key of a row."""

Blocks = Iterator[tuple[NDArray[Any], list[Named] | None]]
"""Blocks of rows, and what they are called, where that is wanted."""

Format = Callable[[Blocks, tuple[int, int], np.dtype[Any], bool], Iterator[bytes]]
"""(blocks of rows, shape of all, dtype, one row is meant) → what to write, in pieces."""


def _named_rows(blocks: Blocks) -> Iterator[list[tuple[Named | None, list[bytes]]]]:
    """The numbers of each row as words, beside what it is called."""
    for block, named in blocks:
        names: list[Any] = [None] * len(block) if named is None else named
        yield list(zip(names, shortest_words(block), strict=True))


def _text(blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any], single: bool) -> Iterator[bytes]:
    for rows in _named_rows(blocks):
        yield b"".join(_text_key(named) + b" ".join(words) + b"\n" for named, words in rows)


def _text_key(named: Named | None) -> bytes:
    if named is None:
        return b""
    return ("" if named[1] is None else printable(str(named[1]))).encode() + b"\t"


def _csv(blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any], single: bool) -> Iterator[bytes]:
    for rows in _named_rows(blocks):
        yield b"".join(b",".join([*_csv_key(named), *words]) + b"\n" for named, words in rows)


def _csv_key(named: Named | None) -> list[bytes]:
    """Quoted as RFC 4180 has it where it must be; a missing key is nothing, an empty one two quotes."""
    if named is None or named[1] is None:
        return [] if named is None else [b""]
    key = str(named[1])
    quoted = not key or any(mark in key for mark in ',"\r\n')
    return [('"' + key.replace('"', '""') + '"' if quoted else key).encode()]


# JSON has no word for infinity; readers take a number too large for a double as one.
_JSON_WORDS = {b"inf": b"1e999", b"-inf": b"-1e999", b"nan": b"null"}


def _json_row(words: list[bytes]) -> bytes:
    return b"[" + b", ".join(_JSON_WORDS.get(word, word) for word in words) + b"]"


def _json_object(named: Named | None, values: bytes) -> bytes:
    if named is None:
        return values
    import json

    return b'{"row": %d, "key": %b, "values": %b}' % (named[0], json.dumps(named[1]).encode(), values)


def _json(blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any], single: bool) -> Iterator[bytes]:
    rows = (_json_object(named, _json_row(words)) for some in _named_rows(blocks) for named, words in some)
    if single:
        return chain(rows, [b"\n"])
    separators = chain([b"["], iter(lambda: b",\n ", None))
    body = (separator + row for separator, row in zip(separators, rows, strict=False))
    return chain(body, [b"]\n" if shape[0] else b"[]\n"])


def _npy(blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any], single: bool) -> Iterator[bytes]:
    yield npy_header(shape[1:] if single else shape, dtype)
    for block, _ in blocks:
        yield block.tobytes()


FORMATS: dict[str, Format] = {"text": _text, "json": _json, "csv": _csv, "npy": _npy}
"""By the name that ``--format`` takes."""
