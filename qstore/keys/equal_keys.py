"""Keys by their sorted values: ranges with few enough of these to be sorted in memory, equal keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from ..system.options import one_of

__all__ = [
    "LARGEST",
    "NO_KEY_HASH",
    "SIGN",
    "Repeat",
    "check_duplicates",
    "refused",
    "repeats",
    "repeats_among",
    "value_ranges",
]

LARGEST = (1 << 64) - 1
"""The largest value: values are the hashes of texts, and whole numbers with their sign bit turned over."""

SIGN = 1 << 63

NO_KEY_HASH = 0x6C148B61304FB9CA
"""Hash of :data:`.layout.NO_KEY`; that a key has it, too, is not to be expected."""

Rows = NDArray[np.int64]
KeyOf = Callable[[int], str | int | None]
Histogram = Callable[[int, int, int], NDArray[np.int64]]


class Repeat(NamedTuple):
    """A row that is not found by its key, as one before has the same.

    Attributes
    ----------
    key : str or int
    row : int
    first : int
        The row that is found.
    """

    key: str | int
    row: int
    first: int


def check_duplicates(duplicates: str) -> bool:
    """Whether each key must stand once."""
    return one_of("duplicates", duplicates, ("error", "first")) == "error"


def refused(repeat: Repeat) -> SourceError:
    """What to raise where each key must stand once."""
    return SourceError(
        f"rows {repeat.first} and {repeat.row} have the same key, {repeat.key!r:.200}: expected each once; "
        f'mend the keys, or let such a key stand for the first row with duplicates="first" '
        f"(--duplicates first)"
    )


def value_ranges(
    low: int, high: int, count: int, histogram: Histogram, most: int, bins: int
) -> Iterator[tuple[int, int, int]]:
    """Divide the values from `low` to `high` (both included) into ranges with few enough of them.

    Yields (low, high, count) in ascending order. Only a range of a single value may have more than `most`.

    Parameters
    ----------
    low, high, count : int
        The values, and how many there are.
    histogram : callable
        (low, high, width) → how many lie in each of `bins` ranges of this width.
    most, bins : int
    """
    if count <= most or low == high:
        yield low, high, count
        return
    width = (high - low) // bins + 1
    first = held = 0
    for number, found in enumerate([*histogram(low, high, width).tolist(), most + 1]):
        if held and held + found > most:
            bounds = low + first * width, min(high, low + number * width - 1)
            few = held <= most
            yield from [(*bounds, held)] if few else value_ranges(*bounds, held, histogram, most, bins)
            held = 0
        if not held:
            first = number
        held += found


def repeats(values: NDArray[np.uint64], rows: Rows, key_of: KeyOf, texts: bool) -> Iterator[Repeat]:
    """Rows whose key one before has; values ascend, and rows of equal ones.

    Equal values are no reason: texts may share a hash. Rows without a key have none in common.
    """
    same = values[1:] == values[:-1]
    if texts:
        same &= values[1:] != np.uint64(NO_KEY_HASH)
    places = np.flatnonzero(same)
    if not len(places):
        return
    cuts = np.flatnonzero(np.diff(places) > 1)
    for start, stop in zip(places[np.append(0, cuts + 1)], places[np.append(cuts, -1)] + 2, strict=True):
        yield from repeats_among(rows[start:stop], key_of, {})


def repeats_among(rows: Rows, key_of: KeyOf, seen: dict[str | int, int]) -> Iterator[Repeat]:
    """The same of rows whose keys have one value; `seen` has the first row of each key that came before."""
    for row in rows.tolist():
        key = key_of(row)
        if key is not None and (first := seen.setdefault(key, row)) != row:
            yield Repeat(key, row, first)
