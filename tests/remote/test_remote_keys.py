"""Keys of a store behind a URL: fetched once, when they are used; damage, faults and forks."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import Fault, RangeServer
from remote_stores import WORDS, equal

import qstore
from qstore.remote.planning import LONGEST_RANGE

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

KEYED = 3000
KIND_KEYS: dict[str, list[Any]] = {
    "text": [f"wört {row * row}" for row in range(KEYED)],
    "integer": [row * row - 7 for row in range(KEYED)],
}


@pytest.fixture(params=sorted(KIND_KEYS))
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    values = np.random.default_rng(5).standard_normal((KEYED, 40)).astype(np.float32)
    qstore.build(values, tmp_path / "keyed.h5", keys=KIND_KEYS[request.param])
    return tmp_path / "keyed.h5"


@pytest.fixture
def keyed_url(keyed: Path, server: RangeServer) -> str:
    server.objects["keyed.h5"] = keyed.read_bytes()
    return server.url("keyed.h5")


def test_keys(keyed: Path, keyed_url: str) -> None:
    with qstore.open(keyed_url) as store, qstore.open(keyed) as local:
        assert store.key_kind == local.key_kind
        keys = KIND_KEYS[str(store.key_kind)]
        equal(store.rows_of(keys[::-1]), np.arange(KEYED)[::-1])
        unknown: Any = "no such" if store.key_kind == "text" else -8
        equal(store.rows_of([keys[5], unknown], default=-1), np.array([5, -1]))
        with pytest.raises(qstore.MissingKeyError, match=str(unknown)):
            store.rows_of([unknown])
        assert store.key_of(7) == keys[7]
        for rows in (slice(None), slice(9, 2, -3), [5, -1]):
            assert list(store.key_of(rows)) == list(local.key_of(rows))
        if store.key_kind == "text":
            assert keys[3] in store
            assert unknown not in store
            equal(store[keys[3]], local[3])
            equal(store[[keys[3], keys[2]], :5], local[[3, 2], :5])
        assert store.verify() == local.verify()
        with pickle.loads(pickle.dumps(store)) as again:
            equal(again.rows_of(keys[:3]), np.arange(3))
        assert store.shards == (qstore.Shard(keyed_url, 0, KEYED, local.content_id),)


def test_keys_are_fetched_once_and_when_they_are_used(
    keyed: Path, keyed_url: str, server: RangeServer
) -> None:
    with qstore.open(keyed_url) as store, qstore.open(keyed) as local, ThreadPoolExecutor(4) as pool:
        extents = local._mapping.facts.extents
        key_bytes = sum(extent.size for name, extent in extents.items() if name.startswith("keys/"))
        assert len(server.requests) <= 3
        assert server.body_bytes <= 256 << 10
        server.reset()
        assert list(pool.map(store.key_of, range(8))) == KIND_KEYS[str(store.key_kind)][:8]
        assert server.body_bytes <= key_bytes + 5 * 4096
        assert len(server.requests) <= 5 + 5
        server.reset()
        store.rows_of(KIND_KEYS[str(store.key_kind)])
        assert server.requests == []


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_keys_of_many_rows(
    kind: str, server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening is as cheap where checksums take more than what is read with them; ranges are never long."""
    monkeypatch.setattr("qstore.remote.metadata.HEAD_BYTES", 4096)
    rows = 600_000
    keys: Any = [f"{row:x}" for row in range(rows)] if kind == "text" else np.arange(rows)[::-1] * 3
    codes = np.full((rows, 1), 7, np.uint8)
    qstore.build(codes.astype(np.float32), tmp_path / "x.h5", keys=keys)
    server.objects["x"] = (tmp_path / "x.h5").read_bytes()
    with qstore.open(server.url("x")) as store:
        assert store.key_kind == kind
        assert len(server.requests) == 4
        assert server.body_bytes <= 256 << 10
        server.reset()
        equal(store.rows_of([keys[rows - 1], keys[1]]), np.array([rows - 1, 1]))
        assert server.body_bytes <= 40 * rows
        sizes = [1 + int(last) - int(first) for first, last in map(_bounds, server.requests)]
        assert max(sizes) == LONGEST_RANGE
        assert sum(size > 4096 for size in sizes) == sum(-(-size // LONGEST_RANGE) for size in _sizes(store))
        assert store.verify().keys_ok


def _bounds(asked: str) -> list[str]:
    return asked.removeprefix("bytes=").split("-")


def _sizes(store: qstore.Store) -> list[int]:
    """Bytes of the datasets of the keys but the checksums."""
    rows = len(store)
    texts = sum(map(len, store.key_of(slice(None)))) if store.key_kind == "text" else None
    return [8 * rows] * 3 if texts is None else [8 * rows, 8 * rows, 8 * rows + 8, texts]


@pytest.mark.parametrize("keys", [[], [""], ["", "", ""], np.zeros(0, np.int64)], ids=str)
def test_keys_with_nothing_in_them(keys: Any, server: RangeServer, tmp_path: Path) -> None:
    values = np.ones((len(keys), 3), np.float32)
    qstore.build(values, tmp_path / "x.h5", keys=keys, duplicates="first")
    server.objects["x"] = (tmp_path / "x.h5").read_bytes()
    with qstore.open(server.url("x")) as store:
        assert list(store.key_of(slice(None))) == list(keys)
        equal(store.rows_of(keys), np.zeros(len(keys), np.int64))
        assert store.verify().keys_ok
    assert len(server.requests) <= 2


def test_damaged_keys(keyed: Path, keyed_url: str, server: RangeServer) -> None:
    good = keyed.read_bytes()
    with qstore.open(keyed) as local:
        extents = local._mapping.facts.extents
    for name, extent in extents.items():
        if name.startswith("keys/"):
            content = bytearray(good)
            content[extent.offset + extent.size // 2] ^= 4
            server.objects["keyed.h5"] = bytes(content)
            keyed.write_bytes(content)
            with qstore.open(keyed_url) as store, qstore.open(keyed) as local:
                for _ in range(2):
                    with pytest.raises(qstore.FormatError, match=r"the keys are damaged: /keys/.* checksum"):
                        store.key_of(0)
                assert store.verify() == local.verify()
                equal(store[5], local[5])


@pytest.mark.parametrize("fault", ["truncate", "forbidden", "changed total"])
def test_a_fault_while_keys_are_fetched(fault: Fault, keyed_url: str, server: RangeServer) -> None:
    with qstore.open(keyed_url) as store:
        server.misbehave(fault)
        with pytest.raises(qstore.RemoteError, match=WORDS[fault]):
            store.key_of(0)
        server.fault = None
        assert store.key_of(0) == KIND_KEYS[str(store.key_kind)][0]


def _keys_in_child(store: qstore.Store, found: Any) -> None:
    found.put(store.key_of([0, 9]))


@pytest.mark.parametrize("used", [False, True])
def test_keys_after_a_fork(used: bool, keyed_url: str) -> None:
    with qstore.open(keyed_url) as store:
        if used:
            store.key_of(1)
        context = multiprocessing.get_context("fork")
        found = context.Queue()
        child = context.Process(target=_keys_in_child, args=(store, found))
        child.start()
        assert list(found.get(timeout=300)) == [KIND_KEYS[str(store.key_kind)][row] for row in (0, 9)]
        child.join(300)
        assert child.exitcode == 0
        assert store.key_of(2) == KIND_KEYS[str(store.key_kind)][2]
        found.close()
        found.join_thread()


def test_keys_of_another_file_system(keyed: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/keyed.h5", keyed.read_bytes())
    with qstore.open("memory://keyed.h5") as store, qstore.open(keyed) as local:
        assert list(store.key_of(slice(None))) == list(local.key_of(slice(None)))
        assert store.verify() == local.verify()
    memory.store.clear()


def test_no_keys(remote: qstore.Store, server: RangeServer) -> None:
    assert remote.key_kind is None
    server.reset()
    with pytest.raises(IndexError, match="have no keys: they are found by number only"):
        remote.rows_of(["a"])
    assert server.requests == []
