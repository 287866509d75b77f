"""A store behind a URL gives the same rows, codes, blocks and errors as a local one."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer
from remote_stores import DIM, ROWS, equal

import qstore

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def test_facts(remote: qstore.Store, local: qstore.Store, url: str) -> None:
    for name in ("shape", "dtype", "ndim", "size", "nbytes", "content_id", "tensor", "source_dtype"):
        assert getattr(remote, name) == getattr(local, name)
    assert remote.format_version == local.format_version
    assert remote.path == url
    assert repr(remote) == f"<qstore.Store {url}: {ROWS} × {DIM}, read as float32>"


KEYS: list[Any] = [
    *(7, -1, np.int32(3), slice(10, 20), slice(None), slice(None, None, -70), slice(5, 2), slice(3, 20_000)),
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
    [
        *(ROWS, -ROWS - 1, 2**63, 2**70, (2**70, 0), (3, -(2**70)), [2**70], [0, ROWS], (0, DIM)),
        *("a", 1.5, (0, 0, 0), [[1], [2, 3]], np.ones(3, bool)),
    ],
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
