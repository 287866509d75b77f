"""``store.reload()``: a newer version takes the place of the old one, while others read."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore import opening
from qstore.reading.local_store import LocalStore


def constant(value: float, rows: int = 3, dim: int = 3) -> NDArray[np.float64]:
    return np.full((rows, dim), value)


def build(path: Path, value: float, rows: int = 3, dim: int = 3, **options: Any) -> None:
    qstore.build(constant(value, rows, dim), path, overwrite=True, **options)


def mapped(path: Path) -> int:
    """Maps of files that were unlinked from here."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(path) in line and line.endswith("(deleted)") for line in lines)


@pytest.mark.parametrize("options", [{}, {"resident_scales": True}, {"ahead_bytes": 7}])
def test_a_file_that_is_replaced(tmp_path: Path, options: dict[str, Any], no_leaks: None) -> None:
    path = tmp_path / "a.h5"
    build(path, 1)
    with qstore.open(path, **options) as store:
        assert store.reload() is False
        build(path, 2, 5, 4, keys=list("abcde"))
        assert store[0].tolist() == [1, 1, 1]
        assert store.reload() is True
        assert store.reload() is False
        assert store.shape == (5, 4)
        assert (len(store), store.size, store.key_kind) == (5, 20, "text")
        assert store["e"].tolist() == store[4].tolist() == store.take([-1])[0].tolist() == [2] * 4
        assert store.content_id == qstore.open(path).content_id
        assert opening.reopening(store._mapping) == opening.reopening(qstore.open(path, **options)._mapping)
        gc.collect()


def test_the_old_file_is_let_go_at_once(tmp_path: Path) -> None:
    """Its space on the disk is freed: nothing waits for a collection of garbage."""
    path = tmp_path / "a.h5"
    gc.collect()
    gc.disable()
    try:
        build(path, 1)
        store = qstore.open(path)
        build(path, 2)
        assert mapped(path) > 0
        store.reload()
        assert mapped(path) == 0
        build(path, 2)  # the same once more
        assert store.reload() is False
        assert mapped(path) == 0
        store.close()
    finally:
        gc.enable()


def test_old_shards_are_let_go_at_once(tmp_path: Path) -> None:
    for version in (1, 2):
        qstore.build_shards(constant(version, 6), tmp_path / "shards", 2, overwrite=True)
        if version == 1:
            store = qstore.open(tmp_path / "shards")
            store[:]
    gc.collect()
    gc.disable()
    try:
        before = sum("part-" in line for line in Path("/proc/self/maps").read_text().splitlines())
        assert store.reload() is True
        after = sum("part-" in line for line in Path("/proc/self/maps").read_text().splitlines())
        assert (before > 0, after) == (True, 0)
        assert store[5].tolist() == [2, 2, 2]
    finally:
        gc.enable()
    store.close()


def test_nothing_is_opened_where_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "a.h5", 1)
    qstore.build_shards(constant(1, 4), tmp_path / "shards", 2)
    stores = [
        qstore.open(what)
        for what in (tmp_path / "a.h5", tmp_path / "shards", [tmp_path / "a.h5", tmp_path / "a.h5"])
    ]
    monkeypatch.setattr(opening, "open_backing", None)
    assert [store.reload() for store in stores] == [False] * 3


