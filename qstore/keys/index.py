"""Makes the index of a store's keys in its unfinished file, in bounded memory.

The keys are written by row as they come. Sorting needs no other file: the values to sort (hashes, or the
numbers) are made again from what was written, range by range of values, each range so narrow that what
lies in it can be sorted in memory.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..format.layout import KEY_NAMES, Extent, KeyPart
from ..system import durable_files
from .equal_keys import LARGEST, SIGN, refused, repeats, value_ranges
from .packed import KeyBlock

__all__ = ["KeyIndexWriter"]

MOST_SORTED = 4 << 20
"""Values sorted in memory at once: 128 MiB with their rows and what sorting takes."""

_BINS = 1 << 16
_STEP_ROWS = 1 << 18
_STEP_BYTES = 16 << 20
_SIGN = np.uint64(SIGN)

Values = NDArray[np.uint64]
Rows = NDArray[np.int64]


class KeyIndexWriter:
    """Writes the datasets of ``/keys``. For one thread.

    Parameters
    ----------
    fd : int
        The unfinished file, open for reading and writing.
    places : mapping
        Where the datasets go: :func:`.layout.places`.
    rows : int
    part : KeyPart
    duplicates : {"error", "first"}
        Whether the key of two rows may be the same; it then stands for the first of them.
    """

    def __init__(
        self,
        fd: int,
        places: Mapping[str, Extent],
        rows: int,
        part: KeyPart,
        duplicates: Literal["error", "first"],
    ) -> None:
        self._fd = fd
        self._rows = rows
        self._part = part
        self._unique = duplicates == "error"
        self._places = {name: places[f"keys/{name}"] for name in KEY_NAMES[part.kind]}
        self._written = dict.fromkeys(self._places, 0)
        self._crcs = dict.fromkeys(self._places, 0)

    def add(self, block: KeyBlock) -> None:
        """Write the keys of the next rows."""
        if self._part.kind == "integer":
            self._write("ids", block.data)
            return
        offsets = np.empty(block.rows, "<i8")
        if block.rows:
            offsets[0] = 0
            np.cumsum(block.lengths[:-1], dtype=np.int64, out=offsets[1:])
        offsets += self._written["bytes"]
        self._write("offsets", offsets.data.cast("B"))
        self._write("bytes", block.data)

    def finish(self) -> NDArray[np.uint32]:
        """Sort, and write what is left; return the checksums.

        Raises
        ------
        SourceError
            Two rows have the same key.
        """
        if self._part.kind == "text":
            self._write("offsets", self._written["bytes"].to_bytes(8, "little"))
        for low, high, count in value_ranges(0, LARGEST, self._rows, self._histogram, MOST_SORTED, _BINS):
            for values, rows in self._in_order(low, high, count):
                if self._unique:
                    for repeat in repeats(values, rows, self._key_of, self._part.kind == "text"):
                        raise refused(repeat)
                if self._part.kind == "integer":
                    values ^= _SIGN
                self._write("hashes" if self._part.kind == "text" else "sorted", values.data.cast("B"))
                self._write("rows", rows.data.cast("B"))
        names = KEY_NAMES[self._part.kind][:-1]
        checksums = np.array([self._crcs[name] for name in names], "<u4")
        self._write("checksums", checksums.tobytes())
        return checksums

    def _write(self, name: str, data: bytes | memoryview) -> None:
        durable_files.write_all(self._fd, data, self._places[name].offset + self._written[name])
        self._written[name] += len(data)
        self._crcs[name] = zlib.crc32(data, self._crcs[name])

    def _read(self, name: str, first: int, last: int) -> bytes:
        """Bytes `first` to before `last` of a dataset that has been written."""
        raw = durable_files.read_exactly(self._fd, last - first, self._places[name].offset + first)
        if len(raw) != last - first:
            raise OSError(5, f"{os.strerror(5)}: /keys/{name} was changed while it was in use")
        return raw

    # Values to sort -------------------------------------------------------------------------------

    def _values(self) -> Iterator[tuple[int, Values]]:
        """Yield (first row, values) of consecutive rows, that sort as uint64."""
        for first in range(0, self._rows, _STEP_ROWS):
            last = min(first + _STEP_ROWS, self._rows)
            if self._part.kind == "integer":
                yield first, np.frombuffer(self._read("ids", 8 * first, 8 * last), np.uint64) ^ _SIGN
            else:
                yield from self._hashes(first, self._offsets(first, last))

    def _offsets(self, first: int, last: int) -> Rows:
        return np.frombuffer(self._read("offsets", 8 * first, 8 * (last + 1)), np.int64)

    def _hashes(self, first: int, offsets: Rows) -> Iterator[tuple[int, Values]]:
        """Hashes of the texts with these offsets, some MiB of text at a time, one text at least."""
        start = 0
        while start < len(offsets) - 1:
            stop = int(np.searchsorted(offsets, offsets[start] + _STEP_BYTES, "right")) - 1
            bounds = offsets[start : max(stop, start + 1) + 1]
            text = np.frombuffer(self._read("bytes", int(bounds[0]), int(bounds[-1])), np.uint8)
            hashes = np.empty(len(bounds) - 1, np.uint64)
            kernels.key_engine().hash_texts(text, bounds - bounds[0], hashes)
            yield first + start, hashes
            start += len(hashes)

    # Ranges ---------------------------------------------------------------------------------------

    def _histogram(self, low: int, high: int, width: int) -> NDArray[np.int64]:
        counts = np.zeros(_BINS, np.int64)
        for _, values in self._values():
            above = values - np.uint64(low)  # modulo 2**64: those below are far above
            bins = above[above <= np.uint64(high - low)] // np.uint64(width)
            counts += np.bincount(bins.astype(np.int64), minlength=_BINS)
        return counts

    def _in_order(self, low: int, high: int, count: int) -> Iterator[tuple[Values, Rows]]:
        """Values of a range in ascending order with their rows; rows of equal values ascend."""
        if count > MOST_SORTED:  # of a single value: they come in order
            yield from self._selected(low, high)
            return
        values, rows, done = np.empty(count, np.uint64), np.empty(count, np.int64), 0
        for some_values, some_rows in self._selected(low, high):
            values[done : done + len(some_rows)] = some_values
            rows[done : done + len(some_rows)] = some_rows
            done += len(some_rows)
        order = np.argsort(values)
        ordered = values[order]
        if (ordered[1:] == ordered[:-1]).any():
            order = np.argsort(values, kind="stable")
        del values  # each of these arrays may have 32 MiB
        rows = rows[order]
        del order
        yield ordered, rows

    def _selected(self, low: int, high: int) -> Iterator[tuple[Values, Rows]]:
        for first, values in self._values():
            rows = np.flatnonzero(values - np.uint64(low) <= np.uint64(high - low))  # modulo 2**64
            if len(rows):
                yield values[rows], rows + first

    def _key_of(self, row: int) -> str | int:
        if self._part.kind == "integer":
            return int.from_bytes(self._read("ids", 8 * row, 8 * row + 8), "little", signed=True)
        start, stop = self._offsets(row, row + 1).tolist()
        return self._read("bytes", start, stop).decode()
