"""The parts of remote reading: plans of ranges, reading ahead, the cache of rows."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qstore.remote.planning import LONGEST_GAP, LONGEST_RANGE, coalesce
from qstore.remote.read_ahead import read_ahead
from qstore.remote.row_cache import RowCache

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def test_the_next_piece_is_read_meanwhile() -> None:
    begun = [threading.Event() for _ in range(4)]

    def load(number: int) -> int:
        begun[number].set()
        if number == 3:
            raise ValueError("3 is bad")
        return number

    found = read_ahead(load, range(4))
    for number in range(3):
        assert next(found) == number
        assert begun[number + 1].wait(300)
    with pytest.raises(ValueError, match="3 is bad"):
        next(found)


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 100_000)), min_size=1, max_size=30),
    st.integers(0, 1 << 60),
)
def test_plans(gaps_and_sizes: list[tuple[int, int]], first: int) -> None:
    gaps, sizes = (np.array(column) for column in zip(*gaps_and_sizes, strict=True))
    offsets = first + np.cumsum(gaps + sizes) - sizes
    plan = coalesce(offsets, sizes)
    held = np.concatenate([np.arange(one.offset, one.stop) for one in plan.ranges])
    for place, offset, size in zip(plan.places, offsets, sizes, strict=True):
        assert held[place] == offset
        assert held[place + size - 1] == offset + size - 1
    assert held.size <= 1.5 * sizes.sum() + LONGEST_GAP
    assert all(one.size <= LONGEST_RANGE for one in plan.ranges)


def test_a_plan_splits_what_is_long() -> None:
    plan = coalesce(np.array([100]), np.array([2 * LONGEST_RANGE + 1]))
    assert [one.size for one in plan.ranges] == [LONGEST_RANGE, LONGEST_RANGE, 1]


def row_of(number: int) -> tuple[NDArray[np.uint8], float]:
    return np.array([number % 251, number % 13], np.uint8), float(number)


@given(st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=20), st.integers(0, 40))
def test_the_cache_gives_what_was_kept(requests: list[list[int]], capacity: int) -> None:
    cache = RowCache(100, 2, capacity * 138)
    assert cache.capacity == capacity
    for request in requests:
        numbers = np.unique(np.array(request, np.int64))
        codes, scales = np.zeros((numbers.size, 2), np.uint8), np.zeros(numbers.size)
        missing = cache.fill(numbers, codes, scales)
        for place in missing:
            codes[place], scales[place] = row_of(int(numbers[place]))
        for number, code, scale in zip(numbers.tolist(), codes, scales, strict=True):
            assert (code.tolist(), scale) == (row_of(number)[0].tolist(), row_of(number)[1])
        cache.keep(numbers[missing], codes[missing], scales[missing])
        assert len(cache) <= capacity


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    cache = RowCache(1000, 2, 32 * 138)

    def use(*rows: int) -> int:
        numbers = np.array(rows)
        missing = cache.fill(numbers, np.empty((len(rows), 2), np.uint8), np.empty(len(rows)))
        cache.keep(numbers[missing], np.zeros((missing.size, 2), np.uint8), np.zeros(missing.size))
        return missing.size

    for row in range(32):
        assert use(row) == 1
    assert use(0, 1) == 0
    assert use(500) == 1  # drives out 2 and 3: one in 16 at once
    assert use(0, 1) == 0
    assert use(4) == 0
    assert use(2) == 1
