"""word2vec's binary files: "N D" on a line, then for each row its word, a space, and D float32."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Source, TensorInfo
from ..checks import shortened
from ..containers.byte_stream import open_stream, unpacked_head
from .base import HEADER, WordRows, WordVectors, refuse_name
from .text import starts_with_numbers

__all__ = ["BinaryWordVectors", "BinaryWordVectorsFormat"]

_BLOCK_BYTES = 4 << 20
_LONGEST_WORD = 1 << 16
_NO_WORD = re.compile(rb"[\x00\n]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_FASTTEXT_MAGIC = (793_712_314).to_bytes(4, "little")


class BinaryWordVectorsFormat:
    """One unnamed matrix a file, plain or packed."""

    name = "word2vec binary"
    suffixes: tuple[str, ...] = (".bin",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether a line of two integers comes first, and after it something else than a row of text."""
        header = HEADER.match(head)
        if header is None:
            return head.startswith(_FASTTEXT_MAGIC)
        after = head[header.end() :]
        if after == b"" or starts_with_numbers(after):
            return False
        return path.lower().endswith(self.suffixes) or _is_binary(after)

    def tensors(self, path: str) -> list[TensorInfo]:
        """The matrix.

        Raises
        ------
        SourceError
        """
        with BinaryWordVectors(path) as source:
            return [TensorInfo("", (source.rows, source.dim), source.dtype)]

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the rows and their words.

        Raises
        ------
        SourceError
            `tensor` is not None, or the header is not right for the file.
        """
        refuse_name(path, tensor)
        return BinaryWordVectors(path)


class BinaryWordVectors(WordVectors):
    """Rows and words of a word2vec binary file; see :class:`WordVectors`."""

    rows: int
    _kind = "word2vec-binary"

    def __enter__(self) -> BinaryWordVectors:
        return self

    def _read_shape(self) -> tuple[int, int]:
        head = unpacked_head(self._file)
        header = HEADER.match(head)
        if header is None:
            hint = (
                "; this is a fastText model: unpack it, or give its .vec file"
                if head[:4] == _FASTTEXT_MAGIC
                else ""
            )
            raise SourceError(
                f"{self._file.path} is no word2vec file: expected the numbers of rows and columns on the "
                f"first line, found {shortened(repr(head[:40]))}{hint}"
            )
        rows, dim = int(header[1]), int(header[2])
        self._header_bytes = header.end()
        self._check_shape(rows, dim, 1 + 4 * dim)
        return rows, dim

    def _word_rows(self, start: int) -> Iterator[WordRows]:
        """Pieces of about 4 MiB."""
        stream = open_stream(self._file)
        stream.read(self._header_bytes)
        rest, row = b"", 0
        while row < self.rows:
            read = stream.read(_BLOCK_BYTES)
            block = rest + read
            words, places, end = self._split(block, row)
            if not read:
                raise self._ends_early(row)
            rest, skipped = block[end:], min(len(words), max(0, start - row))
            first, row = row + skipped, row + len(words)
            if row == self.rows:
                self._check_end(rest, stream)
            yield WordRows(first, words[skipped:], _gather(block, places[skipped:], self.dim))
        if not self.rows:
            self._check_end(rest, stream)

    def _split(self, block: bytes, row: int) -> tuple[list[bytes], list[int], int]:
        """Words of the whole rows in a block, the places of their vectors, and where the last one ends."""
        words: list[bytes] = []
        places: list[int] = []
        vector_bytes, end = 4 * self.dim, 0
        while row + len(words) < self.rows:
            space = block.find(b" ", end, end + _LONGEST_WORD + 1)
            if space < 0 and len(block) - end > _LONGEST_WORD:
                raise SourceError(
                    f"{self._file.path}: row {row + len(words)} expected a word of at most "
                    f"{_LONGEST_WORD} bytes and a space, found {block[end : end + 40]!r}; the file is "
                    f"damaged or of another kind"
                )
            if space < 0 or space + 1 + vector_bytes > len(block):
                break
            # word2vec.c ends each row with a line feed, gensim does not: it stands before the next word.
            words.append(block[end:space].lstrip(b"\n"))
            places.append(space + 1)
            end = space + 1 + vector_bytes
        self._check_words(words, row)
        return words, places, end

    def _check_words(self, words: list[bytes], row: int) -> None:
        """Refuse what no word holds in any encoding: it is a part of a vector."""
        if not _NO_WORD.search(b" ".join(words)):
            return
        bad = next(number for number, word in enumerate(words) if _NO_WORD.search(word))
        raise SourceError(
            f"{self._file.path}: the word of row {row + bad} holds a NUL or a line feed: "
            f"{shortened(repr(words[bad]))}; the header's number of columns is wrong, a word before it holds "
            f"a space, or the file is damaged"
        )

    def _ends_early(self, row: int) -> SourceError:
        return SourceError(
            f"{self._file.path} ends early: its header says {self.rows:,} rows, expected row {row}, found "
            f"the end of the file; it was cut short while being saved or copied: get it again"
        )

    def _check_end(self, rest: bytes, stream: BinaryIO) -> None:
        left = rest.lstrip(b"\n")
        while not left and (more := stream.read(_BLOCK_BYTES)):
            left = more.lstrip(b"\n")
        if left:
            raise SourceError(
                f"{self._file.path} goes on after its last row: its header says {self.rows:,} rows, found "
                f"{left[:40]!r} behind them; the header is wrong, or a word holds a space"
            )


def _is_binary(head: bytes) -> bool:
    """Whether bytes, which may be cut off anywhere, are no text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return _CONTROL.search(head) is not None


def _gather(block: bytes, places: list[int], dim: int) -> NDArray[np.float32]:
    """Vectors at any places of a block as one array."""
    if not places:
        return np.empty((0, dim), np.float32)
    item = np.dtype((np.void, 4 * dim))
    # Items of a whole vector that begin at every byte: taking some is a memcpy for each.
    every: NDArray[Any] = np.ndarray((len(block) - 4 * dim + 1,), item, block, strides=(1,))
    return every[places].view("<f4").reshape(-1, dim)
