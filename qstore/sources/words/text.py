"""Word vectors as text: word2vec and fastText `.vec` with a header line, GloVe without one.

Each number is parsed to the nearest float64 and rounded to float32, as gensim does it: word vectors are
float32 printed in decimal, so that nine digits or more give the codes of the binary file they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Source, TensorInfo
from ..checks import shortened
from ..containers.byte_stream import open_stream, read_up_to, unpacked_head
from .base import HEADER, LONGEST_LINE, WordVectors, refuse_name

__all__ = ["TextWordVectors", "TextWordVectorsFormat", "starts_with_numbers"]

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = b" \t\r"
_INTEGER = re.compile(rb"[+-]?\d+")
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
# Enough to tell text from binary; a line of the largest files holds millions.
_MOST_TRIED = 8


def starts_with_numbers(text: bytes) -> bool:
    """Whether the first line of `text`, which may be cut off, ends in numbers after a word."""
    line, newline, _ = text.partition(b"\n")
    fields = line.rstrip(_BLANKS).split(b" ")[1:] if newline else line.split(b" ")[1:-1]
    return bool(fields) and all(map(_NUMBER.fullmatch, fields[-_MOST_TRIED:]))


class TextWordVectorsFormat:
    """One unnamed matrix a file, plain or gzip."""

    name = "word vectors as text"
    suffixes: tuple[str, ...] = (".vec", ".txt", ".vec.gz", ".txt.gz")
    checkpoint_names: tuple[str, ...] = ()

    def matches(self, path: str, head: bytes) -> bool:
        """Whether two integers, or a word and numbers, come first. Binary files are to be tried before."""
        text = unpacked_head(head).removeprefix(_BYTE_ORDER_MARK)
        return HEADER.match(text) is not None or starts_with_numbers(text)

    def tensors(self, path: str) -> list[TensorInfo]:
        """The matrix. Without a header, the whole file is read to count its rows.

        Raises
        ------
        SourceError
        """
        with TextWordVectors(path) as source:
            return [TensorInfo("", (source.count_rows(), source.dim), source.dtype)]

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the rows and their words.

        Raises
        ------
        SourceError
            `tensor` is not None, or the first lines are not those of word vectors.
        """
        refuse_name(path, tensor)
        return TextWordVectors(path)


