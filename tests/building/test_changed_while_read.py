"""A file that changes while it is read is an error, whatever its format: nothing is published."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from streamed_files import DIM, STREAMED

import qstore
from qstore.format import layout

ROWS = 1530


def _chunked_hdf5(folder: Path, values: NDArray[np.float32]) -> Path:
    with h5py.File(folder / "m.hdf5", "w") as file:
        file.create_dataset("w", data=values, chunks=(100, DIM), compression="gzip")
    return folder / "m.hdf5"


def _hdf5(folder: Path, values: NDArray[np.float32]) -> Path:
    with h5py.File(folder / "m.hdf5", "w") as file:
        file["w"] = values
    return folder / "m.hdf5"


def _npy(folder: Path, values: NDArray[np.float32]) -> Path:
    np.save(folder / "m.npy", values)
    return folder / "m.npy"


def _fvecs(folder: Path, values: NDArray[np.float32]) -> Path:
    widths = np.full((len(values), 1), DIM, "<i4")
    (folder / "m.fvecs").write_bytes(np.hstack([widths.view("<f4"), values]).tobytes())
    return folder / "m.fvecs"


FILES: dict[str, Callable[[Path, NDArray[np.float32]], Any]] = {
    "chunked HDF5": _chunked_hdf5,
    "HDF5": _hdf5,
    "npy": _npy,
    "fvecs": _fvecs,
    **STREAMED,
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("sharded", [False, True], ids=["one", "shards"])
def test_a_file_that_changes(
    tmp_path: Path, kind: str, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
    values = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    source = FILES[kind](tmp_path, values)

    def change(done: int, total: int | None) -> None:
        os.utime(source[-1] if isinstance(source, list) else source, (5, 5))

    build: Any = qstore.build_shards if sharded else qstore.build
    with pytest.raises(qstore.SourceError, match="was changed while it was read; build again"):
        build(source, tmp_path / "x", **({"shard_rows": 400} if sharded else {}), progress=change)
    assert not (tmp_path / "x").is_file()
    assert not (tmp_path / "x" / "qstore.json").exists()
    report = build(source, tmp_path / "x", **({"shard_rows": 400} if sharded else {}))  # as it says
    assert report.rows == ROWS
