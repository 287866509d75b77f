"""Rows by key in NumPy: the hash of texts, and searches in an index that may hold anything.

The C kernels (``_kernels/keys.c``) find the same in every index that is in order. The index is that of
``docs/format.md``; nothing in it is taken for granted: a search ends, and stays inside, whatever it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TextFinder", "find_ids", "find_texts", "hash_texts", "spread"]

_MASK = (1 << 64) - 1
_BASIS, _PRIME = 0xCBF29CE484222325, 0x100000001B3
_SPREAD = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)

# With fewer texts than this that are so long, a step for all of them costs more than one for each in Python.
_FEW = 8

Numbers = NDArray[np.int64]


def hash_texts(text: NDArray[np.uint8], offsets: Numbers, out: NDArray[np.uint64]) -> int:
    """Fill `out` with the hash of each text: FNV-1a in 64 bits, then the last step of MurmurHash3.

    Parameters
    ----------
    text : ndarray of uint8
        UTF-8 of all texts, one behind the other.
    offsets : ndarray of int64, shape (n + 1,)
        Where each begins, and the last one ends.
    out : ndarray of uint64, shape (n,)

    Returns
    -------
    int
        -1, or the number of the first text whose offsets lie.
    """
    starts, stops = offsets[:-1], offsets[1:]
    bad = (starts < 0) | (stops < starts) | (stops > len(text))
    if bad.any():
        return int(bad.argmax())
    lengths = stops - starts
    hashes = np.full(len(lengths), _BASIS, np.uint64)
    running, position = np.flatnonzero(lengths > 0), 0
    while len(running) > _FEW:
        step = hashes[running] ^ text[starts[running] + position]
        hashes[running] = step * np.uint64(_PRIME)
        position += 1
        running = running[lengths[running] > position]
    for number in running.tolist():
        rest = text[int(starts[number]) + position : int(stops[number])].tobytes()
        hashes[number] = _fnv(rest, int(hashes[number]))
    out[:] = spread(hashes)
    return -1


def _fnv(data: bytes, value: int) -> int:
    for byte in data:
        value = (value ^ byte) * _PRIME & _MASK
    return value


def spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The step that makes the high bits as good as the others, so that interpolation finds a hash."""
    shift = np.uint64(33)
    for factor in _SPREAD:
        values = (values ^ (values >> shift)) * np.uint64(factor)
    return values ^ (values >> shift)


def encoded(keys: Sequence[str]) -> tuple[NDArray[np.uint8], Numbers]:
    """UTF-8 of texts, one behind the other, and where each begins and the last one ends.

    Raises
    ------
    TypeError
        A key is no text.
    UnicodeEncodeError
        A key has half of a surrogate pair.
    """
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"a key must be a text (str), found {key!r}")
    parts = [key.encode() for key in keys]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def find_texts(
    hashes: NDArray[np.uint64],
    rows: Numbers,
    offsets: Numbers,
    text: NDArray[np.uint8],
    keys: Sequence[str],
    out: Numbers,
) -> int:
    """Fill `out` with the first row of each key, or -1 where it has none.

    Parameters
    ----------
    hashes, rows, offsets, text
        The datasets of ``/keys``; N, N, N + 1 and T long.
    keys : sequence of str, length n
    out : ndarray of int64, shape (n,)

    Returns
    -------
    int
        -1, or the number of the first key whose entry has an impossible row or offset.
    """
    wanted, bounds = encoded(keys)
    values = np.empty(len(keys), np.uint64)
    hash_texts(wanted, bounds, values)
    places = np.searchsorted(hashes, values).tolist()
    for number, (place, value) in enumerate(zip(places, values, strict=True)):
        key = wanted[bounds[number] : bounds[number + 1]].tobytes()
        out[number] = row = _row_of_text(hashes, rows, offsets, text, place, value, key)
        if row < -1:
            return number
    return -1


class TextFinder:
    """An index that one key at a time is looked up in.

    Parameters
    ----------
    hashes, rows, offsets, text
        As for :func:`find_texts`.
    """

    def __init__(
        self, hashes: NDArray[np.uint64], rows: Numbers, offsets: Numbers, text: NDArray[np.uint8]
    ) -> None:
        self._index = hashes, rows, offsets, text

    def find(self, key: str) -> int:
        """The first row of a key; -1: it has none, -2: its entry has an impossible row or offset."""
        out = np.empty(1, np.int64)
        return -2 if find_texts(*self._index, [key], out) >= 0 else int(out[0])


def _row_of_text(
    hashes: NDArray[np.uint64],
    rows: Numbers,
    offsets: Numbers,
    text: NDArray[np.uint8],
    place: int,
    value: Any,
    key: bytes,
) -> int:
    """The first row from `place` on that has this hash and key; -1: none, -2: the index is damaged."""
    while place < len(hashes) and hashes[place] == value:
        row = int(rows[place])
        if not 0 <= row < len(rows):
            return -2
        start, stop = int(offsets[row]), int(offsets[row + 1])
        if not 0 <= start <= stop <= len(text):
            return -2
        if text[start:stop].tobytes() == key:
            return row
        place += 1
    return -1


def find_ids(ordered: Numbers, rows: Numbers, keys: Numbers, out: Numbers) -> int:
    """Fill `out` with the first row of each key, or -1 where it has none.

    Parameters
    ----------
    ordered, rows : ndarray of int64, shape (N,)
        The datasets ``/keys/sorted`` and ``/keys/rows``.
    keys, out : ndarray of int64, shape (n,)

    Returns
    -------
    int
        -1, or the number of the first key whose entry has an impossible row.
    """
    out[:] = -1
    if not len(ordered):
        return -1
    places = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    found = ordered[places] == keys
    out[found] = rows[places[found]]
    bad = found & ((out < 0) | (out >= len(rows)))
    return int(bad.argmax()) if bad.any() else -1
