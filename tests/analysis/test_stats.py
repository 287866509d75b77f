"""store.stats: every figure against one computed from the float64 matrix; threads change nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.analysis import duplicates
from qstore.analysis import stats as stats_room
from qstore.analysis.duplicates import RowHashes
from qstore.analysis.stats import StoreStats
from qstore.engine import distribution
from qstore.engine.distribution import PERCENTILES, Distribution, Spread

MakeStore = Callable[..., qstore.Store]


def assert_alike(found: Any, expected: Any) -> None:
    """Equal in every bit, whatever is inside."""
    if dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            assert_alike(getattr(found, field.name), getattr(expected, field.name))
    else:
        np.testing.assert_equal(found, expected)


def check_distribution(found: Distribution, values: NDArray[np.float64]) -> None:
    assert found.count == values.size
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(), rel=1e-13)
    for percentile in PERCENTILES:
        exact = np.percentile(values, percentile, method="inverted_cdf")
        assert found.percentiles[f"{percentile:g}"] == exact
    assert found.counts.sum() == np.count_nonzero(values > 0)


def test_every_figure(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    matrix[40:43] = matrix[39]
    matrix[2999] = matrix[7]
    store = make_store(matrix)
    found = store.stats()
    values = store.astype("float64")[:]
    norms = np.linalg.norm(values, axis=1)
    assert (found.rows, found.dim, found.zero_rows) == (3001, 48, 1)
    np.testing.assert_allclose(found.norms.maximum, norms.max(), rtol=1e-13)
    np.testing.assert_allclose(found.norms.percentiles["50"], np.sort(norms)[1500], rtol=1e-13)
    check_distribution(found.scales, store.scales)
    filled = norms > 0
    steps = store.scales[filled] / np.sqrt(12) / (norms[filled] / np.sqrt(48))
    np.testing.assert_allclose(found.relative_steps.mean, steps.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.column_means, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.column_energies, (values**2).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.column_variances, values.var(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(found.code_counts, np.bincount(store.codes.reshape(-1), minlength=256))
    assert found.duplicates == duplicates.DuplicateRows(4, 1.0, ((7, 2999, 2), (39, 40, 4)))
    assert found.outliers.columns == ()
    assert found.warnings == ()


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (7, 1), (2, 3000)])
def test_small_shapes(make_store: MakeStore, shape: tuple[int, int]) -> None:
    store = make_store(np.random.default_rng(1).standard_normal(shape))
    found = store.stats()
    assert (found.rows, found.dim) == shape
    assert found.code_counts.sum() == shape[0] * shape[1]
    assert found.norms.count == shape[0]
    assert np.isnan(found.column_means).all() == (shape[0] == 0)


def test_codes_that_are_given_may_be_anything(tmp_path: Path) -> None:
    codes = np.array([[0, 255], [128, 128], [0, 255], [3, 4]], np.uint8)
    with qstore.Writer(tmp_path / "given.h5", 2) as writer:
        writer.append_codes(codes, [1e308, 2.0, 1e308, 0.0])
    with qstore.open(tmp_path / "given.h5") as store:
        found = store.stats()
    assert found.zero_rows == 2  # codes of 128, and a scale of 0
    assert found.norms.maximum == np.inf
    assert found.duplicates.rows == 1
    assert found.column_energies.tolist() == [np.inf, np.inf]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_room, "_PART_CODES", 1)


@pytest.mark.usefixtures("small_parts")
def test_threads_change_nothing(make_store: MakeStore) -> None:
    store = make_store(np.random.default_rng(2).lognormal(size=(4000, 1000)))
    before = threading.active_count()
    one = store.stats(threads=1)
    assert_alike(store.stats(threads=3), one)
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="threads is 0"):
        store.stats(threads=0)


@pytest.mark.usefixtures("small_parts")
def test_progress_and_interruption(make_store: MakeStore) -> None:
    store = make_store(np.ones((3000, 1000)))
    seen: list[tuple[int, int | None]] = []
    store.stats(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3000, 3000)
    assert len(seen) == 3

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        store.stats(progress=stop)
    assert threading.active_count() == before


def test_a_closed_store(make_store: MakeStore) -> None:
    store = make_store(np.ones((3, 2)))
    store.close()
    with pytest.raises(qstore.ClosedError):
        store.stats()


# Outlier columns ------------------------------------------------------------------------------------


def test_outlier_columns_and_what_they_cost(make_store: MakeStore) -> None:
    generator = np.random.default_rng(3)
    matrix = generator.standard_normal((5000, 100))
    without = make_store(matrix, "without.h5")
    matrix[:, [17, 60]] = 20 * generator.choice([-1, 1], (5000, 2)) * generator.uniform(0.9, 1.1, (5000, 2))
    store = make_store(matrix)
    found = store.stats()
    assert sorted(found.outliers.columns) == [17, 60]
    assert sum(found.outliers.peak_shares) == pytest.approx(1, abs=0.05)
    assert found.outliers.energy_share == pytest.approx(0.89, abs=0.01)
    others = np.delete(np.arange(100), [17, 60])

    def error_of_others(one: qstore.Store) -> float:
        return float(np.sqrt(np.mean((one.astype("float64")[:][:, others] - matrix[:, others]) ** 2)))

    assert found.outliers.step_factor == pytest.approx(
        error_of_others(store) / error_of_others(without), rel=0.05
    )
    assert len(found.warnings) == 1
    assert "times finer" in found.warnings[0]
    assert without.stats().outliers.columns == ()


def test_all_of_a_row_in_outlier_columns(make_store: MakeStore) -> None:
    found = make_store(np.eye(1, 100).repeat(50, axis=0)).stats()
    assert found.outliers.columns == (0,)
    assert found.outliers.zeroed_share == 1.0
    assert found.warnings == ()  # nothing was lost: the others are 0


# Distributions --------------------------------------------------------------------------------------


def test_a_distribution_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_EXACT_VALUES", 1000)
    generator = np.random.default_rng(4)
    values = np.exp(np.clip(generator.normal(0, 200, 20_000), -700, 700))
    values[:50] = 0.0
    values[50:60] = [1e-305] * 5 + [1.7e308] * 5
    few, many = Spread(), Spread()
    few.add(values[:900])
    for start in range(900, values.size, 700):
        many.add(values[start : start + 700])
    whole = Spread()
    whole.add(values)
    few.merge(many)
    found, same = few.report(), whole.report()
    assert found.percentiles == same.percentiles
    assert (found.minimum, found.maximum, found.count) == (0.0, 1.7e308, 20_000)
    for name, value in found.percentiles.items():
        exact = np.percentile(values, float(name), method="inverted_cdf")
        assert value == pytest.approx(exact, rel=2**-11, abs=5e-324)
    assert found.counts.sum() == 19_950


def test_a_distribution_of_alike_values() -> None:
    for value in (1.0, 1e-307, 1.7e308, 0.0, np.inf):
        spread = Spread()
        spread.add(np.full(5, value))
        found = spread.report()
        assert found.percentiles["50"] == value
        assert np.isfinite(found.edges).all()
        assert (np.diff(found.edges) > 0).all()
        assert found.counts.sum() == (5 if 0 < value < np.inf else 0)


def test_a_distribution_leaves_nan_out() -> None:
    spread = Spread()
    spread.add(np.array([np.nan, 1.0]))
    spread.add(np.array([np.nan]))
    assert spread.report().count == 1
    assert np.isnan(Spread().report().percentiles["50"])


# Duplicates -----------------------------------------------------------------------------------------


def batches(hashes: NDArray[np.uint64], step: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    for start in range(0, hashes.size, step):
        yield hashes[start : start + step], np.arange(start, min(start + step, hashes.size))


@pytest.mark.parametrize("batch", [10, 100_000])
def test_repeated_rows_are_counted(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", batch)
    hashes = np.random.default_rng(5).integers(0, 1 << 64, 500, np.uint64).repeat(2)
    hashes = np.random.default_rng(6).permutation(np.concatenate([hashes, hashes[:100:2]]))
    found = RowHashes()
    for one, rows in batches(hashes, 77):
        found.add(one, rows)
    assert (found.repeated, found.share_looked_at) == (550, 1.0)
    for first, second, count in found.pairs(30):
        assert np.flatnonzero(hashes == hashes[first])[:2].tolist() == [first, second]
        assert np.count_nonzero(hashes == hashes[first]) == count
    firsts = [first for first, _, _ in found.pairs(30)]
    assert firsts == sorted(firsts)


def test_of_very_many_rows_a_share_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", 256)
    hashes = np.random.default_rng(7).integers(0, 1 << 64, 20_000, np.uint64)
    hashes[10_000:] = hashes[:10_000]
    hashes[15_000:] = hashes[3]  # one row very often is one hash
    halves = [RowHashes(500), RowHashes(500)]
    whole = RowHashes(500)
    for one, rows in batches(hashes, 333):
        whole.add(one, rows)
    for start, half in zip((0, 10_000), halves, strict=True):
        for one, rows in batches(hashes[start : start + 10_000], 450):
            half.add(one, rows)
    halves[0].merge(halves[1], 10_000)
    assert whole.share_looked_at == 1 / 32
    assert (halves[0].repeated, halves[0].pairs(9)) == (whole.repeated, whole.pairs(9))
    kept = hashes < np.uint64(1 << 59)
    assert whole.repeated == 32 * (np.count_nonzero(kept) - np.unique(hashes[kept]).size)


def test_of_few_rows_and_very_many_the_same_share_is_looked_at() -> None:
    hashes = np.random.default_rng(8).integers(0, 1 << 64, 20_000, np.uint64)
    hashes[300:400] = hashes[:100]
    few, many, whole = RowHashes(500), RowHashes(500), RowHashes(500)
    for start, stop, found in ((0, 400, few), (400, 20_000, many), (0, 20_000, whole)):
        found.add(hashes[start:stop], np.arange(start, stop))
    assert few.repeated == 100
    few.merge(many)
    assert (few.share_looked_at, few.repeated, few.pairs(9)) == (
        whole.share_looked_at,
        whole.repeated,
        whole.pairs(9),
    )


def test_equal_hashes_of_different_rows_are_no_example(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(np.eye(4))

    def same_hashes(part: Any) -> Any:
        surveyed = stats_room._SurveyedPart(part)
        surveyed.hashes[:] = 5
        return surveyed

    monkeypatch.setattr(stats_room, "_survey", same_hashes)
    found: StoreStats = store.stats()
    assert (found.duplicates.rows, found.duplicates.examples) == (3, ())


def test_shards_give_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(4).standard_normal((500, 24)).astype(np.float32)
    values[300] = values[450] = values[100]
    values[17] = 0
    qstore.build(values, tmp_path / "whole.h5")
    qstore.build_shards(values, tmp_path / "parts", 130)
    with qstore.open(tmp_path / "whole.h5") as whole, qstore.open(tmp_path / "parts") as parts:
        one, other = whole.stats(), parts.stats()
    assert (one.rows, one.zero_rows, one.duplicates) == (other.rows, other.zero_rows, other.duplicates)
    np.testing.assert_array_equal(one.code_counts, other.code_counts)
    assert one.norms.maximum == other.norms.maximum
    assert one.norms.mean == pytest.approx(other.norms.mean, rel=1e-14)  # summed part by part


# Rows of which little is left ------------------------------------------------------------------------


def warnings_of(folder: Path, values: Any) -> tuple[str, ...]:
    qstore.build(values, folder / "store.h5", overwrite=True)
    with qstore.open(folder / "store.h5") as store:
        return store.stats().warnings


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_one_large_value_in_each_row_at_any_place(tmp_path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, 256))
    values[np.arange(rows), rng.integers(0, 256, rows)] = 3000
    [said] = warnings_of(tmp_path, values)
    assert f"in {rows:,} of {rows:,} looked at rows more than 75% of the values read as 0 (99.6% in" in said


@pytest.mark.parametrize("rows", [1, 3])
def test_a_large_column_of_few_rows(tmp_path: Path, rows: int) -> None:
    values = np.random.default_rng(0).standard_normal((rows, 256))
    values[:, 3] = 3000
    assert warnings_of(tmp_path, values)


def test_rows_that_nothing_is_to_be_said_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    assert warnings_of(tmp_path, rng.standard_normal((300, 256))) == ()
    assert warnings_of(tmp_path, rng.laplace(size=(300, 256))) == ()
    assert warnings_of(tmp_path, np.zeros((5, 4))) == ()
    assert warnings_of(tmp_path, np.empty((0, 4))) == ()
    assert warnings_of(tmp_path, np.eye(50)) == ()  # nothing of it is lost
    few = rng.standard_normal((1000, 64))
    few[5, 0] = 3000  # one row in a thousand
    assert warnings_of(tmp_path, few) == ()
