"""The qstore command: in this process for most, in a real one where signals and pipes matter."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore import environment
from qstore.cli import failures, get, main
from qstore.cli.formats import FORMATS
from qstore.cli.parser import COMMANDS, find_command, make_parser
from qstore.cli.printing import byte_size, print_table

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def command(*words: object) -> Result:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Result(status, *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((200, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def npy(folder: Path, matrix: NDArray[np.float32]) -> Path:
    path = folder / "matrix.npy"
    np.save(path, matrix)
    return path


@pytest.fixture(scope="module")
def store(folder: Path, npy: Path) -> Path:
    path = folder / "matrix.h5"
    qstore.build(npy, path)
    return path


@pytest.fixture(scope="module")
def values(store: Path) -> NDArray[np.float32]:
    with qstore.open(store) as opened:
        return opened[:]


@pytest.fixture
def several(tmp_path: Path, matrix: NDArray[np.float32]) -> Path:
    """A source of two matrices."""
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as file:
        file["words.weight"] = matrix
        file["positions.weight"] = matrix[:7]
        file["bias"] = matrix[0]
    return path


def start(*words: object, code: str | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process of the command, or of `code`, which finds the words in sys.argv."""
    program = ["-m", "qstore"] if code is None else ["-c", code]
    package = str(Path(qstore.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": package},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


# build ------------------------------------------------------------------------------------------------


def test_build_says_what_it_did(run: Run, npy: Path, tmp_path: Path, store: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "out.h5")
    assert result.status == 0
    assert result.err == ""  # no progress bar: stderr is no terminal
    assert "200 × 16 float32" in result.out
    assert "rows/s" in result.out
    assert "resumed" not in result.out
    assert (tmp_path / "out.h5").read_bytes() == store.read_bytes()


def test_build_json_is_the_report(run: Run, npy: Path, tmp_path: Path) -> None:
    found = json.loads(run("build", npy, "-o", tmp_path / "out.h5", "--rows", "-50:", "--json", "-q").out)
    assert set(found) == set(qstore.BuildReport.__dataclass_fields__)
    assert (found["rows"], found["dim"], found["source_dtype"]) == (50, 16, "float32")
    assert found["file_bytes"] == (tmp_path / "out.h5").stat().st_size


def test_build_quiet_prints_nothing(run: Run, npy: Path, tmp_path: Path) -> None:
    assert run("build", npy, "-o", tmp_path / "out.h5", "-q") == (0, "", "")


@pytest.mark.parametrize(("quiet", "shown"), [([], True), (["-q"], False)])
def test_progress_on_a_terminal(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: list[str], shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert ("200/200" in run("build", npy, "-o", tmp_path / "out.h5", *quiet).err) is shown


def test_build_dry_run_writes_nothing(run: Run, npy: Path, tmp_path: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "out.h5", "--dry-run")
    assert result.status == 0
    assert "would make" in result.out
    found = json.loads(run("build", npy, "-o", tmp_path / "out.h5", "--dry-run", "--json").out)
    assert set(found) == set(qstore.BuildPlan.__dataclass_fields__)
    assert list(tmp_path.iterdir()) == []
    qstore.build(npy, tmp_path / "out.h5")
    assert found["file_bytes"] == (tmp_path / "out.h5").stat().st_size
    assert run("build", npy, "-o", tmp_path / "out.h5", "--dry-run").status == 1


def test_build_replaces_only_when_forced(run: Run, npy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    output.write_text("precious")
    result = run("build", npy, "-o", output)
    assert result.status == 1
    assert "--force" in result.err
    assert output.read_text() == "precious"
    assert run("build", npy, "-o", output, "--force").status == 0
    assert len(qstore.open(output)) == 200


def test_build_nonfinite(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [3.0, np.nan]]))
    result = run("build", tmp_path / "nan.npy", "-o", tmp_path / "out.h5")
    assert result.status == 1
    assert "row 1, column 1 is nan" in result.err
    assert not (tmp_path / "out.h5").exists()
    assert run("build", tmp_path / "nan.npy", "-o", tmp_path / "out.h5", "--nonfinite", "zero").status == 0


def test_build_needs_a_name_among_several_tensors(run: Run, several: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    ambiguous = run("build", several, "-o", output)
    assert ambiguous.status == 2
    assert "words.weight" in ambiguous.err
    assert "(200, 16)" in ambiguous.err
    unknown = run("build", several, "-o", output, "--tensor", "words.weigth")
    assert unknown.status == 2
    assert "words.weight" in unknown.err
    assert run("build", several, "-o", output, "--tensor", "words.weight").status == 0


INTERRUPT_AT_CALL_18 = """
import itertools, os, signal, sys
from qstore import kernels
from qstore.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
calls, quantize = itertools.count(1), kernels.quantize_into

def interrupted(*arguments):
    if next(calls) == 18:
        os.kill(os.getpid(), signal.SIGINT)
    quantize(*arguments)

kernels.quantize_into = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def eight_blocks(folder: Path) -> Path:
    """A matrix of 8 checksum blocks, each quantized by 4 calls."""
    path = folder / "blocks.npy"
    np.save(path, np.random.default_rng(1).standard_normal((8192, 1024), dtype=np.float32))
    return path


def test_an_interrupted_build_goes_on(run: Run, eight_blocks: Path, tmp_path: Path) -> None:
    words = ("build", eight_blocks, "-o", tmp_path / "out.h5", "--threads", 1, "--json")
    process = start(*words, code=INTERRUPT_AT_CALL_18)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    assert err == b"qstore: interrupted: run the same command again to go on\n"
    assert not (tmp_path / "out.h5").exists()
    assert json.loads(run(*words).out)["rows_resumed"] == 4096
    assert run("verify", tmp_path / "out.h5", "--against", eight_blocks).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_an_interrupted_restart_can_be_resumed(eight_blocks: Path, tmp_path: Path) -> None:
    words = ("build", eight_blocks, "-o", tmp_path / "out.h5", "--threads", 1, "--restart")
    process = start(*words, code=INTERRUPT_AT_CALL_18)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"run the same command without --restart to go on" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5.journal", "out.h5.partial"]


def test_build_says_what_was_resumed(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = qstore.BuildReport("x.h5", "", "float32", 200, 16, 150, 12800, 20000, 1.0, "NumPy")
    monkeypatch.setattr("qstore.cli.build.build", lambda *_, **__: report)
    out = run("build", npy, "-o", tmp_path / "x.h5").out
    assert "150 rows had been done before" in out
    assert "50 rows/s" in out
    assert "12.8 kB → 20.0 kB\n" in out


def test_build_from_several_inputs(
    run: Run, matrix: NDArray[np.float32], tmp_path: Path, store: Path
) -> None:
    for number, rows in enumerate((matrix[:50], matrix[50:150], matrix[150:])):
        np.save(tmp_path / f"part-{number}.npy", rows)
    parts = [tmp_path / f"part-{number}.npy" for number in range(3)]
    for words in (parts, [tmp_path / "part-*.npy"], [parts[0], tmp_path / "part-[12].npy"]):
        result = run("build", *words, "-o", tmp_path / "out.h5", "--force")
        assert result.status == 0
        assert "200 × 16 float32" in result.out
        assert (tmp_path / "out.h5").read_bytes() == store.read_bytes()
    missing = run("build", tmp_path / "nothing-*.npy", "-o", tmp_path / "other.h5")
    assert (missing.status, missing.out) == (1, "")
    assert "no file matches" in missing.err
    parts[0].rename(tmp_path / "odd[0].npy")  # a name that is there is no pattern
    assert run("build", tmp_path / "odd[0].npy", "-o", tmp_path / "other.h5").status == 0


def test_build_several_tensors(run: Run, several: Path, tmp_path: Path) -> None:
    words = ("build", several, "--tensor", "*.weight", "-o", f"{tmp_path / 'out'}/")
    planned = json.loads(run(*words, "--dry-run", "--json").out)
    assert [one["tensor"] for one in planned] == ["positions.weight", "words.weight"]
    assert "2 in all" in run(*words, "--dry-run").out
    result = run(*words)
    assert result.status == 0
    assert re.search(r"words.weight +200 × 16 float32 +12.8 kB → .*words.weight.h5\n", result.out)
    assert re.search(r"2 in all +207 rows +13.2 kB → ", result.out)
    again = run(*words)  # the directory is there now: the same stores are kept
    assert again.status == 0
    assert again.out.count("(done before)") == 2
    found = json.loads(run(*words, "--force", "--json").out)
    assert [one["rows_resumed"] for one in found] == [0, 0]
    assert set(found[0]) == set(qstore.BuildReport.__dataclass_fields__)
    assert run(*words, "-q") == (0, "", "")
    (tmp_path / "out" / "words.weight.h5").write_text("precious")
    assert run(*words).status == 1


def test_build_of_all_tensors_into_a_directory(run: Run, several: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("build", several, "-o", tmp_path / "out").status == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["positions.weight.h5", "words.weight.h5"]


def test_build_with_a_pattern_needs_a_directory(run: Run, several: Path, tmp_path: Path) -> None:
    result = run("build", several, "--tensor", "*.weight", "-o", tmp_path / "out.h5")
    assert result.status == 2
    assert result.err.endswith('; a pattern needs a directory: end OUT with "/"\n')


def test_build_errors_name_the_tensor(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "nan.hdf5", "w") as file:
        file["good"], file["spoiled"] = np.ones((2, 2)), np.full((2, 2), np.nan)
    result = run("build", tmp_path / "nan.hdf5", "-o", f"{tmp_path}/")
    assert result.status == 1
    assert result.err.endswith("; this was tensor 'spoiled'\n")
    assert (tmp_path / "good.h5").exists()


# ls and info ------------------------------------------------------------------------------------------


def test_ls(run: Run, several: Path) -> None:
    result = run("ls", several)
    assert result.status == 0
    assert re.search(r"words.weight +200 × 16 +float32 +12.8 kB", result.out)
    found = {one["name"]: one for one in json.loads(run("ls", several, "--json").out)}
    assert found["bias"] == {"name": "bias", "shape": [16], "dtype": "float32", "bytes": 64}


def test_ls_of_a_store_is_its_matrix(run: Run, store: Path) -> None:
    assert json.loads(run("ls", store, "--json").out) == [
        {"name": "", "shape": [200, 16], "dtype": "qstore", "bytes": store.stat().st_size}
    ]
    assert "200 × 16" in run("ls", store).out


def test_ls_does_not_let_names_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["a\x1b[2J\nb"] = np.zeros((2, 2))
    out = run("ls", tmp_path / "evil.h5").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_an_encoding_that_lacks_a_character(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(["info", str(store)]) == 0
    ascii_only.seek(0)
    assert "200 \\xd7 16" in ascii_only.read()


def test_ls_of_a_type_without_a_size(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.create_dataset("words", data=["a", "b"], dtype=h5py.string_dtype())
    result = run("ls", tmp_path / "text.h5")
    assert result.status == 0
    assert "words" in result.out


def test_info(run: Run, store: Path) -> None:
    found = json.loads(run("info", store, "--json").out)
    assert (found["rows"], found["dim"], found["format_version"]) == (200, 16, "1.1")
    assert found["float32_bytes"] == 12800
    assert found["ratio"] == 12800 / store.stat().st_size
    assert found["datasets"]["codes"] == {"offset": 12288, "bytes": 3200}
    with qstore.open(store) as opened:
        assert found["content_id"] == opened.content_id
    out = run("info", store).out
    assert found["content_id"] in out
    assert "3,200 bytes at 12,288" in out
    assert found["fidelity"]["rows"] == 200
    assert "measured" in out
    assert "expected (scale / √12)" in out


# get --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["7"], np.s_[[7]]),
        (["-1"], np.s_[[-1]]),
        (["-200"], np.s_[[0]]),
        (["2:5"], np.s_[2:5]),
        (["-5:"], np.s_[-5:]),
        (["-5:-2"], np.s_[-5:-2]),
        (["::-1"], np.s_[::-1]),
        (["-1::-7"], np.s_[-1::-7]),
        (["150:1000:3"], np.s_[150::3]),
        (["5", "3", "-1", "3"], np.s_[[5, 3, -1, 3]]),
        (["5", "0:2", "-1:"], np.s_[[5, 0, 1, -1]]),
        (["9:3"], np.s_[:0]),
        ([":"], np.s_[:]),
    ],
)
def test_get_follows_python(
    run: Run, store: Path, values: NDArray[np.float32], rows: list[str], expected: Any
) -> None:
    result = run("get", store, *rows)
    assert result.status == 0
    assert result.err == ""
    lines = [line.split(" ") for line in result.out.splitlines()]
    np.testing.assert_array_equal(np.array(lines, np.float32).reshape(-1, 16), values[expected])


def test_get_small_pieces(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([":"], ["::-1"], ["50::-7"], ["3", "10:60:2"]):
        for form in ("json", "csv"):
            whole = run("get", store, *words, "--format", form)
            with monkeypatch.context() as patch:
                patch.setattr(get, "_PIECE_VALUES", 50)
                assert run("get", store, *words, "--format", form) == whole


def test_get_columns(run: Run, store: Path, values: NDArray[np.float32]) -> None:
    for text, columns in (
        (":3", np.s_[:3]),
        ("-3:", np.s_[-3:]),
        ("::-5", np.s_[::-5]),
        ("9:100", np.s_[9:]),
    ):
        found = json.loads(run("get", store, "3:6", "--columns", text, "--format", "json").out)
        np.testing.assert_array_equal(np.array(found, np.float32), values[3:6, columns])


def test_get_text_is_the_shortest_that_reads_back(run: Run, store: Path, values: NDArray[np.float32]) -> None:
    assert run("get", store, 7).out == " ".join(str(value) for value in values[7]) + "\n"
    with qstore.open(store) as opened:
        exact = opened.astype("float64")[7].tolist()
        half = opened.astype("float16")[7]
    assert run("get", store, 7, "--dtype", "float64").out == " ".join(map(repr, exact)) + "\n"
    assert run("get", store, 7, "--dtype", "float16").out == " ".join(str(value) for value in half) + "\n"


def test_get_json(run: Run, store: Path, values: NDArray[np.float32]) -> None:
    row = json.loads(run("get", store, 7, "--format", "json").out)
    np.testing.assert_array_equal(np.array(row, np.float32), values[7])
    rows = json.loads(run("get", store, "7:8", "--format", "json").out)
    np.testing.assert_array_equal(np.array(rows, np.float32), values[7:8])
    assert json.loads(run("get", store, "9:3", "--format", "json").out) == []


def test_get_json_of_infinity(run: Run, tmp_path: Path) -> None:
    qstore.build(np.array([[1e300, -1e300, 0.0]]), tmp_path / "huge.h5")
    found = json.loads(
        run("get", tmp_path / "huge.h5", 0, "--format", "json").out, parse_constant=pytest.fail
    )
    assert found == [math.inf, -math.inf, 0.0]


def test_get_csv(run: Run, store: Path, values: NDArray[np.float32]) -> None:
    rows = list(csv.reader(io.StringIO(run("get", store, ":", "--format", "csv").out)))
    np.testing.assert_array_equal(np.array(rows, np.float32), values)


def test_get_npy(store: Path, values: NDArray[np.float32], tmp_path: Path) -> None:
    process = start("get", store, "-5:", "--format", "npy")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    np.testing.assert_array_equal(np.load(io.BytesIO(out)), values[-5:])
    assert main(["get", str(store), "7", "--format", "npy", "-o", str(tmp_path / "row.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), values[7])
    assert main(["get", str(store), "9:3", "--format", "npy", "-o", str(tmp_path / "row.npy")]) == 0
    assert np.load(tmp_path / "row.npy").shape == (0, 16)
    assert list(tmp_path.iterdir()) == [tmp_path / "row.npy"]


def test_get_npy_is_not_for_terminals(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = run("get", store, 7, "--format", "npy")
    assert result.status == 2
    assert result.out == ""
    assert "-o FILE" in result.err


def test_get_of_a_large_slice_takes_little_memory(run: Run, tmp_path: Path) -> None:
    qstore.build(np.ones((20_000, 640), np.float32), tmp_path / "large.h5")
    tracemalloc.start()
    try:
        assert (
            run("get", tmp_path / "large.h5", ":", "--format", "npy", "-o", tmp_path / "all.npy").status == 0
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "all.npy").stat().st_size > 50e6
    assert peak < 4e6


@pytest.mark.parametrize("row", ["200", "-201", "5000000000"])
def test_get_out_of_range(run: Run, store: Path, tmp_path: Path, row: str) -> None:
    result = run("get", store, 0, row, "-o", tmp_path / "out.txt")
    assert result.status == 1
    assert result.err == f"qstore: error: index {row} is out of bounds for axis 0 with size 200\n"
    assert list(tmp_path.iterdir()) == []


def test_get_output_is_replaced_whole_or_not_at_all(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.txt"
    output.write_text("old")

    def broken(*_: object) -> Iterator[bytes]:
        yield b"some"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, "text", broken)
        result = run("get", store, 0, "-o", output)
    assert result.status == 1
    assert f"cannot write {output}: No space left on device" in result.err
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]
    (tmp_path / "link").symlink_to(output)
    assert run("get", store, 0, "-o", tmp_path / "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert len(output.read_text().split()) == 16


def test_get_writes_into_a_pipe(run: Run, store: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run("get", store, 0, "-o", tmp_path / "pipe").status == 0
    reader.join(10)
    assert len(read[0].split()) == 16
    assert (tmp_path / "pipe").is_fifo()


def test_get_does_not_replace_its_store(run: Run, store: Path, tmp_path: Path) -> None:
    before = store.read_bytes()
    assert run("get", store, ":", "-o", store).status == 2
    assert store.read_bytes() == before
    assert run("get", store, ":", "-o", tmp_path).status == 1
    assert run("get", store, ":", "-o", tmp_path / "no" / "out").status == 1


# stats ------------------------------------------------------------------------------------------------


def test_stats(run: Run, store: Path, folder: Path) -> None:
    result = run("stats", store)
    assert result.status == 0
    assert "200 × 16" in result.out
    assert re.search(r"norm +\d", result.out)
    skewed = np.random.default_rng(1).standard_normal((300, 40))
    skewed[:, 4] = 50
    skewed[9] = skewed[2]
    qstore.build(skewed, folder / "skewed.h5")
    shown = run("stats", folder / "skewed.h5", "--threads", "1").out
    assert "1 (row 9 as 2)" in shown
    assert "warning: columns 4 set the scale" in shown
    qstore.build(np.zeros((0, 3)), folder / "empty.h5")
    assert run("stats", folder / "empty.h5").status == 0


def test_stats_json(run: Run, store: Path, folder: Path) -> None:
    found = json.loads(run("stats", store, "--json").out)
    assert found["path"] == str(store)
    assert (found["rows"], found["dim"], found["norms"]["count"]) == (200, 16, 200)
    assert len(found["column_means"]) == 16
    assert sum(found["code_counts"]) == 3200
    qstore.build(np.zeros((0, 3)), folder / "empty.h5", overwrite=True)
    assert json.loads(run("stats", folder / "empty.h5", "--json").out)["norms"]["mean"] is None


# compare ----------------------------------------------------------------------------------------------


def test_compare(run: Run, store: Path, folder: Path, matrix: NDArray[np.float32]) -> None:
    result = run("compare", store, store)
    assert (result.status, result.out) == (0, "equal: 200 rows\n")
    changed = matrix.copy()
    changed[17] *= -1
    qstore.build(changed, folder / "changed.h5", overwrite=True)
    result = run("compare", store, folder / "changed.h5")
    assert result.status == 1
    assert "1 of 200 rows changed" in result.out
    assert re.search(r"^17 +17 +2 +-1\.000000", result.out, re.MULTILINE)
    assert run("compare", store, folder / "changed.h5", "-q") == (1, "", "")
    found = json.loads(run("compare", store, folder / "changed.h5", "--json", "-k", "1").out)
    assert (found["equal"], found["rows_changed"], len(found["most_drifted"])) == (False, 1, 1)


def test_compare_names_keys(run: Run, folder: Path, matrix: NDArray[np.float32]) -> None:
    keys = [f"w{row}" for row in range(200)]
    qstore.build(matrix, folder / "named.h5", keys=keys, overwrite=True)
    qstore.build(matrix * 2, folder / "renamed.h5", keys=["new", *keys[:0:-1]], overwrite=True)
    shown = run("compare", folder / "named.h5", folder / "renamed.h5", "-k", 200).out
    assert re.search(r"added +new$", shown, re.MULTILINE)
    assert re.search(r"removed +w0$", shown, re.MULTILINE)
    assert re.search(r"moved +w1, w2, .*…$", shown, re.MULTILINE)
    assert re.search(r"^1 +199 +2\.\d+ +.*w1$", shown, re.MULTILINE)


# plot and report --------------------------------------------------------------------------------------


def test_plot(run: Run, store: Path, npy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", store, "-o", tmp_path / "all.png")
    assert (result.status, result.out) == (0, f"{tmp_path}/all.png: norms, scales, codes, columns, pca\n")
    assert (tmp_path / "all.png").read_bytes()[:4] == b"\x89PNG"
    words = ("plot", store, "-o", tmp_path / "one.svg", "--kind", "errors")
    assert run(*words).status == 2
    assert run(*words, "--against", npy, "--dark", "-q") == (0, "", "")
    assert run(*words, "--against", npy).status == 1
    assert run(*words, "--against", npy, "--force").status == 0
    assert run("plot", store, "-o", tmp_path / "x.jpg").status == 2
    assert run("plot", store, "-o", tmp_path / "x.png", "--rows", ":5").status == 2


def test_report(run: Run, store: Path, npy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.html"
    assert run("report", store, "-o", page) == (0, f"{page}\n", "")
    assert "measured at the build" in page.read_text()
    assert run("report", store, "-o", page).status == 1
    assert run("report", store, "-o", page, "--force", "--against", npy, "-q") == (0, "", "")
    assert "every code and scale agrees" in page.read_text()


# Keys --------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(npy: Path, tmp_path: Path) -> Path:
    """A store of 200 rows with the keys w0 to w199, or, beside it, with 0, 3, 6 …"""
    (tmp_path / "keys.txt").write_text("".join(f"w{row}\n" for row in range(200)))
    qstore.build(npy, tmp_path / "keyed.h5", keys=tmp_path / "keys.txt")
    qstore.build(npy, tmp_path / "numbers.h5", keys=np.arange(200) * 3)
    return tmp_path / "keyed.h5"


def test_build_with_keys(run: Run, npy: Path, tmp_path: Path, keyed: Path) -> None:
    result = run("build", npy, "--keys", tmp_path / "keys.txt", "-o", tmp_path / "made.h5")
    assert (result.status, result.err) == (0, "")
    assert re.search(r"^keys +200, texts$", result.out, re.MULTILINE)
    assert (tmp_path / "made.h5").read_bytes() == keyed.read_bytes()
    plan = run("build", npy, "--keys", tmp_path / "keys.txt", "-o", tmp_path / "plan.h5", "--dry-run")
    assert (plan.status, "unknown" in plan.out) == (0, True)
    (tmp_path / "short.txt").write_text("a\nb\n")
    for more in ((), ("--dry-run",)):
        result = run("build", npy, "--keys", tmp_path / "short.txt", "-o", tmp_path / "no.h5", *more)
        assert (result.status, result.out) == (1, "")
        assert "there are 2 keys, expected one for each of the source's 200 rows" in result.err
    assert run("build", npy, "--keys", "nowhere.txt", "-o", tmp_path / "no.h5").status == 1
    assert run("build", npy, "--keys", "a", "--no-keys", "-o", tmp_path / "no.h5").status == 2
    assert not (tmp_path / "no.h5").exists()


def test_build_with_duplicates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("a 1 2\nb 3 4\na 5 6\n")
    words = ("build", tmp_path / "vectors.txt", "-o", tmp_path / "store.h5")
    result = run(*words)
    assert result.status == 1
    assert "rows 0 and 2 have the same key, 'a'" in result.err
    assert run(*words, "--duplicates", "first", "-q").status == 0
    assert run("get", tmp_path / "store.h5", "--key", "a").out == "1.007874 2.0\n"
    assert run(*words, "--no-keys", "--force", "-q").status == 0
    assert run("get", tmp_path / "store.h5", "--key", "a").status == 1


def test_get_by_key(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    assert run("get", keyed, "--key", "w17") == run("get", store, 17)
    assert run("get", keyed, "--key", "w17", "--format", "json") == run("get", store, 17, "--format", "json")
    several = run("get", keyed, 3, "--key", "w5", "--key", "w1", "--columns", ":2")
    assert several == run("get", store, 3, 5, 1, "--columns", ":2")
    assert run("get", tmp_path / "numbers.h5", "--key", 30) == run("get", store, 10)


def test_get_of_keys_that_are_not_there(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    result = run("get", keyed, 0, "--key", "w1", "--key", "pawn", "--key", "rook")
    assert (result.status, result.out) == (1, "")
    assert "2 of 3 keys are not in the store: 'pawn', 'rook'" in result.err
    assert run("get", tmp_path / "numbers.h5", "--key", 31).status == 1
    assert run("get", tmp_path / "numbers.h5", "--key", "w1").status == 2
    assert run("get", tmp_path / "numbers.h5", "--key", 1 << 64).status == 1
    assert run("get", keyed).status == 2
    result = run("get", store, "--key", "w1")
    assert (result.status, "have no keys" in result.err) == (1, True)


def test_info_tells_of_keys(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    for path, kind, text in (
        (keyed, "text", "200, texts"),
        (tmp_path / "numbers.h5", "integer", "200, whole numbers"),
        (store, None, "(none)"),
    ):
        assert json.loads(run("info", path, "--json").out)["key_kind"] == kind
        assert re.search(rf"^keys +{re.escape(text)}$", run("info", path).out, re.MULTILINE)


def test_verify_compares_keys(run: Run, keyed: Path, npy: Path, tmp_path: Path) -> None:
    result = run("verify", keyed, "--against", npy, "--keys", tmp_path / "keys.txt")
    assert (result.status, "each row is found by its key" in result.out) == (0, True)
    (tmp_path / "other.txt").write_text("".join(f"w{row}\n" for row in (1, 0, *range(2, 200))))
    result = run("verify", keyed, "--against", npy, "--keys", tmp_path / "other.txt")
    assert (result.status, "2 rows differ, the first ones: 0, 1" in result.out) == (1, True)
    assert run("verify", keyed, "--against", npy).status == 0
    assert run("verify", keyed, "--keys", tmp_path / "keys.txt").status == 2


def test_export_with_and_without_keys(run: Run, keyed: Path, tmp_path: Path) -> None:
    assert run("export", keyed, "-o", tmp_path / "a.vec", "--rows", "5:7", "-q").status == 0
    assert run("export", keyed, "-o", tmp_path / "b.vec", "--rows", "5:7", "--no-keys", "-q").status == 0
    lines = [(tmp_path / name).read_text().splitlines()[1:] for name in ("a.vec", "b.vec")]
    assert [[line.split()[0] for line in some] for some in lines] == [["w5", "w6"], ["5", "6"]]


# verify -----------------------------------------------------------------------------------------------


@pytest.fixture
def broken(eight_blocks: Path, tmp_path: Path) -> Path:
    """A store with one wrong code, in the third block."""
    path = tmp_path / "broken.h5"
    qstore.build(eight_blocks, path)
    with path.open("r+b") as file:
        file.seek(12288 + 2500 * 1024)
        code = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([code ^ 1]))
    return path


def test_verify(run: Run, store: Path, npy: Path) -> None:
    assert "200 rows in 1 blocks agree" in run("verify", store).out
    result = run("verify", store, "--against", npy)
    assert result.status == 0
    assert "every code and scale of 200 rows" in result.out
    assert run("verify", store, "--against", npy, "-q") == (0, "", "")


def test_verify_measures_errors(run: Run, store: Path, npy: Path) -> None:
    shown = run("verify", store, "--against", npy).out
    assert "expected (scale / √12)" in shown
    assert re.search(r"signal to noise +4\d\.\d dB", shown)
    found = json.loads(run("verify", store, "--against", npy, "--json").out)["against"]["fidelity"]
    assert found["rows"] == 200
    assert 0.999 < found["cosine_min"] < 1


def test_verify_json(run: Run, store: Path, npy: Path) -> None:
    alone = json.loads(run("verify", store, "--json").out)
    assert set(alone) == {"path", "ok", "store", "against"}
    assert alone["ok"] is True
    assert alone["against"] is None
    assert set(alone["store"]) == set(qstore.VerifyReport.__dataclass_fields__)
    both = json.loads(run("verify", store, "--against", npy, "--json").out)
    assert set(both["against"]) == set(qstore.AgainstReport.__dataclass_fields__)


def test_verify_names_the_broken_block(run: Run, broken: Path, eight_blocks: Path) -> None:
    result = run("verify", broken, "-q")
    assert result.status == 1
    assert "block 2 (rows 2048 to 3071): codes" in result.out
    found = json.loads(run("verify", broken, "--against", eight_blocks, "--json").out)
    assert found["ok"] is False
    assert found["store"]["broken_blocks"] == [2]
    assert found["against"]["first_differing_row"] == 2500


def test_verify_against_another_matrix(
    run: Run, store: Path, matrix: NDArray[np.float32], tmp_path: Path
) -> None:
    changed = matrix.copy()
    changed[40] *= 2
    np.save(tmp_path / "changed.npy", changed)
    result = run("verify", store, "--against", tmp_path / "changed.npy")
    assert result.status == 1
    assert re.search("differs.*1 rows? .*40", result.out)
    assert run("verify", store, "--against", tmp_path / "changed.npy", "--rows", ":40").status == 1


def test_verify_against_rows_of_one_tensor(run: Run, several: Path, tmp_path: Path) -> None:
    qstore.build(several, tmp_path / "part.h5", tensor="words.weight", rows=(20, 60))
    words = ("verify", tmp_path / "part.h5", "--against", several)
    assert run(*words, "--tensor", "words.weight", "--rows", "20:60").status == 0
    assert run(*words, "--tensor", "words.weight", "--rows", "21:61").status == 1
    assert run(*words).status == 2


def test_verify_needs_a_source_for_its_tensor(run: Run, store: Path) -> None:
    assert run("verify", store, "--rows", "0:5").status == 2
    assert "--against" in run("verify", store, "--tensor", "x").err


# env --------------------------------------------------------------------------------------------------


def test_env(run: Run) -> None:
    found = json.loads(run("env", "--json").out)
    assert set(found) == set(environment.Environment.__dataclass_fields__)
    assert found["engine"] == qstore.engine_name()
    assert found["qstore"] == qstore.__version__
    out = run("env").out
    assert qstore.engine_name() in out
    assert np.__version__ in out


def test_env_says_why_there_is_no_extension(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTORE_NO_EXTENSION", "1")
    assert "switched off by QSTORE_NO_EXTENSION=1" in run("env").out
    monkeypatch.delenv("QSTORE_NO_EXTENSION")
    monkeypatch.setitem(sys.modules, "qstore._native", None)
    assert "C compiler" in run("env").out


def test_headline() -> None:
    assert qstore.engine_name() in environment.headline()
    assert h5py.version.hdf5_version in environment.headline()


# demo -------------------------------------------------------------------------------------------------

SMALL = ("--rows", 3000, "--dim", 32)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made during the test."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_demo(run: Run, temporary: Path) -> None:
    result = run("demo", *SMALL)
    assert (result.status, result.err) == (0, "")
    shown = re.findall(r"^\$ qstore (\w+)", result.out, flags=re.MULTILINE)
    assert shown == ["build", "info", "get", "verify", "verify"]
    assert "of the theoretical s/√12" in result.out
    assert list(temporary.iterdir()) == []


def test_demo_json(run: Run, temporary: Path) -> None:
    found = json.loads(run("demo", *SMALL, "--json").out)
    assert (found["rows"], found["dim"]) == (3000, 32)
    assert 0.9 < found["rms_error_ratio"] < 1.1
    assert list(temporary.iterdir()) == []


def test_demo_is_the_same_every_time(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = run("demo", *SMALL, "--keep", tmp_path / name)
        assert result.status == 0
        assert f"The files are in {tmp_path / name}" in result.out
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"embeddings.npy", "embeddings.h5"}
    assert (tmp_path / "one" / "embeddings.h5").read_bytes() == (
        tmp_path / "two" / "embeddings.h5"
    ).read_bytes()
    again = run("demo", *SMALL, "--keep", tmp_path / "one")
    assert again.status == 1
    assert "not empty" in again.err


def test_demo_leaves_nothing_when_interrupted(
    run: Run, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str]) -> int:
        assert Path(words[1]).is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr("qstore.cli.parser.run_command", interrupted)
    result = run("demo", *SMALL)
    assert result.status == 130
    assert result.err == "qstore: interrupted: nothing is left behind\n"
    assert list(temporary.iterdir()) == []


def test_demo_stops_at_the_first_failure(run: Run, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.cli.parser.run_command", lambda words: 1)
    result = run("demo", *SMALL)
    assert result.status == 1
    assert result.out.count("$ qstore") == 1
    assert list(temporary.iterdir()) == []


# Bad input --------------------------------------------------------------------------------------------


@pytest.fixture(params=["missing", "text", "empty", "directory", "pipe", "other HDF5", "truncated"])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path, store: Path) -> Path:
    path = tmp_path / "bad"
    if request.param == "text":
        path.write_text("hello\n" * 100)
    elif request.param == "empty":
        path.touch()
    elif request.param == "directory":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "other HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(3)
    elif request.param == "truncated":
        path.write_bytes(store.read_bytes()[:15000])
    return path


@pytest.mark.parametrize("words", [["info"], ["get", "0"], ["verify"]], ids=lambda words: words[0])
def test_files_that_are_no_stores(run: Run, bad_file: Path, words: list[str]) -> None:
    begun = time.perf_counter()
    result = run(words[0], bad_file, *words[1:])
    assert time.perf_counter() - begun < 1
    assert result.status == 1
    assert result.out == ""
    assert re.fullmatch(rf"qstore: error: .*{re.escape(str(bad_file))}.*\n", result.err)


def test_sources_that_are_none(run: Run, bad_file: Path, tmp_path: Path) -> None:
    begun = time.perf_counter()
    for words in (
        ["build", bad_file, "-o", tmp_path / "out.h5"],
        ["build", bad_file, "-o", "x", "--dry-run"],
    ):
        result = run(*words)
        assert result.status == 1
        assert result.err.startswith("qstore: error: ")
        assert str(bad_file) in result.err
    assert time.perf_counter() - begun < 1
    assert not (tmp_path / "out.h5").exists()


def test_output_in_a_missing_directory(run: Run, npy: Path, tmp_path: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "no" / "out.h5")
    assert result.status == 1
    assert "no directory" in result.err


# How commands end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["build", "x.npy"],
        ["build", "x.npy", "-o", "out.h5", "--threads", "0"],
        ["build", "x.npy", "-o", "out.h5", "--rows", "0:9:2"],
        ["build", "x.npy", "-o", "out.h5", "--rows", "5"],
        ["build", "x.npy", "y.npy", "-o", "out/"],
        ["build", "x.npy", "-o", "out.h5", "--forc"],
        ["get", "x.h5"],
        ["get", "x.h5", "queen"],
        ["get", "x.h5", "1.5"],
        ["get", "x.h5", "::0"],
        ["get", "x.h5", "1:2:3:4"],
        ["get", "x.h5", "0", "--format", "xml"],
        ["demo", "--rows", "many"],
    ],
)
def test_wrong_usage(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.status == 2
    assert result.out == ""
    assert "error: " in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.status == 0
    assert f"qstore {command}" in result.out
    assert "examples:" in result.out


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"qstore {qstore.__version__}\n", "")
    text = run("--help").out
    assert re.findall(r"^  (\d+) ", text, flags=re.MULTILINE) == ["0", "1", "2", "130", "141"]


def test_words_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["qstore", "--version"])
    assert main() == 0


def test_a_closed_pipe_ends_it_silently(tmp_path: Path) -> None:
    qstore.build(np.ones((20_000, 64), np.float32), tmp_path / "ones.h5")
    process = start("get", tmp_path / "ones.h5", ":")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.read(4) == b"1.0 "
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait(30) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(store: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("get", store, ":", stdout=full)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b"qstore: error: No space left on device\n"


def test_a_closed_stdout(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert failures.exit_status(lambda: 0) == 0
    assert main(["get", str(store), "0"]) == 1


def test_memory_and_interrupts(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> Callable[[], int]:
        def command() -> int:
            raise error

        return command

    assert failures.exit_status(fail(MemoryError())) == 1
    assert failures.exit_status(fail(KeyboardInterrupt())) == 130
    assert failures.exit_status(fail(OSError("odd"))) == 1
    err = capsys.readouterr().err
    assert (
        err == "qstore: error: there is not enough memory for this\nqstore: interrupted\nqstore: error: odd\n"
    )


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        warnings.warn("no locks here", RuntimeWarning, stacklevel=1)
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert failures.exit_status(command) == 0
    assert capsys.readouterr().err == "qstore: warning: no locks here\n"


# Small parts ------------------------------------------------------------------------------------------


def test_sizes_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert [byte_size(n) for n in (0, 1000, 999_949, 999_950, 10**9, 5 * 10**15)] == [
        "0 B",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "1.0 GB",
        "5,000.0 TB",
    ]
    print_table([])
    print_table([("a", "b"), ("long", 3)])
    assert capsys.readouterr().out == "a     b\nlong  3\n"


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "")  # the tool sets both: this puts them back afterwards
    monkeypatch.setenv("NO_COLOR", "")
    specification = importlib.util.spec_from_file_location(
        "make_cli_page", ROOT / "tools" / "make_cli_page.py"
    )
    assert specification is not None
    assert specification.loader is not None
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == tool.make_page(), "run python tools/make_cli_page.py"
    for command in COMMANDS:
        assert f"## `qstore {command}`" in page


def test_each_command_is_in_the_module_of_its_name() -> None:
    assert all(find_command(name).examples for name in COMMANDS)
    assert make_parser().prog == "qstore"
