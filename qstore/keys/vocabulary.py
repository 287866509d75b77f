"""Vocabularies: tokens and the rows they stand for, in any order."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import SourceError
from .stream import KeyStream

__all__ = ["in_order", "read_tiktoken"]

_PIECE = 1 << 16
_ALLOWED = 'missing_keys="none" (--missing-keys none) leaves'


def in_order(path: str, pairs: Iterable[tuple[Any, Any]], padded: bool) -> KeyStream:
    """Tokens by row; the same pair may come twice. With `padded`, rows in between may have none."""
    tokens: dict[int, Any] = {}
    for token, row in pairs:
        if type(row) is not int or row < 0:
            raise SourceError(f"{path}: the row of {token!r:.80} is {row!r:.80}, expected a number from 0 on")
        if tokens.setdefault(row, token) != token:
            raise SourceError(f"{path}: row {row} has two keys, {tokens[row]!r:.80} and {token!r:.80}")
    count = max(tokens, default=-1) + 1
    if count > len(tokens) and not padded:
        missing = next(row for row in range(count) if row not in tokens)
        raise SourceError(
            f"{path}: {len(tokens):,} keys have rows up to {count - 1}: {count - len(tokens):,} rows have no "
            f"key, the first is row {missing}; {_ALLOWED} these without one"
        )
    stream = KeyStream.of(tokens.get(row) for row in range(count))
    stream.count, stream.placed = count, tokens
    return stream


def read_tiktoken(path: str, pieces: Iterator[tuple[int, list[bytes]]], padded: bool) -> KeyStream:
    """The tokens of a tiktoken file: bytes in base64, a space, and the row. Those that are text are keys."""
    return in_order(path, _decoded(path, pieces, padded), padded)


def _decoded(path: str, pieces: Iterator[tuple[int, list[bytes]]], padded: bool) -> Iterator[tuple[str, int]]:
    for first, lines in pieces:
        for number, line in enumerate(lines, first + 1):
            word, _, rank = line.partition(b" ")
            try:
                token, row = base64.b64decode(word, validate=True), int(rank)
            except (binascii.Error, ValueError):
                raise SourceError(
                    f"{path}: line {number} is {line.decode()!r:.80}, expected a token in base64, a space "
                    f"and its row, as in a .tiktoken file"
                ) from None
            try:
                yield token.decode(), row
            except UnicodeDecodeError:
                if not padded:
                    raise SourceError(
                        f"{path}: line {number} is the token {token!r:.80}, which is no UTF-8 and so no key: "
                        f"{_ALLOWED} such rows without one"
                    ) from None
