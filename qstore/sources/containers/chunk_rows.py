"""Arrays in large chunks, each of which is unpacked once and held while its rows are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChunkRows", "rows_of_chunks"]

# A few of these are read at a time: below, a chunk that two slices share costs little.
_LEAST_BYTES = 1 << 20
# What is larger is read as it is asked for, and unpacked again for each slice.
_MOST_BYTES = 2 << 30


def rows_of_chunks(array: Any) -> int:
    """Rows of each chunk of an array that tells them, as zarr and h5py do; 0 where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> rows_of_chunks(np.zeros((3, 2)))
    0
    """
    chunks = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != 2:
        return 0
    return chunks[0] if all(isinstance(length, int) for length in chunks) else 0


class ChunkRows:
    """Rows of an array, read whole chunks at a time where these are large.

    `read` may run in any number of threads; one of them unpacks, the others wait.

    Parameters
    ----------
    rows : int
        Of the array.
    chunk : int
        Rows of a chunk; 0: there are none.
    row_bytes : int
    least : int, optional
        Bytes of chunks side by side from which on they are held.
    """

    def __init__(self, rows: int, chunk: int, row_bytes: int, least: int = _LEAST_BYTES) -> None:
        self._rows = rows
        self._chunk = chunk if chunk > 1 and least <= min(chunk, rows) * row_bytes <= _MOST_BYTES else 0
        self._lock = threading.Lock()
        self._first, self._held = 0, None

    _held: NDArray[Any] | None

    def read(self, start: int, stop: int, unpack: Callable[[int, int], NDArray[Any]]) -> NDArray[Any]:
        """Rows `start` to `stop`; a view of a chunk where they lie in one.

        `unpack` gives those rows of the array. It is not kept: what it belongs to has this for a part, and
        such a circle would stay in memory until it is looked for.
        """
        if not self._chunk or start == stop:
            return unpack(start, stop)
        parts = []
        with self._lock:
            while start < stop:
                first = start - start % self._chunk
                if self._held is None or self._first != first:
                    self._held = None  # before another one takes as much memory
                    self._held = unpack(first, min(first + self._chunk, self._rows))
                    self._first = first
                end = min(stop, first + self._chunk)
                parts.append(self._held[start - first : end - first])
                start = end
            if end == first + self._chunk:  # nothing of it is left to ask for
                self._held = None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
