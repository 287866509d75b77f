"""build_all and plan_all: a store of each tensor in a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray

import qstore
from qstore.format import layout


@pytest.fixture
def npy(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    np.save(tmp_path / "m.npy", matrix)
    return tmp_path / "m.npy"


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
        ("content", "its content is another: 1 row differs: row 7"),
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
