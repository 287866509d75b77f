"""Word vectors as text: word2vec and fastText `.vec` with a header line, GloVe without one; spaces or tabs.

Each number is parsed to the nearest float64 and rounded to float32, as gensim does it: word vectors are
float32 printed in decimal, so that nine digits or more give the codes of the binary file they came from.

What is read, and every error, is said here in Python. The extension reads the same, block by block, where all
lines of one are as they should be, and leaves every other block to this.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ...engine import kernels
from ...errors import SourceError
from ..ahead import Ahead
from ..base import Source, TensorInfo
from ..checks import shortened
from ..containers.byte_stream import open_stream
from .base import HEADER, LONGEST_LINE, WordRows, WordVectors, refuse_name

__all__ = ["TextWordVectors", "TextWordVectorsFormat", "starts_with_numbers"]

_BLOCK_BYTES = 1 << 19
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = b" \t\r"
_EITHER = re.compile(rb"[ \t]")
_INTEGER = re.compile(rb"[+-]?\d+")
_NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
# Enough to tell text from binary; a line of the largest files holds millions.
_MOST_TRIED = 8


def starts_with_numbers(text: bytes) -> bool:
    """Whether the first line of `text`, which may be cut off, ends in numbers after a word."""
    line, newline, _ = text.partition(b"\n")
    fields = _EITHER.split(line.rstrip(_BLANKS))[1:] if newline else _EITHER.split(line)[1:-1]
    return bool(fields) and all(map(_NUMBER.fullmatch, fields[-_MOST_TRIED:]))


class _Piece(NamedTuple):
    """Lines of some rows, without a line feed behind the last one."""

    row: int
    line: int
    lines: bytes
    rows: int


class TextWordVectorsFormat:
    """One unnamed matrix a file, plain or packed."""

    name = "word vectors as text"
    suffixes: tuple[str, ...] = (".vec", ".txt", ".tsv")

    def matches(self, path: str, head: bytes) -> bool:
        """Whether two integers, or a word and numbers, come first. Binary files are to be tried before."""
        text = head.removeprefix(_BYTE_ORDER_MARK)
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
    its numbers. Where a tab and then numbers follow the first word, all words end at a tab, and tabs or
    spaces stand between the numbers.
    """

    _kind = "word-vectors-text"

    def __init__(self, path: str, *, key_encoding: str | None = None) -> None:
        self._ahead = Ahead()
        super().__init__(path, key_encoding=key_encoding)

    def __enter__(self) -> TextWordVectors:
        return self

    def _read_shape(self) -> tuple[int | None, int]:
        stream = open_stream(self._file)
        line = self._first_line(stream, 1).removeprefix(_BYTE_ORDER_MARK)
        header = HEADER.fullmatch(line + b"\n")
        self._has_header = header is not None
        if header is None:
            return None, self._width_of(line)
        rows, dim = int(header[1]), int(header[2])
        self._check_shape(rows, dim, 1 + 2 * dim)
        self._tabs = len(_numbers_behind_a_tab(self._first_line(stream, 2))) == dim
        return rows, dim

    def _first_line(self, stream: io.BufferedReader, number: int) -> bytes:
        line = stream.readline(LONGEST_LINE + 1).rstrip(b"\n")
        self._check_line(number, line)
        return line

    def _width_of(self, line: bytes) -> int:
        numbers = _numbers_behind_a_tab(line)
        self._tabs = bool(numbers)
        if numbers:
            word = line.partition(b"\t")[0]
        else:
            word, *numbers = line.rstrip(_BLANKS).split(b" ")
        if not numbers:
            raise SourceError(
                f"{self._file.path}: line 1 expected a word and numbers with single spaces or tabs between "
                f"them, found {shortened(repr(line))}"
            )
        for number in numbers:
            if not _NUMBER.fullmatch(number):
                self._refuse_number(1, number)
        self._check_word(word, numbers)
        self._check_shape(0, len(numbers), 1 + 2 * len(numbers))
        return len(numbers)

    def _check_word(self, word: bytes, numbers: list[bytes]) -> None:
        """Refuse a first line of which nothing tells where its word ends."""
        advice = "put a line with the numbers of rows and columns before it"
        if _NUMBER.fullmatch(word.rpartition(b" ")[2]) and b" " in word:
            raise SourceError(
                f"{self._file.path}: line 1 has a number before its first tab, and without a header nothing "
                f"tells whether it is part of the word {shortened(repr(word))}; {advice}"
            )
        whole = _INTEGER.fullmatch(word) is not None
        like_a_number = _NUMBER.fullmatch(word) is not None and not word.isalpha()  # "nan" is a word too
        if like_a_number and (not whole or all(map(_INTEGER.fullmatch, numbers))):
            raise SourceError(
                f"{self._file.path}: line 1 is all numbers, and without a header nothing tells whether the "
                f"first one is a word; {advice}, or, for a plain matrix, give np.loadtxt(path)"
            )

    def count_rows(self) -> int:
        """Number of rows; without a header, by reading the whole file, about 1 GB/s.

        Raises
        ------
        SourceError
            The file is damaged, or a blank line stands between rows.
        """
        return sum(count for _, _, count in self._lines()) if self.rows is None else self.rows

    def _word_rows(self, start: int) -> Iterator[WordRows]:
        """Pieces of about 512 KiB of text. Rows before `start` are counted, not parsed."""
        large = self._file.size > _BLOCK_BYTES
        return self._ahead.run(self._parsed, self._pieces(start), self.threads, large)

    def close(self) -> None:
        """Give the file back, once nothing reads it ahead any more. May be called twice."""
        self._ahead.stop()
        super().close()

    def _pieces(self, start: int) -> Iterator[_Piece]:
        row, blocks = 0, self._lines()
        for first, lines, count in blocks:
            skipped = min(count, max(0, start - row))
            begin, row = row, row + count
            if row == self.rows:  # who has all rows may stop: what follows is looked at now
                row += next(blocks, (0, b"", 0))[2]
            self._check_count(row, ended=False)
            if skipped < count:
                wanted = lines.split(b"\n", skipped)[-1] if skipped else lines
                yield _Piece(begin + skipped, first + skipped, wanted, count - skipped)
        self._check_count(row, ended=True)

    def _check_count(self, found: int, ended: bool) -> None:
        if self.rows is not None and (found > self.rows or (ended and found < self.rows)):
            raise SourceError(
                f"{self._file.path}: its header says {self.rows:,} rows, found {'' if ended else 'at least '}"
                f"{found:,}; the header is wrong, or the file was cut short or joined with another"
            )

    def _lines(self) -> Iterator[tuple[int, bytes, int]]:
        """Lines of rows, block by block: the number of the first one, they themselves, and how many they are.

        What is blank at the end of a block is left out.
        """
        blank: int | None = None
        for number, block, count, first_blank in self._blocks():
            rows = block.rstrip(_BLANKS + b"\n")
            count -= block.count(b"\n", len(rows))
            if rows and first_blank is not None and first_blank < count:
                blank = number + first_blank
            if rows and blank is not None:
                raise SourceError(
                    f"{self._file.path}: line {blank} is blank: expected a word and {self.dim} numbers; "
                    f"blank lines may stand at the end only"
                )
            if blank is None and first_blank is not None:
                blank = number + first_blank
            if rows:
                yield number, rows, count

    def _blocks(self) -> Iterator[tuple[int, bytes, int, int | None]]:
        """Whole lines after the header, some at a time: the number of the first one, counted from 1, they
        themselves, and what :func:`count_lines` says of them.
        """
        stream, number, rest = open_stream(self._file), 1, b""
        if self._has_header:
            stream.readline(LONGEST_LINE)
            number = 2
        while block := stream.read(_BLOCK_BYTES):
            if b"\0" in block:
                self._check_line(number + block.count(b"\n", 0, block.index(b"\0")), b"\0")
            end = block.rfind(b"\n")
            if end < 0:
                rest += block
                self._check_length(number, len(rest))
                continue
            lines, rest = b"".join((rest, memoryview(block)[:end])), block[end + 1 :]
            first_end = lines.find(b"\n")
            self._check_length(number, len(lines) if first_end < 0 else first_end)
            lines = lines.removeprefix(_BYTE_ORDER_MARK) if number == 1 else lines
            count, blank = count_lines(lines)
            yield number, lines, count, blank
            number += count
        rest = rest.removeprefix(_BYTE_ORDER_MARK) if number == 1 else rest
        yield number, rest, *count_lines(rest)

    def _check_line(self, number: int, line: bytes) -> None:
        self._check_length(number, len(line))
        if b"\0" in line:
            raise SourceError(f"{self._file.path}: line {number} holds a NUL byte: expected UTF-8 text")

    def _check_length(self, number: int, length: int) -> None:
        if length > LONGEST_LINE:
            raise SourceError(
                f"{self._file.path}: line {number} is longer than {LONGEST_LINE} bytes: expected a row a line"
            )

    def _parsed(self, piece: _Piece) -> WordRows:
        native = kernels.extension()
        if native is not None:
            values = np.empty((piece.rows, self.dim), np.float32)
            words = native.parse_rows(piece.lines, self._tabs, values)
            if words is not None:
                return WordRows(piece.row, words, values, piece.line)
        return self._specified(piece)

    def _specified(self, piece: _Piece) -> WordRows:
        """What the extension reads, and what is wrong with all that it does not."""
        words: list[bytes] = []
        numbers: list[str] = []
        for number, full_line in enumerate(piece.lines.split(b"\n"), piece.line):
            line = full_line.rstrip(_BLANKS)
            if self._tabs:
                word, vector = self._split_at_tab(line, number)
            elif line.count(b" ") == self.dim:
                word, _, vector = line.partition(b" ")
            else:
                word, vector = self._split_odd(line, number)
            words.append(word)
            numbers.append(vector.decode("latin-1"))
        try:
            values = _parse(numbers)
        except ValueError:
            self._refuse_numbers(numbers, piece.line)
        return WordRows(piece.row, words, values, piece.line)

    def _split_at_tab(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        word, tab, vector = line.partition(b"\t")
        vector = vector.replace(b"\t", b" ")
        if not tab or vector.count(b" ") != self.dim - 1:
            raise self._wrong_fields(line, number, vector.count(b" ") + 1 if tab else 0)
        return word, vector

    def _split_odd(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Word and numbers of a line with more or fewer spaces than there are columns."""
        word, *vector = line.rsplit(b" ", self.dim)
        found = len(vector)
        if found == self.dim and not _NUMBER.fullmatch(word.rpartition(b" ")[2]) and word[-1:] != b" ":
            return word, b" ".join(vector)
        if found == self.dim:
            found += word.count(b" ") if word[-1:] != b" " else 0
        raise self._wrong_fields(line, number, found)

    def _wrong_fields(self, line: bytes, number: int, found: int) -> SourceError:
        between = "a tab behind the word and single tabs or spaces" if self._tabs else "single spaces"
        return SourceError(
            f"{self._file.path}: line {number} expected a word and {self.dim} numbers with {between} "
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


def count_lines(text: bytes) -> tuple[int, int | None]:
    """How many lines there are, and the number of the first one of nothing but blanks, if any."""
    native = kernels.extension()
    if native is not None:
        count, blank = native.count_lines(text)
        return count, None if blank < 0 else blank
    lines = [line.rstrip(_BLANKS) for line in text.split(b"\n")]
    return len(lines), lines.index(b"") if b"" in lines else None


def _numbers_behind_a_tab(line: bytes) -> list[bytes]:
    """The fields behind the first tab of a line, if all of them are numbers."""
    _, tab, rest = line.rstrip(_BLANKS).partition(b"\t")
    fields = _EITHER.split(rest) if tab else []
    return fields if all(map(_NUMBER.fullmatch, fields)) else []


def _parse(numbers: list[str]) -> NDArray[np.float32]:
    # Twice as fast as splitting the lines and asking `float`.
    values: NDArray[np.float32] = np.loadtxt(numbers, np.float32, comments=None, delimiter=" ", ndmin=2)
    return values
