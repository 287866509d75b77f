"""What a build warns of, and what it does not: values that 8 bits keep badly, or would keep without loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.cli import main

ROWS, DIM = 300, 256
Matrix = NDArray[Any]


def normal(seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((ROWS, DIM))


def with_column(size: float) -> Matrix:
    values = normal()
    values[:, 3] = size
    return values


def warnings_of(values: Any, tmp_path: Path, **options: Any) -> tuple[str, ...]:
    return qstore.build(values, tmp_path / "out.h5", overwrite=True, **options).warnings


def stats_warnings(tmp_path: Path) -> tuple[str, ...]:
    with qstore.open(tmp_path / "out.h5") as store:
        return store.stats().warnings


@pytest.mark.parametrize("size", [10, 100, 1000, 3000, 1e6])
def test_a_column_that_is_too_large(tmp_path: Path, size: float) -> None:
    told = warnings_of(with_column(size), tmp_path)
    assert told[0].startswith("columns 3 set the scale of many rows: ")
    assert told[0] == stats_warnings(tmp_path)[0]
    assert ("all other columns read as 0" in told[0]) == (size >= 1000)
    assert ("254.0 times finer" in told[0]) == (size >= 3000)
    coarse = [text for text in told if "measured rows more than a quarter of the values" in text]
    assert len(coarse) == (size >= 100)
    if size >= 1000:
        assert "99.6% in all measured rows" in coarse[0]


def test_a_column_alike_is_none(tmp_path: Path) -> None:
    assert warnings_of(with_column(1), tmp_path) == ()
    assert stats_warnings(tmp_path) == ()


def test_what_the_warning_advises_helps(tmp_path: Path) -> None:
    values = with_column(3000)
    assert warnings_of(values, tmp_path)
    values[:, 3] /= 3000
    assert warnings_of(values, tmp_path) == ()
    assert warnings_of(np.delete(values, 3, axis=1), tmp_path) == ()


def scattered() -> Matrix:
    values = normal()
    values[np.arange(ROWS), np.random.default_rng(1).integers(0, DIM, ROWS)] = 3000
    return values


def in_some_rows() -> Matrix:
    values = normal()
    values[::20, 3] = 3000
    return values


@pytest.mark.parametrize("make", [scattered, in_some_rows])
def test_large_values_that_make_no_column(tmp_path: Path, make: Callable[[], Matrix]) -> None:
    told = warnings_of(make(), tmp_path)
    assert any(
        "measured rows more than a quarter of the values that are not 0 read as 0" in text for text in told
    )


def sparse() -> Matrix:
    values = normal()
    values[np.random.default_rng(2).random((ROWS, DIM)) < 0.95] = 0
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.eye(DIM),
        lambda: np.eye(1, DIM).repeat(ROWS, axis=0),
        lambda: np.eye(1, DIM, 7).repeat(ROWS, axis=0) * np.arange(ROWS)[:, None],
        lambda: np.zeros((ROWS, DIM)),
        lambda: np.pad(normal()[:, :2], ((0, 0), (0, DIM - 2))),
        lambda: np.maximum(normal() - 2, 0),
        lambda: np.random.default_rng(3).standard_t(3, (ROWS, DIM)),
        sparse,
    ],
    ids=[
        "identity",
        "one column",
        "one column of any size",
        "zeros",
        "two columns",
        "relu",
        "tails",
        "sparse",
    ],
)
def test_nothing_is_lost_where_the_others_are_zero(tmp_path: Path, make: Callable[[], Matrix]) -> None:
    assert warnings_of(make(), tmp_path) == ()


def test_stats_do_not_know_what_the_source_held(tmp_path: Path) -> None:
    """One column and zeros: measured at the build, so known. Two: not; and without a measure, neither."""
    assert warnings_of(np.eye(1, DIM).repeat(ROWS, axis=0), tmp_path) == ()
    assert stats_warnings(tmp_path) == ()
    codes, scales = qstore.quantize(np.eye(1, DIM).repeat(ROWS, axis=0))
    qstore.build((codes, scales), tmp_path / "out.h5", overwrite=True)
    assert "and unless they are 0 in the source, what they hold there is lost" in stats_warnings(tmp_path)[0]
    warnings_of(np.pad(normal()[:, :2], ((0, 0), (0, DIM - 2))), tmp_path)
    assert "unless they are 0 in the source" in stats_warnings(tmp_path)[0]


def test_a_damaged_measure_is_none(tmp_path: Path) -> None:
    from qstore.opening import describe_file

    path = tmp_path / "out.h5"
    warnings_of(np.eye(1, DIM).repeat(ROWS, axis=0), tmp_path)
    with path.open("r+b") as file:
        file.seek(describe_file(str(path)).extents["fidelity"].offset + 16)
        file.write(bytes([1] * 8))
    assert "set the scale of many rows" in stats_warnings(tmp_path)[0]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "float32", "float16"])
def test_whole_numbers_that_fit(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(4).integers(-128, 100, (ROWS, 16)).astype(dtype)
    values[0, 0] = -128
    (told,) = warnings_of(values, tmp_path)
    assert told.startswith("the 300 measured rows hold whole numbers from -128 to 99, rounded by up to 0.5")
    assert "step=1 (--step 1) stores them without loss" in told
    assert warnings_of(values, tmp_path, step=1) == ()
    with qstore.open(tmp_path / "out.h5") as store:
        np.testing.assert_array_equal(store[:], values)


def test_whole_numbers_from_0_to_255(tmp_path: Path) -> None:
    (told,) = warnings_of(np.array([[1, 3, 255]], np.uint8), tmp_path)
    assert "zero_point=Z (--step 1 --zero-point Z) stores them without loss, to be read as number - Z" in told
    assert warnings_of(np.array([[1, 3, 255]], np.uint8), tmp_path, step=1, zero_point=128) == ()
    with qstore.open(tmp_path / "out.h5") as store:
        assert (store[:] + 128).tolist() == [[1, 3, 255]]


@pytest.mark.parametrize(
    "values",
    [
        [[1, 127], [-127, 3]],  # the largest of each row is 127: exact
        [[0, 0]],
        [[1, 0], [0, 0]],
        [[1, 300]],
        [[-1, 200]],
        [[1.5, 100]],
    ],
)
def test_no_advice_where_none_helps(tmp_path: Path, values: Any) -> None:
    assert warnings_of(np.array(values), tmp_path) == ()


def test_values_beyond_float32(tmp_path: Path) -> None:
    (told,) = warnings_of(np.array([[1e300, 5e299]]), tmp_path)
    assert told.startswith("values of up to 1e+300 are read as infinity in float32")
    assert stats_warnings(tmp_path) == (told,)
    with qstore.open(tmp_path / "out.h5") as store:
        assert np.isinf(store[0]).all()
        assert np.isfinite(store.astype("float64")[0]).all()  # as it advises
    told, _ = warnings_of(np.array([[np.finfo(np.float64).max, 1.0]]), tmp_path)
    assert "are read as infinity, in every type" in told
    assert warnings_of(np.array([[np.finfo(np.float32).max, 1]], np.float32), tmp_path) == ()


def test_a_resumed_build_warns_of_all_rows(tmp_path: Path) -> None:
    values = np.random.default_rng(5).standard_normal((2100, 1024)).astype(np.float32)
    values[:1024, 3] = 3000
    np.save(tmp_path / "in.npy", values)

    def stop(done: int, total: int | None) -> None:
        if done >= 1024:
            raise KeyboardInterrupt

    expected = warnings_of(tmp_path / "in.npy", tmp_path)
    assert len(expected) == 2
    with pytest.raises(KeyboardInterrupt):
        qstore.build(tmp_path / "in.npy", tmp_path / "again.h5", threads=1, progress=stop)
    report = qstore.build(tmp_path / "in.npy", tmp_path / "again.h5")
    assert (report.rows_resumed, report.warnings) == (1024, expected)


def test_shards_and_several_stores(tmp_path: Path) -> None:
    values = with_column(3000)
    np.save(tmp_path / "in.npy", values)
    told = qstore.build_shards(tmp_path / "in.npy", tmp_path / "parts", 50).warnings
    assert told[0].startswith("part-00000.h5: columns 3 set the scale")
    assert told[-1] == "there are warnings of 3 more shards"
    np.savez(tmp_path / "in.npz", bad=values, good=normal())
    first, again = (qstore.build_all(tmp_path / "in.npz", tmp_path / "out") for _ in range(2))
    assert {report.tensor: bool(report.warnings) for report in first} == {"bad": True, "good": False}
    assert [report.warnings[:1] for report in again] == [report.warnings[:1] for report in first]


def test_dask(tmp_path: Path) -> None:
    array = pytest.importorskip("dask.array").from_array(with_column(3000), chunks=(100, DIM))
    told = qstore.dask.build(array, tmp_path / "parts").warnings
    assert len(told) == 6
    assert told[0].startswith("part-00000-")


def test_a_writer_has_them_when_it_is_closed(tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "out.h5", DIM) as writer:
        writer.append(with_column(3000))
        assert writer.warnings == ()
    assert len(writer.warnings) == 2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "in.npy", with_column(3000))
    arguments = ["build", str(tmp_path / "in.npy"), "-o", str(tmp_path / "out.h5"), "--force"]
    assert main(arguments) == 0
    assert "\nwarning: columns 3 set the scale of many rows" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 2
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().out == ""
    np.savez(tmp_path / "in.npz", w=with_column(3000))
    assert main(["build", str(tmp_path / "in.npz"), "-o", f"{tmp_path}/many/"]) == 0
    assert "\nwarning: w: columns 3 set the scale" in capsys.readouterr().out
    assert main(["stats", str(tmp_path / "out.h5")]) == 0
    shown = capsys.readouterr().out
    assert "3 (largest in 100.0% of the rows); steps of the others 254.00 times as wide, at least" in shown
    assert "codes that stand for 0  99.6%" in shown
