"""Files of keys: a text file, a JSON list, a vocabulary of a tokenizer, an array of numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SourceError
from ..sources.checks import is_utf8
from .json_files import read_json, read_json_lines
from .line_forms import LineForm, form_of
from .packed import KeyBlock, packed_utf8
from .stream import KeyStream
from .vocabulary import read_tiktoken

__all__ = ["read_key_file"]

_PIECE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"


def read_key_file(path: str | os.PathLike[str], padded: bool = False) -> KeyStream:
    """The keys in a file, in the order of the rows. What the file is, its name and content tell.

    ``.json``
        A list of texts or of whole numbers; an object ``{key: row}``, such as a ``vocab.json``; or a
        ``tokenizer.json`` of Hugging Face: its model's vocabulary and added tokens.
    ``.jsonl``, ``.ndjson``
        A text or a whole number a line, in JSON.
    ``.npy``
        Whole numbers, shape (N,).
    any other name
        Text in UTF-8, a key a line, such as a ``vocab.txt``. The end of a line, LF or CR LF, is not part of
        the key, everything else is. An empty line is an empty key. Lines of several columns are keys only
        where it is known which of them: see :func:`.line_forms.form_of`.

    Parameters
    ----------
    path : path-like
    padded : bool
        Whether rows may have no key, where the file gives the numbers of rows.

    Raises
    ------
    SourceError
        The file is none of these; the rows of a vocabulary are not 0 to N - 1, each once.
    OSError
        It is not there or cannot be read.
    """
    name = os.fsdecode(path)
    if name.lower().endswith(".npy"):
        return KeyStream.of(_array(name))
    if name.lower().endswith(".json"):
        return read_json(name, padded)
    if name.lower().endswith((".jsonl", ".ndjson")):
        stream = KeyStream.of(read_json_lines(name, _lines(name)))
        stream.count = _count_lines(name)
        return stream
    _, lines = next(_lines(name), (0, []))
    form = form_of(name, lines)
    if form is LineForm.TIKTOKEN:
        return read_tiktoken(name, _lines(name), padded)
    stream = KeyStream(_text_blocks(name, form), _count_lines(name) + len(form.before))
    if form.before:
        stream.note = (
            f"; {name} was read as the dict.txt of fairseq, whose rows begin with {_words(form.before)}"
        )
    return stream


def _words(keys: tuple[bytes, ...]) -> str:
    return ", ".join(key.decode() for key in keys)


# Text ---------------------------------------------------------------------------------------------------


def _count_lines(path: str) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            lines += piece.count(b"\n")
            last = piece
    return lines + (not last.endswith(b"\n"))


def _text_blocks(path: str, form: LineForm) -> Iterator[KeyBlock]:
    if form.before:
        yield packed_utf8(list(form.before))
    for row, lines in _lines(path):
        yield packed_utf8(form.keys(path, lines, row), row)


def _lines(path: str) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first, counted from 0; lines), some MiB at a time."""
    row = 0
    with open(path, "rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        while lines := file.readlines(_PIECE_BYTES):
            yield row, _checked(path, lines, row)
            row += len(lines)


def _checked(path: str, lines: list[bytes], row: int) -> list[bytes]:
    """The lines without their ends; they must be UTF-8, which all together are if each one is."""
    whole = b"".join(lines)
    try:
        whole.decode()
    except UnicodeDecodeError as error:
        number = next(number for number, line in enumerate(lines) if not is_utf8(line))
        raise SourceError(
            f"{path}: line {row + number + 1} is not UTF-8 ({error.reason}): expected a key a line"
        ) from None
    parts = whole.removesuffix(b"\n").split(b"\n")
    return [part.removesuffix(b"\r") for part in parts] if b"\r" in whole else parts


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
    return array
