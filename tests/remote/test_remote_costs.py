"""What reading behind a URL costs: requests and bytes, with and without the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from range_server import RangeServer
from remote_stores import ROWS, equal

import qstore

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


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
    with pytest.raises(ValueError, match="cache_bytes is -1, expected at least 0"):
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
