"""Small files of word vectors, plain and packed, for the tests about them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["PACK", "VALUES", "WORDS", "binary_words", "text_words", "zipped"]

VALUES = np.array([[1, -2.5, 0.5], [0, 0.125, -7], [3, 2, 1]], np.float32)
WORDS = [b"the", "Zürich".encode(), b"w3"]


def binary_words(words: Sequence[bytes] = WORDS, end: bytes = b"\n", rows: int | None = None) -> bytes:
    """A word2vec binary file of :data:`VALUES`; `rows` is what its header says."""
    body = b"".join(word + b" " + row.tobytes() + end for word, row in zip(words, VALUES, strict=False))
    return b"%d 3\n" % (len(words) if rows is None else rows) + body


def text_words(
    words: Sequence[bytes] = WORDS, between: str = " ", behind: str = " ", rows: int | None = None
) -> bytes:
    """A text file of :data:`VALUES`; `behind` stands behind the word. `rows` -1: without a header."""
    lines = (
        word + (behind + between.join(map(repr, row)) + "\n").encode()
        for word, row in zip(words, VALUES.tolist(), strict=False)
    )
    head = b"" if rows == -1 else b"%d 3\n" % (len(words) if rows is None else rows)
    return head + b"".join(lines)


def zipped(
    content: bytes | dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, name: str = "vectors.txt"
) -> bytes:
    """A zip archive of one file, or of several by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for each, data in (content if isinstance(content, dict) else {name: content}).items():
            archive.writestr(zipfile.ZipInfo(each), data, method)  # of 1980: the same bytes each time
    return file.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zip": zipped,
}
"""What packs the content of a file, by its suffix."""
