"""The kernel that measures the errors of rows, on every engine and level, against NumPy."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture
from hypothesis import given, settings
from kernel_checks import U8, assert_same_bits, float_matrices, raw_patterns
from numpy.typing import NDArray

from qstore.engine import kernels, row_errors
from qstore.engine.quantization import ELEMENT_TYPES, item_size

WIDTHS = [*range(1, 41), 127, 128, 129, 136, 300, 768, 1024, 1025, 4096]


def check(values: NDArray[Any], codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
    assert_same_bits(kernels.row_errors(values, codes, scales), row_errors.row_errors(values, codes, scales))


def check_own(values: NDArray[Any]) -> None:
    """With the codes that the values have."""
    codes, scales = np.empty(values.shape, U8), np.empty(len(values))
    kernels.quantize_into(values, codes, scales, "zero")
    check(values, codes, scales)


def telling_rows(dim: int) -> NDArray[np.float64]:
    """Rows in which what may go wrong is anywhere."""
    generator = np.random.default_rng(dim)
    plain = generator.standard_normal(dim)
    whole = np.rint(plain * 100)
    holes = [
        np.where(generator.random(dim) < 0.2, value, plain) for value in (np.nan, np.inf, -np.inf, 0.0, -0.0)
    ]
    ends = [plain * size for size in (1e300, 1e-300, 1e-310, 5e-324, 3e38, 1e-40, 1e-45)]
    wholes = [whole, whole * 2.0**51, whole * 1e300, whole + 0.5, np.where(whole == 0, -0.0, whole)]
    constants = [np.full(dim, value) for value in (0.0, -0.0, 1.0, np.nan, np.inf, 5e-324, 1.7e308)]
    almost = whole.copy()
    almost[-1] = 0.5
    return np.stack([plain, *holes, *ends, *wholes, *constants, almost])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_width(engine: str, dtype: str) -> None:
    for dim in WIDTHS:
        with np.errstate(over="ignore", under="ignore"):
            values = telling_rows(dim).astype(dtype)
        check_own(values)
        codes = np.random.default_rng(0).integers(0, 256, values.shape, U8)
        check(values, codes, np.geomspace(1e-320, 1e308, len(values)))


@given(data=st.data())
@settings(function_fixture, max_examples=150)
def test_adversarial_values(engine: str, data: st.DataObject) -> None:
    values = data.draw(float_matrices(data.draw(st.sampled_from(["float32", "float64"]))))
    check_own(values)
    codes = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, 256, values.shape, U8)
    kinds = st.sampled_from([0.0, -0.0, 1.0, -0.25, 5e-324, 1e-310, 1e306, 1e308, np.inf, np.nan])
    check(values, codes, np.array([data.draw(kinds) for _ in values]))


@pytest.mark.parametrize("name", ELEMENT_TYPES)
def test_every_element_type(engine: str, name: str) -> None:
    size = item_size(name)
    for dim in (3, 64, 333):
        bits = np.random.default_rng(dim).integers(0, 256, (40, dim * size), U8).view(f"u{size}")
        values = raw_patterns(name, bits)
        check_own(values)
        # Codes of other values.
        check(values, np.full(values.shape, 131, U8), np.full(len(values), 0.75))


def test_values_that_do_not_lie_well(engine: str) -> None:
    values = np.random.default_rng(5).standard_normal((60, 90)).astype("f4")
    codes, scales = kernels.quantize(values)
    expected = row_errors.row_errors(values, codes, scales)
    assert_same_bits(kernels.row_errors(values.astype(">f4"), codes, scales), expected)
    assert_same_bits(kernels.row_errors(np.asfortranarray(values), codes, scales), expected)
    assert_same_bits(kernels.row_errors(values, np.asfortranarray(codes), scales), expected)
    assert_same_bits(kernels.row_errors(values[::-2], codes[::-2], scales[::-2]), expected[::-2])
    shifted = np.empty(values.nbytes + 1, U8)[1:].view("f4").reshape(values.shape)
    shifted[:] = values
    assert_same_bits(kernels.row_errors(shifted, codes, scales), expected)
    assert kernels.row_errors(values[:0], codes[:0], scales[:0]).shape == (0, row_errors.ROW_FIGURES)


def test_what_the_figures_are(engine: str) -> None:
    values = np.array([[127.0, 0.0, 0.25, -3.0], [2.0, -1.0, 0.0, -0.0], [0.0, 0.0, 0.0, 0.0]])
    codes = np.array([[255, 128, 128, 125], [130, 128, 128, 128], [128, 128, 128, 128]], U8)
    found = kernels.row_errors(values, codes, np.ones(3))
    np.testing.assert_array_equal(found[:, 0], [0.0625, 1, 0])
    np.testing.assert_array_equal(found[:, 1], [127**2 + 0.0625 + 9, 5, 0])
    np.testing.assert_array_equal(found[:, 2], [0.25, 1, 0])
    np.testing.assert_allclose(found[:, 3], [0.25 / np.sqrt(127**2 + 9.0625), np.sqrt(0.2), np.nan])
    np.testing.assert_allclose(found[1:, 4], [1 - 2 / np.sqrt(5), np.nan])
    np.testing.assert_array_equal(found[:, 5:7], [[3, 1], [2, 1], [0, 0]])
    np.testing.assert_array_equal(found[:, 7:], [[np.nan, np.nan], [-1, 2], [0, 0]])
    assert not np.signbit(found[2, 7:]).any()