def test_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for the files that were there when it was opened."""
    monkeypatch.chdir(tmp_path)
    build(Path("a.h5"), 1)
    build(Path("b.h5"), 2)
    with qstore.open("?.h5") as store:
        assert store.reload() is False
        build(Path("b.h5"), 3)
        build(Path("c.h5"), 4)
        assert store.reload() is True
        assert store[:, 0].tolist() == [1, 1, 1, 3, 3, 3]


def test_shards_that_are_appended(tmp_path: Path, no_leaks: None) -> None:
    qstore.build_shards(constant(1, 4), tmp_path / "shards", 2)
    with qstore.open(tmp_path / "shards") as store:
        build(tmp_path / "shards" / "more.h5", 2, 2)
        assert store.reload() is False
        qstore.append_shards(tmp_path / "shards", ["more.h5"])
        assert store.reload() is True
        assert store[:, 0].tolist() == [1, 1, 1, 1, 2, 2]


def test_a_file_that_becomes_a_link(tmp_path: Path) -> None:
    """As services roll a version: a link that is pointed elsewhere."""
    for version in (1, 2):
        build(tmp_path / f"{version}.h5", version)
    os.symlink("1.h5", tmp_path / "now")
    with qstore.open(tmp_path / "now") as store:
        os.symlink("2.h5", tmp_path / "next")
        os.replace(tmp_path / "next", tmp_path / "now")
        assert store.reload() is True
        assert store[0].tolist() == [2, 2, 2]


def test_a_broken_newer_file_is_told_and_not_taken(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "a.h5"
    build(path, 1)
    with qstore.open(path) as store:
        os.unlink(path)
        with pytest.raises(FileNotFoundError):
            store.reload()
        path.write_bytes(b"no store")
        for _ in range(2):
            with pytest.raises(qstore.FormatError):
                store.reload()
        assert store[0].tolist() == [1, 1, 1]
        assert store.take_async([2]).result(30).tolist() == [[1, 1, 1]]
        build(path, 2)
        assert store.reload() is True
        assert store[0].tolist() == [2, 2, 2]


def test_broken_newer_shards_are_told_and_not_taken(tmp_path: Path) -> None:
    qstore.build_shards(constant(1, 4), tmp_path / "shards", 2)
    with qstore.open(tmp_path / "shards") as store:
        build(tmp_path / "shards" / "more.h5", 2, 2)
        qstore.append_shards(tmp_path / "shards", ["more.h5"])
        os.unlink(tmp_path / "shards" / "more.h5")
        with pytest.raises(qstore.ShardError, match="missing"):
            store.reload()
        assert store[3].tolist() == [1, 1, 1]


def test_a_closed_store(tmp_path: Path) -> None:
    build(tmp_path / "a.h5", 1)
    store = qstore.open(tmp_path / "a.h5")
    store.close()
    with pytest.raises(qstore.ClosedError, match="is closed"):
        store.reload()


def test_what_was_made_of_the_old_one_stays(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "a.h5"
    build(path, 1)
    with qstore.open(path) as store:
        codes, half, blocks, parts = store.codes, store.astype("float16"), store.blocks(2), store.parts()
        assert next(blocks)[1].tolist() == constant(1, 2).tolist()
        build(path, 2, 5, 4)
        assert store.reload()
        assert (codes.shape, half.shape) == ((3, 3), (3, 3))
        assert np.array_equal(qstore.dequantize(codes, next(iter(parts)).scales), constant(1))
        assert next(blocks)[1].tolist() == constant(1, 1).tolist()
        assert half[0].tolist() == [1, 1, 1]
        assert half.reload() is True
        assert half[0].tolist() == [2] * 4
        assert half.dtype == np.float16
        assert store.astype("float64")[0].tolist() == [2] * 4
        half.close()
        assert not store.closed
        del codes, parts, blocks


def test_takes_under_way_are_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, gather = threading.Event(), LocalStore.gather

    def wait_and_gather(self: LocalStore, *given: Any) -> None:
        assert gate.wait(30)
        gather(self, *given)

    build(tmp_path / "a.h5", 1)
    with qstore.open(tmp_path / "a.h5") as store:
        monkeypatch.setattr(LocalStore, "gather", wait_and_gather)
        monkeypatch.setattr(LocalStore, "read_few", lambda *given: None)  # which is the short way of gather
        coming = store.take_async([0, 2])
        build(tmp_path / "a.h5", 2, 2, 5)
        assert store.reload()
        gate.set()
        assert coming.result(30).tolist() == constant(1, 2).tolist()
        assert store.take([1]).tolist() == [[2] * 5]


READS: list[Callable[[qstore.Store], Any]] = [
    lambda store: store[1],
    lambda store: store[1:],
    lambda store: store[[1, 0]],
    lambda store: store[0, 0],
    lambda store: store["b"],
    lambda store: store.get("b"),
    lambda store: store.take([1, 0]),
    lambda store: store.take([1], axis=1),
    lambda store: store.take_async([1]).result(),
    lambda store: store.prefetch([1]) and 1.0,
    lambda store: store.take_codes([1])[1] * 127,
    lambda store: store.pool([0, 1], [0, 1]),
    lambda store: np.asarray(store),
    lambda store: np.asarray(store, np.int64),
    lambda store: store * 1,
    lambda store: store.mean(),
    lambda store: store.stats().scales.maximum * 127,
]


@pytest.mark.parametrize("read", READS, ids=range(len(READS)))
def test_readers_see_one_version_each(tmp_path: Path, read: Callable[[qstore.Store], Any]) -> None:
    """Of two files of other shapes, every result is of one of them, while another thread swaps them."""
    shapes = (2, 5), (4, 3)
    for number, (rows, dim) in enumerate(shapes):
        build(tmp_path / f"{number}.h5", 1 + number, rows, dim, keys=list("abcd")[:rows])
    os.symlink("0.h5", tmp_path / "now")
    ended = threading.Event()

    def swap(store: qstore.Store) -> int:
        swaps = 0
        try:
            for version in range(60):
                os.symlink(f"{version % 2}.h5", tmp_path / "next")
                os.replace(tmp_path / "next", tmp_path / "now")
                swaps += store.reload()
        finally:
            ended.set()
        return swaps

    with qstore.open(tmp_path / "now") as store, ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap, store)
        while not ended.is_set():
            values = np.unique(np.round(read(store), 6))
            assert len(values) == 1
            assert values[0] in (1, 2)
        assert swapping.result() > 50
