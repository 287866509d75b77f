"""Large stores are written around the page cache: the same file, resumed as any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.system import durable_files
from qstore.writing import unfinished_store

DIM = 1000
ROWS = 9000  # 9 MB: four whole windows, and more before and behind them


@pytest.fixture(scope="module")
def matrix() -> NDArray[Any]:
    return np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def small(matrix: NDArray[Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "x.h5"
    qstore.build(matrix, path)
    return path.read_bytes()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All stores are large; whether a descriptor around the page cache was had, 1 or 0, for each."""
    opened = []
    real = durable_files.open_direct

    def noted(fd: int) -> int | None:
        found = real(fd)
        opened.append(int(found is not None))
        return found

    monkeypatch.setattr(unfinished_store, "_LARGE", 1)
    monkeypatch.setattr(durable_files, "open_direct", noted)
    return opened


@pytest.mark.parametrize("threads", [1, 3])
def test_same_file(
    tmp_path: Path, matrix: NDArray[Any], small: bytes, direct: list[int], threads: int, no_leaks: None
) -> None:
    qstore.build(matrix, tmp_path / "x.h5", threads=threads)
    assert (tmp_path / "x.h5").read_bytes() == small
    assert len(direct) == 1


def test_without_a_way_around(
    tmp_path: Path, matrix: NDArray[Any], small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished_store, "_LARGE", 1)
    monkeypatch.delattr(os, "O_DIRECT")
    assert durable_files.open_direct(0) is None
    qstore.build(matrix, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_bytes() == small


def test_only_what_is_known_to_be_large(tmp_path: Path, direct: list[int]) -> None:
    with qstore.Writer(tmp_path / "x.h5", DIM) as writer:
        writer.append(np.ones((3, DIM)))
    assert direct == []


@pytest.mark.parametrize("done", [100, 2500, 6000, ROWS])
def test_resumes(
    tmp_path: Path, matrix: NDArray[Any], small: bytes, direct: list[int], done: int, no_leaks: None
) -> None:
    path = tmp_path / "x.h5"
    options: dict[str, Any] = {"rows": ROWS, "resume": True}
    writer = qstore.Writer(path, DIM, **options)
    writer.append(matrix[:done])
    writer.abort()
    with qstore.Writer(path, DIM, **options) as writer:
        assert writer.rows == done // layout.block_rows(DIM) * layout.block_rows(DIM)
        writer.append(matrix[writer.rows :])
    with qstore.open(path) as store:
        store.verify()
    built = tmp_path / "whole.h5"
    with qstore.Writer(built, DIM, rows=ROWS) as writer:
        writer.append(matrix)
    assert path.read_bytes() == built.read_bytes()
    assert path.read_bytes()[: 1 << 20] == small[: 1 << 20]


def test_a_disk_that_fails(
    tmp_path: Path, matrix: NDArray[Any], small: bytes, direct: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, left = os.pwrite, [2]

    def failing(fd: int, data: Any, offset: int) -> int:
        if memoryview(data).nbytes == 2 << 20:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        if durable_files.open_direct(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT)) is None:
            pytest.skip("this file system has no direct writes")
        with pytest.raises(qstore.OutputError, match="No space left"):
            qstore.build(matrix, tmp_path / "x.h5", resume=True)
    built = qstore.build(matrix, tmp_path / "x.h5", resume=True)
    assert built.rows_resumed > 0
    assert (tmp_path / "x.h5").read_bytes() == small
