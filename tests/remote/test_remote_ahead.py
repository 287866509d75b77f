"""Rows behind a URL before they are needed, and newer versions of the object."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import pytest
from range_server import RangeServer
from remote_stores import DIM, ROWS, equal

import qstore

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def idle(store: qstore.Store) -> bool:
    """Waits until nothing is under way for a store."""
    flight = store._mapping.ahead._here()
    with flight.changed:
        return flight.changed.wait_for(lambda: not flight.size, 30)


def test_takes_come_later(remote: qstore.Store, local: qstore.Store) -> None:
    coming = [remote.take_async([number, 20_000]) for number in range(8)]
    for number, future in enumerate(coming):
        equal(future.result(30), local.take([number, 20_000]))


def test_prefetched_rows_are_in_the_cache(
    remote: qstore.Store, local: qstore.Store, server: RangeServer
) -> None:
    rows = np.array([[25_000, -7], [25_000, 9_000]])
    assert remote.prefetch(rows) == 4
    assert idle(remote)
    server.reset()
    equal(remote.take(rows), local.take(rows))
    assert server.requests == []


def test_no_more_rows_are_fetched_than_the_cache_holds(url: str, server: RangeServer) -> None:
    with qstore.open(url, cache_bytes=100 * (DIM + 136)) as store:
        assert store.prefetch(np.arange(20_000, 20_300)) == 100
        assert idle(store)
    with qstore.open(url, cache_bytes=0) as store:
        server.reset()
        assert store.prefetch([20_000]) == 0
        assert server.requests == []


def test_faults(url: str, server: RangeServer) -> None:
    """They are in the future of a take; a prefetch says nothing."""
    with qstore.open(url) as store:
        server.misbehave("forbidden")
        with pytest.raises(qstore.RemoteError, match="403 Forbidden"):
            store.take_async([20_000]).result(30)
        assert store.prefetch([20_000]) == 1
        assert idle(store)


def test_closed_while_it_reads(url: str, server: RangeServer) -> None:
    store = qstore.open(url)
    server.misbehave("hang")
    server.reset()
    coming = [store.take_async([row]) for row in range(20_000, 20_008)]
    deadline = time.monotonic() + 30
    while not server.requests:
        assert time.monotonic() < deadline
    store.close()
    for future in coming:
        with pytest.raises(qstore.ClosedError):
            future.result(30)
    for call in (store.take_async, store.prefetch):
        with pytest.raises(qstore.ClosedError, match="is closed"):
            call([0])


@pytest.mark.parametrize("resident_scales", [False, True])
def test_a_newer_version(
    url: str, path: Path, tmp_path: Path, server: RangeServer, resident_scales: bool
) -> None:
    qstore.build(np.full((50, 7), 127.0), tmp_path / "other.h5")
    with qstore.open(url, resident_scales=resident_scales) as store:
        row = store[20_000]
        assert store.reload() is False
        server.reset()
        equal(store[20_000], row)
        assert server.requests == []  # the cache is what it was
        server.objects["store.h5"] = (tmp_path / "other.h5").read_bytes()
        assert store.reload() is True
        assert store.reload() is False
        assert store.shape == (50, 7)
        assert store[49].tolist() == [127.0] * 7
        del server.objects["store.h5"]
        with pytest.raises(qstore.RemoteNotFoundError):
            store.reload()
        assert store[49].tolist() == [127.0] * 7
        server.objects["store.h5"] = path.read_bytes()
        assert store.reload() is True
        assert len(store) == ROWS
        gc.collect()  # the error above holds what was read when it was raised
