"""The kernels that dequantize and gather rows, on every engine and level, against NumPy."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture, split_from
from hypothesis import given, settings
from kernel_checks import (
    assert_same_bits,
    shapes,
)
from numpy.typing import NDArray

from qstore.engine import kernels, quantization
from qstore.engine.quantization import OUTPUT_TYPES

edge_scales = st.one_of(
    st.floats(min_value=0, allow_infinity=False),
    st.floats(min_value=0, max_value=1e-300, allow_subnormal=True),
    st.sampled_from(
        [0.0, 5e-324, 1e-310, 1.2e-38, 1e-45, 1e-40, 2.6e36, 3e38, 1e39, 2.0**-25, 2.0**-24, 515.8, 516.0]
    ),
    st.floats(2.0**-33, 2.0**10, allow_nan=False),
)


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
@given(data=st.data())
@settings(function_fixture, max_examples=100)
def test_dequantize(engine: str, dtype: str, data: st.DataObject) -> None:
    rows, dim = data.draw(shapes)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.integers(0, 256, (rows, dim), dtype=np.uint8)
    scales = np.array(data.draw(st.lists(edge_scales, min_size=rows, max_size=rows)))
    expected, out = np.empty(codes.shape, dtype), np.full(codes.shape, 7, dtype)
    quantization.dequantize(codes, scales, expected)
    kernels.dequantize_into(codes, scales, out)
    assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
def test_dequantize_every_code_with_many_scales(engine: str, dtype: str) -> None:
    generator = np.random.default_rng(11)
    patterns = generator.integers(0, 0x7FEF << 48, 3000, dtype=np.int64).view(np.float64)
    singles = (
        generator.integers(1 << 30, 1 << 30 | 0xFFFFFFF, 500, dtype=np.int32)
        .view(np.float32)
        .astype(np.float64)
    )
    single_ties = singles * (1 + generator.integers(0, 4, 500) * 2.0**-24)
    singles_near_ties = np.nextafter(single_ties, generator.choice([0.0, np.inf], 500))
    halves = np.arange(1, 0x7C00, 11, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = halves * (1 + 2.0**-11) / generator.choice([1, 3, 64, 127], len(halves))
    near_ties = np.nextafter(ties, generator.choice([0.0, np.inf], len(ties)))
    scales = np.concatenate([patterns, halves, ties, near_ties, singles, single_ties, singles_near_ties])
    codes = np.broadcast_to(np.arange(256, dtype=np.uint8), (len(scales), 256)).copy()
    expected, out = np.empty(codes.shape, dtype), np.empty(codes.shape, dtype)
    quantization.dequantize(codes, scales, expected)
    kernels.dequantize_into(codes, scales, out)
    assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
@given(data=st.data())
@settings(function_fixture, max_examples=60)
def test_gather_of_windows(engine: str, dtype: str, data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 300))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.integers(0, 256, (37, dim), dtype=np.uint8)
    scales = np.exp(generator.uniform(-90, 90, 37))
    rows_step, first = data.draw(st.sampled_from([1, 2, -1, -3])), data.draw(st.integers(0, dim - 1))
    codes, scales = codes[::rows_step, first:], scales[::rows_step]
    rows = generator.integers(-len(codes), len(codes), data.draw(st.integers(0, 90)))[
        :: data.draw(st.sampled_from([1, -2]))
    ]
    space = np.full((len(rows), dim + 3), 7, dtype)
    expected, out = np.empty((len(rows), codes.shape[1]), dtype), space[:, 2 : 2 + codes.shape[1]]
    quantization.gather(codes, scales, rows, expected)
    kernels.gather(codes, scales, rows, out)
    assert_same_bits(out, expected)
    assert (space[:, :2] == 7).all()
    assert (space[:, 2 + codes.shape[1] :] == 7).all()


@pytest.mark.parametrize("count", [None, 1, 2, 3])
@pytest.mark.parametrize("dim", [1, 16, 768, 5000])
def test_large_requests_are_split_right(
    engine: str, count: int | None, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_from(monkeypatch, 500)
    generator = np.random.default_rng(dim)
    codes, scales = generator.integers(0, 256, (200, dim), dtype=np.uint8), generator.random(200)
    rows = generator.integers(-200, 200, 901)
    expected, out = np.empty((901, dim), np.float32), np.empty((901, dim), np.float32)
    quantization.gather(codes, scales, rows, expected)
    kernels.gather(codes, scales, rows, out, count)
    np.testing.assert_array_equal(out, expected)
    kernels.dequantize_into(codes, scales, out[:200], count)
    quantization.dequantize(codes, scales, expected[:200])
    np.testing.assert_array_equal(out[:200], expected[:200])
    offsets = np.array([0, 0, 100, 101, 850, 901])
    pooled, pooled_expected = np.empty((6, dim)), np.empty((6, dim))
    weights = generator.random(901)
    quantization.pool(codes, scales, rows, offsets, weights, "mean", pooled_expected)
    kernels.pool(codes, scales, rows, offsets, weights, "mean", pooled, count)
    np.testing.assert_array_equal(pooled, pooled_expected)
    requantized = kernels.quantize(expected[:200])
    np.testing.assert_array_equal(requantized[0], kernels.quantize(expected[:200].astype(np.float64))[0])


@pytest.mark.parametrize("split", [1, 1 << 18])
@pytest.mark.parametrize(("rows", "named"), [([0, 10, 11], 10), ([1, -6], -6), ([2**40], 2**40)])
def test_out_of_range_rows_are_named_as_numpy_does(
    engine: str, rows: list[int], named: int, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_from(monkeypatch, split)
    codes, scales = np.zeros((5, 2), np.uint8), np.ones(5)
    numbers, out = np.array(rows), np.full((len(rows), 2), 7.0)
    with pytest.raises(IndexError) as theirs:
        codes[numbers]
    with pytest.raises(IndexError, match=f"index {named} is out of bounds for axis 0 with size 5") as ours:
        kernels.gather(codes, scales, numbers, out)
    assert str(ours.value) == str(theirs.value)
    assert (out == 7).all()
    with pytest.raises(IndexError, match=f"index {named} is out of bounds for axis 0 with size 5"):
        kernels.pool(codes, scales, numbers, np.array([0]), None, "sum", out[:1])


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
def test_one_row(engine: str, dtype: str) -> None:
    generator = np.random.default_rng(3)
    codes, scales = generator.integers(0, 256, (9, 77), dtype=np.uint8), generator.random(9)
    expected = kernels.dequantize(codes, scales, dtype)
    table = kernels.table(codes, scales)
    for row in (0, 8, -1, -9):
        out = np.empty(77, dtype)
        table.row(row, out)
        np.testing.assert_array_equal(out, expected[row])
    for row in (9, -10):
        with pytest.raises(IndexError, match=f"^index {row} is out of bounds for axis 0 with size 9$"):
            table.row(row, out)


@functools.cache
def large_request(dtype: str, dim: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Codes, scales, numbers of rows, and what they give by the specification: 5 MiB, for all engines."""
    rows = (5 << 20) // (dim * np.dtype(dtype).itemsize)
    generator = np.random.default_rng(dim)
    codes = generator.integers(0, 256, (300, dim), dtype=np.uint8)
    scales = generator.choice([0.0, 1e-3, 1 / 3, 1e-30, 1e30], 300) * generator.uniform(1, 2, 300)
    numbers = generator.integers(-300, 300, rows)
    expected = np.empty((rows, dim), dtype)
    assert quantization.gather(codes, scales, numbers, expected) == -1
    expected.flags.writeable = False
    return codes, scales, numbers, expected


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
@pytest.mark.parametrize("dim", [5, 67, 768])
@pytest.mark.parametrize(("shift", "gap"), [(0, 0), (1, 0), (2, 6), (3, 64), (16, 0), (24, 24), (60, 8)])
def test_large_outputs_at_any_address(engine: str, dtype: str, dim: int, shift: int, gap: int) -> None:
    """Streamed outputs: lines cut by the ends of rows, gaps between rows, odd addresses."""
    codes, scales, numbers, expected = large_request(dtype, dim)
    size, rows = expected.itemsize, len(expected)
    stride = dim * size + gap
    buffer = np.full(rows * stride + 192, 0xA5, np.uint8)
    first = -buffer.ctypes.data % 64 + shift
    out: NDArray[Any] = np.ndarray((rows, dim), dtype, buffer, first, (stride, size))
    around = np.ones(buffer.size, bool)
    np.ndarray((rows, dim * size), bool, around, first, (stride, 1))[:] = False
    kernels.gather(codes, scales, numbers, out, threads=1)
    assert_same_bits(out, expected)
    out[:] = 0
    kernels.dequantize_into(codes[numbers], scales[numbers], out, threads=1)
    assert_same_bits(out, expected)
    assert (buffer[around] == 0xA5).all()


def test_threads_must_be_positive(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split_from(monkeypatch, 1)
    codes, scales = np.zeros((6, 6), np.uint8), np.ones(6)
    with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
        kernels.gather(codes, scales, np.arange(6), np.empty((6, 6)), threads=0)


def test_scattered_columns_are_read(engine: str) -> None:
    codes, scales = np.arange(40, dtype=np.uint8).reshape(4, 10), np.arange(4.0)
    window, rows = codes[:, ::3], np.array([2, -1])
    expected, out = np.empty((4, 4), np.float32), np.empty((4, 4), np.float32)
    quantization.dequantize(window, scales, expected)
    kernels.dequantize_into(window, scales, out)
    np.testing.assert_array_equal(out, expected)
    kernels.gather(window, scales, rows, out[:2])
    np.testing.assert_array_equal(out[:2], expected[rows])
    kernels.pool(window, scales, rows, np.array([0, 1]), None, "sum", out[:2])
    np.testing.assert_array_equal(out[:2], expected[rows])
