"""The life of a remote store: closed, dropped, pickled, in threads and in forked processes."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from range_server import RangeServer
from remote_stores import DIM, ROWS, equal

import qstore

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


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
        some, one = found.get(timeout=300)
        equal(some, local.take([20_001, 3]))
        equal(one, local[20_000])
        child.join(300)
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
            timeout=300,
        )
        assert (run.returncode, run.stdout + run.stderr) == (0, "")
