"""Scales in private memory: 2 bytes a row where that is exact, read in the background where they are many."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.engine import quantization
from qstore.engine.quantization import PackedScales
from qstore.reading import resident_scales
from qstore.reading.local_store import LocalStore

ROWS, DIM = 100_000, 5


def halves(rows: int = ROWS) -> NDArray[np.float16]:
    """Of some thousand different scales, 0 among them."""
    values = np.random.default_rng(4).standard_normal((rows, DIM)).astype(np.float16)
    values[7] = 0
    return values


def singles(rows: int = ROWS) -> NDArray[np.float32]:
    """Of more different scales than 16 bits tell apart."""
    return np.random.default_rng(4).standard_normal((rows, DIM)).astype(np.float32)


def taken_up(store: qstore.Store) -> Any:
    """The scales, when they have been read."""
    mapping = store._mapping
    assert isinstance(mapping, LocalStore)
    deadline = time.monotonic() + 60
    while mapping._private_scales is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    while mapping.row_scales is not mapping._private_scales:
        time.sleep(0.001)
    return mapping.row_scales


READS: dict[str, Callable[[qstore.Store], Any]] = {
    "row": lambda store: np.stack([store[7], store[-1], store[ROWS - 1]]),
    "few": lambda store: store[np.array([5, -1, 7])],
    "few int32": lambda store: store[np.array([[5, -1, 7]], np.int32)],
    "rows": lambda store: store[[5, 7, -ROWS]],
    "many": lambda store: store[np.random.default_rng(0).integers(-ROWS, ROWS, 5000)],
    "columns": lambda store: store[[5, 7, 90_000], 1:3],
    "values": lambda store: store[[5, 7, 90_000], [0, 1, 4]],
    "slice": lambda store: store[5:50_000:7],
    "take": lambda store: store.take([[7, 8], [-1, 0]]),
    "codes": lambda store: np.concatenate([np.ravel(x) for x in store.take_codes([5, 7, -1])]),
    "pool": lambda store: store.pool([5, 7, -1, 9], [0, 2], [1.0, 2.0, -3.0, 0.5]),
    "scales": lambda store: store.scales[:],
    "async": lambda store: store.take_async(np.arange(300)).result(30),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("make", [halves, singles])
def test_every_read_gives_the_same_bits(
    tmp_path: Path, make: Callable[[], NDArray[Any]], dtype: str, engine: str
) -> None:
    qstore.build(make(), tmp_path / "a.h5")
    with (
        qstore.open(tmp_path / "a.h5") as plain,
        qstore.open(tmp_path / "a.h5", resident_scales=True) as store,
    ):
        scales = taken_up(store)
        assert isinstance(scales, PackedScales) == (make is halves)
        assert np.array_equal(quantization.scales_at(scales, slice(None)), plain.scales)
        for name, read in READS.items():
            found, expected = read(store.astype(dtype)), read(plain.astype(dtype))
            assert found.dtype == expected.dtype, name
            assert np.array_equal(found, expected), name
        with pytest.raises(IndexError, match="out of bounds"):
            store.take([ROWS])
        gc.collect()


def test_shards(tmp_path: Path, engine: str) -> None:
    qstore.build_shards(halves(), tmp_path / "shards", 95_000)
    with (
        qstore.open(tmp_path / "shards") as plain,
        qstore.open(tmp_path / "shards", resident_scales=True) as store,
    ):
        for name, read in READS.items():
            if name != "scales":
                assert np.array_equal(read(store), read(plain)), name
        gc.collect()


def test_two_bytes_a_row(tmp_path: Path) -> None:
    qstore.build(halves(), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5", resident_scales=True) as store:
        places, values = taken_up(store)
        assert (places.nbytes, values.nbytes) == (2 * ROWS, 8 << 16)


def test_few_rows_are_held_as_they_are(tmp_path: Path) -> None:
    """The table of values alone would be larger."""
    qstore.build(halves(1000), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5", resident_scales=True) as store:
        scales = taken_up(store)
        assert isinstance(scales, np.ndarray)
        assert scales.nbytes == 8000
        assert not scales.flags.writeable


@pytest.mark.parametrize("rows", [1, 3])
def test_no_page_of_the_file_is_touched_for_scales(tmp_path: Path, rows: int) -> None:
    """They are elsewhere than in a map: changing the private ones changes what is read."""
    qstore.build(halves(), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5", resident_scales=True) as store:
        values = taken_up(store).values
        before = store.take(np.arange(rows))
        values *= 2
        assert np.array_equal(store.take(np.arange(rows)), 2 * before)


# In the background -----------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Scales are read in the background, and part by part as long as the event is set."""
    go, fill = threading.Event(), resident_scales._fill

    def wait_and_fill(*given: Any) -> None:
        assert go.wait(30)
        fill(*given)

    monkeypatch.setattr(resident_scales, "_AT_ONCE_ROWS", 0)
    monkeypatch.setattr(resident_scales, "_PART_ROWS", 30_000)
    monkeypatch.setattr(resident_scales, "_fill", wait_and_fill)
    yield go
    go.set()
    ended()


