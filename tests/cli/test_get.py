"""qstore get: rows and columns in every format, onto the terminal, into files and pipes."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run, start
from numpy.typing import NDArray

import qstore
from qstore.cli import get, main
from qstore.cli.formats import FORMATS


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
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, b"")
    np.testing.assert_array_equal(np.load(io.BytesIO(out)), values[-5:])
    assert main(["get", str(store), "7", "--format", "npy", "-o", str(tmp_path / "row.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), values[7])
    assert (
        main(["get", str(store), "9:3", "--format", "npy", "--force", "-o", str(tmp_path / "row.npy")]) == 0
    )
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
    assert result.status == 2
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
        result = run("get", store, 0, "-o", output, "--force")
    assert result.status == 2
    assert f"cannot write {output}: No space left on device" in result.err
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]
    (tmp_path / "link").symlink_to(output)
    refused = run("get", store, 0, "-o", tmp_path / "link")
    assert (refused.status, "--force" in refused.err, output.read_text()) == (2, True, "old")
    assert run("get", store, 0, "-o", tmp_path / "link", "--force").status == 0
    assert (tmp_path / "link").is_symlink()
    assert len(output.read_text().split()) == 16


def test_get_writes_into_a_pipe(run: Run, store: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run("get", store, 0, "-o", tmp_path / "pipe").status == 0
    reader.join(300)
    assert len(read[0].split()) == 16
    assert (tmp_path / "pipe").is_fifo()


def test_get_does_not_replace_its_store(run: Run, store: Path, tmp_path: Path) -> None:
    before = store.read_bytes()
    assert run("get", store, ":", "-o", store).status == 2
    assert store.read_bytes() == before
    assert run("get", store, ":", "-o", tmp_path).status == 2
    assert run("get", store, ":", "-o", tmp_path / "no" / "out").status == 2
