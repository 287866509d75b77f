"""Arrays in large chunks: each is unpacked once, whatever slices are asked for."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import matrix_of

from qstore.sources import RowSource, open_source
from qstore.sources.containers.chunk_rows import ChunkRows
from qstore.sources.hdf5 import datasets

ROWS, DIM, CHUNK = 50_000, 64, 20_000


class Chunked:
    """What zarr offers: rows, the shape of a chunk, and here how many times each one was unpacked."""

    def __init__(self, values: NDArray[Any], chunk: int) -> None:
        self.shape, self.dtype, self.chunks = values.shape, values.dtype, (chunk, values.shape[1])
        self._values = values
        self.unpacked = [0] * -(-len(values) // chunk)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        for number in range(rows.start // self.chunks[0], -(-rows.stop // self.chunks[0])):
            self.unpacked[number] += 1
        return self._values[rows]


def test_large_chunks_are_unpacked_once() -> None:
    values = matrix_of("float32", ROWS, DIM)
    array = Chunked(values, CHUNK)
    with open_source(array) as source:
        assert np.array_equal(np.concatenate(list(source.chunks())), values)
    assert array.unpacked == [1, 1, 1]


def test_small_chunks_are_read_as_they_are_asked_for() -> None:
    array = Chunked(matrix_of("float32", 1000, DIM), 100)
    with open_source(array) as source:
        assert isinstance(source, RowSource)
        source.read(150, 250)
    assert array.unpacked == [0, 1, 1, *[0] * 7]


@pytest.mark.parametrize("chunk", [0, 1, 7, 100, 1000])
def test_every_range(chunk: int) -> None:
    values = matrix_of("float32", 100, 3)
    rows = ChunkRows(100, chunk, 12, least=1)
    for start, stop in np.sort(np.random.default_rng(1).integers(0, 101, (200, 2)), axis=1).tolist():
        found = rows.read(start, stop, lambda first, last: values[first:last])
        assert np.array_equal(found, values[start:stop])


def test_hdf5_in_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix_of("float32", 300_000, DIM)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=values.shape, compression="lzf")
    asked: list[tuple[int, int]] = []
    original = datasets.DatasetRows._slice

    def counted(self: Any, start: int, stop: int) -> NDArray[Any]:
        asked.append((start, stop))
        return original(self, start, stop)

    monkeypatch.setattr(datasets.DatasetRows, "_slice", counted)
    with open_source(tmp_path / "x.h5") as source:
        assert np.array_equal(np.concatenate(list(source.chunks())), values)
    assert asked == [(0, 300_000)]


def test_sources_in_memory_are_let_go_of_at_once(tmp_path: Path) -> None:
    """A circle in the source would keep arrays, and the stores they are views of, until it is looked for."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros((4, 3)), chunks=(2, 3))
    gc.disable()
    try:
        for given in (np.zeros((4, 3)), tmp_path / "x.h5"):
            source = open_source(given)
            seen = weakref.ref(source)
            source.close()
            del source
            assert seen() is None
    finally:
        gc.enable()
