"""A store behind a URL: rows are fetched, then turned into values by the same kernels as local ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels, quantization
from ..errors import ClosedError, NoViewError
from ..format.layout import Facts, Shard, block_rows
from ..keys.lookup import KeyIndex
from ..reading import indexing
from ..reading.backing import Backing
from ..reading.parts import Part
from ..reading.verify import VerifyReport, verify_parts
from ..system.progress import Progress
from ..system.remote_objects.opening import open_reader
from ..system.urls import printable_url
from .fetcher import Codes, Fetcher, Scales
from .metadata import describe, describe_all
from .read_ahead import read_ahead

__all__ = ["RemoteStore", "inspect_url"]

_SPAN_BYTES = 8 << 20
"""Codes that one step of a scan reads; the next ones are under way meanwhile."""
_PIECE_BYTES = 64 << 20
"""Codes in memory at a time for scattered rows."""
_LONG_SLICE_BYTES = 1 << 20
"""A slice with more codes than this is a scan."""

_forking = threading.Lock()


def _forget_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _forking
    _forking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def _different(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different numbers in ascending order, and where each number is among them."""
    different, places = np.unique(numbers, return_inverse=True)
    return different, places.astype(np.int64, copy=False)


class RemoteStore(Backing):
    """The data of a store that lies behind a URL.

    Parameters
    ----------
    url : str
    storage_options : mapping, optional
        For fsspec's file system.
    cache_bytes : int
        Most memory for rows that were read lately.
    resident_scales : bool
        Read all scales now.

    Attributes
    ----------
    facts : Facts
    file_bytes : int
        Size of the object.

    Raises
    ------
    FormatError, VersionError
        The object is not a valid store, or of a newer version.
    MissingExtraError
        fsspec, or a library that it needs, is not installed.
    RemoteError
        The object cannot be read.
    """

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None, cache_bytes: int, resident_scales: bool
    ) -> None:
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes is {cache_bytes}, expected 0 or more")
        self.path = printable_url(url)
        self._url, self._storage_options = url, dict(storage_options or {})
        self._cache_bytes, self._resident_scales = cache_bytes, resident_scales
        reader = open_reader(url, self._storage_options)
        try:
            self.facts, window = describe(reader)
            fetcher = Fetcher(reader, window, self.facts, cache_bytes)
            if resident_scales:
                _ = fetcher.scales
        except BaseException:
            reader.close()
            raise
        self.file_bytes = reader.size
        self.shards = (Shard(self.path, 0, self.facts.rows, self.facts.content_id),)
        self.shape = (self.facts.rows, self.facts.dim)
        self._fetcher: Fetcher | None = fetcher

    def _here(self) -> Fetcher:
        """The fetcher of this process."""
        fetcher = self._fetcher
        if fetcher is None:
            raise ClosedError(f"the store {self.path} is closed")
        if fetcher.process == os.getpid():
            return fetcher
        with _forking:
            if self._fetcher is fetcher:
                self._fetcher = fetcher.forked()
        return self._here()

    def _numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers counted from 0; IndexError if one is out of range."""
        total = self.facts.rows
        bad = np.flatnonzero((rows < -total) | (rows >= total))
        if bad.size:
            raise IndexError(f"index {rows[bad[0]]} is out of bounds for axis 0 with size {total}")
        return np.where(rows < 0, rows + total, rows)

    def _pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, Codes, Scales, NDArray[np.int64]]]:
        """Parts of `rows`: which, codes and scales of the different rows among them, and where each is."""
        fetcher, numbers = self._here(), self._numbers(rows)
        step = max(1, _PIECE_BYTES // self.facts.dim)
        for start in range(0, numbers.size, step):
            piece = slice(start, start + step)
            different, places = _different(numbers[piece])
            yield piece, *fetcher.rows(different), places

    # Reading --------------------------------------------------------------------------------------

    def gather(
        self, rows: NDArray[np.int64], columns: slice, out: NDArray[Any], threads: int | None = None
    ) -> None:
        """See :meth:`.Backing.gather`. `out` is undefined after a RemoteError."""
        for piece, codes, scales, places in self._pieces(rows):
            kernels.gather(codes[:, columns], scales, places, out[piece], threads)

    def gather_codes(
        self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
    ) -> None:
        """See :meth:`.Backing.gather_codes`."""
        for piece, found_codes, found_scales, places in self._pieces(rows):
            codes[piece], scales[piece] = found_codes[places], found_scales[places]

    def read_row(self, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_row`."""
        if not -self.facts.rows <= number < self.facts.rows:
            indexing.judged(number, self.shape)
        out = np.empty(self.facts.dim, dtype)
        self.gather(np.array([number], np.int64), indexing.ALL, out[None])
        return out

    def read_slice(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_slice`."""
        self._here()
        numbers = range(self.facts.rows)[rows]
        out = kernels.fresh((len(numbers), self._width(columns)), dtype)
        if numbers.step != 1 or len(numbers) * self.facts.dim <= _LONG_SLICE_BYTES:
            self.gather(np.arange(numbers.start, numbers.stop, numbers.step), columns, out)
            return out
        for first, codes, scales in self.parts(numbers.start, numbers.stop):
            at = first - numbers.start
            kernels.dequantize_into(codes[:, columns], scales, out[at : at + len(codes)])
        return out

    def read_values(self, rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See :meth:`.Backing.read_values`."""
        for piece, codes, scales, places in self._pieces(rows):
            picked = codes[places, columns[piece]]
            kernels.dequantize_into(picked[:, None], scales[places], out[piece, None])

    def most_brought(self) -> int:
        """See :meth:`.Backing.most_brought`: as many as the cache holds."""
        return self._here().capacity

    def bring(self, rows: NDArray[np.int64]) -> None:
        """See :meth:`.Backing.bring`."""
        fetcher, different = self._here(), np.unique(rows)
        step = max(1, _PIECE_BYTES // self.facts.dim)
        for start in range(0, different.size, step):
            fetcher.rows(different[start : start + step])

    def _width(self, columns: slice) -> int:
        return len(range(self.facts.dim)[columns])

    def pool(
        self,
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[Any] | None,
        mode: Literal["sum", "mean"],
        out: NDArray[Any],
        threads: int | None = None,
    ) -> None:
        """See :meth:`.Backing.pool`. The different rows of all bags are in memory as codes."""
        fetcher = self._here()
        quantization.bag_lengths(offsets, rows.size)  # before anything is fetched
        different, places = _different(self._numbers(rows))
        codes, scales = fetcher.rows(different)
        kernels.pool(codes, scales, places, offsets, weights, mode, out, threads)

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """See :meth:`.Backing.parts`: about 8 MiB of codes each, the next ones under way meanwhile."""
        return self._spans(first, last, 1)

    def _spans(self, first: int, last: int, multiple: int) -> Iterator[Part]:
        """Parts of a multiple of so many rows, but for the last one."""
        step = max(1, _SPAN_BYTES // (self.facts.dim * multiple)) * multiple

        def load(start: int) -> Part:
            numbers = np.arange(start, min(last, start + step))
            codes, scales = self._here().rows(numbers, scan=True)
            codes.flags.writeable = scales.flags.writeable = False
            return Part(start, codes, scales)

        return read_ahead(load, range(first, last, step))

    def blocks(self, step: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """See :meth:`.Backing.blocks`."""
        for first, codes, scales in self._spans(0, self.facts.rows, step):
            for start in range(0, len(codes), step):
                held = slice(start, start + step)
                block = np.empty(codes[held].shape, dtype)
                kernels.dequantize_into(codes[held], scales[held], block)
                yield first + start, block

    # All of it ------------------------------------------------------------------------------------

    def view(self, name: Literal["codes", "scales", "checksums"]) -> NDArray[Any]:
        """See :meth:`.Backing.view`. Scales are fetched and kept, 8 bytes a row; codes are refused."""
        fetcher = self._here()
        if name == "codes":
            raise NoViewError(
                f"{self.path} is remote, so its codes do not lie in one piece: store.parts() walks them, "
                f"store.take_codes(rows) gives some, store.take(rows) and store.blocks() give values"
            )
        return fetcher.scales if name == "scales" else fetcher.checksums

    def key_index(self) -> KeyIndex:
        """See :meth:`.Backing.key_index`. All keys are fetched the first time, and kept."""
        keys = self._here().keys
        if keys is None:
            raise IndexError(f"the rows of {self.path} have no keys: they are found by number only")
        return keys

    def fidelity_numbers(self) -> NDArray[np.float64] | None:
        """See :meth:`.Backing.fidelity_numbers`. Fetched when they are asked for."""
        return self._here().fidelity()

    def verify(self, progress: Progress = None, threads: int | None = None) -> VerifyReport:
        """See :meth:`.Backing.verify`. All keys are in memory; FormatError if their headers are damaged."""
        rows, dim = self.shape
        fetcher = self._here()
        checksums, keys = fetcher.checksums, fetcher.key_arrays()
        parts = self._spans(0, rows, block_rows(dim))
        fidelity = fetcher.fidelity()
        return verify_parts(
            parts, rows, dim, checksums, self.facts.content_id, progress, keys, fidelity, threads
        )

    def reopening(self) -> tuple[Any, dict[str, Any]]:
        """See :meth:`.Backing.reopening`."""
        return self._url, {
            "storage_options": self._storage_options,
            "cache_bytes": self._cache_bytes,
            "resident_scales": self._resident_scales,
        }

    @property
    def is_closed(self) -> bool:
        """See :meth:`.Backing.is_closed`."""
        return self._fetcher is None

    def close(self) -> None:
        """See :meth:`.Backing.close`."""
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            fetcher.close()


def inspect_url(url: str) -> tuple[int, Facts, NDArray[np.float64] | None]:
    """Size in bytes, checked metadata and measured errors of the store behind `url`."""
    reader = open_reader(url, {})
    try:
        about, window = describe(reader)
        everything = describe_all(reader, window, about)
        return reader.size, everything, Fetcher(reader, window, about, 0).fidelity()
    finally:
        reader.close()
