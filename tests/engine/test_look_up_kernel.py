"""The kernel that scales the floats of a table, on every engine and level, against NumPy."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture
from hypothesis import given, settings
from kernel_checks import U8, assert_same_bits
from numpy.typing import NDArray

from qstore.engine import code_tables, kernels

TABLE = np.random.default_rng(1).standard_normal(256).astype(np.float32)
TABLE[:6] = [0.0, -0.0, np.inf, 1e-45, 3e38, -448.0]


def check(codes: NDArray[np.uint8], factors: NDArray[np.float32], width: int) -> None:
    expected = np.empty(codes.shape, np.float32)
    with np.errstate(all="ignore"):
        columns = np.arange(codes.shape[1]) // width
        expected[...] = TABLE[codes] * factors[:, columns]
    for engine in (code_tables, kernels):
        found = np.full(codes.shape, 7, np.float32)
        engine.look_up(codes, TABLE, factors, width, found)
        assert_same_bits(found, expected)


@given(data=st.data())
@settings(function_fixture, max_examples=100)
def test_look_up(engine: str, data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 80))
    width = data.draw(st.one_of(st.integers(1, 90), st.sampled_from([16, 32])))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    held = data.draw(st.sampled_from([1, rows])) or 1
    factors = generator.choice(
        np.array([1, 0.1, 1e-40, 2.0**-127, 3e20, -2], np.float32), (held, -(-dim // width))
    )
    check(generator.integers(0, 256, (rows, dim), U8), factors, width)


def test_columns_of_a_wider_matrix(engine: str) -> None:
    codes = np.random.default_rng(2).integers(0, 256, (300, 90), U8)
    check(codes[:, :77], np.linspace(1, 2, 300 * 5, dtype=np.float32).reshape(300, 5), 16)
    check(codes[::-1], np.ones((1, 1), np.float32), 90)
    check(codes[:, ::3], np.ones((300, 30), np.float32), 1)


@pytest.mark.parametrize(("rows", "groups"), [(2, 3), (4, 2), (1, 4)])
def test_factors_of_another_shape(rows: int, groups: int) -> None:
    if kernels.extension() is None:
        pytest.skip("NumPy trusts its callers")
    factors = np.ones((rows, groups), np.float32)
    with pytest.raises(ValueError, match="factors are"):
        kernels.look_up(np.zeros((4, 6), U8), TABLE, factors, 2, np.empty((4, 6), np.float32))
