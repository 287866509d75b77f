"""The arithmetic: the NumPy form against exact rational arithmetic, and what must be true of it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from qstore.engine import quantization
from qstore.engine.quantization import (
    dequantize,
    element_type,
    gather,
    marker_dtype,
    pool,
    quantize,
    to_float64,
)

LARGEST = float(np.finfo(np.float64).max)
SMALLEST = 5e-324


def quantized(values: Any, zero_nonfinite: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    array = np.asarray(values)
    codes, scales = np.empty(array.shape, np.uint8), np.empty(len(array))
    assert quantize(array, codes, scales, zero_nonfinite) == -1
    return codes, scales


def dequantized(codes: Any, scales: Any, dtype: str = "float64") -> NDArray[Any]:
    out = np.empty(np.shape(codes), dtype)
    dequantize(np.asarray(codes, np.uint8), np.asarray(scales, np.float64), out)
    return out


def reference_row(row: list[float]) -> tuple[list[int], float]:
    """The specification on Python floats, which are IEEE 754 float64; no NumPy."""
    scale = max(abs(value) for value in row) / 127.0
    if scale == 0.0:
        return [128] * len(row), scale
    return [min(max(math.floor(((value / scale) + 128.0) + 0.5), 1), 255) for value in row], scale


def rounded_to_half(exact: Fraction) -> float:
    """Nearest binary16 of an exact number, ties to even; by rational arithmetic."""
    if exact == 0:
        return 0.0
    magnitude = abs(exact)
    exponent = -14
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 10)
    rounded = round(magnitude / unit) * unit  # round() of a Fraction goes to even
    value = math.inf if rounded > 65504 else float(rounded)
    return math.copysign(value, exact)


finite = st.floats(allow_nan=False, allow_infinity=False)
rows_of_floats = st.integers(1, 9).flatmap(
    lambda dim: st.lists(st.lists(finite, min_size=dim, max_size=dim), min_size=1, max_size=4)
)


def test_worked_example() -> None:
    matrix = [[20000, 3000, 1000, 1000], [1999999, 20000, 1999999, 1999999], [20000, 3000, 1000, 1000]]
    codes, scales = quantized(matrix)
    assert codes.tolist() == [[255, 147, 134, 134], [255, 129, 255, 255], [255, 147, 134, 134]]
    assert np.array2string(dequantized(codes, scales)).split("\n") == [
        "[[2.00000000e+04 2.99212598e+03 9.44881890e+02 9.44881890e+02]",
        " [1.99999900e+06 1.57480236e+04 1.99999900e+06 1.99999900e+06]",
        " [2.00000000e+04 2.99212598e+03 9.44881890e+02 9.44881890e+02]]",
    ]


@given(rows_of_floats)
@settings(max_examples=300)
def test_agrees_with_plain_python_floats(rows: list[list[float]]) -> None:
    codes, scales = quantized(rows)
    expected = [reference_row(row) for row in rows]
    assert codes.tolist() == [row_codes for row_codes, _ in expected]
    assert scales.tolist() == [scale for _, scale in expected]


@given(npst.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=finite))
@settings(max_examples=200)
def test_quantizing_a_float64_read_again_changes_nothing(values: NDArray[np.float64]) -> None:
    codes, scales = quantized(values)
    again = dequantized(codes, scales)
    inside = np.isfinite(again).all(axis=1) & (
        scales >= 1e-300
    )  # rounding of coarser scales is not repeatable
    codes_again, scales_again = quantized(again[inside])
    np.testing.assert_array_equal(codes_again, codes[inside])
    np.testing.assert_array_equal(scales_again, scales[inside])


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 1e-30, 1e37), ("float16", 2.0, 6e4)])
def test_codes_survive_narrower_reads(dtype: str, low: float, high: float) -> None:
    generator = np.random.default_rng(3)
    values = generator.standard_normal((2000, 33))
    values *= (np.exp(generator.uniform(math.log(low), math.log(high), 2000)) / np.abs(values).max(axis=1))[
        :, None
    ]
    codes, scales = quantized(values)
    codes_again, _ = quantized(dequantized(codes, scales, dtype))
    np.testing.assert_array_equal(codes_again, codes)


def test_error_is_at_most_half_a_scale() -> None:
    values = np.random.default_rng(5).standard_normal((500, 64))
    codes, scales = quantized(values)
    assert np.abs(dequantized(codes, scales) - values).max(axis=1) == pytest.approx(scales / 2, rel=0.2)
    assert (np.abs(dequantized(codes, scales) - values) <= scales[:, None] * (0.5 + 1e-9)).all()


def test_ties_go_up() -> None:
    scale = 2.0
    values = np.array([[127.0, 0.5, -0.5, 1.5, -1.5, 126.5, -126.5]]) * scale
    codes, scales = quantized(values)
    assert scales.tolist() == [scale]
    assert codes.tolist() == [[255, 129, 128, 130, 127, 255, 2]]


def test_zero_rows() -> None:
    codes, scales = quantized([[0.0, -0.0], [1.0, 0.0]])
    assert codes.tolist() == [[128, 128], [255, 128]]
    assert scales[0] == 0.0
    assert dequantized(codes, scales)[0].tolist() == [0.0, 0.0]


def test_rows_too_small_for_a_scale_become_zero() -> None:
    codes, scales = quantized([[63 * SMALLEST, -SMALLEST], [64 * SMALLEST, -64 * SMALLEST]])
    assert scales.tolist() == [0.0, SMALLEST]
    assert codes.tolist() == [[128, 128], [192, 64]]


def test_coarse_scales_are_clipped() -> None:
    codes, scales = quantized([[190 * SMALLEST, -190 * SMALLEST]])
    assert scales.tolist() == [SMALLEST]
    assert codes.tolist() == [[255, 1]]


def test_largest_float64_reads_back_as_infinity() -> None:
    codes, scales = quantized([[LARGEST, -LARGEST, 1.0]])
    assert codes.tolist() == [[255, 1, 128]]
    assert dequantized(codes, scales).tolist() == [[math.inf, -math.inf, 0.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_is_located_or_zeroed(value: float) -> None:
    values = np.ones((3, 5))
    values[1, 3] = value
    codes, scales = np.empty((3, 5), np.uint8), np.empty(3)
    assert quantize(values, codes, scales, False) == 1 * 5 + 3
    assert quantize(values, codes, scales, True) == -1
    assert codes[1].tolist() == [255, 255, 255, 128, 255]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integer_extremes(dtype: str) -> None:
    limits = np.iinfo(dtype)
    codes, scales = quantized(np.array([[limits.min, limits.max, 0]], dtype))
    expected, scale = reference_row([float(limits.min), float(limits.max), 0.0])
    assert codes.tolist() == [expected]
    assert scales.tolist() == [scale]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_are_those_of_ml_dtypes(name: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16) if name == "bfloat16" else np.arange(256, dtype=np.uint8)
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="compares with its types")
    theirs = patterns.view(getattr(ml_dtypes, name))
    with np.errstate(invalid="ignore"):
        expected = theirs.astype(np.float64)
    assert element_type(theirs.dtype) == name
    for raw in (theirs, patterns.view(marker_dtype(name))):
        np.testing.assert_array_equal(to_float64(raw), expected)


def test_what_cannot_be_quantized_has_no_element_type() -> None:
    for dtype in ("bool", "complex64", "object", "S3", "M8[s]", "longdouble", "V2"):
        assert element_type(np.dtype(dtype)) is None
    assert element_type(np.dtype([("a", "u2"), ("b", "u2")])) is None
    assert element_type(np.dtype(">f4")) == "float32"


@given(st.integers(0, 255), st.floats(min_value=0, allow_infinity=False))
@settings(max_examples=300)
def test_reads_are_rounded_once(code: int, scale: float) -> None:
    product = (code - 128) * scale
    for dtype in ("float64", "float32"):
        with np.errstate(over="ignore", under="ignore"):
            expected = np.float64(product).astype(dtype)
        np.testing.assert_array_equal(dequantized([[code]], [scale], dtype), [[expected]])
    if math.isfinite(product):
        assert dequantized([[code]], [scale], "float16")[0, 0] == rounded_to_half(Fraction(product))


def test_float16_is_not_rounded_through_float32() -> None:
    tie, above = 1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-40  # float32 cannot tell them apart
    assert dequantized([[129], [129]], [tie, above], "float16").tolist() == [[1.0], [1.0009765625]]


def test_gather_is_dequantize_of_the_rows() -> None:
    codes, scales = quantized(np.random.default_rng(1).standard_normal((50, 9)))
    rows = np.array([3, 3, -1, -50, 49, 0])
    out = np.empty((6, 9), np.float32)
    assert gather(codes, scales, rows, out) == -1
    np.testing.assert_array_equal(out, dequantized(codes, scales, "float32")[rows])


@pytest.mark.parametrize(("rows", "place"), [([0, 5], 1), ([-6, 0], 0), ([0, 1, 2**62], 2), ([], -1)])
def test_gather_finds_rows_out_of_range(rows: list[int], place: int) -> None:
    out = np.full((len(rows), 2), 7.0)
    assert gather(np.zeros((5, 2), np.uint8), np.ones(5), np.array(rows, np.int64), out) == place
    assert (out == 7.0).all()


def pooled_by_hand(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    bag: list[int],
    weights: list[float] | None,
    mode: str,
) -> list[float]:
    sums = [0.0] * codes.shape[1]
    for place, row in enumerate(bag):
        factor = float(scales[row]) if weights is None else weights[place] * float(scales[row])
        sums = [total + factor * (int(code) - 128) for total, code in zip(sums, codes[row], strict=True)]
    return [total / max(len(bag), 1) for total in sums] if mode == "mean" else sums


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lengths", [[3, 0, 5, 1], [0], [200], [1] * 30, [90, 2], []])
def test_pool_adds_in_the_order_of_the_rows(mode: str, weighted: bool, lengths: list[int]) -> None:
    generator = np.random.default_rng(8)
    codes = generator.integers(0, 256, (20, 5), dtype=np.uint8)
    scales = np.exp(generator.uniform(-20, 20, 20))
    bags = [generator.integers(-20, 20, length).tolist() for length in lengths]
    rows = np.array([row for bag in bags for row in bag], np.int64)
    offsets = np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lengths)]
    weights = generator.standard_normal(len(rows)) if weighted else None
    out = np.empty((len(bags), 5))
    assert pool(codes, scales, rows, offsets, weights, mode, out) == -1
    for bag, start, result in zip(bags, offsets, out, strict=True):
        some = None if weights is None else weights[start : start + len(bag)].tolist()
        assert result.tolist() == pooled_by_hand(codes, scales, bag, some, mode)


def test_pool_by_both_ways_of_adding(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    codes, scales = generator.integers(0, 256, (40, 3), dtype=np.uint8), generator.random(40)
    rows, offsets = generator.integers(0, 40, 100), np.array([0, 7, 7, 60])
    results = []
    for way in (quantization._pool_side_by_side, quantization._pool_one_by_one):
        monkeypatch.setattr(quantization, "_pool_side_by_side", way)
        monkeypatch.setattr(quantization, "_pool_one_by_one", way)
        results.append(np.empty((4, 3)))
        pool(codes, scales, rows, offsets, None, "sum", results[-1])
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].any()


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [0, 5], [-1, 0]])
def test_pool_refuses_impossible_offsets(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must start with 0"):
        pool(np.zeros((5, 2), np.uint8), np.ones(5), np.zeros(4, np.int64), np.array(offsets), None, "sum",
             np.empty((len(offsets), 2)))  # fmt: skip


def test_pool_refuses_unknown_modes_and_finds_bad_rows() -> None:
    arguments = np.zeros((5, 2), np.uint8), np.ones(5), np.array([0, 5]), np.array([0, 1]), None
    with pytest.raises(ValueError, match="mode"):
        pool(*arguments, "max", np.empty((2, 2)))
    assert pool(*arguments, "sum", np.empty((2, 2))) == 1
