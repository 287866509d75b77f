"""Stores in other file systems of fsspec: in memory, local, changing and lying."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from remote_stores import ROWS, equal

import qstore

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def in_memory(path: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/store.h5", path.read_bytes())
    yield "memory://folder/store.h5"
    memory.store.clear()


@pytest.mark.parametrize("scheme", ["memory", "local", "file"])
def test_other_file_systems(
    scheme: str, in_memory: str, path: Path, local: qstore.Store, no_leaks: None
) -> None:
    place = in_memory if scheme == "memory" else f"{scheme}://{path}"
    with qstore.open(place, resident_scales=scheme == "memory") as store:
        assert isinstance(store._mapping, type(local._mapping)) == (scheme == "file")
        rows = np.random.default_rng(0).integers(-ROWS, ROWS, 500)
        equal(store.take(rows), local.take(rows))
        equal(store[3:20_000], local[3:20_000])
        assert store.verify().ok
        with pickle.loads(pickle.dumps(store)) as again:
            equal(again[5], local[5])


def test_an_object_of_another_file_system_changes(in_memory: str, path: Path) -> None:
    memory = fsspec.filesystem("memory")
    with qstore.open(in_memory) as store:
        memory.pipe("/folder/store.h5", path.read_bytes())
        with pytest.raises(qstore.ChangedError, match="open it again"):
            store[20_000]
        memory.pipe("/folder/store.h5", b"")
        with pytest.raises(qstore.ChangedError):
            list(store.blocks())
        memory.rm("/folder/store.h5")
        with pytest.raises(qstore.RemoteNotFoundError):
            store[20_000]
    with pytest.raises(qstore.RemoteNotFoundError):
        qstore.open(in_memory)


def test_a_file_system_that_lies(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    with qstore.open(in_memory) as store:
        whole = type(memory).cat_ranges
        for wrong, words in (
            (lambda *a, **k: [b[:-1] for b in whole(*a, **k)], "95 bytes came instead of bytes"),
            (lambda *a, **k: [TimeoutError("slow") for _ in whole(*a, **k)], "TimeoutError: slow"),
            (lambda *a, **k: 1 / 0, "ZeroDivisionError"),
        ):
            monkeypatch.setattr(type(memory), "cat_ranges", wrong)
            with pytest.raises(qstore.RemoteError, match=words):
                store[20_000]


def test_things_that_are_no_objects(in_memory: str) -> None:
    with pytest.raises(qstore.RemoteError, match="is a directory"):
        qstore.open("memory://folder")
    with pytest.raises(qstore.RemoteError, match="Protocol not known"):
        qstore.open("nosuch://x")
