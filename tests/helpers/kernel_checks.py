"""What tests of kernels share: values on which mistakes show, and comparisons with the specification."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from numpy.typing import NDArray

from qstore.engine import kernels, quantization
from qstore.engine.quantization import marker_dtype
from qstore.errors import NonFiniteError

__all__ = [
    "I64",
    "U8",
    "assert_same_bits",
    "check_quantize",
    "float_matrices",
    "raw_patterns",
    "read_only",
    "shapes",
]

U8, I64 = np.uint8, np.int64
TINY, HUGE = 1e-45, 3e38  # close to the ends of float32


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
    one, other = (np.ascontiguousarray(array).view(unsigned) for array in (found, expected))
    if np.array_equal(one, other):
        return
    same = (one == other) | np.isnan(found) & np.isnan(expected)
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


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
