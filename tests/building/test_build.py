"""build, plan and verify_against: from any source to a store and back."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.sources.row_ranges import row_range

DIM = 48


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)


@pytest.fixture
def npy(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    np.save(tmp_path / "m.npy", matrix)
    return tmp_path / "m.npy"


def test_report(tmp_path: Path, npy: Path, matrix: NDArray[Any]) -> None:
    report = qstore.build(npy, tmp_path / "x.h5")
    assert (report.rows, report.dim, report.rows_resumed) == (3001, 48, 0)
    assert (report.tensor, report.source_dtype) == ("", "float32")
    assert report.path == str(tmp_path / "x.h5")
    assert report.source_bytes == matrix.nbytes
    assert report.file_bytes == (tmp_path / "x.h5").stat().st_size
    assert report.seconds > 0
    assert report.engine == qstore.engine_name()
    assert sorted(os.listdir(tmp_path)) == ["m.npy", "x.h5"]


def test_every_kind_of_source_gives_the_same_file(tmp_path: Path, npy: Path, matrix: NDArray[Any]) -> None:
    qstore.build(matrix, tmp_path / "array.h5")
    expected = (tmp_path / "array.h5").read_bytes()
    sources: dict[str, Any] = {
        "path": str(npy),
        "map": np.load(npy, mmap_mode="r"),
        "chunks": (matrix[i : i + 100] for i in range(0, 3001, 100)),
        "list of chunks": [matrix[:1000], matrix[1000:]],
        "big endian": matrix.astype(">f4"),
        "Fortran": np.asfortranarray(matrix),
    }
    for name, source in sources.items():
        qstore.build(source, tmp_path / "x.h5", overwrite=True)
        assert (tmp_path / "x.h5").read_bytes() == expected, name


def test_plan_says_what_build_does(tmp_path: Path, npy: Path) -> None:
    plan = qstore.plan(npy, tmp_path / "x.h5", rows=slice(10, 500))
    assert not (tmp_path / "x.h5").exists()
    report = qstore.build(npy, tmp_path / "x.h5", rows=slice(10, 500))
    assert (plan.rows, plan.dim, plan.file_bytes) == (report.rows, report.dim, report.file_bytes)
    assert plan.source_bytes == report.source_bytes
    unknown = qstore.plan(iter([np.ones((2, 3))]), tmp_path / "y.h5")
    assert (unknown.rows, unknown.file_bytes, unknown.source_bytes, unknown.dim) == (None, None, None, 3)


@pytest.mark.parametrize(
    "rows", [slice(10, 500), (10, 500), slice(-20, None), slice(0, 0), slice(3001, None)]
)
def test_row_ranges(tmp_path: Path, npy: Path, matrix: NDArray[Any], rows: Any) -> None:
    qstore.build(npy, tmp_path / "x.h5", rows=rows)
    wanted = matrix[rows if isinstance(rows, slice) else slice(*rows)]
    with qstore.open(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store.codes, qstore.quantize(wanted)[0])


@pytest.mark.parametrize("rows", [(10, 500), (0, 3001), (250, None), (0, 0)])
def test_row_ranges_of_streams(tmp_path: Path, matrix: NDArray[Any], rows: Any) -> None:
    qstore.build((matrix[i : i + 100] for i in range(0, 3001, 100)), tmp_path / "x.h5", rows=rows)
    with qstore.open(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store.codes, qstore.quantize(matrix[slice(*rows)])[0])


def test_a_stream_that_is_too_short(tmp_path: Path, matrix: NDArray[Any]) -> None:
    with pytest.raises(qstore.SourceError, match="3,001 rows were given, expected 4,000"):
        qstore.build(iter([matrix]), tmp_path / "x.h5", rows=(0, 4000))
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("rows", [(0, 3002), slice(0, 10, 2), (5, 99999)])
def test_bad_row_ranges(tmp_path: Path, npy: Path, rows: Any) -> None:
    with pytest.raises(qstore.SourceError, match="rows"):
        qstore.build(npy, tmp_path / "x.h5", rows=rows)
    assert os.listdir(tmp_path) == ["m.npy"]


@pytest.mark.parametrize("rows", [(-5, None), (5, 3)])
def test_bad_row_ranges_of_streams(rows: Any) -> None:
    with pytest.raises(qstore.SourceError, match="unknown length"):
        row_range(rows, None)


def test_progress_is_called_with_rows(tmp_path: Path, npy: Path, small_blocks: None) -> None:
    seen: list[tuple[int, int | None]] = []
    qstore.build(npy, tmp_path / "x.h5", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3001, 3001)
    assert seen == sorted(seen)
    assert len(seen) > 20


def test_progress_bar_goes_to_stderr(tmp_path: Path, npy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qstore.build(npy, tmp_path / "x.h5", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3.00k" in captured.err


def test_resumes(tmp_path: Path, npy: Path, small_blocks: None) -> None:
    qstore.build(npy, tmp_path / "whole.h5")
    for rows in (700, 1900):
        with pytest.raises(Interrupt):
            qstore.build(npy, tmp_path / "x.h5", progress=stop_at(rows))
    seen: list[int] = []
    report = qstore.build(npy, tmp_path / "x.h5", progress=lambda done, total: seen.append(done))
    assert report.rows_resumed >= 1900
    assert seen[0] >= report.rows_resumed
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["m.npy", "whole.h5", "x.h5"]


def test_interrupted_before_the_first_block_leaves_nothing(tmp_path: Path, npy: Path) -> None:
    with pytest.raises(qstore.NonFiniteError):
        qstore.build(np.full((5, 3), np.inf), tmp_path / "x.h5")
    assert os.listdir(tmp_path) == ["m.npy"]


def test_restart(tmp_path: Path, npy: Path, small_blocks: None) -> None:
    with pytest.raises(Interrupt):
        qstore.build(npy, tmp_path / "x.h5", progress=stop_at(700))
    assert qstore.build(npy, tmp_path / "x.h5", resume=False).rows_resumed == 0


def test_another_source_is_refused(
    tmp_path: Path, npy: Path, matrix: NDArray[Any], small_blocks: None
) -> None:
    with pytest.raises(Interrupt):
        qstore.build(npy, tmp_path / "x.h5", progress=stop_at(700))
    np.save(npy, matrix[:-1])
    with pytest.raises(
        qstore.ResumeError, match=r"the shape of the source was \(3001, 48\), is \(3000, 48\); .*--restart"
    ):
        qstore.build(npy, tmp_path / "x.h5")
    np.save(npy, matrix)
    with pytest.raises(
        qstore.ResumeError, match=r"the end of the rows \(rows=, --rows\) was row 3001, is row 2000;"
    ):
        qstore.build(npy, tmp_path / "x.h5", rows=(0, 2000))
    assert not (tmp_path / "x.h5").exists()


def test_a_touched_source_is_compared(
    tmp_path: Path, npy: Path, matrix: NDArray[Any], small_blocks: None
) -> None:
    qstore.build(npy, tmp_path / "whole.h5")
    with pytest.raises(Interrupt):
        qstore.build(npy, tmp_path / "x.h5", progress=stop_at(700))
    os.utime(npy, ns=(1, 1))
    assert qstore.build(npy, tmp_path / "x.h5").rows_resumed >= 700
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with pytest.raises(Interrupt):
        qstore.build(npy, tmp_path / "y.h5", progress=stop_at(700))
    matrix[234] += 1
    np.save(npy, matrix)
    os.utime(npy, ns=(2, 2))
    with pytest.raises(qstore.ResumeError, match="rows 200 to 299 differ"):
        qstore.build(npy, tmp_path / "y.h5")


def test_another_array_of_the_same_shape_is_refused(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: None
) -> None:
    with pytest.raises(Interrupt):
        qstore.build(matrix, tmp_path / "x.h5", progress=stop_at(700))
    with pytest.raises(qstore.ResumeError, match="rows 0 to 99 differ"):
        qstore.build(matrix + 1, tmp_path / "x.h5")
    assert qstore.build(matrix, tmp_path / "x.h5").rows_resumed >= 700


def test_streams_start_again(tmp_path: Path, matrix: NDArray[Any], small_blocks: None) -> None:
    def chunks() -> Any:
        return (matrix[i : i + 130] for i in range(0, 3001, 130))

    qstore.build(matrix, tmp_path / "whole.h5")
    with pytest.raises(Interrupt):
        qstore.build(chunks(), tmp_path / "x.h5", progress=stop_at(700))
    assert os.listdir(tmp_path) == ["whole.h5"]
    assert qstore.build(chunks(), tmp_path / "x.h5").rows_resumed == 0
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_source_truncated_meanwhile(tmp_path: Path, npy: Path, small_blocks: None) -> None:
    def truncate(done: int, total: int | None) -> None:
        if done >= 300:
            os.truncate(npy, 100_000)

    with pytest.raises(qstore.SourceError):
        qstore.build(npy, tmp_path / "x.h5", progress=truncate)
    assert not (tmp_path / "x.h5").exists()


def test_the_output_may_not_be_the_source(tmp_path: Path, npy: Path) -> None:
    before = npy.read_bytes()
    os.link(npy, tmp_path / "same.npy")
    for output in (npy, tmp_path / "same.npy"):
        with pytest.raises(qstore.SourceError, match="both the source and the output"):
            qstore.build(npy, output, overwrite=True)
    assert npy.read_bytes() == before


def test_plan_refuses_what_build_would(tmp_path: Path, npy: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"old")
    with pytest.raises(qstore.ExistsError):
        qstore.plan(npy, tmp_path / "x.h5")
    assert qstore.plan(npy, tmp_path / "x.h5", overwrite=True).rows == 3001


def test_an_interrupted_restart_is_kept(tmp_path: Path, npy: Path, small_blocks: None) -> None:
    for rows in (700, 300):
        with pytest.raises(Interrupt):
            qstore.build(npy, tmp_path / "x.h5", progress=stop_at(rows), resume=False)
    assert 300 <= qstore.build(npy, tmp_path / "x.h5").rows_resumed < 700


def test_existing_output_is_told_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"old")
    with pytest.raises(qstore.ExistsError):
        qstore.build(tmp_path / "missing.npy", tmp_path / "x.h5")


def test_verify_against(tmp_path: Path, npy: Path, matrix: NDArray[Any]) -> None:
    qstore.build(npy, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        report = qstore.verify_against(store, npy)
        assert dataclasses.replace(report, fidelity=None) == qstore.AgainstReport(True, 3001, 0, None, ())
        changed = matrix.copy()
        changed[2000] = changed[2000, ::-1]
        changed[7] *= 2
        report = qstore.verify_against(store, changed)
        assert (report.ok, report.differing_rows, report.first_differing_row) == (False, 2, 7)
        assert report.problems == ("2 rows differ, the first ones: 7, 2000",)
        assert "47 columns, the store 48" in qstore.verify_against(store, matrix[:, :47]).problems[0]
        assert "3,000 rows, the store 3,001" in qstore.verify_against(store, matrix[1:]).problems[0]
        assert (
            "2,000 rows, the store 3,001" in qstore.verify_against(store, iter([matrix[:2000]])).problems[0]
        )
        assert qstore.verify_against(store, np.vstack([matrix, matrix]), rows=slice(3001, None)).ok


def test_verify_against_a_longer_stream(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        assert not qstore.verify_against(store, iter([matrix, matrix])).ok


def test_codes_go_in_as_they_are(tmp_path: Path, small_blocks: None) -> None:
    random = np.random.default_rng(9)
    codes, scales = random.integers(0, 256, (1234, DIM), np.uint8), random.random(1234)
    report = qstore.build((codes, scales), tmp_path / "x.h5", rows=(1, 1200))
    assert (report.rows, report.source_dtype, report.source_bytes) == (1199, "quantized", 1199 * (DIM + 8))
    with qstore.open(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store.codes, codes[1:1200])
        np.testing.assert_array_equal(store.scales, scales[1:1200])
        assert qstore.verify_against(store, (codes, scales), rows=(1, 1200)).ok
        codes[300, 4] ^= 1
        report_of_change = qstore.verify_against(store, (codes, scales), rows=(1, 1200))
        assert report_of_change.first_differing_row == 299


def test_interrupted_codes_start_again(tmp_path: Path, small_blocks: None) -> None:
    pair = np.full((1234, DIM), 130, np.uint8), np.ones(1234)
    assert qstore.plan(pair, tmp_path / "x.h5").source_bytes == 1234 * (DIM + 8)
    with pytest.raises(Interrupt):
        qstore.build(pair, tmp_path / "x.h5", progress=stop_at(1))
    assert os.listdir(tmp_path) == []
    assert qstore.build(pair, tmp_path / "x.h5").rows_resumed == 0
