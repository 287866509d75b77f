"""What outlier columns cost: the least that is certain from codes, at every size and whatever the parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import qstore
from qstore.engine import outliers
from qstore.engine.outliers import OutlierColumns, SampledRows, find_outliers

DIM = 64


def found_in(values: NDArray[Any]) -> OutlierColumns:
    codes, scales = qstore.quantize(values)
    sample = SampledRows(values.shape[1])
    sample.add(0, codes, scales)
    peaks = (np.abs(codes.astype(int) - 128) >= 127).sum(axis=0)
    return find_outliers(peaks, np.square(values).sum(axis=0), int((scales > 0).sum()), sample)


def finer(values: NDArray[np.float64], columns: tuple[int, ...]) -> float:
    """How many times finer steps are without these columns."""
    scales = np.abs(values).max(axis=1), np.abs(np.delete(values, columns, axis=1)).max(axis=1)
    return float(np.sqrt(np.square(scales[0]).sum() / np.square(scales[1]).sum()))


@pytest.mark.parametrize("size", [6.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 1e6, 1e30])
@pytest.mark.parametrize("columns", [(3,), (3, 17, 60), tuple(range(8, 40, 2))])
def test_the_figure_is_the_least_that_is_certain(size: float, columns: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((3000, DIM))
    values[:, columns] = size
    found = found_in(values)
    assert tuple(sorted(found.columns)) == columns
    certain = finer(values, columns)
    assert found.step_factor <= certain * (1 + 1e-12)
    assert found.step_factor >= min(certain, 254) / 1.5
    assert found.zeroed_share == pytest.approx(float(size >= 1000), abs=0.1)


def test_sizes_that_grow_cost_more_and_more() -> None:
    values = np.random.default_rng(1).standard_normal((500, DIM))
    factors = []
    for size in np.geomspace(5, 1e7, 40):
        values[:, 3] = size
        factors.append(found_in(values).step_factor)
    assert all(later >= 0.98 * before for before, later in pairwise(factors))
    assert factors[0] < 2
    assert factors[-1] == pytest.approx(254)


def test_columns_alike_have_no_outliers() -> None:
    generator = np.random.default_rng(2)
    for dim in (1, 2, 3, 4, 7, 256):
        assert found_in(generator.standard_normal((2000, dim))).columns == ()
    for density in (0.01, 0.3, 0.9):  # zeros and ones
        assert not found_in((generator.random((2000, DIM)) < density) * 1.0).worth_a_warning
    assert found_in(np.eye(DIM)).columns == ()
    assert found_in(generator.standard_normal((4, DIM))).columns == ()  # too few rows to tell
    assert found_in(np.zeros((5, DIM))).columns == ()
    assert found_in(np.empty((0, DIM))).columns == ()


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 300])
def test_narrow_and_wide_matrices(dim: int) -> None:
    values = np.random.default_rng(3).standard_normal((400, dim))
    values[:, 0] = 3000
    found = found_in(values)
    assert found.columns == (0,)
    assert found.step_factor == pytest.approx(254)
    assert found.zeroed_share == 1.0


def test_outliers_in_some_rows_only() -> None:
    values = np.random.default_rng(4).standard_normal((2000, DIM))
    values[:200, 3] = 3000
    found = found_in(values)
    assert found.columns == (3,)
    assert found.peak_shares[0] == pytest.approx(0.1, abs=0.02)
    assert found.zeroed_share == pytest.approx(0.1)
    assert 100 < found.step_factor <= finer(values, (3,))


def test_huge_scales_do_not_overflow() -> None:
    values = np.random.default_rng(5).standard_normal((100, DIM))
    values[:, 3] = 1e150
    assert found_in(values).step_factor == pytest.approx(254)
    assert found_in(values * 1e-300).step_factor == pytest.approx(254)


def test_codes_that_are_given_may_be_anything() -> None:
    codes = np.full((50, 4), 128, np.uint8)
    codes[:, 0], codes[:25, 1], codes[10] = 0, 255, 128
    sample = SampledRows(4)
    sample.add(0, codes, np.ones(50))
    step_factor, zeroed_share = sample.cost(np.array([0]))
    assert step_factor == pytest.approx(np.sqrt(49 / (24 + 25 / 254**2)))
    assert zeroed_share == 25 / 49
    sample.add(50, codes, np.zeros(50))
    assert sample.cost(np.array([0]))[1] == 25 / 49


@given(
    rows=st.integers(0, 300),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    merged=st.integers(0, 6),
)
def test_which_rows_are_taken_follows_from_their_number_alone(
    rows: int, cuts: list[int], merged: int
) -> None:
    codes = np.arange(rows * 2, dtype=np.int64).reshape(rows, 2).astype(np.uint8)
    scales = np.arange(rows, dtype=np.float64)
    bounds = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outliers, "_SAMPLED_ROWS", 16)
        whole, parts = SampledRows(2), [SampledRows(2), SampledRows(2)]
        for number, (start, stop) in enumerate(pairwise(bounds)):
            parts[number >= merged].add(start, codes[start:stop], scales[start:stop])
        whole.add(0, codes, scales)
        parts[0].merge(parts[1])
    numbers, taken, taken_scales = parts[0].rows()
    for one, other in zip(whole.rows(), parts[0].rows(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(taken, codes[numbers])
    np.testing.assert_array_equal(taken_scales, scales[numbers])
    stride = 1
    while -(-rows // stride) > 16:
        stride *= 2
    np.testing.assert_array_equal(numbers, np.arange(0, rows, stride))
