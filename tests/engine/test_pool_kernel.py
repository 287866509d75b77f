"""The kernel that pools rows, on every engine and level: sums and means rounded once, offsets checked."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture, split_from
from hypothesis import given, settings
from kernel_checks import (
    assert_same_bits,
)
from numpy.typing import NDArray

from qstore.engine import kernels, quantization


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


@pytest.mark.parametrize("largest", [0x7F << 40, 0x7FFF << 32], ids=["bytes", "words"])
def test_pool_where_integers_lose_what_decides(engine: str, largest: int) -> None:
    """Factors become multiples of a unit; what that takes away takes the sum below a tie of float32."""
    unit = 1.0 / largest
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
