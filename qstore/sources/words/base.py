"""What files of word vectors share, text or binary: a word and its float32 vector, row after row.

Text and binary forms: https://github.com/tmikolov/word2vec (word2vec.c), https://nlp.stanford.edu/projects/glove/
(no header) and https://fasttext.cc/docs/en/crawl-vectors.html (a space at the end of each row).
"""

from __future__ import annotations

import re
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Fingerprint, KeyedSource
from ..checks import check_matrix, shortened
from ..containers.byte_stream import most_content
from ..files import RawFile
from ..text_encoding import UTF8, TextEncoding

__all__ = ["HEADER", "LONGEST_LINE", "WordRows", "WordVectors", "refuse_name"]

HEADER = re.compile(rb"(\d{1,20})[ \t]+(\d{1,20})[ \t\r]*\n")
"""First line of word2vec and fastText files: the numbers of rows and of columns."""

LONGEST_LINE = 1 << 24
"""Most bytes of one row: what does not fit is no row but a file without line ends."""

_HEAD_BYTES = 4096


class WordRows(NamedTuple):
    """Some rows as they stand in the file.

    Attributes
    ----------
    row : int
        Number of the first one.
    words : list of bytes
    values : ndarray of float32
    line : int or None
        Number of the first one's line, in text.
    """

    row: int
    words: list[bytes]
    values: NDArray[np.float32]
    line: int | None = None


class WordVectors(KeyedSource):
    """Word vectors of a file, plain or packed, read from front to back in flat memory.

    Each call of :meth:`chunks` or :meth:`keyed_chunks` reads the file again from its start. For one thread
    at a time.

    Parameters
    ----------
    path : str
    key_encoding : str
        How the words are text, as :meth:`.TextEncoding.parse` takes it: "latin-1", "utf-8:replace".

    Raises
    ------
    SourceError
        The file cannot be read, or its first lines are not those of the format.
    """

    dtype = "float32"
    _kind: str

    def __init__(self, path: str, *, key_encoding: str | None = None) -> None:
        self._encoding = UTF8 if key_encoding is None else TextEncoding.parse(key_encoding)
        self._file = RawFile(path)
        try:
            self._head = self._file.read_bytes(0, min(self._file.size, _HEAD_BYTES))
            self.rows, self.dim = self._read_shape()
            if self.rows == 0:  # nobody asks for the rows of none
                self._check_no_rows()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _read_shape(self) -> tuple[int | None, int]:
        """Number of rows, as far as it is known without reading them, and of columns."""

    @abstractmethod
    def _word_rows(self, start: int) -> Iterator[WordRows]:
        """The rows from `start` on. What a header promises of the end is checked before the last ones."""

    def chunks(self, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """Yield the rows from `start` on; words are not decoded, and may be anything."""
        return (found.values for found in self._word_rows(start))

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Yield the rows from `start` on with their words.

        Raises
        ------
        SourceError
            While iterating: the file is damaged, its header is wrong, or a word cannot be decoded.
        """
        return ((found.values, self._decoded(found)) for found in self._word_rows(start))

    def decode_keys(self, encoding: TextEncoding) -> None:
        """Take the words for text in this encoding."""
        self._encoding = encoding

    def _check_no_rows(self) -> None:
        for _ in self._word_rows(0):
            pass

    def _check_shape(self, rows: int, dim: int, row_bytes: int) -> None:
        """Refuse a header that promises more than a file of this size can hold, before memory is taken."""
        path, size = self._file.path, self._file.size
        check_matrix(path, (rows, dim), self.dtype)
        most = most_content(self._file)
        if rows * row_bytes > most:
            raise SourceError(
                f"{path} ends early: its header says {rows:,} rows of {dim} values, expected at least "
                f"{rows * row_bytes} bytes, found {most if most == size else f'at most {most}'}; "
                f"the header is wrong, or the file was cut short while being saved or copied"
            )
        if row_bytes > LONGEST_LINE:
            raise SourceError(
                f"{path} has {dim} columns of at least {row_bytes} bytes: expected at most {LONGEST_LINE}"
            )

    def _decoded(self, found: WordRows) -> list[str]:
        try:
            return self._encoding.decode_all(found.words)
        except UnicodeError as error:
            bad = self._encoding.first_bad(found.words)
            place = f"row {found.row + bad}" + ("" if found.line is None else f" (line {found.line + bad})")
            raise SourceError(
                f"{self._file.path}: the word of {place} is no {self._encoding}: "
                f"{shortened(repr(found.words[bad]))}; the file is damaged, its header is wrong, words were "
                f"cut inside a character, or are of another encoding: {self._encoding.hint()}"
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
            "key_encoding": self._encoding.name,
            "key_errors": self._encoding.errors,
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
