"""Stores behind URLs: the same rows in few ranges, or a typed error; never anything else."""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.format.layout import Extent
from qstore.remote.planning import LONGEST_GAP, LONGEST_RANGE, coalesce
from qstore.remote.read_ahead import read_ahead
from qstore.remote.row_cache import RowCache
from qstore.system.urls import is_url

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from malformed_files import EXPECTED, fixture
from range_server import Fault, RangeServer, serving

fsspec = pytest.importorskip("fsspec")
aiohttp = pytest.importorskip("aiohttp")

ROWS, DIM = 30_000, 96


@pytest.fixture(scope="module", autouse=True)
def quick_event_loop() -> None:
    """fsspec's thread and its event loop begin before descriptors are counted, and stay."""
    importlib.import_module("fsspec.asyn").get_loop()


@pytest.fixture
def server(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    from qstore.remote import http_reader

    monkeypatch.setattr(http_reader, "_PAUSES", (0.01, 0.02, 0.03))
    before = {thread.name for thread in threading.enumerate()}
    with serving() as running:
        yield running
    assert {thread.name for thread in threading.enumerate()} <= before | {
        "qstore-kernels_0",
        "qstore-kernels_1",
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("remote") / "store.h5"
    values = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    values[5] = 0
    qstore.build(values, made, tensor=None)
    return made


@pytest.fixture
def local(path: Path) -> Iterator[qstore.Store]:
    with qstore.open(path) as store:
        yield store
        gc.collect()


@pytest.fixture
def url(server: RangeServer, path: Path) -> str:
    server.objects["store.h5"] = path.read_bytes()
    return server.url("store.h5")


@pytest.fixture
def remote(url: str) -> Iterator[qstore.Store]:
    with qstore.open(url) as store:
        yield store


def equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


# The same as a local store ----------------------------------------------------------------------------


def test_facts(remote: qstore.Store, local: qstore.Store, url: str) -> None:
    for name in ("shape", "dtype", "ndim", "size", "nbytes", "content_id", "tensor", "source_dtype"):
        assert getattr(remote, name) == getattr(local, name)
    assert remote.format_version == local.format_version
    assert remote.path == url
    assert repr(remote) == f"<qstore.Store {url}: {ROWS} × {DIM}, read as float32>"


KEYS: list[Any] = [
    *(7, -1, np.int32(3), slice(10, 20), slice(None), slice(None, None, -7), slice(5, 2), slice(3, 20_000)),
    *([5, 3, 3, -1], [], np.array([[1, 2], [3, -4]]), np.arange(ROWS) % 1000 == 3, Ellipsis),
    *((7, 3), (7, slice(2, 9)), ([1, 5], slice(None, 10)), (slice(4, 9), -2), (slice(None), 5), (..., 0)),
    *((7, ..., 3), (None, 4), ([1, 2], [3, 4]), ([[1], [2]], [3, 4]), (slice(1, 9, 3), [1, 1]), ()),
    *(np.uint64(9), True, None, (slice(2, 4), None, slice(0, 3))),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing(remote: qstore.Store, local: qstore.Store, key: Any) -> None:
    for dtype in ("float32", "float64", "float16"):
        equal(remote.astype(dtype)[key], local.astype(dtype)[key])


def test_a_mask_of_values(remote: qstore.Store, local: qstore.Store) -> None:
    mask = np.random.default_rng(0).random((ROWS, DIM)) < 1e-4
    equal(remote[mask], local[mask])


@pytest.mark.parametrize(
    "key",
    [ROWS, -ROWS - 1, 2**70, [0, ROWS], (0, DIM), "a", 1.5, (0, 0, 0), [[1], [2, 3]], np.ones(3, bool)],
    ids=str,
)
def test_bad_keys_are_numpys_errors(remote: qstore.Store, local: qstore.Store, key: Any) -> None:
    with pytest.raises(Exception) as expected:
        local[key]
    words = str(expected.value).replace(local.path, remote.path)
    with pytest.raises(type(expected.value), match=re.escape(words)):
        remote[key]


def test_take(remote: qstore.Store, local: qstore.Store) -> None:
    rows = np.random.default_rng(0).integers(-ROWS, ROWS, (40, 5))
    equal(remote.take(rows), local.take(rows))
    equal(remote.take([]), local.take([]))
    out = np.empty((40, 5, DIM), np.float64)
    assert remote.take(rows, out=out) is out
    equal(out, local.astype("float64").take(rows))
    with pytest.raises(IndexError, match=f"index {ROWS} is out of bounds for axis 0 with size {ROWS}"):
        remote.take([3, ROWS], out=out[0, :2])
    equal(out, local.astype("float64").take(rows))
    for found, expected in zip(remote.take_codes(rows), local.take_codes(rows), strict=True):
        equal(found, expected)


def test_scattered_rows_in_pieces(
    remote: qstore.Store, local: qstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstore.remote.remote_store._PIECE_BYTES", 10 * DIM)
    rows = np.random.default_rng(0).integers(0, ROWS, 95)
    equal(remote.take(rows), local.take(rows))
    equal(remote[:50, 3], local[:50, 3])


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pool(remote: qstore.Store, local: qstore.Store, mode: Any, weighted: bool) -> None:
    rows = np.random.default_rng(0).integers(-ROWS, ROWS, 300)
    offsets = [0, 0, 7, 100, 300]
    weights = np.random.default_rng(1).standard_normal(300) if weighted else None
    equal(remote.pool(rows, offsets, weights, mode), local.pool(rows, offsets, weights, mode))
    with pytest.raises(IndexError, match="out of bounds"):
        remote.pool([ROWS], [0])
    with pytest.raises(ValueError, match="offsets must start with 0"):
        remote.pool([1, 2], [1])


@pytest.mark.parametrize("rows", [None, 1, 700, ROWS, 10**9])
def test_blocks(remote: qstore.Store, local: qstore.Store, rows: int | None) -> None:
    if rows == 1:
        remote, local = (store.astype("float16") for store in (remote, local))
    for found, expected in zip(remote.blocks(rows), local.blocks(rows), strict=True):
        assert found[0] == expected[0]
        equal(found[1], expected[1])


def test_parts(remote: qstore.Store, local: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.remote.remote_store._SPAN_BYTES", 1000 * DIM)
    parts = list(remote.parts(7, -5))
    assert [part.first for part in parts] == [*range(7, ROWS - 5, 1000)]
    equal(np.concatenate([part.codes for part in parts]), local.codes[7:-5])
    equal(np.concatenate([part.scales for part in parts]), local.scales[7:-5])
    assert not parts[0].codes.flags.writeable
    assert list(remote.parts(9, 9)) == []


def test_a_scan_given_up_half_way_leaves_no_thread(
    remote: qstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstore.remote.remote_store._SPAN_BYTES", 1000 * DIM)
    blocks = remote.blocks(1000)
    next(blocks)
    assert "qstore-read-ahead_0" in {thread.name for thread in threading.enumerate()}
    del blocks
    gc.collect()
    assert "qstore-read-ahead_0" not in {thread.name for thread in threading.enumerate()}


def test_the_next_piece_is_read_meanwhile() -> None:
    begun = [threading.Event() for _ in range(4)]

    def load(number: int) -> int:
        begun[number].set()
        if number == 3:
            raise ValueError("3 is bad")
        return number

    found = read_ahead(load, range(4))
    for number in range(3):
        assert next(found) == number
        assert begun[number + 1].wait(10)
    with pytest.raises(ValueError, match="3 is bad"):
        next(found)


def test_whole_arrays(remote: qstore.Store, local: qstore.Store, server: RangeServer) -> None:
    with pytest.raises(qstore.NoViewError, match=r"store\.parts\(\).*store\.take_codes.*store\.blocks"):
        _ = remote.codes
    equal(remote.scales, local.scales.copy())
    equal(remote.checksums, local.checksums.copy())
    assert not remote.scales.flags.writeable
    before = len(server.requests)
    assert remote.scales is remote.scales
    equal(remote[20_000], local[20_000])
    assert len(server.requests) == before + 1  # the scales are here
    equal(np.asarray(remote), np.asarray(local))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_small_stores_need_one_request(rows: int, server: RangeServer, tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "x.h5", dim=3) as writer:
        writer.append(np.ones((rows, 3), np.float32))
    server.objects["x"] = (tmp_path / "x.h5").read_bytes()
    with qstore.open(server.url("x")) as store:
        equal(store[:], np.ones((rows, 3), np.float32))
        equal(store.take([0] * rows), np.ones((rows, 3), np.float32))
        assert store.verify().ok
        assert store.scales.shape == (rows,)
        assert list(store.blocks()) or not rows
    assert server.requests == ["bytes=0-65535"]


# What it costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("resident", [False, True])
def test_opening_is_cheap(url: str, server: RangeServer, resident: bool) -> None:
    qstore.open(url, resident_scales=resident).close()
    assert len(server.requests) == 3 + resident
    assert server.body_bytes <= 256 << 10 if not resident else 8 * ROWS + (256 << 10)


@pytest.mark.parametrize("dim", [1, 8, 768])
@pytest.mark.parametrize("resident", [False, True])
def test_scattered_rows_are_cheap(dim: int, resident: bool, server: RangeServer, tmp_path: Path) -> None:
    rows = 12_000_000 // (dim + 8)
    with qstore.Writer(tmp_path / "x.h5", dim=dim, rows=rows) as writer:
        codes = np.random.default_rng(0).integers(0, 256, (rows, dim), np.uint8)
        writer.append_codes(codes, np.linspace(1, 2, rows))
    server.objects["x"] = (tmp_path / "x.h5").read_bytes()
    chosen = np.random.default_rng(1).choice(rows, 1000, replace=False)
    with qstore.open(server.url("x"), resident_scales=resident) as store:
        server.reset()
        found = store.take(chosen)
        assert server.body_bytes <= 1.5 * 1000 * (dim + 8) + (64 << 10)
        assert len(server.requests) <= 2000
        server.reset()
        equal(store.take(chosen[::-1]), found[::-1])
        assert server.requests == []  # all in the cache
        store.take(chosen[:1] ^ 1)
        assert len(server.requests) <= 2 - resident


def test_a_cache_of_nothing(url: str, server: RangeServer, local: qstore.Store) -> None:
    with qstore.open(url, cache_bytes=0) as store:
        equal(store[20_000], local[20_000])
        server.reset()
        equal(store[20_000], local[20_000])
        assert len(server.requests) == 2
    with pytest.raises(ValueError, match="cache_bytes is -1, expected 0 or more"):
        qstore.open(url, cache_bytes=-1)


def test_a_scan_stays_in_a_cache_that_holds_all(url: str, server: RangeServer, local: qstore.Store) -> None:
    with qstore.open(url) as store:
        equal(store[:], local[:])
        server.reset()
        assert store.verify().ok
        equal(store[:], local[:])
        assert server.requests == []
    with qstore.open(url, cache_bytes=1 << 20) as store:
        equal(store[5], local[5])
        equal(store[:], local[:])
        server.reset()
        equal(store[5], local[5])  # a scan has not driven it out
        assert server.requests == []


# Keys -------------------------------------------------------------------------------------------------

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
        assert list(found.get(timeout=60)) == [KIND_KEYS[str(store.key_kind)][row] for row in (0, 9)]
        child.join(60)
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


# Faults of servers ------------------------------------------------------------------------------------

WORDS: dict[Fault, str] = {
    "busy": "4 tries failed, the last one: .*503 Service Unavailable",
    "changed total": "has changed since it was opened",
    "close": "4 tries failed, the last one: .*Server",
    "encoded": "the range came encoded, as gzip",
    "forbidden": "the server answers 403 Forbidden",
    "hang": "4 tries failed",
    "ignore ranges": "the server ignores ranges and would send the whole file",
    "long": "more than the .* bytes came",
    "no content range": "the server says it sends ''",
    "other range": "asked for bytes .*, the server says it sends 'bytes",
    "short": "asked for bytes .*, the server says it sends 'bytes",
    "truncate": "4 tries failed, the last one: ",
}
PATIENCE = {"timeout": aiohttp.ClientTimeout(total=0.15)}


def test_every_fault_has_its_words() -> None:
    assert set(WORDS) == set(get_args(Fault))


def patience(fault: Fault) -> dict[str, Any]:
    return PATIENCE if fault == "hang" else {}


@pytest.mark.parametrize("fault", sorted(set(WORDS) - {"changed total", "other range"}))
def test_a_fault_while_opening(fault: Fault, url: str, server: RangeServer) -> None:
    server.misbehave(fault)
    with pytest.raises(qstore.RemoteError, match=WORDS[fault]) as caught:
        qstore.open(url, storage_options=patience(fault))
    assert str(caught.value).startswith(url)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("fault", sorted(WORDS))
@pytest.mark.parametrize("read", ["row", "rows", "scan", "verify", "scales"])
def test_a_fault_while_reading(
    fault: Fault, read: str, url: str, local: qstore.Store, server: RangeServer
) -> None:
    reads: dict[str, Callable[[qstore.Store], Any]] = {
        "row": lambda store: store[20_000],
        "rows": lambda store: store.take(range(0, ROWS, 1000)),
        "scan": lambda store: list(store.blocks()),
        "verify": lambda store: store.verify(),
        "scales": lambda store: store.scales,
    }
    with qstore.open(url, storage_options=patience(fault)) as store:
        server.misbehave(fault)
        with pytest.raises(qstore.RemoteError, match=WORDS[fault]) as caught:
            reads[read](store)
        assert isinstance(caught.value, qstore.ChangedError) == (fault == "changed total")
        server.fault = None
        equal(store[20_000], local[20_000])  # it goes on when the server does
        assert store.verify().ok


def test_ranges_ignored_are_not_downloaded(server: RangeServer) -> None:
    server.objects["big"] = bytes(200 << 20)
    server.misbehave("ignore ranges")
    with pytest.raises(qstore.RemoteError, match="ignores ranges"):
        qstore.open(server.url("big"))
    assert server.body_bytes < 20 << 20  # what the buffers of two sockets took before it hung up


@pytest.mark.parametrize("fault", ["busy", "close", "truncate", "hang"])
def test_three_failures_are_borne(fault: Fault, url: str, server: RangeServer, local: qstore.Store) -> None:
    with qstore.open(url, storage_options=patience(fault), resident_scales=True) as store:
        server.reset()
        server.misbehave(fault, 3)
        equal(store[20_123], local[20_123])
        assert len(server.requests) == 4


def test_nobody_listens() -> None:
    with pytest.raises(qstore.RemoteError, match="4 tries failed"):
        qstore.open("http://127.0.0.1:1/x")


def test_no_such_object(server: RangeServer, url: str, local: qstore.Store) -> None:
    with pytest.raises(qstore.RemoteNotFoundError, match="404") as caught:
        qstore.open(server.url("nothing"))
    assert isinstance(caught.value, FileNotFoundError)
    with qstore.open(url) as store:
        del server.objects["store.h5"]
        with pytest.raises(qstore.RemoteNotFoundError):
            store[20_000]


@pytest.mark.parametrize(
    "validators",
    [{"etag", "last-modified", "if-match"}, {"etag"}, {"last-modified"}],
    ids=["if-match", "etag", "last-modified"],
)
@pytest.mark.parametrize("size", ["same", "shorter"])
def test_an_object_that_changes(
    validators: set[str], size: str, url: str, server: RangeServer, path: Path, tmp_path: Path
) -> None:
    server.validators = validators
    with qstore.open(url) as store:
        before = store[20_000]
        values = np.random.default_rng(4).standard_normal((ROWS - 2000 * (size != "same"), DIM))
        qstore.build(values.astype(np.float32), tmp_path / "y.h5")
        server.objects["store.h5"] = (tmp_path / "y.h5").read_bytes()
        for read in (lambda: store[9], lambda: store[ROWS - 1], lambda: list(store.blocks()), store.verify):
            with pytest.raises(qstore.ChangedError, match=r"has changed since it was opened.*open it again"):
                read()
        server.misbehave("ignore ranges")
        with pytest.raises(qstore.ChangedError):
            store[10]
        server.fault = None
        equal(store[20_000], before)  # it was read before the change
        text = pickle.dumps(store)
    with pytest.raises(qstore.FormatError, match="the file has been replaced"):
        pickle.loads(text)


def test_a_change_while_opening(url: str, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from qstore.remote import metadata

    inspect = metadata._headers_to_come

    def change(head: bytes) -> list[Extent]:
        server.objects["store.h5"] += b"\0"
        return inspect(head)

    monkeypatch.setattr(metadata, "_headers_to_come", change)
    with pytest.raises(qstore.ChangedError):
        qstore.open(url)


def test_the_url_keeps_its_secrets(server: RangeServer) -> None:
    secret = server.url("store.h5").replace("//", "//me:password@") + "?signature=a1b2"
    with pytest.raises(qstore.RemoteError) as caught:
        qstore.open(secret)
    assert not re.search("me:|password|signature|a1b2", str(caught.value))


# Malformed stores -------------------------------------------------------------------------------------


def open_all(url: str) -> None:
    """The optional parts are looked at when they are first used."""
    with qstore.open(url) as store:
        _ = store.fidelity
        store.key_of(0)


def test_malformed_stores_give_the_same_errors(server: RangeServer) -> None:
    for name, (kind, words) in EXPECTED.items():
        server.objects[name] = fixture(name)
        with pytest.raises(qstore.FormatError, match=re.escape(words)) as caught:
            open_all(server.url(name))
        assert type(caught.value).__name__ == kind, name
        assert str(caught.value).startswith(f"{server.url(name)}: ")
    assert len(server.requests) < 6 * len(EXPECTED)
    assert server.body_bytes < (256 << 10) * len(EXPECTED)


def test_a_store_cut_anywhere(url: str, server: RangeServer) -> None:
    whole = server.objects["store.h5"]
    for size in (
        0,
        1,
        47,
        48,
        4096,
        8300,
        12_288,
        65_536,
        65_537,
        len(whole) // 2,
        len(whole) - 8,
        len(whole) - 1,
    ):
        server.objects["store.h5"] = whole[:size]
        with pytest.raises(qstore.FormatError):
            qstore.open(url)


def test_damage_is_found_by_verify(url: str, server: RangeServer) -> None:
    content = bytearray(server.objects["store.h5"])
    content[12288 + 20_000 * DIM] ^= 1
    server.objects["store.h5"] = bytes(content)
    with qstore.open(url) as store:
        report = store.verify()
    assert report.broken_blocks == (20_000 // (2**20 // DIM),)
    assert re.search("codes differ", report.problems[0])


# Life -------------------------------------------------------------------------------------------------


def test_closed(url: str) -> None:
    store = qstore.open(url)
    other = store.astype("float64")
    store.close()
    store.close()
    for read in (
        *(
            lambda: store[0],
            lambda: store[[1]],
            lambda: store[1:2],
            lambda: store[0, 0],
            lambda: store.scales,
        ),
        *(lambda: other.take([]), lambda: list(store.parts()), lambda: store.pool([1], [0]), store.verify),
        *(lambda: store.key_of(0), lambda: "a" in other),
    ):
        with pytest.raises(qstore.ClosedError, match="is closed"):
            read()


def test_closed_while_it_reads(url: str, server: RangeServer) -> None:
    store = qstore.open(url)
    server.misbehave("hang")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.take, [20_000])
        while len(server.requests) < 4:
            pass
        store.close()
        with pytest.raises(qstore.ClosedError):
            reading.result()


def test_a_store_that_is_dropped_is_closed(url: str) -> None:
    store = qstore.open(url)
    store[5]
    del store
    gc.collect()


def test_pickle(remote: qstore.Store, local: qstore.Store) -> None:
    again = pickle.loads(pickle.dumps(remote.astype("float64")))
    with again:
        equal(again[5], local.astype("float64")[5])


def test_threads(url: str, local: qstore.Store) -> None:
    expected = local[:]
    with qstore.open(url, cache_bytes=100 * (DIM + 136)) as store, ThreadPoolExecutor(8) as pool:

        def read(seed: int) -> bool:
            rows = np.random.default_rng(seed).integers(0, ROWS, 60)
            return np.array_equal(store.take(rows), expected[rows])

        assert all(pool.map(read, range(24)))


def _read_in_child(store: qstore.Store, found: Any) -> None:
    found.put((store.take([20_001, 3]), store[20_000]))


def test_fork(remote: qstore.Store, local: qstore.Store) -> None:
    """The child makes connections of its own; the parent's go on working."""
    remote[20_000]
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    for _ in range(2):
        child = context.Process(target=_read_in_child, args=(remote, found))
        child.start()
        some, one = found.get(timeout=60)
        equal(some, local.take([20_001, 3]))
        equal(one, local[20_000])
        child.join(60)
        assert child.exitcode == 0
        equal(remote[[7, 25_000]], local[[7, 25_000]])
    found.close()
    found.join_thread()


def test_nothing_is_said_at_the_end(url: str) -> None:
    script = "import qstore, sys; store = qstore.open(sys.argv[1]); store[5]"
    for more in ("", "; store.close()", "; import os; os.fork(); store[6]"):
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", script + more, url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (run.returncode, run.stdout + run.stderr) == (0, "")


# Other file systems -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("module", ["fsspec", "aiohttp"])
def test_a_missing_library_is_named(module: str) -> None:
    script = f"""\
import sys, qstore
sys.modules[{module!r}] = None
try:
    qstore.open("https://127.0.0.1/x")
except qstore.MissingExtraError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "qstore[remote]"' in run.stdout


def test_what_is_a_url() -> None:
    assert is_url("s3://bucket/x.h5")
    assert is_url("simplecache::https://host/x.h5")
    for path in ("x.h5", "/a://b", "file:///x.h5", "a/b://c", "C:\\x.h5", Path("s3://x")):
        assert not is_url(path)


def test_a_url_is_no_pattern_and_goes_alone(
    url: str, path: Path, server: RangeServer, tmp_path: Path
) -> None:
    with pytest.raises(qstore.RemoteNotFoundError):
        qstore.open(server.url("part-*.h5"))
    with pytest.raises(qstore.RemoteError, match="is a URL, expected a file of this machine"):
        qstore.open([path, url])
    with pytest.raises(qstore.RemoteError, match="is a URL, expected a file of this machine"):
        qstore.concat([url], tmp_path / "out.h5")
    assert not list(tmp_path.iterdir())
    with qstore.open([f"file://{path}", path]) as store:
        assert len(store) == 2 * ROWS
    with qstore.open(f"file://{path.parent}/sto*.h5") as store:
        assert len(store) == ROWS


def test_storage_options_need_a_url(path: Path) -> None:
    with pytest.raises(ValueError, match="storage_options are for URLs"):
        qstore.open(path, storage_options={"anon": True})


def test_local_stores_need_no_fsspec(path: Path) -> None:
    script = "import sys, qstore; qstore.open(sys.argv[1])[0]; print({'fsspec', 'aiohttp'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# Command line -----------------------------------------------------------------------------------------


def test_commands(url: str, path: Path, server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["info", "--json"], ["get", "7", "100:103", "-1"], ["verify", "--json"]):
        printed = []
        for place in (str(path), url):
            assert main([command[0], place, *command[1:]]) == 0
            printed.append(capsys.readouterr().out.replace(place, "PLACE"))
        assert printed[0] == printed[1]
    assert json.loads(printed[0])["ok"]
    assert main(["get", url, str(ROWS)]) == 1
    assert f"index {ROWS} is out of bounds for axis 0 with size {ROWS}" in capsys.readouterr().err
    server.misbehave("ignore ranges")
    for command in (["info"], ["get", "7"], ["verify"]):
        assert main([command[0], url, *command[1:]]) == 1
        assert "the server ignores ranges" in capsys.readouterr().err


# Parts ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 100_000)), min_size=1, max_size=30),
    st.integers(0, 1 << 60),
)
def test_plans(gaps_and_sizes: list[tuple[int, int]], first: int) -> None:
    gaps, sizes = (np.array(column) for column in zip(*gaps_and_sizes, strict=True))
    offsets = first + np.cumsum(gaps + sizes) - sizes
    plan = coalesce(offsets, sizes)
    held = np.concatenate([np.arange(one.offset, one.stop) for one in plan.ranges])
    for place, offset, size in zip(plan.places, offsets, sizes, strict=True):
        assert held[place] == offset
        assert held[place + size - 1] == offset + size - 1
    assert held.size <= 1.5 * sizes.sum() + LONGEST_GAP
    assert all(one.size <= LONGEST_RANGE for one in plan.ranges)


def test_a_plan_splits_what_is_long() -> None:
    plan = coalesce(np.array([100]), np.array([2 * LONGEST_RANGE + 1]))
    assert [one.size for one in plan.ranges] == [LONGEST_RANGE, LONGEST_RANGE, 1]


def row_of(number: int) -> tuple[NDArray[np.uint8], float]:
    return np.array([number % 251, number % 13], np.uint8), float(number)


@given(st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=20), st.integers(0, 40))
def test_the_cache_gives_what_was_kept(requests: list[list[int]], capacity: int) -> None:
    cache = RowCache(100, 2, capacity * 138)
    assert cache.capacity == capacity
    for request in requests:
        numbers = np.unique(np.array(request, np.int64))
        codes, scales = np.zeros((numbers.size, 2), np.uint8), np.zeros(numbers.size)
        missing = cache.fill(numbers, codes, scales)
        for place in missing:
            codes[place], scales[place] = row_of(int(numbers[place]))
        for number, code, scale in zip(numbers.tolist(), codes, scales, strict=True):
            assert (code.tolist(), scale) == (row_of(number)[0].tolist(), row_of(number)[1])
        cache.keep(numbers[missing], codes[missing], scales[missing])
        assert len(cache) <= capacity


def test_the_cache_forgets_what_was_used_least_recently() -> None:
    cache = RowCache(1000, 2, 32 * 138)

    def use(*rows: int) -> int:
        numbers = np.array(rows)
        missing = cache.fill(numbers, np.empty((len(rows), 2), np.uint8), np.empty(len(rows)))
        cache.keep(numbers[missing], np.zeros((missing.size, 2), np.uint8), np.zeros(missing.size))
        return missing.size

    for row in range(32):
        assert use(row) == 1
    assert use(0, 1) == 0
    assert use(500) == 1  # drives out 2 and 3: one in 16 at once
    assert use(0, 1) == 0
    assert use(4) == 0
    assert use(2) == 1
