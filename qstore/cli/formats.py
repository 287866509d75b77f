"""Rows as text, JSON, CSV and .npy, made piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..exporting.npy_header import npy_header
from ..exporting.shortest_decimals import shortest_words

__all__ = ["FORMATS", "Format"]

Format = Callable[[Iterator[NDArray[Any]], tuple[int, int], np.dtype[Any], bool], Iterator[bytes]]
"""(blocks of rows, shape of all, dtype, one row is meant) → what to write, in pieces."""


def _lines(blocks: Iterator[NDArray[Any]], separator: bytes) -> Iterator[bytes]:
    for block in blocks:
        yield b"".join(separator.join(row) + b"\n" for row in shortest_words(block))


def _text(
    blocks: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], single: bool
) -> Iterator[bytes]:
    return _lines(blocks, b" ")


def _csv(
    blocks: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], single: bool
) -> Iterator[bytes]:
    return _lines(blocks, b",")


# JSON has no word for infinity; readers take a number too large for a double as one.
_JSON_WORDS = {b"inf": b"1e999", b"-inf": b"-1e999", b"nan": b"null"}


def _json_row(words: list[bytes]) -> bytes:
    return b"[" + b", ".join(_JSON_WORDS.get(word, word) for word in words) + b"]"


def _json(
    blocks: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], single: bool
) -> Iterator[bytes]:
    rows = (_json_row(words) for block in blocks for words in shortest_words(block))
    if single:
        return chain(rows, [b"\n"])
    separators = chain([b"["], iter(lambda: b",\n ", None))
    body = (separator + row for separator, row in zip(separators, rows, strict=False))
    return chain(body, [b"]\n" if shape[0] else b"[]\n"])


def _npy(
    blocks: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], single: bool
) -> Iterator[bytes]:
    yield npy_header(shape[1:] if single else shape, dtype)
    for block in blocks:
        yield block.tobytes()


FORMATS: dict[str, Format] = {"text": _text, "json": _json, "csv": _csv, "npy": _npy}
"""By the name that ``--format`` takes."""
