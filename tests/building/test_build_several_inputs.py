"""build of several inputs: their rows follow one another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.sources import RowSource, open_source
from qstore.sources.base import KeyedSource, Keys
from qstore.sources.concatenated import ConcatenatedChunks, concatenated
from qstore.sources.memory.array import ArraySource
from qstore.sources.memory.chunks import ChunkSource
from qstore.sources.quantized import CodesSource

DIM = 48


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)


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
            with pytest.raises(qstore.SourceError, match="3,001 rows"):
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
    with pytest.raises(qstore.SourceError, match="expected more than 3,002 rows, found 3,001"):
        list(streams().chunks(3002))
    arrays = ConcatenatedChunks([ArraySource(matrix[:5]), ArraySource(matrix[5:])])
    assert arrays.rows == 3001
    assert "mtime_ns" not in (arrays.fingerprint() or {})


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
