"""Scales of which there are few different ones, in 2 bytes each: bit for bit, by C and by NumPy."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.extra.numpy as hn
import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, function_fixture, native
from numpy.typing import NDArray

from qstore.engine import kernels, part_kernels, quantization
from qstore.engine.packed_scales import MOST_VALUES, add_scales, packed
from qstore.engine.quantization import PackedScales, scales_at

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1.7e308, 1.0]


def bits(scales: NDArray[np.float64]) -> list[int]:
    found: list[int] = scales.view(np.uint64).tolist()
    return found


@function_fixture
@hypothesis.given(
    scales=hn.arrays(np.float64, st.integers(0, 60), elements=st.sampled_from(SPECIAL) | st.floats()),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_all_come_back(scales: NDArray[np.float64], cuts: list[int], engine: str) -> None:
    """In parts of any size; zeros of both signs and NaNs of any bits are told apart."""
    found = packed(scales.size, np.split(scales, sorted(min(cut, scales.size) for cut in cuts)))
    assert found is not None
    assert bits(scales_at(found, slice(None))) == bits(scales)
    assert found.places.max(initial=0) < max(1, len(set(bits(scales))))


@pytest.mark.parametrize("different", [MOST_VALUES - 1, MOST_VALUES, MOST_VALUES + 1])
def test_as_many_as_16_bits_tell_apart(different: int, engine: str) -> None:
    scales = np.random.default_rng(1).permutation(np.concatenate([np.arange(different) / 3] * 2))
    found = packed(scales.size, np.array_split(scales, 3))
    assert (found is None) == (different > MOST_VALUES)
    if found is not None:
        assert np.array_equal(scales_at(found, slice(None)), scales)


def test_scales_with_a_distance(engine: str) -> None:
    scales, values, places = np.arange(20.0), np.zeros(MOST_VALUES), np.empty(10, np.uint16)
    assert add_scales(scales[::2], values, 0, places) == 10
    assert np.array_equal(values[places], scales[::2])
    assert add_scales(scales[::-2].copy(), values, 10, places) == 20
    assert np.array_equal(values[places], scales[::-2])


@pytest.fixture
def table() -> tuple[NDArray[np.uint8], NDArray[np.float64], PackedScales]:
    rng = np.random.default_rng(2)
    codes, few = rng.integers(0, 256, (5000, 70), dtype=np.uint8), rng.standard_normal(300)
    scales = few[rng.integers(0, 300, 5000)]
    found = packed(5000, [scales])
    assert found is not None
    return codes, scales, found


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_scattered_rows(table: Any, dtype: str, engine: str) -> None:
    codes, scales, few = table
    rows = np.random.default_rng(3).integers(-5000, 5000, 900)
    expected, out = np.empty((900, 70), dtype), np.empty((900, 70), dtype)
    kernels.gather(codes, scales, rows, expected)
    kernels.gather(codes, few, rows, out)
    assert np.array_equal(out, expected)
    out[:] = 0
    kernels.gather(codes[:, 3:9], few, rows, out[:, 3:9])
    assert np.array_equal(out[:, 3:9], expected[:, 3:9])
    one = np.empty(70, dtype)
    for number in (0, -1, 4999):
        kernels.table(codes, few).row(number, one)
        assert np.array_equal(one, quantization_of(codes, scales, number, dtype))
    if kernels.table(codes, few).take(rows[:50], out[:50]) >= 0:
        assert np.array_equal(out[:50], expected[:50])
    with pytest.raises(IndexError, match="index 5000 is out of bounds"):
        kernels.gather(codes, few, np.array([5000]), out[:1])


def quantization_of(codes: Any, scales: Any, number: int, dtype: str) -> Any:
    out = np.empty((1, codes.shape[1]), dtype)
    quantization.gather(codes, scales, np.array([number]), out)
    return out[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bags(table: Any, dtype: str, weighted: bool, engine: str) -> None:
    codes, scales, few = table
    rng = np.random.default_rng(4)
    rows, offsets = rng.integers(-5000, 5000, 3000), np.arange(0, 3000, 30)
    weights = rng.standard_normal(3000) if weighted else None
    expected, out = np.empty((100, 70), dtype), np.empty((100, 70), dtype)
    kernels.pool(codes, scales, rows, offsets, weights, "sum", expected)
    kernels.pool(codes, few, rows, offsets, weights, "sum", out)
    assert np.array_equal(out, expected)


def test_parts(table: Any, engine: str) -> None:
    """Packed or not, part by part."""
    codes, scales, few = table
    firsts, rows = np.array([0, 2000]), np.random.default_rng(5).integers(-5000, 5000, 700)
    halves = codes[:2000], codes[2000:]
    mixed = PackedScales(few.places[:2000], few.values), scales[2000:]
    expected, out = np.empty((700, 70), np.float32), np.empty((700, 70), np.float32)
    kernels.gather(codes, scales, rows, expected)
    part_kernels.gather_parts(firsts, 5000, halves, mixed, rows, out)
    assert np.array_equal(out, expected)
    copied, factors = np.empty((700, 70), np.uint8), np.empty(700)
    part_kernels.copy_parts(firsts, 5000, halves, mixed, rows, copied, factors)
    assert np.array_equal(copied, codes[rows])
    assert np.array_equal(factors, scales[rows])


@NEEDS_EXTENSION
def test_what_the_extension_refuses(table: Any) -> None:
    codes, scales, few = table
    rows, out = np.array([1]), np.empty((1, 70), np.float32)
    for wrong, message in (
        ((few.places, few.values[:-1]), "values of scales"),
        ((few.places[1:], few.values), "places of scales"),
        ((few.places.astype(np.int64), few.values), "places of scales"),
        ((few.places, np.zeros(2 * MOST_VALUES)[::2]), "must be contiguous"),
        ((few.places,), "not 'tuple'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            native.gather(codes, wrong, rows, out)
    with pytest.raises(TypeError, match=r"not '.*PackedScales'"):
        native.dequantize(codes, few, np.empty(codes.shape, np.float32))
    places = np.empty(5000, np.uint16)
    for count in (-1, MOST_VALUES + 1):
        with pytest.raises(ValueError, match="count must be"):
            native.pack_scales(scales, few.values.copy(), count, places)
    with pytest.raises(ValueError, match="places"):
        native.pack_scales(scales, few.values.copy(), 0, places[1:])
    with pytest.raises(ValueError, match="contiguous"):
        native.pack_scales(scales, few.values.copy(), 0, np.empty(10_000, np.uint16)[::2])
