"""word2vec's two formats: a line of rows and columns, then a word and its vector, row after row."""

from __future__ import annotations

from typing import BinaryIO

from .base import Format
from .selection import Selection
from .shortest_decimals import shortest_words

__all__ = ["Word2vecBinary", "Word2vecText"]

# What readers take for damage: a row of text that is longer, and a word of a binary file.
_LONGEST_LINE = 1 << 24
_LONGEST_WORD = (1 << 16) - 1  # beside a line feed
_LONGEST_NUMBER = 26

# Text takes some 100 bytes a value on its way.
_TEXT_VALUES = 1 << 16


class Word2vecText(Format):
    """Numbers as text, the shortest that read back exactly: fastText's and gensim's format too."""

    name = "word2vec-text"
    suffixes = (".txt", ".vec")
    has_keys = True

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """First line, then a line a row; see :meth:`Format.write`."""
        file.write(_first_line(selection))
        most = max(_LONGEST_WORD, _LONGEST_LINE - _LONGEST_NUMBER * selection.shape[1])
        for first, block in selection.blocks(_TEXT_VALUES):
            words = selection.words(first, len(block), most)
            rows = zip(words, shortest_words(block), strict=True)
            file.write(b"".join(b" ".join([word, *numbers]) + b"\n" for word, numbers in rows))

    def least_size(self, selection: Selection) -> int:
        """Unknown: 0."""
        return 0


class Word2vecBinary(Format):
    """Numbers as float32, with a line feed after each row as the original program has it."""

    name = "word2vec-binary"
    suffixes = (".bin",)
    dtypes = ("float32",)
    has_keys = True

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """First line, then word, space, vector, line feed; see :meth:`Format.write`."""
        file.write(_first_line(selection))
        for first, block in selection.blocks():
            values, width = block.tobytes(), block.shape[1] * block.itemsize
            words = enumerate(selection.words(first, len(block), _LONGEST_WORD))
            file.writelines(b"%b %b\n" % (word, values[i * width : (i + 1) * width]) for i, word in words)


def _first_line(selection: Selection) -> bytes:
    return b"%d %d\n" % selection.shape
