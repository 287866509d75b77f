"""The same matrix behind one interface: qstore and NumPy. Other libraries are in peers.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore

from . import engines
from .rounds import Kind
from .scene import Scene

__all__ = ["Reader", "numpy_readers", "our_readers"]

Rows = NDArray[np.int64]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Reader:
    """A way to read rows of the scene's matrix.

    Attributes
    ----------
    name : str
    take : callable
        Rows by number, as a fresh array.
    into : callable, optional
        The same, into an array, which it returns.
    block : callable, optional
        Rows ``start`` to ``stop`` as a fresh array.
    one_by_one : callable, optional
        Reads each row of a list by itself and returns the last one. A loop without a call in between, as
        a call costs a quarter of what a row costs.
    error : float
        How far off a value may be, in units of the largest absolute value. Ours must be exact.
    values : ndarray, optional
        The rows that it reads, where these are not those of the scene's matrix: codes.
    """

    name: str
    take: Callable[[Rows], Any]
    into: Callable[[Rows, NDArray[Any]], Any] | None = None
    block: Callable[[int, int], Any] | None = None
    one_by_one: Callable[[list[int]], Any] | None = None
    error: float = 0.0
    values: NDArray[Any] | None = None
    kind: Kind = "peer"
    before: Callable[[], object] = _nothing


def our_readers(scene: Scene, levels: tuple[str, ...], output: str = "float32") -> list[Reader]:
    """qstore, once for each engine."""
    return [_our_reader(scene, level, output) for level in levels]


def _our_reader(scene: Scene, level: str, output: str) -> Reader:
    engines.use(level)  # a store keeps what its engine made of it when it was opened
    store = qstore.open(scene.store_path).astype(output)

    def one_by_one(numbers: list[int]) -> Any:
        row = None
        for number in numbers:
            row = store[number]
        return row

    return Reader(
        engines.label(level),
        take=lambda rows: store[rows],
        into=lambda rows, out: store.take(rows, out=out),
        block=lambda start, stop: store[start:stop],
        one_by_one=one_by_one,
        kind="ours",
        before=partial(engines.use, level),
    )


def numpy_readers(scene: Scene, output: str = "float32") -> list[Reader]:
    """Memory maps of float32 and float16 files, and the plain arrays behind them."""
    mapped32, mapped16 = np.load(scene.npy32, mmap_mode="r"), np.load(scene.npy16, mmap_mode="r")
    return [
        _map_reader("numpy memmap float32", mapped32, output),
        _map_reader("numpy memmap float16", mapped16, output),
        _plain_reader("numpy view of the map", mapped32.view(np.ndarray), output),
        _plain_reader("numpy array in memory", scene.values, output),
    ]


def _map_reader(name: str, mapped: Any, output: str) -> Reader:
    def one_by_one(numbers: list[int]) -> Any:
        row = None
        for number in numbers:
            row = np.array(mapped[number])
        return row

    return _array_reader(name, mapped, output, one_by_one)


def _plain_reader(name: str, values: NDArray[Any], output: str) -> Reader:
    def one_by_one(numbers: list[int]) -> Any:
        row = None
        for number in numbers:
            row = values[number].copy()
        return row

    return _array_reader(name, values, output, one_by_one)


def _array_reader(name: str, values: Any, output: str, one_by_one: Callable[[list[int]], Any]) -> Reader:
    same = values.dtype == output
    return Reader(
        name,
        take=(lambda rows: values[rows]) if same else (lambda rows: values[rows].astype(output)),
        into=(lambda rows, out: np.take(values, rows, axis=0, out=out, mode="clip")) if same else None,
        block=lambda start, stop: np.array(values[start:stop], output),
        one_by_one=one_by_one if same else None,
        error=0.0 if output != "float16" and values.dtype != np.float16 else 1e-3,
    )
