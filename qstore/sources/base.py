"""What a source is: one matrix, its shape and type known before any data is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..format.layout import DTYPE_LIMIT
from ..system.reported import Reported
from .text_encoding import TextEncoding

__all__ = ["Fingerprint", "KeyedSource", "Keys", "RowSource", "Source", "TensorInfo"]

Fingerprint = dict[str, Any]
"""JSON-able identity of a source: equal fingerprints mean "surely the same matrix"."""

Keys = list[str] | list[str | None] | NDArray[np.int64]
"""One key for each row of a chunk: texts, None where a row has none, or whole numbers."""


@dataclass(frozen=True, repr=False)
class TensorInfo(Reported):
    """One tensor of a source file, as `qstore ls` prints it.

    Attributes
    ----------
    name : str
        Empty where the format has no names.
    shape : tuple of int
    dtype : str
        Element type in NumPy's words ("float32", "bfloat16", …): what reading gives.
    stored : str
        The file's own name of the type, where that is another: "Q4_0" of GGUF, read as float32.
    convention : str
        How the values are computed of several tensors, in words; empty where they lie in the file.
    parts : tuple of TensorInfo
        These tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str = ""
    convention: str = ""
    parts: tuple[TensorInfo, ...] = ()


class Source(ABC):
    """A matrix to build a store from, read once from front to back.

    Attributes
    ----------
    name : str
        Name of the tensor; empty where there is none.
    dtype : str
        Element type in NumPy's words; one of ``quantization.ELEMENT_TYPES``.
    rows : int or None
        Number of rows; None while unknown.
    dim : int
        Number of columns, at least 1.
    keyed : bool
        Whether each row comes with a key: :meth:`keyed_chunks` then gives both.
    convention : str
        How the values are computed of several tensors, in words; empty where they lie in the source.
    notes : tuple of str
        What deserves a look, in words, whatever the values are.
    unused_names : tuple of str
        What could name the rows and is not taken unless it is given as their keys, in words.
    threads : int or None
        How many threads may unpack and parse, where it is read from front to back; None: as many as
        `thread_count` says.
    """

    name: str = ""
    dtype: str
    rows: int | None
    dim: int
    keyed: bool = False
    convention: str = ""
    notes: tuple[str, ...] = ()
    unused_names: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def recorded_dtype(self) -> str:
        """What a store of it says it was built from: how its values are computed, as far as there is room."""
        text = "".join(letter if letter.isprintable() else "?" for letter in self.convention)
        return text.encode()[:DTYPE_LIMIT].decode(errors="ignore") or self.dtype

    @abstractmethod
    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on, as arrays of shape (n, dim) with any n ≥ 0."""

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """Yield the rows from `start` on with as many keys.

        Raises
        ------
        SourceError
            :attr:`keyed` is False.
        """
        raise SourceError("the source carries no keys: give them apart, with keys=")

    def key_pieces(self) -> Iterator[Keys] | None:
        """The keys of all rows in order, some at a time, where they lie apart from the rows; else None."""
        return None

    def decode_keys(self, encoding: TextEncoding) -> None:
        """Take the keys that the source carries for text in this encoding.

        Raises
        ------
        SourceError
            It carries none, or none whose encoding could be another one.
        """
        raise SourceError(
            "the source carries no keys in an encoding to be told (as word vectors do): leave key_encoding= "
            "(--key-encoding) out, or give a text file of keys (--keys FILE)"
        )

    def count_rows(self) -> int:
        """Number of rows; where it is unknown, by reading all of them."""
        return sum(len(chunk) for chunk in self.chunks()) if self.rows is None else self.rows

    def bytes_read(self) -> tuple[int, int] | None:
        """How far its file has been read from front to back, and the size of that; None: cannot be told."""
        return None

    def check_keys(self) -> None:  # noqa: B027 - most keys show what they are when they are read
        """Raise `SourceError` where the keys it carries cannot be those of a store."""

    def fingerprint(self) -> Fingerprint | None:
        """Identity of the source, compared when an interrupted build goes on; None: cannot be told."""
        return None

    def check_unchanged(self) -> None:  # noqa: B027 - arrays and iterables cannot tell
        """Raise `SourceError` where the source has been changed since it was opened."""

    def close(self) -> None:  # noqa: B027 - arrays and iterables hold nothing to release
        """Release files and maps. May be called twice."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class KeyedSource(Source):
    """A source that carries a key for each row."""

    keyed = True

    @abstractmethod
    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """Yield the rows from `start` on, as arrays of shape (n, dim), with n keys each."""

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on."""
        return (chunk for chunk, _ in self.keyed_chunks(start))


class RowSource(Source):
    """A source that gives any range of rows, from any thread, without reading the rest."""

    rows: int

    def __enter__(self) -> RowSource:
        return self

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` (0 ≤ start ≤ stop ≤ rows) as an array of shape (stop - start, dim).

        The array may share memory with the source: read it, do not change it. Raises `SourceError`
        where the data ends early.
        """

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on in pieces of about 4 MiB."""
        step = max(1, (4 << 20) // (self.dim * np.dtype(np.float32).itemsize))
        for first in range(start, self.rows, step):
            yield self.read(first, min(first + step, self.rows))
