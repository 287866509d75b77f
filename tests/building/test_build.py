"""build, build_all, plan and verify_against: from any source to a store and back."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.sources import RowSource, open_source
from qstore.sources.base import KeyedSource, Keys
from qstore.sources.concatenated import ConcatenatedChunks, concatenated
from qstore.sources.memory.array import ArraySource
from qstore.sources.memory.chunks import ChunkSource
from qstore.sources.quantized import CodesSource
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
    with pytest.raises(qstore.SourceError, match="3001 rows were given, expected 4000"):
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


class Interrupt(Exception):
    """Stands for whatever stops a build."""


def stop_at(rows: int) -> Any:
    def progress(done: int, total: int | None) -> None:
        if done >= rows:
            raise Interrupt

    return progress


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
    with pytest.raises(qstore.ResumeError, match=r"source was .*--restart"):
        qstore.build(npy, tmp_path / "x.h5")
    np.save(npy, matrix)
    with pytest.raises(qstore.ResumeError, match="last_row was 3001, is 2000"):
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
        assert "3000 rows, the store 3001" in qstore.verify_against(store, matrix[1:]).problems[0]
        assert "2000 rows, the store 3001" in qstore.verify_against(store, iter([matrix[:2000]])).problems[0]
        assert qstore.verify_against(store, np.vstack([matrix, matrix]), rows=slice(3001, None)).ok


def test_verify_against_a_longer_stream(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        assert not qstore.verify_against(store, iter([matrix, matrix])).ok


# Several inputs ---------------------------------------------------------------------------------------

PARTS = (0, 1000, 1000, 1234, 3001)


@pytest.fixture
def parts(tmp_path: Path, matrix: NDArray[Any]) -> list[Path]:
    """The matrix in four files, one of them without rows and one in the other byte order."""
    folder = tmp_path / "parts"
    folder.mkdir()
    paths = []
    for number, (first, last) in enumerate(itertools.pairwise(PARTS)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], matrix[first:last].astype(">f4" if number == 2 else "<f4"))
    return paths


def test_several_inputs_follow_one_another(
    tmp_path: Path, parts: list[Path], matrix: NDArray[Any], small_blocks: None
) -> None:
    qstore.build(matrix, tmp_path / "whole.h5")
    report = qstore.build([*map(str, parts[:2]), *parts[2:]], tmp_path / "x.h5", threads=3)
    assert (report.rows, report.dim, report.tensor, report.source_dtype) == (3001, 48, "", "float32")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    qstore.build(parts, tmp_path / "rows.h5", rows=(990, 1300))
    with qstore.open(tmp_path / "rows.h5") as store:
        np.testing.assert_array_equal(store.codes, qstore.quantize(matrix[990:1300])[0])
    with qstore.open(tmp_path / "x.h5") as store:
        assert qstore.verify_against(store, parts).ok
        assert not qstore.verify_against(store, parts[::-1]).ok
    assert qstore.plan(parts, tmp_path / "y.h5").rows == 3001


def test_every_range_of_rows_of_several_inputs(parts: list[Path], matrix: NDArray[Any]) -> None:
    edges = sorted({edge + step for edge in PARTS for step in (-1, 0, 1) if 0 <= edge + step <= 3001})
    with open_source(parts) as source:
        assert isinstance(source, RowSource)
        for start, stop in itertools.combinations_with_replacement(edges, 2):
            np.testing.assert_array_equal(source.read(start, stop), matrix[start:stop])
        for start, stop in ((-1, 5), (5, 3), (0, 3002)):
            with pytest.raises(qstore.SourceError, match="3001 rows"):
                source.read(start, stop)


def test_several_tensors_of_one_name(tmp_path: Path, matrix: NDArray[Any]) -> None:
    for number, rows in enumerate((matrix[:1000], matrix[1000:])):
        with h5py.File(tmp_path / f"{number}.hdf5", "w") as file:
            file["a"], file["b"] = rows, rows[:5]
    sources = [tmp_path / "0.hdf5", tmp_path / "1.hdf5"]
    report = qstore.build(sources, tmp_path / "x.h5", tensor="a")
    assert (report.tensor, report.rows) == ("a", 3001)
    with pytest.raises(qstore.TensorError, match=r"0\.hdf5 holds 2 matrices"):
        qstore.build(sources, tmp_path / "y.h5")


@pytest.mark.usefixtures("no_leaks")
def test_inputs_that_do_not_fit(tmp_path: Path, parts: list[Path], matrix: NDArray[Any]) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 49), np.float32))
    np.save(tmp_path / "exact.npy", np.ones((3, 48)))
    for name, message in (
        ("wide.npy", r"wide\.npy cannot be put behind .*0\.npy: columns expected 48, found 49"),
        (
            "exact.npy",
            r"exact\.npy cannot be put behind .*0\.npy: element type expected float32, found float64",
        ),
        ("missing.npy", r"missing\.npy does not exist"),
    ):
        with pytest.raises(qstore.SourceError, match=message):
            qstore.build([*parts, tmp_path / name], tmp_path / "x.h5")
    assert not list(tmp_path.glob("x.h5*"))


def test_several_inputs_are_gone_on_with(tmp_path: Path, parts: list[Path], small_blocks: None) -> None:
    qstore.build(parts, tmp_path / "whole.h5")
    for name in ("x.h5", "y.h5"):
        with pytest.raises(Interrupt):
            qstore.build(parts, tmp_path / name, progress=stop_at(1900))
    assert qstore.build(parts, tmp_path / "x.h5").rows_resumed >= 1900
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with pytest.raises(qstore.ResumeError, match="source was"):
        qstore.build(parts[::-1], tmp_path / "y.h5")
    np.save(parts[0], np.load(parts[0])[::-1])
    os.utime(parts[0], ns=(1, 1))
    with pytest.raises(qstore.ResumeError, match="rows 0 to 99 differ"):
        qstore.build(parts, tmp_path / "y.h5")


def test_one_of_several_inputs_changes_meanwhile(
    tmp_path: Path, parts: list[Path], small_blocks: None
) -> None:
    def touch(done: int, total: int | None) -> None:
        os.utime(parts[2], ns=(1, 1))

    with pytest.raises(qstore.SourceError, match=r"2\.npy was changed while it was read"):
        qstore.build(parts, tmp_path / "x.h5", progress=touch)


def test_the_output_may_not_be_one_of_the_inputs(tmp_path: Path, parts: list[Path]) -> None:
    with pytest.raises(qstore.SourceError, match="both the source and the output"):
        qstore.build(parts, parts[2], overwrite=True)


def test_streams_follow_one_another_too(matrix: NDArray[Any]) -> None:
    def streams() -> ConcatenatedChunks:
        pieces = [matrix[first:last] for first, last in itertools.pairwise(PARTS)]
        return ConcatenatedChunks([ArraySource(pieces[0]), *(ChunkSource([one]) for one in pieces[1:])])

    assert streams().rows is None
    assert streams().fingerprint() is None
    for start in (0, 999, 1000, 1001, 3000, 3001):
        found = np.concatenate([matrix[:0], *streams().chunks(start)])
        np.testing.assert_array_equal(found, matrix[start:])
    with pytest.raises(qstore.SourceError, match="expected more than 3002 rows, found 3001"):
        list(streams().chunks(3002))
    arrays = ConcatenatedChunks([ArraySource(matrix[:5]), ArraySource(matrix[5:])])
    assert arrays.rows == 3001
    assert "mtime_ns" not in (arrays.fingerprint() or {})


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


def test_codes_follow_one_another(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    codes, scales = random.integers(0, 256, (900, DIM), np.uint8), random.random(900)
    parts = [CodesSource(codes[a:b], scales[a:b]) for a, b in ((0, 400), (400, 400), (400, 900))]
    source = concatenated(["0", "1", "2"], lambda name: parts[int(name)])
    qstore.build(source, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store.codes, codes)
        np.testing.assert_array_equal(store.scales, scales)
    np.testing.assert_array_equal(next(source.chunks())[395:405], CodesSource(codes, scales).read(395, 405))


class Words(KeyedSource):
    """Rows 0 to 4 of one column, with words."""

    dtype, rows, dim = "float32", 5, 1

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        for row in range(start, 5):
            yield np.array([[row]], np.float32), [f"word {row}"]


def test_keys_follow_one_another() -> None:
    source = ConcatenatedChunks([Words(), Words()])
    assert source.keyed
    found = list(source.keyed_chunks(4))
    assert [words for _, words in found if len(words)] == [["word 4"], *([f"word {row}"] for row in range(5))]
    assert all(len(chunk) == len(words) for chunk, words in found)
    mixed = ConcatenatedChunks([Words(), ArraySource(np.ones((2, 1), np.float32))])
    assert not mixed.keyed
    with pytest.raises(qstore.SourceError, match="no keys"):
        mixed.keyed_chunks()


# Several tensors --------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, NDArray[Any]]:
    """26 tables of different widths and heights in one file, beside other tensors."""
    random = np.random.default_rng(3)
    found = {f"tables.{n}.weight": random.standard_normal((40 + n, 3 + n)) for n in range(26)}
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        for name, values in found.items():
            file[name] = values
            file[name.replace("weight", "bias")] = values[0]
        file["tables.text.weight"] = np.array([[b"no number"]])
        file["head.weight"] = random.standard_normal((2, 2))
    return found


def rows_in(tables: dict[str, NDArray[Any]]) -> int:
    return sum(len(values) for values in tables.values())


def test_a_store_of_each_tensor(tmp_path: Path, tables: dict[str, NDArray[Any]]) -> None:
    seen: list[tuple[int, int | None]] = []
    reports = qstore.build_all(
        tmp_path / "model.hdf5",
        tmp_path / "out",
        "tables.*.weight",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert {report.tensor for report in reports} == set(tables)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(f"{name}.h5" for name in tables)
    for report in reports:
        with qstore.open(report.path) as store:
            np.testing.assert_array_equal(store.codes, qstore.quantize(tables[report.tensor])[0])
            assert store.tensor == report.tensor
    assert seen == sorted(seen)
    assert seen[-1] == (rows_in(tables), rows_in(tables))
    assert {total for _, total in seen} == {rows_in(tables)}


def test_one_progress_bar_for_all(
    tmp_path: Path, tables: dict[str, NDArray[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", "tables.*", progress=True)
    assert capsys.readouterr().err.count("\n") == 1


def test_plan_of_several(tmp_path: Path, tables: dict[str, NDArray[Any]]) -> None:
    plans = qstore.plan_all(tmp_path / "model.hdf5", tmp_path / "out", "tables.*.weight", rows=(0, 40))
    assert not (tmp_path / "out").exists()
    reports = qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", "tables.*.weight", rows=(0, 40))
    for plan, report in zip(plans, reports, strict=True):
        assert (plan.path, plan.tensor, plan.rows, plan.dim) == (report.path, report.tensor, 40, report.dim)
        assert plan.file_bytes == report.file_bytes


def test_an_interrupted_run_goes_on(tmp_path: Path, tables: dict[str, NDArray[Any]]) -> None:
    source, out = tmp_path / "model.hdf5", tmp_path / "out"
    with pytest.raises(Interrupt):
        qstore.build_all(source, out, "tables.*", progress=stop_at(500))
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert 5 < len(finished) < 20
    seen: list[int] = []
    reports = qstore.build_all(source, out, "tables.*", progress=lambda done, total: seen.append(done))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    kept = [report for report in reports if report.rows_resumed == report.rows]
    assert {Path(report.path) for report in kept} == set(finished)
    assert len(os.listdir(out)) == 26
    assert seen[-1] == rows_in(tables)
    for report in kept:
        assert report.file_bytes == os.stat(report.path).st_size
        assert report.source_bytes == tables[report.tensor].nbytes


def test_rows_done_before_count_in_the_progress_of_all(
    tmp_path: Path, tables: dict[str, NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 3 * 10)  # tables.0.weight has four blocks of ten rows
    source, out = tmp_path / "model.hdf5", tmp_path / "out"
    with pytest.raises(Interrupt):
        qstore.build_all(source, out, "tables.[01].weight", progress=stop_at(40))
    assert sorted(os.listdir(out)) == ["tables.0.weight.h5.journal", "tables.0.weight.h5.partial"]
    seen: list[int] = []
    first, _ = qstore.build_all(
        source, out, "tables.[01].weight", progress=lambda done, total: seen.append(done)
    )
    assert first.rows_resumed == 40
    assert seen[-1] == 40 + 41


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("text", "exists, and it is no store"),
        ("shape", r"it is a store of .*\(9, 4\).* expected .*\(40, 3\)"),
        ("content", "its content is another: 1 rows differ, the first ones: 7"),
        ("folder", "is a directory"),
    ],
)
def test_what_is_in_the_way_is_told_before_anything_is_written(
    tmp_path: Path, tables: dict[str, NDArray[Any]], there: str, message: str
) -> None:
    source, out = tmp_path / "model.hdf5", tmp_path / "out"
    out.mkdir()
    path = out / "tables.0.weight.h5"
    if there == "text":
        path.write_text("precious")
    elif there == "shape":
        qstore.build(np.ones((9, 4)), path)
    elif there == "content":
        changed = tables["tables.0.weight"].copy()
        changed[7] *= 2
        with h5py.File(tmp_path / "other.hdf5", "w") as file:
            file["tables.0.weight"] = changed
        qstore.build(tmp_path / "other.hdf5", path)
    else:
        path.mkdir()
    with pytest.raises(qstore.ExistsError, match=message):
        qstore.build_all(source, out, "tables.*")
    assert os.listdir(out) == [path.name]
    if there != "folder":
        reports = qstore.build_all(source, out, "tables.*", overwrite=True)
        assert [report.rows_resumed for report in reports] == [0] * 26


def test_names_of_files_are_safe_and_different(tmp_path: Path) -> None:
    names = ["a/b", "a%2Fb", "a b", "ä", ".hidden", "a~b", "-x", "a:b*"]
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        for name in names:
            file[name] = np.ones((2, 3))
    reports = qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out")
    files = [Path(report.path).name for report in reports]
    assert len(set(files)) == len(names)
    assert {unquote(name.removesuffix(".h5")) for name in files} == set(names)
    assert all(re.fullmatch(r"[-A-Za-z0-9_~%][-A-Za-z0-9_.~%]*\.h5", name) for name in files)
    assert {Path(report.path).parent for report in reports} == {tmp_path / "out"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing.*", r"has no tensor 'nothing.\*'"),
        ("*.bias", "matrices only"),
        ("TABLES.0.weight", "did you mean"),
    ],
)
def test_patterns_that_match_no_matrix(
    tmp_path: Path, tables: dict[str, NDArray[Any]], pattern: str, message: str
) -> None:
    with pytest.raises(qstore.TensorError, match=message):
        qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", pattern)
    assert not (tmp_path / "out").exists()


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        file["w[0]"], file["w0"] = np.ones((2, 3)), np.ones((2, 3))
    reports = qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", "w[0]")
    assert [report.tensor for report in reports] == ["w[0]"]


def test_sources_and_places_that_several_stores_cannot_have(tmp_path: Path, npy: Path) -> None:
    with h5py.File(tmp_path / "model.hdf5", "w") as file:
        file["x" * 300] = np.ones((2, 3))
    (tmp_path / "file").write_text("precious")
    model = tmp_path / "model.hdf5"
    for source, out, error, message in (
        (npy, "out", qstore.SourceError, "without a name"),
        ([npy, npy], "out", qstore.SourceError, "expected one file"),
        (np.ones((2, 3)), "out", qstore.SourceError, "expected one file"),
        (model, "out", qstore.OutputError, "name of 303 bytes, expected at most 240"),
    ):
        with pytest.raises(error, match=message):
            qstore.build_all(source, tmp_path / out)
    with h5py.File(model, "w") as file:
        file["a"] = np.ones((2, 3))
    for out, message in (("file", "is not a directory"), ("no/out", "there is no directory")):
        with pytest.raises(qstore.OutputError, match=message):
            qstore.build_all(model, tmp_path / out)
    with pytest.raises(qstore.SourceError, match="rows ends at 5"):
        qstore.build_all(model, tmp_path / "out", rows=(0, 5))
    model.rename(tmp_path / "a.h5")
    with pytest.raises(qstore.SourceError, match="both the source and the output"):
        qstore.build_all(tmp_path / "a.h5", tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "file", "m.npy"]


def test_errors_name_the_tensor(tmp_path: Path, tables: dict[str, NDArray[Any]]) -> None:
    with h5py.File(tmp_path / "model.hdf5", "r+") as file:
        file["tables.3.weight"][5, 1] = np.nan
    with pytest.raises(qstore.NonFiniteError) as caught:
        qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", "tables.*")
    assert caught.value.__notes__ == ["this was tensor 'tables.3.weight'"]
    assert "tables.3.weight.h5" not in os.listdir(tmp_path / "out")
    qstore.build_all(tmp_path / "model.hdf5", tmp_path / "out", "tables.*", nonfinite="zero")
    assert len(os.listdir(tmp_path / "out")) == 26
