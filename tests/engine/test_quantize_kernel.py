"""The kernel that quantizes, on every engine and level, against the specification in NumPy."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture
from hypothesis import given, settings
from kernel_checks import (
    check_quantize,
    float_matrices,
    raw_patterns,
    shapes,
)

from qstore.engine import kernels
from qstore.engine.quantization import ELEMENT_TYPES
from qstore.errors import NonFiniteError


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
