"""step= and --step: whole numbers that fit 8 bits are stored as they are, from any source, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.engine.coding import Coding

ROWS, DIM = 2500, 1024


@pytest.fixture(scope="module")
def int8() -> NDArray[np.int8]:
    return np.random.default_rng(0).integers(-128, 128, (ROWS, DIM)).astype(np.int8)


def check(path: Path, values: NDArray[Any], step: float, zero_point: int = 0) -> None:
    with qstore.open(path) as store:
        assert store.verify().ok
        np.testing.assert_array_equal(store.scales, np.full(len(values), step))
        np.testing.assert_array_equal(store.codes, values.astype(np.int64) - zero_point + 128)
        exact = (values.astype(np.float64) - zero_point) * step
        np.testing.assert_array_equal(store.astype("float64")[:], exact)
        assert store.fidelity is None
        assert qstore.verify_against(store, values, step=step, zero_point=zero_point).ok


@pytest.mark.parametrize("step", [1, 0.05, 1e-40, np.float32(0.1)])
def test_int8(int8: NDArray[np.int8], tmp_path: Path, step: Any) -> None:
    report = qstore.build(int8, tmp_path / "out.h5", step=step)
    assert (report.source_dtype, report.warnings) == ("int8", ())
    check(tmp_path / "out.h5", int8, float(step))


def test_uint8_with_a_zero_point(engine: str, tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(4, 64)
    qstore.build(values, tmp_path / "out.h5", step=0.5, zero_point=128)
    check(tmp_path / "out.h5", values, 0.5, 128)


@pytest.mark.parametrize("dtype", ["int16", "int64", "uint16", "float16", "float32", "float64", ">f4", ">i2"])
def test_other_types_of_whole_numbers(tmp_path: Path, dtype: str) -> None:
    values = np.arange(128).reshape(8, 16).astype(dtype)
    for name, given in (("lies", values), ("strided", np.asfortranarray(values))):
        qstore.build(given, tmp_path / f"{name}.h5", step=2)
        check(tmp_path / f"{name}.h5", values, 2.0)


def test_the_same_as_codes_and_scales(int8: NDArray[np.int8], tmp_path: Path) -> None:
    qstore.build(int8, tmp_path / "step.h5", step=0.25)
    codes = (int8.view(np.uint8) ^ 128).astype(np.uint8)
    qstore.build((codes, np.full(ROWS, 0.25)), tmp_path / "pair.h5")
    with qstore.open(tmp_path / "step.h5") as one, qstore.open(tmp_path / "pair.h5") as other:
        assert one.content_id == other.content_id


@pytest.mark.parametrize("bits", [7.5, 1e300, 128, -129, 2.0**63])
def test_what_does_not_fit_is_refused(tmp_path: Path, bits: float) -> None:
    values = np.zeros((3000, 16))
    values[2999, 5] = bits
    with pytest.raises(
        qstore.SourceError, match=r"row 2999, column 5 holds .* from -128 to 127 can be stored"
    ):
        qstore.build(values, tmp_path / "out.h5", step=1)
    assert list(tmp_path.iterdir()) == []
    qstore.build(values, tmp_path / "out.h5")  # as the message advises


@pytest.mark.parametrize(("least", "largest"), [(-128, 127), (0, 255), (72, 327)])
def test_the_zero_point_says_what_fits(tmp_path: Path, least: int, largest: int) -> None:
    zero_point = least + 128
    values = np.array([[least, largest]], np.int32)
    qstore.build(values, tmp_path / "out.h5", step=1, zero_point=zero_point)
    check(tmp_path / "out.h5", values, 1.0, zero_point)
    for beyond in (least - 1, largest + 1):
        with pytest.raises(
            qstore.SourceError, match=f"zero point {zero_point} only whole numbers from {least} "
        ):
            qstore.build(np.array([[beyond]]), tmp_path / "no.h5", step=1, zero_point=zero_point)


def test_nonfinite(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan, 3.0]])
    with pytest.raises(qstore.NonFiniteError):
        qstore.build(values, tmp_path / "out.h5", step=1)
    report = qstore.build(values, tmp_path / "out.h5", step=2, zero_point=2, nonfinite="zero")
    assert report.nonfinite.first == ((0, 1, "nan"),)
    with qstore.open(tmp_path / "out.h5") as store:
        assert store[0].tolist() == [-2, 0, 2]


@pytest.mark.parametrize(
    ("step", "zero_point", "error"),
    [
        (0, 0, "step is 0.0, expected a finite number above 0"),
        (-1, 0, "step is -1.0"),
        (np.nan, 0, "step is nan"),
        (np.inf, 0, "step is inf"),
        (1, 256, "zero_point is 256, expected a whole number from -128 to 255"),
        (1, -129, "zero_point is -129"),
        (None, 3, "zero_point is 3, but there is no step"),
    ],
)
def test_bad_arguments(tmp_path: Path, step: Any, zero_point: int, error: str) -> None:
    for call in (qstore.build, qstore.plan, lambda x, y, **o: qstore.Writer(y, 2, **o)):
        with pytest.raises(ValueError, match=error):
            call(np.ones((2, 2)), tmp_path / "out.h5", step=step, zero_point=zero_point)
    with pytest.raises(TypeError):
        Coding(1, 1.5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "zero_point", "advised"),
    [([[0, 128, 255]], 0, 128), ([[0, 200]], 10, 128), ([[-128, 3]], 128, 0), ([[-128, 3]], 10, 0)],
)
def test_another_zero_point_is_advised_where_it_loses_nothing(
    tmp_path: Path, values: Any, zero_point: int, advised: int
) -> None:
    given = np.array(values, np.float32)
    with pytest.raises(qstore.SourceError, match=rf"zero_point={advised} \(--zero-point {advised}\)"):
        qstore.build(given, tmp_path / "out.h5", step=1, zero_point=zero_point)
    qstore.build(given, tmp_path / "out.h5", step=1, zero_point=advised)
    with qstore.open(tmp_path / "out.h5") as store:
        assert np.array_equal(store[:], given - advised)


@pytest.mark.parametrize("values", [[[-1, 200]], [[0.5, 200]], [[0, 256]]])
def test_no_zero_point_is_advised_where_none_fits(tmp_path: Path, values: Any) -> None:
    with pytest.raises(qstore.SourceError, match="leave the step out") as caught:
        qstore.build(np.array(values, np.float32), tmp_path / "out.h5", step=1)
    assert "--zero-point" not in str(caught.value)


def test_codes_are_stored_as_they_are_anyway(tmp_path: Path) -> None:
    pair = np.ones((2, 2), np.uint8), np.ones(2)
    for call in (qstore.build, qstore.plan):
        with pytest.raises(qstore.SourceError, match="leave the step out"):
            call(pair, tmp_path / "out.h5", step=1)
    qstore.build(pair, tmp_path / "out.h5")


def test_the_plan_knows_the_size(int8: NDArray[np.int8], tmp_path: Path) -> None:
    planned = qstore.plan(int8, tmp_path / "out.h5", step=1)
    assert planned.file_bytes == qstore.build(int8, tmp_path / "out.h5", step=1).file_bytes


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_build_goes_on(int8: NDArray[np.int8], tmp_path: Path, threads: int) -> None:
    source, out = tmp_path / "in.npy", tmp_path / "out.h5"
    np.save(source, int8)

    def stop(done: int, total: int | None) -> None:
        if done >= 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.build(source, out, step=1, threads=1, progress=stop)
    for other in ({}, {"step": 2}, {"step": 1, "zero_point": 1}):
        with pytest.raises(qstore.ResumeError):
            qstore.build(source, out, **other)  # type: ignore[arg-type]
    np.save(source, int8)  # another time of change: rows done before are compared
    report = qstore.build(source, out, step=1.0, threads=threads)
    assert report.rows_resumed == 1024
    check(out, int8, 1.0)
    qstore.build(source, tmp_path / "whole.h5", step=1)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_chunks_keys_and_shards(int8: NDArray[np.int8], tmp_path: Path) -> None:
    words = [f"w{row}" for row in range(ROWS)]
    chunks = (int8[start : start + 300] for start in range(0, ROWS, 300))
    qstore.build(chunks, tmp_path / "chunks.h5", keys=words, step=3)
    check(tmp_path / "chunks.h5", int8, 3.0)
    np.save(tmp_path / "in.npy", int8)
    for _ in range(2):
        qstore.build_shards(tmp_path / "in.npy", tmp_path / "parts", 1000, step=3, overwrite=True)
        with qstore.open(tmp_path / "parts") as store:
            np.testing.assert_array_equal(store[:], 3 * int8.astype(np.float32))
            assert qstore.verify_against(store, int8, step=3).ok
    bad = int8.astype(np.int16)
    bad[2100, 1] = 400
    with pytest.raises(qstore.SourceError, match="row 100, column 1 holds 400") as caught:
        qstore.build_shards(bad, tmp_path / "bad", 1000, step=1)
    assert caught.value.__notes__ == ["rows are counted from row 2000, the first one of part-00002.h5"]


def test_word_vectors(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("2 3\nking 1 2 3\nqueen -4 5 -6\n")
    qstore.build(tmp_path / "words.txt", tmp_path / "out.h5", step=1)
    with qstore.open(tmp_path / "out.h5") as store:
        assert store["queen"].tolist() == [-4, 5, -6]
        report = qstore.verify_against(store, tmp_path / "words.txt", step=1)
    assert (report.ok, report.keys_compared, report.fidelity) == (True, True, None)


def test_several_tensors(int8: NDArray[np.int8], tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=int8[:20], b=int8[20:50])
    for resumed in (0, 20):
        reports = qstore.build_all(tmp_path / "in.npz", tmp_path / "out", step=1)
        assert reports[0].rows_resumed == resumed
    check(tmp_path / "out" / "a.h5", int8[:20], 1.0)
    with pytest.raises(qstore.ExistsError, match="its content is another"):
        qstore.build_all(tmp_path / "in.npz", tmp_path / "out")
    plans = qstore.plan_all(tmp_path / "in.npz", tmp_path / "out", step=1)
    assert [one.file_bytes for one in plans] == [one.file_bytes for one in reports]


def test_dask(int8: NDArray[np.int8], tmp_path: Path) -> None:
    dask = pytest.importorskip("dask.array")
    qstore.dask.build(dask.from_array(int8, chunks=(1000, DIM)), tmp_path / "parts", step=1)
    with qstore.open(tmp_path / "parts") as store:
        np.testing.assert_array_equal(store[:], int8.astype(np.float32))
    bad = int8.astype(np.float32) + 0.5
    with pytest.raises(qstore.SourceError, match="can be stored as they are"):
        qstore.dask.build(dask.from_array(bad, chunks=(1000, DIM)), tmp_path / "bad", step=1)


def test_verifying_without_the_step_says_what_is_missing(tmp_path: Path) -> None:
    values = np.array([[1, 3, 100], [5, 6, 7]], np.int8)
    qstore.build(values, tmp_path / "out.h5", step=0.5)
    with qstore.open(tmp_path / "out.h5") as store:
        report = qstore.verify_against(store, values)
        assert report.problems == (
            "2 rows differ, the first ones: 0, 1",
            "all scales of the store are 0.5: if it was built with a step (step=, --step), give that here, "
            "too",
        )
        assert qstore.verify_against(store, values, step=0.5).ok  # as it says


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(tmp_path / "in.npy"), str(tmp_path / "out.h5")
    np.save(source, np.array([[1, 3, 255]], np.uint8))
    arguments = ["--step", "1", "--zero-point", "128"]
    assert main(["build", source, "-o", out, *arguments, "--dry-run"]) == 0
    assert main(["build", source, "-o", out, *arguments]) == 0
    assert main(["verify", out, "--against", source, *arguments]) == 0
    assert "every code and scale of 1 row agrees with" in capsys.readouterr().out
    assert main(["get", out, "0"]) == 0
    assert capsys.readouterr().out == "-127.0 -125.0 127.0\n"
    assert main(["build", source, "-o", str(tmp_path / "no.h5"), "--step", "1"]) == 2
    assert "row 0, column 2 holds 255" in capsys.readouterr().err
    assert main(["build", source, "-o", out, "--step", "2", "--force", "--zero-point", "128", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source_dtype"] == "uint8"
    np.savez(tmp_path / "in.npz", w=np.array([[1, 3]]))
    assert main(["build", str(tmp_path / "in.npz"), "-o", f"{tmp_path}/many/", "--step", "1"]) == 0
    check(tmp_path / "many" / "w.h5", np.array([[1, 3]]), 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "IN", "-o", "OUT", "--zero-point", "3"], "--zero-point goes with --step"),
        (["build", "IN", "-o", "OUT", "--step", "0"], "is not a finite number above 0"),
        (["build", "IN", "-o", "OUT", "--step", "x"], "is not a finite number above 0"),
        (["build", "IN", "-o", "OUT", "--step", "1", "--zero-point", "999"], "is not from -128 to 255"),
        (["build", "IN", "-o", "OUT", "--step", "1", "--zero-point", "1.5"], "is not a whole number"),
        (["verify", "OUT", "--step", "1"], "give --against SRC too"),
    ],
)
def test_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    np.save(tmp_path / "in.npy", np.ones((2, 2), np.int8))
    places = {"IN": str(tmp_path / "in.npy"), "OUT": str(tmp_path / "out.h5")}
    try:
        status: Any = main([places.get(one, one) for one in arguments])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err
