"""Are the keys of a store what they should be? Checksums, order, texts, and whether the index finds all."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels, key_search
from ..format.layout import KEY_NAMES

__all__ = ["checksum_problems", "key_problems"]

_STEP = 1 << 17

Arrays = Mapping[str, NDArray[Any]]


def key_problems(arrays: Arrays) -> list[str]:
    """What is wrong with the datasets of ``/keys``, in words; nothing if they are as the format says.

    Reads everything once or twice, in pieces.
    """
    kind = _kind(arrays)
    problems = checksum_problems(arrays)
    by_value = arrays["hashes"] if kind == "text" else arrays["sorted"]
    problems.extend(_disordered(by_value, arrays["rows"], "hashes" if kind == "text" else "sorted"))
    if kind == "text":
        bad_offsets = _bad_offsets(arrays["offsets"], len(arrays["bytes"]))
        if bad_offsets:
            return [*problems, bad_offsets]
        problems.extend(_bad_texts(arrays["offsets"], arrays["bytes"]))
    if _entries(by_value, arrays["rows"]) != _keys(arrays):
        problems.append("/keys: the index does not hold each row once, with the hash or number of its key")
    return problems


def checksum_problems(arrays: Arrays) -> list[str]:
    """Which datasets of ``/keys`` differ from their checksums, in words."""
    return list(_differing(arrays))


def _differing(arrays: Arrays) -> Iterator[str]:
    names = KEY_NAMES[_kind(arrays)][:-1]
    for name, expected in zip(names, arrays["checksums"].tolist(), strict=True):
        found = 0
        for start in range(0, len(arrays[name]), _STEP):
            found = zlib.crc32(arrays[name][start : start + _STEP].tobytes(), found)
        if found != expected:
            yield f"/keys/{name} differs from its checksum"


def _kind(arrays: Arrays) -> Literal["text", "integer"]:
    return "text" if "hashes" in arrays else "integer"


def _disordered(values: NDArray[Any], rows: NDArray[np.int64], name: str) -> Iterator[str]:
    """Values must ascend, and rows of equal ones."""
    for start in range(0, len(values), _STEP):
        held = slice(start, start + _STEP + 1)
        before, after = values[held][:-1], values[held][1:]
        wrong = (before > after) | ((before == after) & (rows[held][:-1] >= rows[held][1:]))
        if wrong.any():
            yield f"/keys/{name} or /keys/rows is out of order at {start + int(wrong.argmax()) + 1}"
            return


def _bad_offsets(offsets: NDArray[np.int64], size: int) -> str:
    if offsets[0] != 0 or offsets[-1] != size:
        return f"/keys/offsets goes from {offsets[0]} to {offsets[-1]}, expected 0 to {size}"
    for start in range(0, len(offsets), _STEP):
        held = offsets[start : start + _STEP + 1]
        if (held[:-1] > held[1:]).any():
            row = start + int((held[:-1] > held[1:]).argmax())
            return f"/keys/offsets descends behind row {row}"
    return ""


def _bad_texts(offsets: NDArray[np.int64], text: NDArray[np.uint8]) -> Iterator[str]:
    """Each text must be UTF-8 of its own: all together, and none begun inside a character."""
    for first, bounds, raw in _texts(offsets, text):
        try:
            raw.tobytes().decode()
            begun = raw[bounds[:-1][bounds[:-1] < len(raw)]]
            if not (begun & 0xC0 == 0x80).any():
                continue
        except UnicodeDecodeError:
            pass
        yield f"/keys/bytes is not UTF-8 somewhere in rows {first} to {first + len(bounds) - 2}"
        return


def _texts(
    offsets: NDArray[np.int64], text: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield (first row, offsets from 0 on, bytes) of consecutive rows; the offsets have been checked."""
    for first in range(0, len(offsets) - 1, _STEP):
        bounds = offsets[first : first + _STEP + 1]
        yield first, bounds - bounds[0], text[bounds[0] : bounds[-1]]


# The pairs of value and row are compared as sets, without sorting: by the sum of a hash of each. --------


def _entries(values: NDArray[Any], rows: NDArray[np.int64]) -> int:
    total = 0
    for start in range(0, len(values), _STEP):
        total += _sum(values[start : start + _STEP], rows[start : start + _STEP])
    return total % 2**64


def _keys(arrays: Arrays) -> int:
    total = 0
    for first, values in _values(arrays):
        total += _sum(values, np.arange(first, first + len(values)))
    return total % 2**64


def _values(arrays: Arrays) -> Iterator[tuple[int, NDArray[Any]]]:
    if "ids" in arrays:
        for first in range(0, len(arrays["ids"]), _STEP):
            yield first, arrays["ids"][first : first + _STEP]
        return
    for first, bounds, raw in _texts(arrays["offsets"], arrays["bytes"]):
        hashes = np.empty(len(bounds) - 1, np.uint64)
        kernels.key_engine().hash_texts(raw, bounds, hashes)
        yield first, hashes


def _sum(values: NDArray[Any], rows: NDArray[np.int64]) -> int:
    mixed = key_search.spread(values.view(np.uint64)) + rows.view(np.uint64)
    return int(key_search.spread(mixed).sum(dtype=np.uint64))
