"""``store.prefetch`` and ``store.take_async``: rows before they are needed, so many bytes at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.reading.ahead import Ahead
from qstore.reading.local_store import LocalStore
from qstore.reading.row_file import RowFile
from qstore.system import threads

PAGE = os.sysconf("SC_PAGE_SIZE")
VALUES = np.random.default_rng(1).standard_normal((3000, 24)).astype(np.float32)


@pytest.fixture(params=["file", "resident scales", "shards"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[qstore.Store]:
    if request.param == "shards":
        qstore.build_shards(VALUES, tmp_path / "shards", 700)
        opened = qstore.open(tmp_path / "shards")
    else:
        qstore.build(VALUES, tmp_path / "a.h5")
        opened = qstore.open(tmp_path / "a.h5", resident_scales=request.param != "file")
    with opened:
        yield opened
        gc.collect()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    qstore.build(VALUES, tmp_path / "a.h5")
    return tmp_path / "a.h5"


def let_go() -> None:
    """Waits until each of the background's threads has dropped what it was at, a closed store's rows say."""
    together = threading.Barrier(threads._BACKGROUND_THREADS + 1)
    for _ in range(threads._BACKGROUND_THREADS):
        threads.in_background(lambda: together.wait(300))
    together.wait(300)


class Gate:
    """Reads of one file's scattered rows wait here, and are counted."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.changed = threading.Condition()
        self.waiting = 0

    def arrived(self, number: int) -> None:
        """Waits for so many reads to be there."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting >= number, 30)

    def __call__(self) -> None:
        with self.changed:
            self.waiting += 1
            self.changed.notify_all()
        assert self.open.wait(300)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made, gather = Gate(), LocalStore.gather

    def wait_and_gather(self: LocalStore, *given: Any) -> None:
        if threads.is_in_background():
            made()
        gather(self, *given)

    monkeypatch.setattr(LocalStore, "gather", wait_and_gather)
    monkeypatch.setattr(LocalStore, "read_few", lambda *given: None)  # which is the short way of gather
    yield made
    made.open.set()


def idle(store: qstore.Store) -> bool:
    """Waits until nothing is under way for a store."""
    flight = store._mapping.ahead._here()
    with flight.changed:
        return flight.changed.wait_for(lambda: not flight.size, 30)


# Rows that come later ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (16,), (2, 3), (2500,)])
def test_the_rows_that_take_gives(store: qstore.Store, dtype: str, shape: tuple[int, ...]) -> None:
    read = store.astype(dtype)
    rows = np.random.default_rng(2).integers(-3000, 3000, shape)
    coming = read.take_async(rows)
    assert isinstance(coming, Future)
    found, expected = coming.result(300), read.take(rows)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_into_memory_that_is_there(store: qstore.Store, dtype: str) -> None:
    out = np.empty((3, 24), dtype)
    assert store.take_async([5, -1, 700], out=out).result(300) is out
    assert np.array_equal(out, store.astype(dtype).take([5, -1, 700]))


def test_into_the_memory_of_a_tensor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the tensor goes to the kernel: nothing is copied on the way."""
    torch = pytest.importorskip("torch")
    filled, gather = [], LocalStore.gather

    def noting(self: LocalStore, rows: Any, columns: Any, out: Any, *given: Any) -> None:
        filled.append(out.ctypes.data)
        gather(self, rows, columns, out, *given)

    monkeypatch.setattr(LocalStore, "gather", noting)
    tensor = torch.empty((2, 24))
    with qstore.open(path) as store:
        assert store.take_async([7, 8], out=tensor).result(300) is tensor
        assert filled == [tensor.data_ptr()]
        assert np.array_equal(tensor.numpy(), store[7:9])


def test_rows_are_copied(path: Path, gate: Gate) -> None:
    with qstore.open(path) as store:
        rows = np.array([1, 2, 3])
        coming = store.take_async(rows)
        gate.arrived(1)
        rows[:] = 0
        gate.open.set()
        assert np.array_equal(coming.result(300), store[1:4])


def test_in_asyncio(store: qstore.Store) -> None:
    async def serve() -> list[NDArray[Any]]:
        store.prefetch([1, 2])
        some = [asyncio.wrap_future(store.take_async([row, row + 1])) for row in range(4)]
        return [await one for one in some]

    for row, found in enumerate(asyncio.run(serve())):
        assert np.array_equal(found, store[row : row + 2])


