"""What files of word vectors share, text or binary: a word and its float32 vector, row after row.

Text and binary forms: https://github.com/tmikolov/word2vec (word2vec.c), https://nlp.stanford.edu/projects/glove/
(no header) and https://fasttext.cc/docs/en/crawl-vectors.html (a space at the end of each row).
"""

from __future__ import annotations

import re
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from ...errors import SourceError
from ..base import Fingerprint, KeyedSource
from ..checks import check_matrix, shortened
from ..containers.byte_stream import MOST_INFLATION, is_gzip
from ..files import RawFile

__all__ = ["HEADER", "LONGEST_LINE", "UnicodeErrors", "WordVectors", "refuse_name"]

HEADER = re.compile(rb"(\d{1,20})[ \t]+(\d{1,20})[ \t\r]*\n")
"""First line of word2vec and fastText files: the numbers of rows and of columns."""

LONGEST_LINE = 1 << 24
"""Most bytes of one row: what does not fit is no row but a file without line ends."""

UnicodeErrors = Literal["strict", "replace", "backslashreplace"]
"""What to do about words that are no UTF-8, in the words of `bytes.decode`."""

_HEAD_BYTES = 4096


class WordVectors(KeyedSource):
    """Word vectors of a file, plain or gzip, read from front to back in flat memory.

    Each call of :meth:`chunks` or :meth:`keyed_chunks` reads the file again from its start. For one thread
    at a time.

    Parameters
    ----------
    path : str
    unicode_errors : {"strict", "replace", "backslashreplace"}
        What to do about words that are no UTF-8: stop, or keep them changed.

    Raises
    ------
    SourceError
        The file cannot be read, or its first lines are not those of the format.
    """

    dtype = "float32"
    _kind: str

    def __init__(self, path: str, *, unicode_errors: UnicodeErrors = "strict") -> None:
        self._unicode_errors: UnicodeErrors = unicode_errors
        self._file = RawFile(path)
        try:
            self._head = self._file.read_bytes(0, min(self._file.size, _HEAD_BYTES))
            self.rows, self.dim = self._read_shape()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _read_shape(self) -> tuple[int | None, int]:
        """Number of rows, as far as it is known without reading them, and of columns."""

    def _check_shape(self, rows: int, dim: int, row_bytes: int) -> None:
        """Refuse a header that promises more than a file of this size can hold, before memory is taken."""
        path, size = self._file.path, self._file.size
        check_matrix(path, (rows, dim), self.dtype)
        most = size * MOST_INFLATION if is_gzip(self._head) else size
        if rows * row_bytes > most:
            raise SourceError(
                f"{path} ends early: its header says {rows} rows of {dim} values, expected at least "
                f"{rows * row_bytes} bytes, found {most if most == size else f'at most {most}'}; "
                f"the header is wrong, or the file was cut short while being saved or copied"
            )
        if row_bytes > LONGEST_LINE:
            raise SourceError(
                f"{path} has {dim} columns of at least {row_bytes} bytes: expected at most {LONGEST_LINE}"
            )

    def _decoded(self, words: Sequence[bytes], row: int, first_line: int | None = None) -> list[str]:
        """Words as text; `row` is the number of the first one, `first_line` that of its line."""
        try:
            return [word.decode("utf-8", self._unicode_errors) for word in words]
        except UnicodeDecodeError as error:
            bad = next(number for number, word in enumerate(words) if not _is_utf8(word))
            place = f"row {row + bad}" + ("" if first_line is None else f" (line {first_line + bad})")
            raise SourceError(
                f"{self._file.path}: the word of {place} is no UTF-8: {shortened(repr(words[bad]))}; the "
                f"file is damaged, its header is wrong, or words were cut inside a character: to keep those "
                f"with a mark in them, give as the source {type(self).__module__}.{type(self).__name__}"
                f'(path, unicode_errors="replace")'
            ) from error

    def bytes_read(self) -> tuple[int, int]:
        """How far the file has been read, as it lies on the disk, and its size."""
        return self._file.position, self._file.size

    def fingerprint(self) -> Fingerprint:
        """Size, time and first bytes of the file as they were when it was opened."""
        return {
            "kind": self._kind,
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": zlib.crc32(self._head),
            "unicode_errors": self._unicode_errors,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._file.close()


def refuse_name(path: str, tensor: str | None) -> None:
    """Raise `SourceError` where a tensor is named: these files hold one matrix, without a name."""
    if tensor is not None:
        raise SourceError(f"{path}: word vectors are one matrix without a name; leave tensor= out")


def _is_utf8(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True
