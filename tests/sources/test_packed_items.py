"""Items of less than 8 bits: against whole numbers of Python, however rows lie in bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstore.sources.memory.array import ArraySource
from qstore.sources.quantized_weights.packed import PackedRows, unpacked
from qstore.sources.quantized_weights.recipe import Layout


def packed(items: list[int], bits: int) -> bytes:
    """One behind the other, from the lowest bits on."""
    number = sum(item << (bits * place) for place, item in enumerate(items))
    return number.to_bytes(-(-len(items) * bits // 8), "little")


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 40), st.data())
def test_rows_of_whole_bytes(bits: int, rows: int, columns: int, data: st.DataObject) -> None:
    values = [
        data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=columns, max_size=columns))
        for _ in range(rows)
    ]
    raw = np.array([list(packed(row, bits)) for row in values], np.uint8)
    assert unpacked(raw, bits)[:, :columns].tolist() == values


@pytest.mark.parametrize("signed", [False, True])
@given(st.sampled_from([1, 2, 4]), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.data())
def test_rows_that_share_bytes(
    signed: bool, bits: int, rows: int, columns: int, wide: int, data: st.DataObject
) -> None:
    """Whatever rows the bytes come in."""
    items = data.draw(
        st.lists(st.integers(0, (1 << bits) - 1), min_size=rows * columns, max_size=rows * columns)
    )
    raw = np.frombuffer(packed(items, bits), np.uint8)
    part = ArraySource(np.concatenate([raw, np.zeros(-len(raw) % wide, np.uint8)]).reshape(-1, wide))
    source = PackedRows(part, Layout(rows, columns, bits * columns, bits, signed))
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    expected = np.array(items).reshape(rows, columns)[start:stop]
    if signed:
        expected = np.where(expected >> (bits - 1) & 1, expected - (1 << bits), expected)
    found = source.read(start, stop)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found.view(np.int8) if signed else found, expected)


def test_a_vector_along_the_columns() -> None:
    part = ArraySource(np.arange(12, dtype=np.uint8).reshape(6, 2))
    source = PackedRows(part, Layout(1, 12, 96))
    assert source.read(0, 1).tolist() == [list(range(12))]
    assert source.read(1, 1).shape == (0, 12)