class TextWordVectors(WordVectors):
    """Rows and words of a text file; see :class:`WordVectors`. `rows` is None where there is no header.

    Two integers on the first line are a header. A word may hold spaces: the last `dim` fields of a line are
    its numbers.
    """

    _kind = "word-vectors-text"

    def __enter__(self) -> TextWordVectors:
        return self

    def _read_shape(self) -> tuple[int | None, int]:
        line = read_up_to(self._file, open_stream(self._file), LONGEST_LINE + 1, line=True)
        line = line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\n")
        self._check_line(1, line)
        header = HEADER.fullmatch(line + b"\n")
        self._has_header = header is not None
        if header is None:
            return None, self._width_of(line)
        rows, dim = int(header[1]), int(header[2])
        self._check_shape(rows, dim, 1 + 2 * dim)
        return rows, dim

    def _width_of(self, line: bytes) -> int:
        word, *numbers = line.rstrip(_BLANKS).split(b" ")
        if not numbers:
            raise SourceError(
                f"{self._file.path}: line 1 expected a word and numbers with single spaces between them, "
                f"found {shortened(repr(line))}"
            )
        for number in numbers:
            if not _NUMBER.fullmatch(number):
                self._refuse_number(1, number)
        whole = _INTEGER.fullmatch(word) is not None
        like_a_number = _NUMBER.fullmatch(word) is not None and not word.isalpha()  # "nan" is a word too
        if like_a_number and (not whole or all(map(_INTEGER.fullmatch, numbers))):
            raise SourceError(
                f"{self._file.path}: line 1 is all numbers, and without a header nothing tells whether the "
                f"first one is a word; put a line with the numbers of rows and columns before it, or, for a "
                f"plain matrix, give np.loadtxt(path)"
            )
        self._check_shape(0, len(numbers), 1 + 2 * len(numbers))
        return len(numbers)

    def count_rows(self) -> int:
        """Number of rows; without a header, by reading the whole file, about 1 GB/s.

        Raises
        ------
        SourceError
            The file is damaged, or a blank line stands between rows.
        """
        return sum(len(lines) for _, lines in self._lines()) if self.rows is None else self.rows

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Yield the rows from `start` on, in pieces of about 1 MiB of text, with their words.

        Rows before `start` are counted, not parsed.

        Raises
        ------
        SourceError
            While iterating: a line has too many or too few numbers, something else, or is too long (the
            line is named); a word is no UTF-8; there are more or fewer rows than the header says.
        """
        row = 0
        for first, lines in self._lines():
            skipped = min(len(lines), max(0, start - row))
            self._check_count(row + len(lines), ended=False)
            if skipped < len(lines):
                words, values = self._parsed(lines[skipped:], first + skipped)
                yield values, self._decoded(words, row + skipped, first + skipped)
            row += len(lines)
        self._check_count(row, ended=True)

    def _check_count(self, found: int, ended: bool) -> None:
        if self.rows is not None and (found > self.rows or (ended and found < self.rows)):
            raise SourceError(
                f"{self._file.path}: its header says {self.rows} rows, found {'' if ended else 'at least '}"
                f"{found}; the header is wrong, or the file was cut short or joined with another"
            )

    def _lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Lines of rows, block by block, without blanks at their ends, and the number of the first one."""
        blank: int | None = None
        for number, block in self._blocks():
            rows = block.rstrip(_BLANKS + b"\n")
            lines = [line.rstrip(_BLANKS) for line in rows.split(b"\n")] if rows else []
            if b"" in lines:
                blank = number + lines.index(b"")
            if lines and blank is not None:
                raise SourceError(
                    f"{self._file.path}: line {blank} is blank: expected a word and {self.dim} numbers; "
                    f"blank lines may stand at the end only"
                )
            if blank is None and (b"\n" in block[len(rows) :] or not lines):
                blank = number + len(lines)
            if lines:
                yield number, lines

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Whole lines after the header, some at a time, and the number of the first one, counted from 1."""
        stream, number, rest = open_stream(self._file), 1, b""
        if self._has_header:
            read_up_to(self._file, stream, LONGEST_LINE, line=True)
            number = 2
        while block := read_up_to(self._file, stream, _BLOCK_BYTES):
            if b"\0" in block:
                self._check_line(number + block.count(b"\n", 0, block.index(b"\0")), b"\0")
            lines, newline, rest = (rest + block).rpartition(b"\n")
            self._check_line(number, lines.partition(b"\n")[0] if newline else rest)
            if newline:
                yield number, lines.removeprefix(_BYTE_ORDER_MARK) if number == 1 else lines
                number += lines.count(b"\n") + 1
        yield number, rest.removeprefix(_BYTE_ORDER_MARK) if number == 1 else rest

    def _check_line(self, number: int, line: bytes) -> None:
        if len(line) > LONGEST_LINE:
            raise SourceError(
                f"{self._file.path}: line {number} is longer than {LONGEST_LINE} bytes: expected a row a line"
            )
        if b"\0" in line:
            raise SourceError(f"{self._file.path}: line {number} holds a NUL byte: expected UTF-8 text")

    def _parsed(self, lines: list[bytes], first: int) -> tuple[list[bytes], NDArray[np.float32]]:
        words: list[bytes] = []
        numbers: list[str] = []
        for number, line in enumerate(lines, first):
            if line.count(b" ") == self.dim:
                word, _, vector = line.partition(b" ")
            else:
                word, vector = self._split_odd(line, number)
            words.append(word)
            numbers.append(vector.decode("latin-1"))
        try:
            values = _parse(numbers)
        except ValueError:
            self._refuse_numbers(numbers, first)
        return words, values

    def _split_odd(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Word and numbers of a line with more or fewer spaces than there are columns."""
        word, *vector = line.rsplit(b" ", self.dim)
        found = len(vector)
        if found == self.dim and not _NUMBER.fullmatch(word.rpartition(b" ")[2]) and word[-1:] != b" ":
            return word, b" ".join(vector)
        if found == self.dim:
            found += word.count(b" ") if word[-1:] != b" " else 0
        raise SourceError(
            f"{self._file.path}: line {number} expected a word and {self.dim} numbers with single spaces "
            f"between them, found {found} numbers: {shortened(repr(line))}"
        )

    def _refuse_numbers(self, numbers: list[str], first: int) -> NoReturn:
        """Raise the error for the first line that cannot be parsed."""
        for number, line in enumerate(numbers, first):
            try:
                _parse([line])
            except ValueError:
                fields = line.encode("latin-1").split(b" ")
                bad = next((field for field in fields if not _NUMBER.fullmatch(field)), b"")
                self._refuse_number(number, bad)
        raise SourceError(
            f"{self._file.path}: lines {first} and after expected numbers, found something else"
        )

    def _refuse_number(self, line: int, found: bytes) -> NoReturn:
        raise SourceError(
            f"{self._file.path}: line {line} expected a number, found "
            f"{shortened(repr(found.decode('utf-8', 'backslashreplace')))}"
        )


def _parse(numbers: list[str]) -> NDArray[np.float32]:
    # Twice as fast as splitting the lines and asking `float`.
    values: NDArray[np.float32] = np.loadtxt(numbers, np.float32, comments=None, delimiter=" ", ndmin=2)
    return values
