"""The kernel that surveys codes for the statistics, on every engine and level, against NumPy."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from every_engine import function_fixture
from hypothesis import given, settings
from kernel_checks import (
    I64,
    U8,
    assert_same_bits,
)
from numpy.typing import NDArray

from qstore.engine import kernels, stats_survey

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
