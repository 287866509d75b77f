"""The data: one matrix, its files, the rows that are asked for, and what is a right answer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.engine import quantization

from .rounds import WrongResult

__all__ = ["Scene", "check_close", "check_same", "normal_values"]

_BLOCK_VALUES = 1 << 24


def normal_values(rows: int, dim: int, seed: int = 1) -> NDArray[np.float32]:
    """Matrix of independent normal values, deterministic."""
    generator, values = np.random.default_rng(seed), np.empty((rows, dim), np.float32)
    generator.standard_normal(dtype=np.float32, out=values)
    return values


class Scene:
    """A matrix in memory and in files, each made when it is first wanted."""

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self.folder, self.rows, self.dim = folder, rows, dim
        self.values = normal_values(rows, dim)
        self.largest = max(float(abs(block).max()) for block in _blocks(self.values))

    def path(self, name: str) -> Path:
        """Where a file of this scene goes."""
        return self.folder / name

    @functools.cached_property
    def npy32(self) -> Path:
        """The matrix as float32 .npy file."""
        np.save(self.path("float32.npy"), self.values)
        return self.path("float32.npy")

    @functools.cached_property
    def npy16(self) -> Path:
        """The matrix as float16 .npy file."""
        np.save(self.path("float16.npy"), self.values.astype(np.float16))
        return self.path("float16.npy")

    @functools.cached_property
    def store_path(self) -> Path:
        """The matrix as a store."""
        qstore.build(self.values, self.path("store.h5"), threads=1)
        return self.path("store.h5")

    def row_sets(self, asked: int) -> list[NDArray[np.int64]]:
        """Requests of `asked` random rows each, together many times the processor's caches."""
        generator = np.random.default_rng(asked)
        count = max(8, min(4096, 200_000 // asked))
        return list(generator.integers(0, self.rows, (count, asked)))

    def oracle(self, rows: NDArray[np.int64], output: str) -> NDArray[Any]:
        """What qstore must give for these rows: quantized and dequantized by the specification."""
        values, out = self.values[rows], np.empty((len(rows), self.dim), output)
        codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
        quantization.quantize(values, codes, scales, False)
        quantization.dequantize(codes, scales, out)
        return out


def _blocks(values: NDArray[Any]) -> list[NDArray[Any]]:
    step = max(1, _BLOCK_VALUES // values.shape[1])
    return [values[start : start + step] for start in range(0, len(values), step)]


def check_same(found: Any, expected: NDArray[Any]) -> None:
    """The same values to the last bit, or :class:`WrongResult`."""
    found = np.asarray(found)
    if found.dtype != expected.dtype or not np.array_equal(found, expected):
        raise WrongResult(f"{found.dtype} {found.shape} differs from the specification's {expected.dtype}")


def check_close(found: Any, expected: NDArray[Any], error: float) -> None:
    """No value further off than `error`, or :class:`WrongResult`."""
    found = np.asarray(found)
    if found.shape != expected.shape:
        raise WrongResult(f"shape {found.shape}, expected {expected.shape}")
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    if not worst <= error:
        raise WrongResult(f"a value is off by {worst:.3g}, allowed {error:.3g}")
