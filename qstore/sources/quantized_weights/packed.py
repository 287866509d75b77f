"""Items that lie in a file otherwise than as rows of whole bytes: packed ones, vectors along the columns."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..base import Fingerprint, RowSource
from ..checks import check_range
from .recipe import Layout

__all__ = ["PackedRows", "unpacked"]


class PackedRows(RowSource):
    """The bytes of a tensor by another layout; packed items become one in each byte. Any threads may read.

    Parameters
    ----------
    part : RowSource
        Bytes of the tensor, closed with this one.
    layout : Layout
        One that the tensor is large enough for.
    """

    dtype = "uint8"

    def __init__(self, part: RowSource, layout: Layout) -> None:
        self.name, self.rows, self.dim = part.name, layout.rows, layout.columns
        self._part, self._layout = part, layout

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop`; see :meth:`.RowSource.read`."""
        check_range(self.name, start, stop, self.rows)
        if start == stop:
            return np.empty((0, self.dim), np.uint8)
        layout = self._layout
        first, last = start * layout.row_bits, stop * layout.row_bits
        raw = self._bytes(first // 8, -(-last // 8))
        if layout.bits == 8:
            return raw.reshape(stop - start, -1)[:, : self.dim]
        if layout.row_bits % 8 == 0:
            found = unpacked(raw.reshape(stop - start, -1), layout.bits)[:, : self.dim]
        else:  # rows share bytes: all items are one run, of which some come before
            each = layout.row_bits // layout.bits
            before = first % 8 // layout.bits
            found = unpacked(raw[None], layout.bits)[0, before : before + (stop - start) * each]
            found = found.reshape(stop - start, each)[:, : self.dim]
        if layout.signed:
            middle = np.uint8(1 << (layout.bits - 1))
            found = (found ^ middle) - middle
        return np.ascontiguousarray(found)

    def _bytes(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Those of a run, whatever rows the part has."""
        wide = self._part.dim
        first = begin // wide
        found = self._part.read(first, -(-end // wide)).reshape(-1)
        return found[begin - first * wide : end - first * wide]

    def fingerprint(self) -> Fingerprint | None:
        """That of the bytes."""
        return self._part.fingerprint()

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._part.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._part.close()


def unpacked(raw: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Items of less than 8 bits, which follow one another from the lowest bits of the first byte on.

    Parameters
    ----------
    raw : ndarray of uint8, shape (rows, bytes)
    bits : int
        1 to 7.

    Returns
    -------
    ndarray of uint8, shape (rows, items)
        Where bytes are left over, too few for an item, it ends with what zeros behind them would make.

    Examples
    --------
    >>> unpacked(np.array([[0b11_100_010, 0b0_000_001_0]], np.uint8), 3)[0, :3]
    array([2, 4, 3], dtype=uint8)
    """
    together = math.lcm(bits, 8)
    rows, given = raw.shape
    groups = -(-given * 8 // together)
    if given * 8 % together:
        raw = np.pad(raw, ((0, 0), (0, groups * together // 8 - given)))
    words = raw
    if together > 8:
        words = np.zeros((rows, groups), np.uint64)
        for place in range(together // 8):
            words |= raw[:, place :: together // 8].astype(np.uint64) << np.uint64(8 * place)
    found = np.empty((rows, groups, together // bits), np.uint8)
    mask = words.dtype.type((1 << bits) - 1)
    for place in range(together // bits):
        found[..., place] = (words >> words.dtype.type(bits * place)) & mask
    return found.reshape(rows, -1)
