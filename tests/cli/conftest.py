"""What the tests of commands share: a runner in this process, and a small matrix with its store."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import Result, Run
from numpy.typing import NDArray

import qstore
from qstore.cli import main


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
def small() -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((200, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def npy(folder: Path, small: NDArray[np.float32]) -> Path:
    path = folder / "matrix.npy"
    np.save(path, small)
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
def several(tmp_path: Path, small: NDArray[np.float32]) -> Path:
    """A source of two matrices."""
    path = tmp_path / "several.h5"
    with h5py.File(path, "w") as file:
        file["words.weight"] = small
        file["positions.weight"] = small[:7]
        file["bias"] = small[0]
    return path


@pytest.fixture(scope="module")
def eight_blocks(folder: Path) -> Path:
    """A matrix of 8 checksum blocks, each quantized by 4 calls."""
    path = folder / "blocks.npy"
    np.save(path, np.random.default_rng(1).standard_normal((8192, 1024), dtype=np.float32))
    return path
