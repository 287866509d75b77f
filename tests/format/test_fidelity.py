"""Errors of a store against its source: every figure computed again here, another way, to 1e-12."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels
from qstore.engine.quantization import to_float64
from qstore.engine.row_errors import ROW_FIGURES
from qstore.format import layout
from qstore.format.fidelity import Fidelity, FidelityTotals

MakeStore = Callable[..., qstore.Store]


def check(found: Fidelity | None, given: NDArray[Any], read: NDArray[np.float64], scales: Any) -> None:
    """Compare with long double arithmetic on the whole matrix."""
    assert found is not None
    x = to_float64(given).astype(np.longdouble)
    errors = (read - to_float64(given)).astype(
        np.longdouble
    )  # what a float64 read is off by, as float64 has it
    assert found.rows == len(x)
    assert found.max_error == pytest.approx(float(np.abs(errors).max()), rel=1e-12, abs=1e-300)
    assert found.rms_error == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-12, abs=1e-300)
    assert found.expected_rms_error == pytest.approx(
        float(np.sqrt(np.mean(scales**2) / 12)), rel=1e-12, abs=1e-300
    )
    assert found.snr_db == pytest.approx(
        float(10 * np.log10(np.sum(x**2) / np.sum(errors**2))), rel=1e-12, abs=1e-300
    )
    filled = (x != 0).any(axis=1)
    norms, error_norms = np.sqrt((x**2).sum(axis=1)), np.sqrt((errors**2).sum(axis=1))
    relative = (error_norms[filled] / norms[filled]).astype(np.float64)
    assert found.relative_error_mean == pytest.approx(relative.mean(), rel=1e-12, abs=1e-300)
    assert found.relative_error_max == pytest.approx(relative.max(), rel=1e-12, abs=1e-300)
    y = read.astype(np.longdouble)[filled]
    cosines = ((x[filled] * y).sum(axis=1) / norms[filled] / np.sqrt((y**2).sum(axis=1))).astype(np.float64)
    assert found.cosine_mean == pytest.approx(cosines.mean(), rel=1e-12, abs=1e-300)
    assert found.cosine_min == pytest.approx(cosines.min(), rel=1e-12, abs=1e-300)
    for name, value in found.relative_error_percentiles.items():
        exact = np.percentile(relative, float(name), method="inverted_cdf")
        assert value == pytest.approx(exact, rel=1e-12, abs=1e-300)
    for name, value in found.cosine_percentiles.items():
        exact = -np.percentile(-cosines, 100 - float(name), method="inverted_cdf")
        assert value == pytest.approx(exact, rel=1e-12, abs=1e-300)
    worst = np.flatnonzero(filled)[np.argsort(-relative, kind="stable")[:8]]
    assert [row for row, _ in found.worst_rows] == worst.tolist()
    for row, error in found.worst_rows:
        assert error == pytest.approx(float(error_norms[row] / norms[row]), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16"])
@pytest.mark.parametrize("shape", [(5000, 48), (300, 1), (40, 700)])
def test_every_figure(make_store: MakeStore, dtype: str, shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(shape[0])
    matrix = (generator.standard_normal(shape) * 50 * generator.lognormal(size=(shape[0], 1))).astype(dtype)
    matrix[3] = 0
    if shape[1] == 1:
        matrix[:] = 0 if dtype == "int16" else matrix
    store = make_store(matrix)
    found = qstore.verify_against(store, matrix)
    assert found.ok
    if matrix.any() and shape[1] > 1:
        check(found.fidelity, matrix, store.astype("float64")[:], store.scales)


def test_a_store_of_one_column_is_exact(make_store: MakeStore) -> None:
    found = qstore.verify_against(make_store([[1.0], [-3.0], [0.0]]), [[1.0], [-3.0], [0.0]]).fidelity
    assert found is not None
    assert found.relative_error_max < 1e-15
    assert found.cosine_min == 1.0


def test_another_matrix_than_the_stores(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    """What is measured is what the store reads, not what the source would give."""
    store = make_store(matrix)
    changed = matrix.copy()
    changed[7] = -changed[7]
    changed[9] *= 3
    found = qstore.verify_against(store, changed)
    assert not found.ok
    assert found.fidelity is not None
    assert [row for row, _ in found.fidelity.worst_rows[:2]] == [7, 9]
    assert found.fidelity.cosine_min == pytest.approx(-1, abs=1e-3)
    check(found.fidelity, changed, store.astype("float64")[:], store.scales)


def test_rows_of_zeros_and_nothing_at_all(make_store: MakeStore) -> None:
    found = qstore.verify_against(make_store(np.zeros((4, 3))), np.zeros((4, 3))).fidelity
    assert found is not None
    assert (found.rows, found.rms_error, found.worst_rows) == (4, 0.0, ())
    assert math.isnan(found.snr_db)
    assert math.isnan(found.cosine_min)
    empty = qstore.verify_against(make_store(np.zeros((0, 3))), np.zeros((0, 3))).fidelity
    assert empty is not None
    assert empty.rows == 0
    assert math.isnan(empty.rms_error)


def test_values_that_are_not_finite_count_as_zeros(make_store: MakeStore) -> None:
    matrix = np.random.default_rng(1).standard_normal((50, 9))
    held = matrix.copy()
    matrix[4, 5], matrix[6, 1] = np.nan, -np.inf
    held[4, 5] = held[6, 1] = 0
    store = make_store(matrix, nonfinite="zero")
    check(qstore.verify_against(store, matrix).fidelity, held, store.astype("float64")[:], store.scales)


@pytest.mark.parametrize("factor", [1e300, 1e-290, 1e-150, 1e160])
def test_sizes_do_not_matter_to_relative_figures(make_store: MakeStore, factor: float) -> None:
    matrix = np.random.default_rng(2).standard_normal((50, 9)) * 2.0**-1
    near = qstore.verify_against(make_store(matrix), matrix).fidelity
    scaled = 2.0 ** round(math.log2(factor)) * matrix
    far = qstore.verify_against(make_store(scaled), scaled).fidelity
    assert near is not None
    assert far is not None
    assert far.cosine_min == near.cosine_min
    assert far.relative_error_percentiles == near.relative_error_percentiles
    assert far.worst_rows == near.worst_rows


def test_what_no_scale_can_hold(make_store: MakeStore) -> None:
    matrix = np.array([[1e-322, 0.0], [np.finfo(np.float64).max, 1.0], [1.0, 2.0]])
    found = qstore.verify_against(make_store(matrix), matrix).fidelity
    assert found is not None
    assert found.worst_rows[:2] == ((1, np.inf), (0, 1.0))
    assert found.cosine_min == 0.0


def test_chunks_do_not_matter(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(np.tile(matrix, (16, 1)))
    whole = qstore.verify_against(store, np.tile(matrix, (16, 1)))
    assert whole.fidelity is not None
    assert len(store) > 2 * (1 << 20) // 48
    assert qstore.verify_against(store, iter([matrix] * 16)) == whole
    for threads in (1, 3):
        assert qstore.verify_against(store, np.tile(matrix, (16, 1)), threads=threads) == whole
    with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
        qstore.verify_against(store, matrix, threads=0)


def test_quantized_sources_have_nothing_to_measure(tmp_path: Path) -> None:
    codes, scales = np.full((5, 3), 200, np.uint8), np.ones(5)
    qstore.build((codes, scales), tmp_path / "coded.h5")
    with qstore.open(tmp_path / "coded.h5") as store:
        found = qstore.verify_against(store, (codes, scales))
    assert found.ok
    assert found.fidelity is None


@given(
    st.integers(1, 300), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from(["f4", ">f8", "i4"])
)
@settings(max_examples=60)
def test_rows_alone_give_the_same_bits(dim: int, rows: int, seed: int, dtype: str) -> None:
    """The figures of a row depend on nothing but the row, or chunks would show in the file."""
    values = (np.random.default_rng(seed).standard_normal((rows, dim)) * 1000).astype(dtype)
    codes, scales = qstore.quantize(values)
    together = kernels.row_errors(values, codes, scales)
    for row in range(rows):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(
            kernels.row_errors(values[one], codes[one], scales[one])[0], together[row]
        )
    turned = kernels.row_errors(np.asfortranarray(values), codes, scales)
    np.testing.assert_array_equal(turned, together)
    assert together.shape == (rows, ROW_FIGURES)


def test_a_block_of_no_rows() -> None:
    totals = FidelityTotals(3)
    totals.add_block(0, np.empty((0, ROW_FIGURES)), np.empty(0))
    assert totals.report().rows == 0


# What a build measures ------------------------------------------------------------------------------


def sampled(rows: int, dim: int) -> NDArray[np.int64]:
    """Numbers of the rows that a build measures, as the format page says."""
    block = max(1, layout.block_rows(dim))
    numbers = np.arange(rows)
    return numbers[numbers % block < max(1, block // 64)]


@pytest.mark.parametrize("shape", [(5000, 768), (100, 3), (3, 1_200_000)])
def test_a_build_measures_the_first_rows_of_each_block(make_store: MakeStore, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(4).standard_normal(shape, np.float32)
    matrix[1] = 0
    store = make_store(matrix)
    rows = sampled(*shape)
    found = store.fidelity
    assert found is not None
    assert found.zero_rows == np.count_nonzero(rows == 1)
    expected = make_store(matrix[rows], "sample.h5")
    check_sample(found, matrix[rows], expected, rows)
    assert store.verify().ok
    assert store.format_version == (1, 1)


def check_sample(found: Fidelity, matrix: NDArray[Any], store: qstore.Store, rows: NDArray[np.int64]) -> None:
    renumbered = tuple((int(np.searchsorted(rows, row)), error) for row, error in found.worst_rows)
    moved = dataclasses.replace(found, worst_rows=renumbered)
    check(moved, matrix, store.astype("float64")[:], store.scales)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_what_is_measured_depends_on_the_rows_alone(
    tmp_path: Path, matrix: NDArray[np.float32], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 200 * 48)
    qstore.build(matrix[:1111], tmp_path / "whole.h5", threads=3)
    for resumed in (False, True):
        path = tmp_path / f"{resumed}.h5"
        for stop in (333, 1111) if resumed else (1111,):
            with contextlib.suppress(InterruptedError), qstore.Writer(path, 48, resume=True) as writer:
                for start in range(writer.rows, stop, chunk):
                    writer.append(matrix[start : min(start + chunk, stop)])
                if stop < 1111:
                    raise InterruptedError
        assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_rows_that_come_quantized_are_not_measured(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    codes, scales = qstore.quantize(matrix)
    for coded in (1, 3001):
        with qstore.Writer(tmp_path / f"{coded}.h5", 48, source_dtype="float32") as writer:
            writer.append_codes(codes[:coded], scales[:coded])
            writer.append(matrix[coded:])
        with qstore.open(tmp_path / f"{coded}.h5") as store:
            assert store.fidelity is None
            assert store.format_version == (1, 0)


def test_what_was_measured_is_not_in_the_content_id(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.build(matrix, tmp_path / "measured.h5")
    qstore.build(qstore.quantize(matrix), tmp_path / "coded.h5")
    with qstore.open(tmp_path / "measured.h5") as one, qstore.open(tmp_path / "coded.h5") as other:
        assert one.content_id == other.content_id
        assert one.fidelity is not None
    with pytest.raises(qstore.ClosedError):
        _ = one.fidelity


def changed_number(path: Path, number: int, value: float, reseal: bool) -> None:
    with h5py.File(path, "r+") as file:
        numbers = file["fidelity"][:]
        numbers[number] = value
        if reseal:
            numbers[-1] = zlib.crc32(numbers[:-1].tobytes())
        file["fidelity"][:] = numbers


def test_a_changed_number_is_noticed(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.build(matrix, tmp_path / "store.h5")
    changed_number(tmp_path / "store.h5", 3, 1.0, reseal=False)
    with qstore.open(tmp_path / "store.h5") as store:
        with pytest.raises(qstore.FormatError, match="differs from its checksum"):
            _ = store.fidelity
        found = store.verify()
    assert (found.ok, found.broken_blocks) == (False, ())
    assert "/fidelity" in found.problems[0]


@pytest.mark.parametrize(("number", "value"), [(0, np.nan), (0, -1), (1, np.inf), (3, -2.0), (28, np.nan)])
def test_numbers_that_lie(tmp_path: Path, number: int, value: float) -> None:
    qstore.build(np.ones((4, 3)), tmp_path / "store.h5")
    changed_number(tmp_path / "store.h5", number, value, reseal=True)
    with (
        qstore.open(tmp_path / "store.h5") as store,
        pytest.raises(qstore.FormatError, match="no build can have measured"),
    ):
        _ = store.fidelity
