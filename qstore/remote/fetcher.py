"""Rows and keys of a remote store, from memory or in few ranges."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..errors import FormatError
from ..format.layout import TYPES, Extent, Facts
from ..keys.checking import checksum_problems
from ..keys.lookup import KeyIndex, open_keys
from ..system.remote_objects.reader import Reader
from .metadata import Window, describe_all
from .planning import coalesce, split
from .row_cache import RowCache

__all__ = ["Codes", "Fetcher", "Scales"]

Codes = NDArray[np.uint8]
Scales = NDArray[np.float64]
KeyArrays = dict[str, NDArray[Any]]


class Fetcher:
    """Reads rows in one process; any number of threads may use it.

    Attributes
    ----------
    process : int
        Id of the process it belongs to.
    """

    def __init__(self, reader: Reader, window: Window, about: Facts, cache_bytes: int) -> None:
        self._reader, self._window, self._about, self._cache_bytes = reader, window, about, cache_bytes
        self._scales: Scales | None = None
        self._checksums: NDArray[np.uint32] | None = None
        self._keys: KeyIndex | None = None
        self._key_arrays: KeyArrays = {}
        self._begin()

    def _begin(self) -> None:
        self.process = os.getpid()
        self._cache = RowCache(self._about.rows, self._about.dim, self._cache_bytes)
        self._whole_lock = threading.Lock()  # what is read as a whole is read once

    def forked(self) -> Fetcher:
        """The same for a child process: with connections, a lock and a cache of its own."""
        again = copy.copy(self)
        again._reader = self._reader.reopened()
        again._window = self._window.read_by(again._reader)
        again._begin()
        return again

    @property
    def capacity(self) -> int:
        """Rows that the cache holds."""
        return self._cache.capacity

    def close(self) -> None:
        """Close connections. May be called twice."""
        self._reader.close()

    def rows(self, numbers: NDArray[np.int64], scan: bool = False) -> tuple[Codes, Scales]:
        """Codes (n, D) and scales (n,) of rows in ascending order, all different.

        Those of a `scan` are kept in the cache only if all rows have room there.
        """
        codes, scales = np.empty((numbers.size, self._about.dim), np.uint8), np.empty(numbers.size)
        missing = self._cache.fill(numbers, codes, scales)
        if not missing.size:
            return codes, scales
        wanted = numbers[missing]
        read_codes, read_scales = self._read(wanted)
        if not scan or self._cache.capacity >= self._about.rows:
            self._cache.keep(wanted, read_codes, read_scales)
        if missing.size == numbers.size:
            return read_codes, read_scales
        codes[missing], scales[missing] = read_codes, read_scales
        return codes, scales

    def _read(self, numbers: NDArray[np.int64]) -> tuple[Codes, Scales]:
        count, dim, extents = numbers.size, self._about.dim, self._about.extents
        offsets, sizes = extents["codes"].offset + numbers * dim, np.full(count, dim)
        if self._scales is None:
            offsets = np.concatenate((offsets, extents["scales"].offset + 8 * numbers))
            sizes = np.concatenate((sizes, np.full(count, 8)))
        plan = coalesce(offsets, sizes)
        read = np.frombuffer(b"".join(self._bytes(plan.ranges)), np.uint8)
        codes = _pieces(read, plan.places[:count], dim)
        if self._scales is not None:
            return codes, self._scales[numbers]
        scales = _pieces(read, plan.places[count:], 8)
        return codes, np.frombuffer(scales.tobytes(), "<f8").astype(np.float64, copy=False)

    def _bytes(self, extents: list[Extent]) -> list[bytes]:
        """What is not in memory since the store was opened is fetched."""
        held = [self._window.find(extent) for extent in extents]
        missing = [extent for extent, data in zip(extents, held, strict=True) if data is None]
        fetched = iter(self._reader.fetch(missing) if missing else ())
        return [next(fetched) if data is None else data for data in held]

    @property
    def scales(self) -> Scales:
        """All scales; kept from then on."""
        with self._whole_lock:
            if self._scales is None:
                scales = self._whole("scales", self._about).astype(np.float64)
                scales.flags.writeable = False
                self._scales = scales
            return self._scales

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """All checksums, shape (B, 2); kept from then on."""
        with self._whole_lock:
            if self._checksums is None:
                self._checksums = self._whole("checksums", self._about).reshape(-1, 2)
            return self._checksums

    @property
    def keys(self) -> KeyIndex | None:
        """The keys, compared with their checksums and kept from then on; None where there are none.

        Raises
        ------
        FormatError
            They are damaged.
        """
        with self._whole_lock:
            if self._keys is None:
                arrays = self._fetched_keys()
                problems = checksum_problems(arrays) if arrays else []
                if problems:
                    words = f"the keys are damaged: {', '.join(problems)}; qstore verify says more"
                    raise FormatError(f"{self._reader.name}: {words}")
                self._keys, self._key_arrays = open_keys(self._reader.name, arrays), arrays
            return self._keys

    def key_arrays(self) -> KeyArrays:
        """The datasets of the keys by name, whatever is in them; none where there are no keys."""
        with self._whole_lock:
            return self._key_arrays or self._fetched_keys()

    def _fetched_keys(self) -> KeyArrays:
        if self._about.key_kind is None:
            return {}
        about = describe_all(self._reader, self._window, self._about)
        names = (name for name in about.extents if name.startswith("keys/"))
        return {name.removeprefix("keys/"): self._whole(name, about) for name in names}

    def fidelity(self) -> NDArray[np.float64] | None:
        """What the build measured; None where it did not."""
        about = describe_all(self._reader, self._window, self._about)
        return self._whole("fidelity", about) if "fidelity" in about.extents else None

    def _whole(self, name: str, about: Facts) -> NDArray[Any]:
        return np.frombuffer(b"".join(self._bytes(split(about.extents[name]))), TYPES[name])


def _pieces(read: Codes, places: NDArray[np.int64], size: int) -> Codes:
    """The pieces of `size` bytes at `places`, ascending; not copied where they follow one another."""
    first, end = int(places[0]), int(places[-1]) + size
    if end - first == size * places.size:
        return read[first:end].reshape(-1, size)
    return sliding_window_view(read, size)[places]