def ended() -> None:
    """Waits until nothing is being read."""
    deadline = time.monotonic() + 30
    while resident_scales._started:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_rows_are_read_meanwhile(tmp_path: Path, slow: threading.Event) -> None:
    qstore.build(halves(), tmp_path / "a.h5")
    with (
        qstore.open(tmp_path / "a.h5") as plain,
        qstore.open(tmp_path / "a.h5", resident_scales=True) as store,
    ):
        for _ in range(2):
            for name, read in READS.items():
                assert np.array_equal(read(store), read(plain)), name
            slow.set()
            assert isinstance(taken_up(store), PackedScales)
        gc.collect()


def test_closed_meanwhile(tmp_path: Path, slow: threading.Event, no_leaks: None) -> None:
    qstore.build(halves(), tmp_path / "a.h5")
    store = qstore.open(tmp_path / "a.h5", resident_scales=True)
    store.close()
    slow.set()
    ended()
    for read in (
        lambda: store[0],
        lambda: store[np.array([1])],
        lambda: store.take([1]),
        lambda: store.scales,
    ):
        with pytest.raises(qstore.ClosedError):
            read()


def test_not_closed_meanwhile(tmp_path: Path, slow: threading.Event) -> None:
    """A view is alive: the store stays open, and takes up its scales."""
    qstore.build(halves(), tmp_path / "a.h5")
    store = qstore.open(tmp_path / "a.h5", resident_scales=True)
    codes = store.codes
    with pytest.raises(BufferError):
        store.close()
    slow.set()
    scales = taken_up(store)
    with pytest.raises(BufferError):
        store.close()
    assert store._mapping.row_scales is scales  # type: ignore[attr-defined]
    assert store[7].tolist() == [0] * DIM
    del codes
    store.close()


def test_a_store_that_is_dropped_is_not_read_to_the_end(
    tmp_path: Path, slow: threading.Event, no_leaks: None
) -> None:
    qstore.build(halves(), tmp_path / "a.h5")
    store = qstore.open(tmp_path / "a.h5", resident_scales=True)
    del store
    gc.collect()
    slow.set()
    ended()


def test_a_file_that_is_cut_meanwhile(tmp_path: Path, slow: threading.Event) -> None:
    """What the thread cannot read is no error of its own."""
    qstore.build(halves(), tmp_path / "a.h5")
    os.link(tmp_path / "a.h5", tmp_path / "b.h5")
    store = qstore.open(tmp_path / "a.h5", resident_scales=True)
    os.truncate(tmp_path / "b.h5", 4096)
    slow.set()
    ended()
    assert store._mapping._private_scales is None  # type: ignore[attr-defined]
    store.close()


def test_in_a_forked_child(tmp_path: Path, slow: threading.Event) -> None:
    """The child reads them for itself."""
    qstore.build(halves(), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5", resident_scales=True) as store:
        row = store[9]
        child = os.fork()
        if child == 0:
            good = False
            try:
                slow.set()
                good = isinstance(taken_up(store), PackedScales) and np.array_equal(store[9], row)
            finally:
                os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        slow.set()
        assert isinstance(taken_up(store), PackedScales)


def test_where_no_thread_can_begin(
    tmp_path: Path, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    qstore.build(halves(), tmp_path / "a.h5")
    slow.set()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with qstore.open(tmp_path / "a.h5", resident_scales=True) as store:
        assert isinstance(store._mapping.row_scales, PackedScales)  # type: ignore[attr-defined]
