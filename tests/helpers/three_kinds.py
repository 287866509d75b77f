"""A matrix as a store of a file, of several files, and behind a URL; and how much memory work takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

import qstore

__all__ = ["KINDS", "open_as", "peak_of"]

KINDS = ("file", "shards", "url")


def open_as(kind: str, values: NDArray[Any], folder: Path, cuts: Sequence[int] = ()) -> qstore.Store:
    """The store of this kind; files of several begin and end at the cuts."""
    if kind == "shards":
        paths = [folder / f"part-{number}.h5" for number in range(len(cuts) + 1)]
        for path, start, stop in zip(paths, (0, *cuts), (*cuts, len(values)), strict=True):
            qstore.build(values[start:stop], path)
        return qstore.open(paths)
    path = folder / f"{kind}.h5"
    qstore.build(values, path)
    if kind == "url":
        pytest.importorskip("fsspec")
        return qstore.open(f"local://{path}", cache_bytes=0)
    return qstore.open(path)


def peak_of(work: Callable[[], Any]) -> int:
    """Most bytes that were allocated at a time while `work` went on, its result among them."""
    work()  # modules are imported, caches filled
    tracemalloc.start()
    try:
        result = work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result is not None
    return peak
