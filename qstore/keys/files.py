"""Files of keys: a text file, a JSON list, a vocabulary of a tokenizer or a model, an array of numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from ..errors import SourceError
from ..sources import UTF8, TextEncoding
from ..sources.containers.json_object import once_each
from ..sources.files import check_no_url
from ..sources.gguf.parts import read_vocabulary
from ..system.stand_ins import HEAD_BYTES, stand_in
from ..system.urls import without_file_scheme
from .packed import KeyBlock, KeyStream, packed, packed_utf8

__all__ = ["read_key_file"]

_PIECE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"


def read_key_file(path: str | os.PathLike[str], encoding: TextEncoding | None = None) -> KeyStream:
    """The keys in a file, in the order of the rows. What the file is, its name and content tell.

    ``.json``
        A list of texts or of whole numbers; an object ``{key: row}``, such as a ``vocab.json``; or a
        ``tokenizer.json`` of Hugging Face: its model's vocabulary and added tokens.
    ``.npy``
        Whole numbers, shape (N,).
    ``.gguf``
        The vocabulary in it, its tokens as they stand there: often the very file that the rows are in.
    any other name
        Text in UTF-8 or the encoding that is given, a key a line, such as a ``vocab.txt``. The end of a line,
        LF or CR LF, is not part of the key, everything else is. An empty line is an empty key.

    Raises
    ------
    SourceError
        The file is none of these; the rows of a vocabulary are not 0 to N - 1, each once. It is packed, or a
        pointer in the place of the file (Git LFS).
    OSError
        It is not there or cannot be read.
    """
    name = os.fsdecode(without_file_scheme(path))
    check_no_url(name)
    _refuse_stand_ins(name)
    if encoding is not None and name.lower().endswith((".npy", ".json", ".gguf")):
        raise SourceError(f"{name} is no text file: leave key_encoding= (--key-encoding) out")
    if name.lower().endswith(".npy"):
        return KeyStream.of(_array(name))
    if name.lower().endswith(".json"):
        return KeyStream.of(_from_json(name))
    if name.lower().endswith(".gguf"):
        return KeyStream.of(read_vocabulary(name))
    return KeyStream(_text_blocks(name, encoding or UTF8), _count_lines(name))


def _refuse_stand_ins(path: str) -> None:
    try:
        with open(path, "rb") as file:
            other = stand_in(path, file.read(HEAD_BYTES))
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist: expected a file of keys") from None
    if other is not None:
        raise SourceError(f"{path} is {other}")


# Text ---------------------------------------------------------------------------------------------------


def _count_lines(path: str) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            lines += piece.count(b"\n")
            last = piece
    return lines + (not last.endswith(b"\n"))


def _text_blocks(path: str, encoding: TextEncoding) -> Iterator[KeyBlock]:
    row = 0
    with open(path, "rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        while lines := file.readlines(_PIECE_BYTES):
            block = _block(path, lines, row, encoding)
            yield block
            row += block.rows


def _block(path: str, lines: list[bytes], row: int, encoding: TextEncoding) -> KeyBlock:
    """The lines without their ends. In UTF-8 all together are text if each one is."""
    try:
        if encoding != UTF8:
            bare = [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
            return packed([encoding.decode(line) for line in bare], row)
        whole = b"".join(lines)
        whole.decode()
    except UnicodeError as error:
        number = row + encoding.first_bad(lines) + 1
        raise SourceError(
            f"{path}: line {number} is not {encoding} ({getattr(error, 'reason', error)}): expected a key a "
            f"line; {encoding.hint()}"
        ) from None
    parts = whole.removesuffix(b"\n").split(b"\n")
    return packed_utf8([part.removesuffix(b"\r") for part in parts] if b"\r" in whole else parts, row)


# Numbers ------------------------------------------------------------------------------------------------


def _array(path: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SourceError(f"{path}: expected an array of whole numbers: {error}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SourceError(
            f"{path} holds {array.dtype} of shape {array.shape}, expected whole numbers of shape (N,)"
        )
    with open(path, "rb") as file:
        file.seek(array.offset + array.nbytes)
        if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            raise SourceError(
                f"{path} holds several arrays one after the other: expected one, found another one behind "
                f"{len(array)} keys; save all keys as one array"
            )
    return array


# JSON ---------------------------------------------------------------------------------------------------


def _from_json(path: str) -> list[Any]:
    try:
        with open(path, "rb") as file:
            content = json.load(file, object_pairs_hook=once_each)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from None
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise SourceError(
            f"{path} holds a {type(content).__name__}, expected a list or an object {{key: row}}"
        )
    if isinstance(content.get("model"), dict):
        return _in_order(path, _tokens(path, content))
    return _in_order(path, list(content.items()))


def _tokens(path: str, tokenizer: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(token, row) of a tokenizer.json: Unigram has a list of [token, score], all other models an object."""
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        pairs = list(vocabulary.items())
    elif isinstance(vocabulary, list) and all(isinstance(entry, list) and entry for entry in vocabulary):
        pairs = [(entry[0], row) for row, entry in enumerate(vocabulary)]
    else:
        raise SourceError(
            f"{path} has no vocabulary (model.vocab): expected a tokenizer.json of Hugging Face"
        )
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise SourceError(f"{path}: added_tokens is no list of objects")
    return pairs + [(token.get("content"), token.get("id")) for token in added]


def _in_order(path: str, pairs: list[tuple[Any, Any]]) -> list[Any]:
    """Tokens by row; the same pair may come twice."""
    tokens: dict[int, Any] = {}
    for token, row in pairs:
        if type(row) is not int or row < 0:
            raise SourceError(f"{path}: the row of {token!r:.80} is {row!r:.80}, expected a number from 0 on")
        if tokens.setdefault(row, token) != token:
            raise SourceError(f"{path}: row {row} has two keys, {tokens[row]!r:.80} and {token!r:.80}")
    if tokens and max(tokens) >= len(tokens):
        missing = next(row for row in range(len(tokens)) if row not in tokens)
        raise SourceError(
            f"{path}: {len(tokens)} keys have rows up to {max(tokens)}: "
            f"{max(tokens) + 1 - len(tokens)} rows have no key, the first is row {missing}"
        )
    return [tokens[row] for row in range(len(tokens))]