def test_errors_that_are_seen_at_once(store: qstore.Store) -> None:
    for call in (store.take_async, store.prefetch):
        with pytest.raises(IndexError, match="index 3000 is out of bounds for axis 0 with size 3000"):
            call([0, 3000])
        with pytest.raises(IndexError, match="-3001"):
            call(-3001)
        with pytest.raises(IndexError, match="integers"):
            call([0.5])
    with pytest.raises(ValueError, match=r"expected C-contiguous \(1, 24\)"):
        store.take_async([0], out=np.empty((2, 24), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        store.take_async([0], out=np.ndarray((1, 24), np.float32, bytes(96)))
    assert idle(store)


def test_errors_that_come_later(tmp_path: Path) -> None:
    qstore.build_shards(VALUES, tmp_path / "shards", 1000)
    with qstore.open(tmp_path / "shards") as store:
        lost = store.shards[1].path
        os.unlink(lost)
        with pytest.raises(qstore.ShardError, match="missing"):
            store.take_async([1500]).result(300)
        assert store.prefetch([1500]) == 1  # a hint says nothing
        assert idle(store)
        assert np.array_equal(store.take_async([2500]).result(300)[0], store[2500])


def test_infinite_values_are_told(tmp_path: Path) -> None:
    qstore.build(np.full((2, 3), 1e30, np.float32), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5") as store, pytest.warns(RuntimeWarning, match="float16"):
        assert np.isinf(store.astype("float16").take_async([1]).result(300)).all()


# What is under way is bounded -------------------------------------------------------------------------


def test_takes_wait_for_room(path: Path, gate: Gate) -> None:
    """Two takes of a row have room: the third is begun when one of them has ended."""
    row = 2 * PAGE + 24 * 4
    with qstore.open(path, ahead_bytes=2 * row) as store, ThreadPoolExecutor(1) as pool:
        first = [store.take_async([number]) for number in (1, 2)]
        third = pool.submit(store.take_async, [3])
        gate.arrived(2)
        assert not wait([third], 0.1).done
        assert store._mapping.ahead._here().size == 2 * row
        gate.open.set()
        assert np.array_equal(third.result(300).result(30), store[[3]])
        assert np.array_equal([coming.result(300)[0] for coming in first], store[1:3])
        assert idle(store)


@pytest.mark.parametrize("ahead_bytes", [0, 1, 10 * PAGE])
def test_a_take_larger_than_the_bound_is_alone(path: Path, gate: Gate, ahead_bytes: int) -> None:
    with qstore.open(path, ahead_bytes=ahead_bytes) as store, ThreadPoolExecutor(1) as pool:
        large = store.take_async(np.arange(2000))
        gate.arrived(1)
        small = pool.submit(store.take_async, [0])
        assert not wait([small], 0.1).done
        gate.open.set()
        assert np.array_equal(large.result(300), store[:2000])
        assert np.array_equal(small.result(300).result(30)[0], store[0])


def test_what_follows_a_take_never_waits(path: Path) -> None:
    """All threads would wait for each other."""
    with qstore.open(path, ahead_bytes=0) as store:
        chains: list[Future[Any]] = [Future() for _ in range(20)]

        def follow(end: Future[Any], left: int) -> Callable[[Future[Any]], None]:
            def next_one(done: Future[Any]) -> None:
                if left == 0:
                    end.set_result(done.result())
                else:
                    store.take_async([left]).add_done_callback(follow(end, left - 1))

            return next_one

        for chain in chains:
            store.take_async([9]).add_done_callback(follow(chain, 8))
        for chain in chains:
            assert np.array_equal(chain.result(300), store[[1]])


def test_a_take_can_be_cancelled_before_it_begins(path: Path, gate: Gate) -> None:
    with qstore.open(path) as store:
        running = [store.take_async([row]) for row in range(threads._BACKGROUND_THREADS)]
        gate.arrived(threads._BACKGROUND_THREADS)
        late = store.take_async([5])
        assert late.cancel()
        gate.open.set()
        wait(running, 30)
        assert idle(store)


def test_prefetch_leaves_out_what_has_no_room(path: Path, gate: Gate) -> None:
    room = 1000
    with qstore.open(path, ahead_bytes=room * 2 * PAGE) as store:
        assert store.prefetch(np.arange(2000)) == room
        gate.arrived(1)
        assert store.prefetch(np.arange(2000)) == 0
        gate.open.set()
        assert idle(store)
        assert store.prefetch(np.arange(600)) == 600
        assert store.prefetch([]) == 0
    with qstore.open(path, ahead_bytes=room * PAGE, resident_scales=True) as store:
        assert store.prefetch(np.arange(2000)) == room
        assert idle(store)


def test_prefetch_of_nothing_where_nothing_may_be_under_way(path: Path) -> None:
    with qstore.open(path, ahead_bytes=0) as store:
        assert store.prefetch([1, 2]) == 0
        assert store.prefetch(np.arange(2000)) == 0


def test_few_rows_are_asked_for_at_once(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(RowFile, "ask", lambda self, rows: asked.append(rows.tolist()))
    sharded = len(store.shards) > 1
    assert store.prefetch([[1, -2999], [5, 5]]) == 4
    assert idle(store)
    assert asked == ([] if sharded else [[1, 1, 5, 5]])
    if sharded:  # the shard is open by now
        assert store.prefetch([7, 7]) == 2
        assert asked == [[7, 7]]


def test_many_rows_are_read_in_the_background(store: qstore.Store) -> None:
    rows = np.random.default_rng(3).integers(-3000, 3000, 2000)
    assert store.prefetch(rows) == 2000
    assert idle(store)
    assert np.array_equal(store.take(rows), store[:][rows])


def test_prefetch_brings_pages_into_memory(tmp_path: Path) -> None:
    """A file of which nothing is in memory: afterwards the pages of the rows are, and others are not."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("the page cache cannot be told to let go")
    path = tmp_path / "large.h5"
    qstore.build(np.zeros((4000, PAGE), np.float32), path)
    with qstore.open(path) as store:
        offset = store._mapping.facts.extents["codes"].offset
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if _is_near(file.fileno(), offset + 3000 * PAGE) is not False:
                pytest.skip("this file system keeps or hides what is in memory")
            assert store.prefetch([3000]) == 1
            deadline = time.monotonic() + 300
            while not _is_near(file.fileno(), offset + 3000 * PAGE):
                assert time.monotonic() < deadline
                time.sleep(0.001)
            assert _is_near(file.fileno(), offset + 1000 * PAGE) is False


def _is_near(fd: int, offset: int) -> bool | None:
    """Whether a byte can be read without waiting; None where that is not told."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:
        return None


# Life -------------------------------------------------------------------------------------------------


def test_of_a_closed_store(store: qstore.Store) -> None:
    store.close()
    for call in (store.take_async, store.prefetch):
        with pytest.raises(qstore.ClosedError, match="is closed"):
            call([0])


def test_closed_while_takes_are_under_way(path: Path, gate: Gate, no_leaks: None) -> None:
    """Those that have begun end with rows or with ClosedError, and all others with ClosedError."""
    store = qstore.open(path)
    expected = store[:]
    coming = [store.take_async([row]) for row in range(20)]
    gate.arrived(threads._BACKGROUND_THREADS)
    store.close()
    gate.open.set()
    ended = [future.exception(30) for future in coming]
    assert all(isinstance(error, qstore.ClosedError) for error in ended[threads._BACKGROUND_THREADS :])
    for row, (future, error) in enumerate(zip(coming, ended, strict=True)):
        assert isinstance(error, qstore.ClosedError) or np.array_equal(future.result()[0], expected[row])
    assert idle(store)
    let_go()


def test_closed_while_many_threads_read_ahead(path: Path, no_leaks: None) -> None:
    expected = VALUES.shape

    def use(store: qstore.Store, seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, expected[0], 300)
        with contextlib.suppress(qstore.ClosedError):
            while True:
                store.prefetch(rows)
                store.prefetch(rows[:9])
                assert store.take_async(rows).result(300).shape == (300, expected[1])

    for _ in range(5):
        store = qstore.open(path)
        with ThreadPoolExecutor(3) as pool:
            users = [pool.submit(use, store, seed) for seed in range(3)]
            store.take_async([0]).result(300)
            store.close()
            for user in users:
                user.result(300)
    let_go()


def test_in_a_forked_child(path: Path, gate: Gate) -> None:
    """Threads, locks and what is under way stay with the parent."""
    with qstore.open(path, ahead_bytes=3 * PAGE) as store:
        coming = store.take_async([1])
        gate.arrived(1)
        with store._mapping.ahead._here().changed:
            child = os.fork()
            if child == 0:
                gate.open.set()
                try:
                    good = np.array_equal(store.take_async([2]).result(300), store[[2]])
                    good &= store.prefetch([3]) == 1 and idle(store)
                finally:
                    os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gate.open.set()
        assert np.array_equal(coming.result(300)[0], store[1])


def test_the_bound_goes_along(path: Path) -> None:
    with qstore.open(path, ahead_bytes=12345) as store, pickle.loads(pickle.dumps(store)) as again:
        assert again._mapping.ahead.most == store.astype("float64")._mapping.ahead.most == 12345


@pytest.mark.parametrize("wrong", [-1, 1.5, "1 GB", None])
def test_bounds_that_are_none(path: Path, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="ahead_bytes"):
        qstore.open(path, ahead_bytes=wrong)


def test_nothing_is_counted_where_no_thread_can_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("qstore.reading.ahead.in_background", refuse)
    ahead = Ahead(100, 10)
    with pytest.raises(RuntimeError):
        ahead.submit(50, lambda: None)
    with pytest.raises(RuntimeError):
        ahead.offer(5, lambda rows: None)
    assert ahead._here().size == 0
