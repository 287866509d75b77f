"""Files of keys: a text file, a JSON list, a vocabulary of a tokenizer or a model, an array of numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from ..errors import SourceError
from ..sources import UTF8, TextEncoding
from ..sources.files import check_no_url
from ..sources.gguf.parts import read_vocabulary
from ..system.options import check_path
from ..system.stand_ins import HEAD_BYTES, stand_in
from ..system.urls import without_file_scheme
from .json_files import read_json, read_json_lines
from .line_forms import LineForm, form_of
from .packed import KeyBlock, packed_utf8
from .stream import KeyStream
from .vocabulary import read_tiktoken

__all__ = ["read_key_file"]

_PIECE_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"


def read_key_file(
    path: str | os.PathLike[str], encoding: TextEncoding | None = None, padded: bool = False
) -> KeyStream:
    """The keys in a file, in the order of the rows. What the file is, its name and content tell.

    ``.json``
        A list of texts or of whole numbers; an object ``{key: row}``, such as a ``vocab.json``; or a
        ``tokenizer.json`` of Hugging Face: its model's vocabulary and added tokens.
    ``.jsonl``, ``.ndjson``
        A text or a whole number a line, in JSON.
    ``.npy``
        Whole numbers, shape (N,).
    ``.gguf``
        The vocabulary in it, its tokens as they stand there: often the very file that the rows are in.
    any other name
        Text in UTF-8 or the encoding that is given, a key a line, such as a ``vocab.txt``. The end of a line,
        LF or CR LF, is not part of the key, everything else is. An empty line is an empty key. Lines of
        several columns are keys only where it is known which of them: see :func:`.line_forms.form_of`.

    Parameters
    ----------
    path : path-like
    encoding : TextEncoding, optional
        How the lines of a text file are text: by default UTF-8.
    padded : bool
        Whether rows may have no key, where the file gives the numbers of rows.

    Raises
    ------
    SourceError
        The file is none of these; the rows of a vocabulary are not 0 to N - 1, each once. It is packed, or a
        pointer in the place of the file (Git LFS).
    OSError
        It is not there or cannot be read.
    """
    check_path(path)
    name = os.fsdecode(without_file_scheme(path))
    check_no_url(name)
    _refuse_stand_ins(name)
    if encoding is not None and name.lower().endswith((".npy", ".json", ".jsonl", ".ndjson", ".gguf")):
        raise SourceError(f"{name} is no text file: leave key_encoding= (--key-encoding) out")
    if name.lower().endswith(".npy"):
        return KeyStream.of(_array(name))
    if name.lower().endswith(".json"):
        return read_json(name, padded)
    if name.lower().endswith((".jsonl", ".ndjson")):
        stream = KeyStream.of(read_json_lines(name, _lines(name, UTF8)))
        stream.count = _count_lines(name)
        return stream
    if name.lower().endswith(".gguf"):
        return KeyStream.of(read_vocabulary(name))
    return _read_text(name, encoding or UTF8, padded)


def _refuse_stand_ins(path: str) -> None:
    try:
        with open(path, "rb") as file:
            other = stand_in(path, file.read(HEAD_BYTES))
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist: expected a file of keys") from None
    if other is not None:
        raise SourceError(f"{path} is {other}")


# Text ---------------------------------------------------------------------------------------------------


def _read_text(path: str, encoding: TextEncoding, padded: bool) -> KeyStream:
    _, lines = next(_lines(path, encoding), (0, []))
    form = form_of(path, lines)
    if form is LineForm.TIKTOKEN:
        return read_tiktoken(path, _lines(path, encoding), padded)
    stream = KeyStream(_text_blocks(path, form, encoding), _count_lines(path) + len(form.before))
    if form.before:
        stream.note = (
            f"; {path} was read as the dict.txt of fairseq, whose rows begin with {_words(form.before)}"
        )
    return stream


def _words(keys: tuple[bytes, ...]) -> str:
    return ", ".join(key.decode() for key in keys)


def _count_lines(path: str) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            lines += piece.count(b"\n")
            last = piece
    return lines + (not last.endswith(b"\n"))


def _text_blocks(path: str, form: LineForm, encoding: TextEncoding) -> Iterator[KeyBlock]:
    if form.before:
        yield packed_utf8(list(form.before))
    for row, lines in _lines(path, encoding):
        yield packed_utf8(form.keys(path, lines, row), row)


def _lines(path: str, encoding: TextEncoding) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first, counted from 0; lines in UTF-8), some MiB at a time."""
    row = 0
    with open(path, "rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        while lines := file.readlines(_PIECE_BYTES):
            yield row, _in_utf8(path, lines, row, encoding)
            row += len(lines)


def _in_utf8(path: str, lines: list[bytes], row: int, encoding: TextEncoding) -> list[bytes]:
    """The lines without their ends. In UTF-8 all together are text if each one is."""
    try:
        if encoding != UTF8:
            bare = [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
            return [encoding.decode(line).encode() for line in bare]
        whole = b"".join(lines)
        whole.decode()
    except UnicodeError as error:
        number = row + encoding.first_bad(lines) + 1
        raise SourceError(
            f"{path}: line {number} is not {encoding} ({getattr(error, 'reason', error)}): expected a key a "
            f"line; {encoding.hint()}"
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
    with open(path, "rb") as file:
        file.seek(array.offset + array.nbytes)
        if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            raise SourceError(
                f"{path} holds several arrays one after the other: expected one, found another one behind "
                f"{len(array)} keys; save all keys as one array"
            )
    return array
