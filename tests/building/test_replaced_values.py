"""--nonfinite zero says how many values it replaced and where: in every way to build, also after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.building import shard_record, shards
from qstore.cli import main
from qstore.engine.nonfinite import NonFiniteValues, nonfinite_values
from qstore.engine.quantization import ELEMENT_TYPES, marker_dtype

ROWS, DIM = 2600, 1024  # blocks of 1,024 rows
PLACES = ((3, 7, "nan"), (3, 9, "-inf"), (1500, 0, "inf"), (2599, 1023, "nan"))


@pytest.fixture(scope="module")
def holes() -> NDArray[np.float32]:
    values = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    for row, column, value in PLACES:
        values[row, column] = float(value)
    return values


@pytest.fixture
def npy(holes: NDArray[np.float32], tmp_path: Path) -> Path:
    np.save(tmp_path / "holes.npy", holes)
    return tmp_path / "holes.npy"


def check(found: NonFiniteValues) -> None:
    assert (found.count, found.first) == (4, PLACES)


def stop_at(rows: int) -> Any:
    def stop(done: int, total: int | None) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("threads", [1, 2])
def test_a_build(npy: Path, tmp_path: Path, threads: int) -> None:
    check(qstore.build(npy, tmp_path / "out.h5", nonfinite="zero", threads=threads).nonfinite)
    with qstore.open(tmp_path / "out.h5") as store:
        assert [float(store[row, column]) for row, column, _ in PLACES] == [0.0] * 4


def test_all_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    report = qstore.build(np.full((40, 3), np.nan), tmp_path / "out.h5", nonfinite="zero")
    assert report.nonfinite.count == 120
    assert [place[:2] for place in report.nonfinite.first] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert report.nonfinite.in_words().startswith("120 values, the first in row 0, column 0 (nan), row 0,")


def test_nothing_replaced_is_nothing_said(tmp_path: Path) -> None:
    report = qstore.build(np.ones((4, 3)), tmp_path / "out.h5", nonfinite="zero")
    assert (report.nonfinite, report.warnings) == (NonFiniteValues(), ())


def test_chunks(holes: NDArray[np.float32], tmp_path: Path) -> None:
    chunks = (holes[start : start + 700] for start in range(0, ROWS, 700))
    check(qstore.build(chunks, tmp_path / "out.h5", nonfinite="zero").nonfinite)


def test_rows_are_numbered_as_in_the_store(npy: Path, tmp_path: Path) -> None:
    report = qstore.build(npy, tmp_path / "out.h5", nonfinite="zero", rows=slice(1400, 2000))
    assert report.nonfinite.first == ((100, 0, "inf"),)


@pytest.mark.parametrize(("rows", "kept"), [(1, 1024), (1024, 1024), (2048, 2048), (ROWS, 2048)])
def test_an_interrupted_build_counts_all_rows(npy: Path, tmp_path: Path, rows: int, kept: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        qstore.build(npy, tmp_path / "out.h5", nonfinite="zero", threads=1, progress=stop_at(rows))
    report = qstore.build(npy, tmp_path / "out.h5", nonfinite="zero")
    assert report.rows_resumed == kept
    check(report.nonfinite)


def test_a_writer_that_goes_on(holes: NDArray[np.float32], tmp_path: Path) -> None:
    def interrupted() -> None:
        with qstore.Writer(tmp_path / "out.h5", DIM, resume=True, nonfinite="zero") as writer:
            writer.append(holes[:1600])
            assert writer.nonfinite.first == PLACES[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with qstore.Writer(tmp_path / "out.h5", DIM, resume=True, nonfinite="zero") as writer:
        done = writer.rows
        assert (done, writer.nonfinite.count) == (1024, 2)
        writer.append(holes[done:])
    check(writer.nonfinite)


def test_a_build_that_was_killed_while_it_finished(npy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from qstore.writing.unfinished_store import UnfinishedStore

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedStore, "_complete", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
        with pytest.raises(qstore.OutputError):
            qstore.build(npy, tmp_path / "out.h5", nonfinite="zero")
    report = qstore.build(npy, tmp_path / "out.h5", nonfinite="zero")
    assert report.rows_resumed == ROWS
    check(report.nonfinite)


def test_shards(npy: Path, tmp_path: Path) -> None:
    check(qstore.build_shards(npy, tmp_path / "parts", 1000, nonfinite="zero").nonfinite)


@pytest.mark.parametrize("rows", [1001, 2000, 2600])
def test_interrupted_shards_count_all_rows(npy: Path, tmp_path: Path, rows: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        qstore.build_shards(npy, tmp_path / "parts", 1000, nonfinite="zero", progress=stop_at(rows))
    report = qstore.build_shards(npy, tmp_path / "parts", 1000, nonfinite="zero")
    assert report.rows_resumed == (rows - 1) // 1000 * 1000
    check(report.nonfinite)


def test_a_shard_that_the_record_does_not_know_is_built_again(npy: Path, tmp_path: Path) -> None:
    """Killed between publishing the shard and noting what it told, or in the middle of noting it."""
    record = tmp_path / "parts" / shard_record.RECORD
    with pytest.raises(KeyboardInterrupt):
        qstore.build_shards(npy, tmp_path / "parts", 1000, nonfinite="zero", progress=stop_at(2100))
    assert record.read_bytes().count(b"\n") == 2
    record.write_bytes(record.read_bytes()[:-10])  # the second line is torn
    seen: list[str] = []

    def build(source: Any, path: Path, **options: Any) -> qstore.BuildReport:
        seen.append(path.name)
        return qstore.build(source, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "build", build)
        report = qstore.build_shards(npy, tmp_path / "parts", 1000, nonfinite="zero")
    assert seen == ["part-00001.h5", "part-00002.h5"]
    check(report.nonfinite)
    assert not record.exists()


def test_the_row_of_an_error_is_one_of_all_shards(npy: Path, tmp_path: Path) -> None:
    with pytest.raises(qstore.NonFiniteError) as caught:
        qstore.build_shards(npy, tmp_path / "parts", 1000, rows=slice(4, None))
    assert (caught.value.row, caught.value.column) == (1496, 0)


def test_several_tensors(holes: NDArray[np.float32], tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=holes[:20], b=holes[1490:1510])
    source, out = tmp_path / "two.npz", tmp_path / "out"
    expected = {"a": PLACES[:2], "b": ((10, 0, "inf"),)}
    first = qstore.build_all(source, out, nonfinite="zero")
    assert {report.tensor: report.nonfinite.first for report in first} == expected
    again = qstore.build_all(source, out, nonfinite="zero")
    assert {report.tensor: report.nonfinite.first for report in again} == expected
    assert [report.rows_resumed for report in again] == [20, 20]
    with pytest.raises(qstore.NonFiniteError, match="row 3, column 7 is nan"):
        qstore.build_all(source, out)


def test_dask(holes: NDArray[np.float32], tmp_path: Path) -> None:
    array = pytest.importorskip("dask.array").from_array(holes, chunks=(1000, 500))
    check(qstore.dask.build(array, tmp_path / "parts", nonfinite="zero").nonfinite)


def test_verify_says_what_it_took_for_zero(
    npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    qstore.build(npy, out, nonfinite="zero")
    with qstore.open(out) as store:
        report = qstore.verify_against(store, npy)
    check(report.nonfinite)
    assert report.ok
    assert main(["verify", str(out), "--against", str(npy)]) == 0
    assert "; NaN and infinities were compared as 0: 4 values, the first in row 3" in capsys.readouterr().out


def test_the_command(npy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(npy), "-o", str(tmp_path / "a.h5"), "--nonfinite", "zero"]) == 0
    shown = capsys.readouterr().out
    assert "0 is stored for NaN and infinities: 4 values, the first in row 3, column 7 (nan)" in shown
    assert main(["build", str(npy), "-o", str(tmp_path / "b.h5"), "--nonfinite", "zero", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["nonfinite"]
    assert found == {"count": 4, "first": [list(place) for place in PLACES]}
    np.savez(tmp_path / "one.npz", w=np.array([[np.nan, 1.0]]))
    arguments = ["build", str(tmp_path / "one.npz"), "-o", f"{tmp_path}/many/", "--nonfinite", "zero"]
    assert main(arguments) == 0
    assert "w: 0 is stored for NaN and infinities: 1 value, the first in row 0" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in ELEMENT_TYPES if "float" in name])
def test_every_type_that_has_them(engine: str, tmp_path: Path, name: str) -> None:
    raw = {  # 1, NaN, infinity (float8_e4m3fn has none: another NaN), 0
        "bfloat16": np.array([0x3F80, 0x7FC0, 0xFF80, 0], "<u2"),
        "float8_e4m3fn": np.array([0x38, 0x7F, 0xFF, 0], "u1"),
        "float8_e5m2": np.array([0x3C, 0x7E, 0xFC, 0], "u1"),
    }
    if name in raw:
        values = raw[name].view(marker_dtype(name)).reshape(1, 4)
    else:
        values = np.array([[1.0, np.nan, -np.inf, 0.0]], name)
    report = qstore.build(values, tmp_path / "out.h5", nonfinite="zero")
    assert report.nonfinite.count == 2
    assert report.nonfinite == nonfinite_values(values)
    assert report.nonfinite.first[0] == (0, 1, "nan")
    assert report.nonfinite.first[1][2] == ("nan" if name == "float8_e4m3fn" else "-inf")
    with qstore.open(tmp_path / "out.h5") as store:
        assert store.codes.tolist() == [[255, 128, 128, 128]]
