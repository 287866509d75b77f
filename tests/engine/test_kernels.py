"""Every kernel, engine and dispatch level against the specification in NumPy; and what picks them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import LEVELS, NEEDS_EXTENSION, native, split_from
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from qstore.engine import kernels, quantization, stats_survey
from qstore.engine.quantization import ELEMENT_TYPES, OUTPUT_TYPES, element_type, marker_dtype
from qstore.errors import NonFiniteError, SourceError
from qstore.system import threads

REPOSITORY = Path(kernels.__file__).parent.parent
TINY, HUGE = 1e-45, 3e38  # close to the ends of float32

function_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def raw_patterns(name: str, bits: NDArray[Any]) -> NDArray[Any]:
    """An array of this element type with these bit patterns."""
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return bits.astype("<u2" if name == "bfloat16" else "u1").view(marker_dtype(name))
    return bits.astype(f"u{np.dtype(name).itemsize}").view(name)


def check_quantize(values: NDArray[Any], zero: bool = True) -> None:
    expected_codes, expected_scales = np.empty(values.shape, np.uint8), np.empty(len(values))
    bad = quantization.quantize(values, expected_codes, expected_scales, zero)
    codes, scales = np.full(values.shape, 7, np.uint8), np.full(len(values), -1.0)
    if bad >= 0:
        with pytest.raises(NonFiniteError) as caught:
            kernels.quantize_into(values, codes, scales, "zero" if zero else "error")
        assert (caught.value.row, caught.value.column) == divmod(bad, values.shape[1])
        return
    kernels.quantize_into(values, codes, scales, "zero" if zero else "error")
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scales.view(np.uint64), expected_scales.view(np.uint64))


def assert_same_bits(found: NDArray[Any], expected: NDArray[Any]) -> None:
    unsigned = f"u{found.itemsize}"
    both_nan = np.isnan(found) & np.isnan(expected)
    same = (
        np.ascontiguousarray(found).view(unsigned) == np.ascontiguousarray(expected).view(unsigned)
    ) | both_nan
    assert same.all(), (found[~same][:5], expected[~same][:5])


# Floats on which mistakes show: ties, neighbours of ties, the ends of the ranges, subnormals, zeros.
def near(value: float) -> st.SearchStrategy[float]:
    return st.sampled_from([value, np.nextafter(value, np.inf).item(), np.nextafter(value, -np.inf).item()])


adversarial = st.one_of(
    st.floats(),
    st.floats(-1, 1),
    st.integers(-254, 254).map(lambda k: k / 2).flatmap(near),
    st.sampled_from(
        [0.0, -0.0, TINY, HUGE, -HUGE, 1e-36, 3.7e-37, 1e-37, 1.2e-38, 5e-324, 1e308, 1.7e308, 65504.0]
    ),
)
shapes = st.tuples(st.integers(1, 4), st.one_of(st.integers(1, 40), st.integers(41, 300)))


@st.composite
def float_matrices(draw: st.DrawFn, dtype: str) -> NDArray[Any]:
    shape = draw(shapes)
    pool_of_values = draw(st.lists(adversarial, min_size=1, max_size=12))
    picks = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(picks)
    values = generator.choice(np.array(pool_of_values), shape)
    if draw(st.booleans()):
        values = np.where(generator.random(shape) < 0.5, values, generator.standard_normal(shape))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = values * draw(st.sampled_from([1.0, 1.0, 1.0, 3.0, 1e-36, 1e-38, 1e-42, 1e34, 1e-310]))
        return values.astype(dtype)


# Quantize -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(data=st.data())
@settings(function_fixture, max_examples=150)
def test_quantize_floats(engine: str, dtype: str, data: st.DataObject) -> None:
    check_quantize(data.draw(float_matrices(dtype)), data.draw(st.booleans()))


@pytest.mark.parametrize("name", ELEMENT_TYPES)
@given(data=st.data())
@settings(function_fixture, max_examples=40)
def test_quantize_any_bit_pattern(engine: str, name: str, data: st.DataObject) -> None:
    shape = data.draw(shapes)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits = generator.integers(0, 2**64, shape, dtype=np.uint64)
    values = raw_patterns(name, bits >> np.uint64(data.draw(st.sampled_from([0, 0, 1, 3, 17, 40]))))
    check_quantize(values)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("order", ["as they are", "shuffled"])
def test_quantize_every_16_bit_pattern(engine: str, name: str, order: str) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    if order == "shuffled":
        np.random.default_rng(2).shuffle(bits)
    for dim in (16, 64, 128):
        check_quantize(raw_patterns(name, bits.reshape(-1, dim)))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8", "uint8"])
def test_quantize_every_8_bit_pattern_against_every_largest(engine: str, name: str) -> None:
    bits = np.arange(256, dtype=np.uint8)
    pairs = np.stack([np.repeat(bits, 256), np.tile(bits, 256)], axis=1)
    check_quantize(raw_patterns(name, pairs))
    check_quantize(raw_patterns(name, pairs.reshape(-1, 64)))


def test_quantize_float32_around_every_tie(engine: str) -> None:
    """All ties of rows with random maxima, and 40 float32 values on either side of each."""
    generator = np.random.default_rng(4)
    ties = np.arange(-126.5, 127, 1.0)
    for exponent in (-121, -119, -60, 0, 30, 126):
        for largest in generator.uniform(1, 2, 6).astype(np.float32) * np.float32(2.0) ** exponent:
            centres = (ties * (float(largest) / 127)).astype(np.float32)
            around = centres.view(np.int32)[:, None] + np.arange(-40, 41, dtype=np.int32)
            row = np.append(around.ravel().view(np.float32), largest)
            check_quantize(row[None, np.abs(row) <= largest])


def test_quantize_integer_extremes(engine: str) -> None:
    for name in ELEMENT_TYPES[-8:]:
        limits = np.iinfo(name)
        edge = [limits.min, limits.max, limits.max - 1, limits.min + 1, 0, 1, limits.max // 2]
        check_quantize(np.array([edge, edge[::-1]], name))
        check_quantize(np.tile(np.array([edge], name), (1, 40)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16"])
@pytest.mark.parametrize("offset", [0, 1, 3, 7])
def test_quantize_at_any_address(engine: str, dtype: str, offset: int) -> None:
    values = (np.random.default_rng(offset).standard_normal((7, 75)) * 100).astype(dtype)
    buffer = np.zeros(values.nbytes + 16, np.uint8)
    moved = buffer[offset : offset + values.nbytes].view(dtype).reshape(values.shape)
    moved[:] = values
    check_quantize(moved)


def test_quantize_takes_any_layout(engine: str) -> None:
    values = np.random.default_rng(6).standard_normal((40, 60)).astype(np.float32)
    for view in (
        values[::-1],
        values[:, ::-2],
        values[::3, 5:50],
        values.T,
        values.astype(">f4"),
        values[:, :1],
    ):
        check_quantize(view)
    check_quantize(np.asfortranarray(values.astype(np.int64)))


def test_quantize_takes_the_types_of_ml_dtypes(engine: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="arrays of its types are quantized")
    values = np.random.default_rng(0).normal(size=(40, 60))
    check_quantize(values[:, ::2].astype(ml_dtypes.bfloat16))
    check_quantize(values.astype(ml_dtypes.float8_e4m3fn)[:, ::2])


def test_quantize_copies_in_pieces_that_name_the_right_row(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_COPY_VALUES", 40)
    values = np.random.default_rng(6).standard_normal((30, 10)).astype(">f4")
    check_quantize(values)
    values[17, 4] = np.inf
    check_quantize(values, zero=False)
    check_quantize(values, zero=True)


def test_quantize_writes_into_windows(engine: str) -> None:
    values = np.random.default_rng(6).standard_normal((5, 70)).astype(np.float32)
    codes, scales = np.zeros((10, 100), np.uint8), np.zeros(10)
    kernels.quantize_into(values, codes[::2, 20:90], scales[::-2])
    expected_codes, expected_scales = kernels.quantize(values)
    np.testing.assert_array_equal(codes[::2, 20:90], expected_codes)
    np.testing.assert_array_equal(scales[::-2], expected_scales)
    assert not codes[1::2].any()
    assert not codes[:, :20].any()
    assert not codes[:, 90:].any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 31, 66])
def test_nonfinite_values_are_named(engine: str, dtype: str, value: float, column: int) -> None:
    values = np.ones((9, 67), dtype)
    values[4, column:] = value
    codes, scales = np.empty(values.shape, np.uint8), np.empty(9)
    with pytest.raises(NonFiniteError, match=f"row 1004, column {column} is {value}") as caught:
        kernels.quantize_into(values, codes, scales, first_row=1000)
    assert (caught.value.row, caught.value.column) == (1004, column)
    kernels.quantize_into(values, codes, scales, "zero")
    assert (codes[4, column:] == 128).all()
    assert (codes[4, :column] == 255).all()
    with pytest.raises(ValueError, match="nonfinite is 'skip'"):
        kernels.quantize_into(values, codes, scales, "skip")  # type: ignore[arg-type]


# Dequantize and gather ------------------------------------------------------------------------------

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


@pytest.mark.parametrize("dtype", OUTPUT_TYPES)
@pytest.mark.parametrize("dim", [5, 67, 768])
@pytest.mark.parametrize(("shift", "gap"), [(0, 0), (1, 0), (2, 6), (3, 64), (16, 0), (24, 24), (60, 8)])
def test_large_outputs_at_any_address(engine: str, dtype: str, dim: int, shift: int, gap: int) -> None:
    """Streamed outputs: lines cut by the ends of rows, gaps between rows, odd addresses."""
    size = np.dtype(dtype).itemsize
    rows, stride = (5 << 20) // (dim * size), dim * size + gap
    generator = np.random.default_rng(dim)
    codes = generator.integers(0, 256, (300, dim), dtype=np.uint8)
    scales = generator.choice([0.0, 1e-3, 1 / 3, 1e-30, 1e30], 300) * generator.uniform(1, 2, 300)
    numbers = generator.integers(-300, 300, rows)
    expected = np.empty((rows, dim), dtype)
    assert quantization.gather(codes, scales, numbers, expected) == -1
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


# Pool -----------------------------------------------------------------------------------------------


def check_pool(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    rows: NDArray[np.int64],
    lengths: list[int],
    weights: NDArray[Any] | None,
    mode: Any,
    dtype: str,
) -> None:
    offsets = np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)]
    shape = len(lengths), codes.shape[1]
    expected, out = np.empty(shape, dtype), np.full(shape, 7, dtype)
    quantization.pool(codes, scales, rows, offsets, weights, mode, expected)
    kernels.pool(codes, scales, rows, offsets, weights, mode, out)
    assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@given(data=st.data())
@settings(function_fixture, max_examples=60)
def test_pool(engine: str, dtype: str, mode: Any, data: st.DataObject) -> None:
    dim = data.draw(
        st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 127, 128, 129, 200, 300, 1025, 1100]))
    )
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.integers(0, 256, (30, dim + 2), dtype=np.uint8)[::-1, 1:-1]
    scales = np.exp(generator.uniform(-1, 1, 30) * data.draw(st.sampled_from([0, 1, 90, 700])))
    if data.draw(st.booleans()):
        scales[3] = data.draw(st.sampled_from([0.0, 5e-324, 1e308, np.inf, np.nan]))
    length = st.one_of(st.integers(0, 20), st.sampled_from([255, 256, 257, 600]))
    lengths = data.draw(st.lists(length, max_size=8))
    rows = generator.integers(-30, 30, sum(lengths))
    weighting = data.draw(st.sampled_from([None, "float32", "float64"]))
    weights = None if weighting is None else generator.standard_normal(len(rows)).astype(weighting)
    if weights is not None and data.draw(st.booleans()):  # what is left of the sums is roundings
        rows[1::2], weights[1::2] = rows[:-1:2], -weights[:-1:2]
    check_pool(codes, scales, rows, lengths, weights, mode, dtype)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("nudge", [0.0, 2.0**-52, -(2.0**-52), 2.0**-54, -(2.0**-54)])
@pytest.mark.parametrize("count", [12, 64, 200, 512])
def test_pool_where_the_last_bits_decide(engine: str, mode: Any, nudge: float, count: int) -> None:
    """A sum beside a tie of float32 rounds as the one in float64 does, which loses what is small enough."""
    codes = np.random.default_rng(count).integers(0, 256, (count, 192), dtype=np.uint8)
    codes[0], codes[1:, ::3] = 129, 129
    scales = np.full(count, nudge)
    scales[0] = 1 + 2.0**-24
    check_pool(codes, scales, np.arange(count), [count], None, mode, "float32")


def test_pool_where_integers_lose_what_decides(engine: str) -> None:
    """Factors become multiples of a unit; what that takes away takes the sum below a tie of float32."""
    unit = 1.0 / (0x7F << 40)
    factors = np.full(12, 2000.4 * unit)  # 0.4 * 127 units are lost in each of ten rows
    factors[0] = 1.0
    codes = np.full((12, 64), 255, np.uint8)
    codes[[0, 11]] = 129
    factors[11] = round(2.0**-24 / unit + 250 - 10 * 127 * 2000.4) * unit
    assert 200 * unit < (factors * (codes[:, 0] - 128.0)).sum() - 1 - 2.0**-24 < 300 * unit
    check_pool(codes, factors, np.arange(12), [12], None, "sum", "float32")


@pytest.mark.parametrize("factor", [1 + 127 * 2.0**-46, 1 + 385 * 2.0**-46])
def test_pool_where_the_roundings_of_the_sum_add_up(engine: str, factor: float) -> None:
    """In float64 the sum is a tie of float32 that rounds away from the real one, which is 9e-10 off."""
    total = np.add.accumulate(np.full(511, 127 * factor))[-1]
    missing = 511 * 127 * Fraction(factor) - Fraction(float(total))
    assert abs(missing) > 9e-10
    below = int(np.float32(total).view(np.uint32)) + 1  # an even number is what a tie above it rounds to
    below += (below % 2 == 1) == (missing > 0)
    tie = np.array([below, below + 1], np.uint32).view(np.float32).astype(np.float64).mean()
    codes = np.full((512, 64), 255, np.uint8)
    codes[511] = 129
    factors = np.append(np.full(511, factor), tie - total)
    check_pool(codes, factors, np.arange(512), [512], None, "sum", "float32")


@pytest.mark.parametrize("code", [0, 128, 255])
@pytest.mark.parametrize("scale", [1.0, -1.0, 1 / 3, 2.0**-126, 2.0**-149, 5e-324, 3e38, 0.0])
def test_pool_of_equal_codes(engine: str, code: int, scale: float) -> None:
    codes, weights = np.full((300, 70), code, np.uint8), np.full(569, scale)
    check_pool(codes, np.ones(300), np.arange(569) % 300, [13, 257, 296, 3], weights, "sum", "float32")


POOLED = np.zeros((5, 2), np.uint8), np.ones(5)


@pytest.mark.parametrize("split", [1, 1 << 18])
@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [0, 5], [-1, 0]])
def test_pool_refuses_impossible_offsets(
    engine: str, offsets: list[int], split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split_from(monkeypatch, split)
    with pytest.raises(ValueError, match="offsets must start with 0"):
        kernels.pool(
            *POOLED, np.zeros(4, np.int64), np.array(offsets), None, "sum", np.empty((len(offsets), 2))
        )


def test_pool_refuses_unknown_modes(engine: str) -> None:
    with pytest.raises(ValueError, match="mode must be 'sum' or 'mean', got 'max'"):
        kernels.pool(*POOLED, np.array([0]), np.array([0]), None, "max", np.empty((1, 2)))  # type: ignore[arg-type]


# The extension trusts nobody ------------------------------------------------------------------------


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


U8, F64, I64 = np.uint8, np.float64, np.int64
QUANTIZE = [np.zeros((4, 6), np.float32), "float32", np.zeros((4, 6), U8), np.zeros(4), False]
DEQUANTIZE = [np.zeros((4, 6), U8), np.zeros(4), np.zeros((4, 6), np.float32)]
GATHER = [np.zeros((4, 6), U8), np.zeros(4), np.zeros(3, I64), np.zeros((3, 6), np.float32)]
POOL = [np.zeros((4, 6), U8), np.zeros(4), np.zeros(3, I64), np.zeros(2, I64), None, "sum", np.zeros((2, 6))]
SURVEY = [
    np.zeros((4, 6), U8),
    np.zeros(4),
    np.zeros((2, 4), I64),
    np.zeros((2, 6)),
    np.zeros(6, I64),
    np.zeros(256, I64),
]
BAD_ARGUMENTS: list[tuple[str, list[Any], int, Any]] = [
    ("quantize", QUANTIZE, 0, np.zeros((4, 6))),
    ("quantize", QUANTIZE, 0, np.zeros((4, 6), ">f4")),
    ("quantize", QUANTIZE, 0, np.zeros((3, 6), np.float32)),
    ("quantize", QUANTIZE, 0, np.zeros((4, 7), np.float32)),
    ("quantize", QUANTIZE, 0, np.zeros((4, 12), np.float32)[:, ::2]),
    ("quantize", QUANTIZE, 0, np.zeros((4, 6), np.float32)[:, ::-1]),
    ("quantize", QUANTIZE, 0, np.zeros(24, np.float32)),
    ("quantize", QUANTIZE, 0, None),
    ("quantize", QUANTIZE, 1, "bfloat16"),
    ("quantize", QUANTIZE, 1, "complex64"),
    ("quantize", QUANTIZE, 1, 3),
    ("quantize", QUANTIZE, 2, read_only(np.zeros((4, 6), U8))),
    ("quantize", QUANTIZE, 2, np.zeros((4, 6), np.int8)),
    ("quantize", QUANTIZE, 2, np.zeros((4, 5), U8)),
    ("quantize", QUANTIZE, 2, np.zeros((4, 12), U8)[:, ::2]),
    ("quantize", QUANTIZE, 3, np.zeros(5)),
    ("quantize", QUANTIZE, 3, np.zeros(4, np.float32)),
    ("quantize", QUANTIZE, 3, read_only(np.zeros(4))),
    ("quantize", QUANTIZE, 3, np.zeros((4, 1))),
    ("dequantize", DEQUANTIZE, 0, np.zeros((4, 6), np.uint16)),
    ("dequantize", DEQUANTIZE, 0, np.zeros((4, 12), U8)[:, ::2]),
    ("dequantize", DEQUANTIZE, 1, np.zeros(3)),
    ("dequantize", DEQUANTIZE, 1, np.zeros(4, I64)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 6), np.int32)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((5, 6), np.float32)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 5), np.float32)),
    ("dequantize", DEQUANTIZE, 2, read_only(np.zeros((4, 6), np.float32))),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 12), np.float32)[:, ::2]),
    ("gather", GATHER, 0, np.zeros((4, 6), np.int8)),
    ("gather", GATHER, 0, np.zeros((4, 7), U8)),
    ("gather", GATHER, 1, np.zeros(3)),
    ("gather", GATHER, 2, np.zeros(3, np.int32)),
    ("gather", GATHER, 2, np.zeros(3, np.uint64)),
    ("gather", GATHER, 2, np.zeros(4, I64)),
    ("gather", GATHER, 2, np.zeros((3, 1), I64)),
    ("gather", GATHER, 3, read_only(np.zeros((3, 6), np.float32))),
    ("gather", GATHER, 3, np.zeros((3, 6), np.complex64)),
    ("pool", POOL, 1, np.zeros(5)),
    ("pool", POOL, 2, np.zeros(3)),
    ("pool", POOL, 3, np.zeros(2, np.int32)),
    ("pool", POOL, 3, np.zeros(3, I64)),
    ("pool", POOL, 4, np.zeros(2)),
    ("pool", POOL, 4, np.zeros(3, I64)),
    ("pool", POOL, 5, "max"),
    ("pool", POOL, 5, None),
    ("pool", POOL, 6, np.zeros((2, 6), np.float16)),
    ("pool", POOL, 6, np.zeros((2, 5))),
    ("pool", POOL, 6, read_only(np.zeros((2, 6)))),
    ("survey", SURVEY, 0, np.zeros((5, 6), U8)),
    ("survey", SURVEY, 0, np.zeros((4, 12), U8)[:, ::2]),
    ("survey", SURVEY, 1, np.zeros(4, np.float32)),
    ("survey", SURVEY, 2, np.zeros((2, 5), I64)),
    ("survey", SURVEY, 2, np.zeros((1, 4), I64)),
    ("survey", SURVEY, 2, np.zeros((2, 8), I64)[:, ::2]),
    ("survey", SURVEY, 2, read_only(np.zeros((2, 4), I64))),
    ("survey", SURVEY, 3, np.zeros((2, 5))),
    ("survey", SURVEY, 3, read_only(np.zeros((2, 6)))),
    ("survey", SURVEY, 4, np.zeros(5, I64)),
    ("survey", SURVEY, 4, np.zeros(6, np.int32)),
    ("survey", SURVEY, 5, np.zeros(255, I64)),
    ("survey", SURVEY, 5, read_only(np.zeros(256, I64))),
]


@NEEDS_EXTENSION
def test_a_table_refuses_bad_arguments() -> None:
    codes, scales, out = np.zeros((4, 6), U8), np.ones(4), np.empty(6)
    for bad in [
        (codes.astype(np.int8), scales),
        (np.zeros((4, 12), U8)[:, ::2], scales),
        (codes, np.ones(3)),
        (None, 1),
    ]:
        with pytest.raises((TypeError, ValueError)):
            native.Table(*bad)
    for arguments in ((), (codes,), (codes, scales, out)):
        with pytest.raises(TypeError):
            native.Table(*arguments)
    with pytest.raises(TypeError, match="keyword"):
        native.Table(codes, scales=scales)
    table = native.Table(codes, scales)
    for number, wrong in [
        (1.5, out),
        (0, np.zeros(5)),
        (0, np.zeros(12)[::2]),
        (0, np.zeros((1, 6))),
        (0, read_only(np.zeros(6))),
        (0, np.zeros(6, np.int64)),
    ]:
        with pytest.raises((TypeError, ValueError)):
            table.row(number, wrong)
    for call in ((), (0,), (0, out, out)):
        with pytest.raises(TypeError, match="arguments"):
            table.row(*call)
    with pytest.raises(OverflowError):
        table.row(1 << 64, out)


@NEEDS_EXTENSION
def test_a_table_holds_its_buffers_as_long_as_it_lives() -> None:
    memory = bytearray(24)
    table = native.Table(np.frombuffer(memory, U8).reshape(4, 6), np.ones(4))
    with pytest.raises(BufferError):
        memory.append(0)
    out = np.ones(6)
    table.row(2, out)
    assert (out == -128).all()
    del table
    memory.append(0)


@NEEDS_EXTENSION
@pytest.mark.parametrize(("name", "good", "place", "bad"), BAD_ARGUMENTS)
def test_extension_refuses_bad_arguments(name: str, good: list[Any], place: int, bad: Any) -> None:
    function = getattr(native, name)
    function(*good)
    with pytest.raises((TypeError, ValueError)):
        function(*good[:place], bad, *good[place + 1 :])
    with pytest.raises(TypeError, match="arguments"):
        function(*good[:-1])
    with pytest.raises(TypeError, match="arguments"):
        function(*good, None)


@NEEDS_EXTENSION
def test_extension_lets_go_of_buffers() -> None:
    buffer = bytearray(24)
    values = memoryview(buffer).cast("B", (4, 6))
    native.quantize(values, "uint8", *QUANTIZE[2:])
    with pytest.raises(TypeError):
        native.quantize(values, "int8", *QUANTIZE[2:])
    values.release()
    buffer.append(0)  # BufferError while a view is held


@NEEDS_EXTENSION
def test_extension_refuses_unknown_levels() -> None:
    with pytest.raises(ValueError, match="this machine has no level 'avx1024'"):
        native.set_level("avx1024")
    assert native.level() in LEVELS


@NEEDS_EXTENSION
def test_extension_takes_empty_arrays() -> None:
    for shape in ((0, 5), (5, 0), (0, 0)):
        assert (
            native.quantize(np.zeros(shape), "float64", np.zeros(shape, U8), np.zeros(shape[0]), False) == -1
        )
        native.dequantize(np.zeros(shape, U8), np.zeros(shape[0]), np.zeros(shape))
        assert (
            native.gather(np.zeros(shape, U8), np.zeros(shape[0]), np.zeros(0, I64), np.zeros((0, shape[1])))
            == -1
        )
    out = np.ones((2, 5))
    assert (
        native.pool(np.zeros((0, 5), U8), np.zeros(0), np.zeros(0, I64), np.zeros(2, I64), None, "mean", out)
        == -1
    )
    assert not out.any()


# Surveys --------------------------------------------------------------------------------------------


Survey = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


def empty_survey(rows: int, dim: int) -> Survey:
    """Sums that something has been added to before."""
    return (
        np.full((2, rows), -1, I64),
        np.arange(2.0 * dim).reshape(2, dim),
        np.arange(dim, dtype=I64),
        np.arange(256, dtype=I64),
    )


def check_survey(codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
    expected, found = empty_survey(*codes.shape), empty_survey(*codes.shape)
    stats_survey.survey(codes, scales, *expected)
    kernels.survey(codes, scales, *found)
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


@given(data=st.data())
@settings(function_fixture, max_examples=100)
def test_survey(engine: str, data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(0, 9)), data.draw(st.one_of(st.integers(1, 9), st.integers(10, 300)))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = generator.choice(
        np.array(data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=9)), U8), (rows, dim)
    )
    pool_of_scales = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 0.1, 5e-324, 1e308, 3e-200]), min_size=1, max_size=3)
    )
    check_survey(codes, generator.choice(np.array(pool_of_scales), rows) * generator.random(rows))


def test_survey_of_many_rows_and_of_long_ones(engine: str) -> None:
    generator = np.random.default_rng(3)
    for shape in ((700, 129), (3, 70_001), (1000, 1), (130, 64)):
        codes = generator.integers(0, 256, shape, U8)
        check_survey(codes, generator.random(shape[0]))
    check_survey(np.zeros((2, 200_000), U8), np.ones(2))  # the largest squares there are


def test_survey_of_codes_that_do_not_lie_well(engine: str) -> None:
    codes, scales = np.random.default_rng(4).integers(0, 256, (40, 30), U8), np.arange(40.0)
    check_survey(codes[::-2, ::3], scales[::-2])
    check_survey(codes[1:, 5:], scales[1:])


def test_survey_says_what_it_should(engine: str) -> None:
    codes = np.array([[255, 128, 1], [0, 129, 128], [255, 128, 1], [255, 128, 1]], U8)
    scales = np.array([0.5, 2.0, 0.5, 0.25])
    rows, columns = np.empty((2, 4), I64), np.zeros((2, 3))
    peaks, histogram = np.zeros(3, I64), np.zeros(256, I64)
    kernels.survey(codes, scales, rows, columns, peaks, histogram)
    assert rows[0].tolist() == [32258, 16385, 32258, 32258]
    assert len(set(rows[1].tolist())) == 3  # another scale is another row
    values = (codes - 128.0) * scales[:, None]
    np.testing.assert_array_equal(columns, [values.sum(axis=0), (values**2).sum(axis=0)])
    assert peaks.tolist() == [4, 0, 3]
    assert {code: histogram[code] for code in np.flatnonzero(histogram)} == {
        0: 1,
        1: 3,
        128: 4,
        129: 1,
        255: 3,
    }


def test_hashes_tell_rows_apart(engine: str) -> None:
    """Rows that differ in one code, or have the same codes in another order."""
    codes = np.full((70 * 5, 70), 128, U8)
    codes[np.arange(350), np.arange(350) % 70] += (np.arange(350) // 70 + 1).astype(U8)
    rows = np.empty((2, 350), I64)
    kernels.survey(codes, np.ones(350), rows, np.zeros((2, 70)), np.zeros(70, I64), np.zeros(256, I64))
    assert np.unique(rows[1]).size == 350
    assert abs(np.mean(rows[1] >= 0) - 0.5) < 0.15
    assert abs(np.mean(rows[1] & 1) - 0.5) < 0.15


# Public functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ([1.0, 2.0], "at least 1 column, found \\(2,\\)"),
        (np.zeros((2, 2, 2)), "found \\(2, 2, 2\\)"),
        (np.zeros((3, 0)), "found \\(3, 0\\)"),
        (5, "found \\(\\)"),
        ([[1j]], "found complex128"),
        ([[True]], "found bool"),
        ([[None]], "found object"),
        ([["a"]], "found <U1"),
        (np.zeros((1, 1), np.longdouble), "convert with"),
        ([[1.0], [1.0, 2.0]], "cannot read as an array"),
    ],
)
def test_quantize_refuses(x: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        kernels.quantize(x)


def test_quantize_takes_lists_and_fills_out(engine: str) -> None:
    out = np.empty((2, 3), np.uint8), np.empty(2)
    codes, scales = kernels.quantize([[1, 2, 3], [0, 0, 0]], out=out)
    assert codes is out[0]
    assert scales is out[1]
    assert codes.tolist() == [[170, 213, 255], [128, 128, 128]]
    assert kernels.quantize(np.zeros((0, 4)))[0].shape == (0, 4)


@pytest.mark.parametrize(
    "out",
    [
        (np.empty((2, 2), np.uint8), np.empty(2)),
        (np.empty((2, 3), np.int8), np.empty(2)),
        (np.empty((2, 3), np.uint8), np.empty(3)),
        (np.empty((2, 3), np.uint8), np.empty(2, np.float32)),
        (read_only(np.zeros((2, 3), np.uint8)), np.empty(2)),
        (np.empty((2, 6), np.uint8)[:, ::2], np.empty(2)),
        ([[1, 2, 3], [1, 2, 3]], np.empty(2)),
    ],
)
def test_quantize_refuses_bad_out(out: Any) -> None:
    with pytest.raises(ValueError, match=r"out\[[01]\] must be"):
        kernels.quantize([[1, 2, 3], [4, 5, 6]], out=out)


def test_quantize_reports_the_first_bad_row_of_a_split(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split_from(monkeypatch, 10)
    values = np.ones((100, 5))
    values[90, 2] = np.nan
    with pytest.raises(NonFiniteError, match="row 90, column 2"):
        kernels.quantize(values)
    values[20, 4] = np.nan
    with pytest.raises(NonFiniteError, match="row 20, column 4"):
        kernels.quantize(values)


def test_dequantize_checks_and_fills(engine: str) -> None:
    out = np.empty((1, 2), np.float16)
    assert kernels.dequantize([[0, 255]], [2], out=out) is out
    assert out.tolist() == [[-256.0, 254.0]]
    for dtype in OUTPUT_TYPES:
        assert kernels.dequantize([[0]], [1.0], dtype).dtype == dtype
    for bad in ("int8", ">f4", "complex64"):
        with pytest.raises(ValueError, match="expected one of float32"):
            kernels.dequantize([[0]], [1.0], bad)
    with pytest.raises(ValueError, match="out must be"):
        kernels.dequantize([[0]], [1.0], out=np.empty((2, 1)))


@pytest.mark.parametrize(
    ("codes", "scales", "match"),
    [
        ([[256]], [1.0], "integers from 0 to 255"),
        ([[-1]], [1.0], "integers from 0 to 255"),
        ([[1.0]], [1.0], "integers from 0 to 255"),
        ([1], [1.0], "shape"),
        ([[1]], [1.0, 2.0], "expected \\(1,\\)"),
        ([[1]], ["a"], "float64"),
        ([[1]], [np.nan], "finite"),
        ([[1]], [-1.0], "not negative"),
        ([[1]], [np.inf], "finite"),
    ],
)
def test_dequantize_refuses(codes: Any, scales: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        kernels.dequantize(codes, scales)
    with pytest.raises(SourceError, match=r"expected \(n, 7\)"):
        kernels.as_quantized([[1, 2]], [1.0], 7)


def test_element_types_have_names_in_both_engines() -> None:
    for name in ELEMENT_TYPES:
        values = raw_patterns(name, np.zeros((2, 3), np.uint64))
        assert element_type(values.dtype) == name
        assert kernels.quantize(values)[0].tolist() == [[128] * 3] * 2


# Which engine ---------------------------------------------------------------------------------------


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QSTORE_")}
    clean["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def test_environment_forces_numpy() -> None:
    done = run_python("from qstore import kernels; print(kernels.engine_name())", QSTORE_NO_EXTENSION="1")
    assert (done.returncode, done.stdout) == (0, "NumPy\n")


@NEEDS_EXTENSION
def test_extension_is_the_default() -> None:
    done = run_python(
        "from qstore import kernels; print(kernels.engine_name())", QSTORE_REQUIRE_EXTENSION="1"
    )
    assert done.stdout in [f"C ({level})\n" for level in LEVELS]


def test_missing_extension_falls_back_or_fails_as_asked() -> None:
    hide = (
        "import sys; sys.modules['qstore._native'] = None; "
        "from qstore import kernels; print(kernels.engine_name())"
    )
    assert run_python(hide).stdout == "NumPy\n"
    done = run_python(hide, QSTORE_REQUIRE_EXTENSION="1")
    assert done.returncode == 1
    assert "ImportError: QSTORE_REQUIRE_EXTENSION=1, but qstore._native does not load" in done.stderr
    assert "install a C compiler" in done.stderr


def test_import_is_cheap() -> None:
    code = (
        "import sys, types; package = types.ModuleType('qstore'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['qstore'] = package; import qstore.kernels; "
        "print([name for name in ('h5py', 'tqdm', 'concurrent.futures.thread') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY / "qstore")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# Threads and processes ------------------------------------------------------------------------------


def large_gather() -> Callable[[], NDArray[np.float32]]:
    codes, scales = np.full((3000, 1024), 129, np.uint8), np.ones(3000)
    rows = np.arange(3000)

    def read() -> NDArray[np.float32]:
        out = np.zeros((3000, 1024), np.float32)
        kernels.gather(codes, scales, rows, out, threads=2)
        return out

    return read


def test_a_forked_child_makes_threads_of_its_own() -> None:
    read = large_gather()
    read()
    assert threads._executor is not None
    code = (
        "import os, numpy as np; from qstore import kernels, threads\n"
        "codes, scales, rows = np.full((3000, 1024), 129, np.uint8), np.ones(3000), np.arange(3000)\n"
        "def read():\n"
        "    out = np.zeros((3000, 1024), np.float32)\n"
        "    kernels.gather(codes, scales, rows, out, threads=2)\n"
        "    return bool((out == 1).all())\n"
        "assert read()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if threads._executor is None and read() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0 and read()\n"
    )
    clean = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_many_threads_may_read_at_once() -> None:
    read = large_gather()
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(1 for _ in range(5) if not (read() == 1).all())

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("count", [1, 3, None])
def test_results_come_in_order(count: int | None) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        if number == 40:
            raise KeyError(number)
        return 2 * number

    before = threading.active_count()
    found = threads.in_order(work, items(), count)
    assert [next(found) for _ in range(30)] == list(range(0, 60, 2))
    assert len(taken) <= 30 + 2 * (count or threads.processors())
    with pytest.raises(KeyError, match="40"):
        list(found)
    assert threading.active_count() == before


def test_small_requests_start_no_threads(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_threads", lambda: pytest.fail("asked for threads"))
    codes, scales = np.zeros((10, 16), np.uint8), np.ones(10)
    kernels.gather(codes, scales, np.arange(10), np.empty((10, 16), np.float32), threads=8)
    kernels.dequantize(codes, scales)
    kernels.pool(codes, scales, np.arange(10), np.array([0]), None, "sum", np.empty((1, 16)), threads=8)


# Memory for large outputs ---------------------------------------------------------------------------

MIB = 1 << 20


def address(array: NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


@pytest.fixture
def no_idle_rooms() -> None:
    """What earlier tests left behind makes way for eight others."""
    if native is not None:
        rooms = [native.Room(1) for _ in range(8)]
        del rooms


@pytest.mark.usefixtures("no_idle_rooms")
@NEEDS_EXTENSION
@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux")
def test_the_memory_of_a_large_output_is_used_again() -> None:
    first = kernels.fresh((12 * MIB, 1), "float32")
    place, view = address(first), first[7:9]
    view[:] = 5
    del first
    second = kernels.fresh((12 * MIB,), "float32")
    assert address(second) != place, "a view still needs it"
    second[:] = 1
    assert (view == 5).all()
    del view
    assert address(kernels.fresh((48 * MIB,), np.uint8)) == place
    assert address(kernels.fresh((10 * MIB,), np.float32)) == place, "40 MiB are nearly as many"
    assert address(kernels.fresh((36 * MIB,), np.uint8)) != place, "48 MiB are too many for 36"
    assert address(kernels.fresh((64 * MIB,), np.uint8)) != place
    assert address(kernels.fresh((12 * MIB, 2), np.float16)) == place
    assert kernels.fresh((24 * MIB,), np.uint8).base is None, "NumPy's own"


@pytest.mark.parametrize("size", [32 * MIB - 1, 32 * MIB, 32 * MIB + 1, 300 * MIB])
def test_a_large_output_is_an_array_like_others(engine: str, size: int) -> None:
    array = kernels.fresh((1, size), np.uint8)
    array[0, 0], array[0, -1] = 1, 2
    assert array.shape == (1, size)
    assert all(array.flags[name] for name in ("C_CONTIGUOUS", "WRITEABLE", "ALIGNED"))
    copied = array.copy()
    del array
    assert (copied[0, 0], copied[0, -1]) == (1, 2)


def test_an_output_without_values_is_one(engine: str) -> None:
    assert kernels.fresh((0, 1 << 30), np.float64).shape == (0, 1 << 30)


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("no_idle_rooms")
@NEEDS_EXTENSION
@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux")
def test_little_memory_is_kept() -> None:
    before = virtual_bytes()
    for sizes in ([100] * 6, [300], [40] * 20, [255, 33], [1] * 100):
        rooms = [native.Room(size * MIB) for size in sizes]
        assert virtual_bytes() >= before + sum(sizes) * MIB
        del rooms
        assert virtual_bytes() <= before + 256 * MIB + 16 * MIB


@NEEDS_EXTENSION
@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (sys.maxsize, MemoryError), (1 << 61, MemoryError)]
)
def test_no_room(size: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        native.Room(size)


@NEEDS_EXTENSION
@pytest.mark.parametrize(
    ("arguments", "keywords"), [((), {}), ((1, 2), {}), (("a",), {}), ((1,), {"nbytes": 1})]
)
def test_a_room_takes_a_number(arguments: Any, keywords: Any) -> None:
    with pytest.raises(TypeError):
        native.Room(*arguments, **keywords)


@NEEDS_EXTENSION
def test_threads_never_share_a_room() -> None:
    wrong = []

    def use(number: int) -> None:
        for turn in range(30):
            array = np.ndarray(3 * MIB + number * turn, np.uint8, native.Room(3 * MIB + number * turn))
            array[::4096] = number
            time.sleep(0.0001)
            if (array[::4096] != number).any():
                wrong.append((number, turn))

    workers = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
