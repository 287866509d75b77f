"""Levels and dictionaries of Parquet in C, against a reader of one bit after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, native
from hypothesis import given
from hypothesis import strategies as st

pytestmark = NEEDS_EXTENSION

RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.lists(st.integers(0, 2**32 - 1), min_size=1)))


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def encoded(runs: list[Any], width: int) -> tuple[bytes, list[int]]:
    """Runs of one value, and groups of eight packed ones."""
    data, values = b"", list[int]()
    for packed, count, numbers in runs:
        few = [number & (1 << width) - 1 for number in numbers]
        if packed:
            few += [0] * (-len(few) % 8)
            whole = sum(number << place * width for place, number in enumerate(few))
            data += varint(len(few) // 8 << 1 | 1) + whole.to_bytes(len(few) * width // 8, "little")
            values += few
        else:
            data += varint(count << 1) + few[0].to_bytes((width + 7) // 8, "little")
            values += few[:1] * count
    return data, values


@given(RUNS, st.integers(0, 32), st.integers(0, 20), st.data())
def test_dictionaries(runs: list[Any], width: int, behind: int, data: st.DataObject) -> None:
    few = [(packed, count, [number % 50 for number in numbers]) for packed, count, numbers in runs]
    content, numbers = encoded(few, width)
    for dtype in (np.float16, np.float32, np.float64):
        table = np.arange(50).astype(dtype)
        out = np.full(data.draw(st.integers(0, len(numbers))), -1, dtype)
        assert native.look_up_runs(content + bytes(behind), width, table, out)
        assert out.tolist() == numbers[: len(out)]
        if numbers:
            whole = np.empty(len(numbers), dtype)
            assert not native.look_up_runs(content[:-1], width, table, whole) or width == 0
            assert native.look_up_runs(content, width, table[: max(numbers) + 1], whole)
            assert not native.look_up_runs(content, width, table[: max(numbers)], whole)
        assert not native.look_up_runs(content, width, table, np.empty(len(numbers) + 1, dtype))


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 60), st.integers(1, 3), st.data())
def test_levels(row: int, place: int, count: int, level: int, data: st.DataObject) -> None:
    place %= row
    levels = [0 if (place + number) % row == 0 else 1 for number in range(count)]
    runs, done = [], 0
    while done < count:
        same = next((k for k in range(done, count) if levels[k] != levels[done]), count) - done
        if data.draw(st.booleans()):
            runs.append((False, same, [levels[done]]))
            done += same
        else:
            runs.append((True, 0, levels[done : done + 8]))
            done += 8
    content, _ = encoded(runs, 1)
    assert native.levels_are(content, 1, count, 1, row, place)
    if count:
        wrong = data.draw(st.integers(0, count - 1))
        levels[wrong] ^= 1
        assert not native.levels_are(encoded([(True, 0, levels)], 1)[0], 1, count, 1, row, place)
        assert not native.levels_are(content, 1, count + 100, 1, row, place)
    width = level.bit_length()
    same_level = encoded([(False, count + 1, [level]), (True, 0, [level] * 8)], width)[0]
    assert native.levels_are(same_level, width, count + 9, level, 0, 0)
    assert not native.levels_are(same_level, width, count + 9, level ^ 1, 0, 0)
    if width == 2:
        other = encoded([(True, 0, [level] * count + [level ^ 1])], width)[0]
        assert not native.levels_are(other, width, count + 1, level, 0, 0)


@given(st.binary(max_size=30), st.integers(0, 32), st.integers(0, 1000), st.integers(0, 5), st.integers(0, 4))
def test_any_bytes(content: bytes, width: int, count: int, row: int, place: int) -> None:
    """An answer; what lies behind the bytes is not looked at (the sanitizers see to that)."""
    place = place % row if row else 0
    assert native.levels_are(content, width, count, 1, row, place) in (True, False)
    assert native.look_up_runs(content, width, np.ones(9, "f4"), np.empty(count, "f4")) in (True, False)


def test_arguments() -> None:
    table, out = np.ones(3, "f4"), np.empty(3, "f4")
    for width in (-1, 33):
        with pytest.raises(ValueError, match=f"width must be 0 to 32 bits, got {width}"):
            native.look_up_runs(b"", width, table, out)
    with pytest.raises(ValueError, match="one type"):
        native.look_up_runs(b"", 1, table, out.astype("f8"))
    with pytest.raises(ValueError, match="contiguous"):
        native.look_up_runs(b"", 1, table[::2], out)
    with pytest.raises(ValueError, match="contiguous"):
        native.look_up_runs(memoryview(b"1234")[::2], 1, table, out)
    with pytest.raises(ValueError, match="place must be in a row of 3 values, got 3"):
        native.levels_are(b"", 1, 1, 1, 3, 3)
    with pytest.raises(OverflowError):
        native.levels_are(b"", 1, -1, 1, 3, 0)
    for call in (native.levels_are, native.look_up_runs):
        with pytest.raises(TypeError, match="arguments"):
            call(b"")
