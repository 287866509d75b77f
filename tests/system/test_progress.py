"""Progress tells how far work is: by rows, and by bytes where rows cannot be counted before."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from streamed_files import STREAMED
from word_files import PACK

import qstore
from qstore.system.progress import RowsDone, rows_progress

ROWS, DIM = 1530, 48


@pytest.fixture
def values() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.sources.words.text._BLOCK_BYTES", 10_000)
    monkeypatch.setattr("qstore.sources.containers.byte_stream._BUFFER_BYTES", 10_000)
    monkeypatch.setattr("qstore.sources.containers.inflate._PIECE_BYTES", 10_000)


def told(source: Any, path: Path, **options: Any) -> list[tuple[RowsDone, int | None]]:
    seen: list[tuple[RowsDone, int | None]] = []
    qstore.build(source, path, progress=lambda done, total: seen.append((done, total)), **options)
    return seen


def rising(fractions: list[float | None]) -> bool:
    known = [fraction for fraction in fractions if fraction is not None]
    return len(known) == len(fractions) and known == sorted(known) and known[0] < 0.2 and known[-1] > 0.999


@pytest.mark.parametrize("kind", ["text without a header", "text in several files"])
def test_by_bytes_where_rows_are_unknown(tmp_path: Path, values: NDArray[np.float32], kind: str) -> None:
    seen = told(STREAMED[kind](tmp_path, values), tmp_path / "x.h5")
    assert {total for _, total in seen} == {None}
    assert rising([done.fraction for done, _ in seen])
    assert seen[-1][0] == ROWS


@pytest.mark.parametrize("suffix", PACK)
def test_by_bytes_of_the_file_as_it_lies_there(
    tmp_path: Path, values: NDArray[np.float32], suffix: str
) -> None:
    path = STREAMED["text without a header"](tmp_path, values)
    packed = tmp_path / f"packed.txt{suffix}"
    pack = (lambda content: bz2.compress(content, 1)) if suffix == ".bz2" else PACK[suffix]
    packed.write_bytes(pack(path.read_bytes()))
    assert rising([done.fraction for done, _ in told(packed, tmp_path / "x.h5")])


def test_by_bytes_in_shards(tmp_path: Path, values: NDArray[np.float32]) -> None:
    path, seen = STREAMED["text without a header"](tmp_path, values), []
    qstore.build_shards(path, tmp_path / "x", 400, progress=lambda done, total: seen.append(done.fraction))
    assert rising(seen)


def test_by_rows_where_they_are_known(tmp_path: Path, values: NDArray[np.float32]) -> None:
    seen = told(STREAMED["text"](tmp_path, values), tmp_path / "x.h5")
    assert all(done.fraction == done / ROWS for done, _ in seen)
    assert {done.fraction for done, _ in told(values, tmp_path / "y.h5", rows=(0, 0))} <= {1.0}
    with qstore.open(tmp_path / "x.h5") as store:
        store.verify(progress=lambda done, total: seen.append((done, total)))
    assert [done.fraction for done, _ in seen][-1] == 1


def test_iterables_tell_nothing(tmp_path: Path, values: NDArray[np.float32]) -> None:
    assert [done.fraction for done, _ in told(iter([values, values]), tmp_path / "x.h5")] == [None, None]


def test_rows_done_are_a_number() -> None:
    done = RowsDone(7, 0.5)
    assert (done, done + 1, f"{done:,}", json.dumps([done]), type(done + 1)) == (7, 8, "7", "[7]", int)


def test_no_rows_at_all_are_all_of_them() -> None:
    seen: list[RowsDone] = []
    with rows_progress(lambda done, total: seen.append(done), 0) as on_rows:
        on_rows(0)
    assert [done.fraction for done in seen] == [1.0]


def test_a_bar_of_bytes(
    tmp_path: Path, values: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    path = STREAMED["text without a header"](tmp_path, values)
    qstore.build(path, tmp_path / "x.h5", progress=True)
    err = capsys.readouterr().err
    assert "100%" in err
    assert f"/{path.stat().st_size / 1e6:.2f}M [" in err
    assert "1,530 rows" in err
    qstore.build(iter([values]), tmp_path / "y.h5", progress=True)
    assert "1.53krow" in capsys.readouterr().err.replace(" ", "")
