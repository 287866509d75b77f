"""Few rows of a local store in one call: what the longer way gives, in values and in errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, function_fixture
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import qstore
from qstore.reading import local_store
from qstore.reading.local_store import LocalStore

ROWS, DIM = 1500, 24
INTEGERS = ("int64", "int32", "int16", "uint64", "uint8", ">i8")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("few")
    return qstore.build(np.random.default_rng(3).standard_normal((ROWS, DIM)), folder / "x.h5").path


@pytest.fixture
def store(path: str) -> Iterator[qstore.Store]:
    with qstore.open(path) as opened:
        yield opened


@pytest.fixture
def of_each_engine(engine: str, path: str) -> Iterator[dict[str, tuple[qstore.Store, NDArray[Any]]]]:
    """Stores by dtype, opened on this engine, and all they hold."""
    with qstore.open(path) as opened:
        stores = [opened.astype(name) for name in ("float32", "float64", "float16")]
        yield {str(store.dtype): (store, store[:]) for store in stores}


def local(store: qstore.Store) -> LocalStore:
    assert isinstance(store._mapping, LocalStore)
    return store._mapping


def outcome(work: Any) -> Any:
    try:
        return work()
    except Exception as error:
        return type(error), str(error)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert found == expected
    else:
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found, expected)


@function_fixture
@given(data=st.data())
def test_as_numpy_does(
    of_each_engine: dict[str, tuple[qstore.Store, NDArray[Any]]], data: st.DataObject
) -> None:
    store, held = of_each_engine[data.draw(st.sampled_from(sorted(of_each_engine)))]
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    kind: np.dtype[Any] = np.dtype(data.draw(st.sampled_from(INTEGERS)))
    limits = np.iinfo(kind)
    numbers = st.integers(max(int(limits.min), -ROWS - 1), min(int(limits.max), ROWS))
    rows = data.draw(hnp.arrays(kind, shape, elements=numbers))
    if data.draw(st.booleans()) and shape:
        rows = np.repeat(rows, 2, axis=-1)[..., ::2]
    same(outcome(lambda: store[rows]), outcome(lambda: held[rows]))
    expected = outcome(lambda: held[rows.astype(np.int64)])
    same(outcome(partial(store.take, rows)), expected)
    out = np.full((*shape, DIM), 7, store.dtype)
    filled = outcome(partial(store.take, rows, out=out))
    same(filled, expected)
    assert (out == 7).all() if isinstance(expected, tuple) else filled is out


@NEEDS_EXTENSION
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_one_call_does_it(path: str, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError("the longer way was taken")

    with qstore.open(path) as opened:
        store = opened.astype(dtype)
        held = store[:]
        monkeypatch.setattr(LocalStore, "gather", refuse)
        monkeypatch.setattr(local(store).pager, "note_few", lambda *given: None)  # the machine may be busy
        local(store).pager.cold = False
        for rows in (
            np.array([3, -1]),
            np.array([[3], [5]], np.int32),
            np.arange(1023),
            np.empty(0, np.int64),
        ):
            np.testing.assert_array_equal(store[rows], held[rows])
            np.testing.assert_array_equal(store.take(rows), held[rows])
            out = np.empty((*rows.shape, DIM), dtype)
            assert store.take(rows, out=out) is out
            np.testing.assert_array_equal(out, held[rows])
        with pytest.raises(AssertionError, match="longer"):
            store[np.arange(1024)]
        with pytest.raises(AssertionError, match="longer"):
            store.take(np.arange(2), threads=1)


@pytest.mark.parametrize("rows", [[0, 1], [0, ROWS], [-ROWS - 1, 0], [2**62, 0]])
@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, DIM)),
        np.zeros((2, DIM), np.int32),
        np.zeros((3, DIM)),
        np.zeros((2, 2 * DIM))[:, ::2],
        np.zeros((2, DIM), order="F"),
        np.broadcast_to(0.0, (2, DIM)),
        np.ma.zeros((2, DIM)),
        [[0.0] * DIM] * 2,
    ],
    ids=["whole", "type", "shape", "columns", "order", "read-only", "masked", "list"],
)
def test_errors_are_those_of_lists(store: qstore.Store, rows: Any, out: Any) -> None:
    same(
        outcome(partial(store.take, np.array(rows), out=out)),
        outcome(partial(store.take, list(rows), out=out)),
    )


def test_a_closed_store_says_so(path: str) -> None:
    store = qstore.open(path)
    store.close()
    for rows in (np.array([1]), np.array([ROWS])):
        for read in (store.__getitem__, store.take, partial(store.take, out=np.empty((1, DIM), np.float32))):
            with pytest.raises(qstore.ClosedError, match="is closed"):
                read(rows)


@pytest.mark.parametrize("count", [5, 64, 1500])
def test_rows_and_out_may_share_memory(store: qstore.Store, count: int) -> None:
    out = np.empty((count, DIM))
    rows = out.reshape(-1).view(np.int64)[:count]
    rows[:] = np.arange(count)[::-1]
    expected = store.astype("float64")[count - 1 :: -1] if count < ROWS else store.astype("float64")[::-1]
    np.testing.assert_array_equal(store.take(rows, out=out), expected)


def test_infinities_of_float16_are_told(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        rows, out = np.array([17]), np.empty((1, 48), np.float16)
        for read in (
            lambda: store.take(rows, out=out),
            lambda: store.astype("float16").take(rows),
            lambda: store.astype("float16")[rows],
        ):
            with pytest.warns(RuntimeWarning, match="too large for float16") as told:
                read()
            assert told[0].filename == __file__


@NEEDS_EXTENSION
def test_what_took_long_is_told_to_the_pager(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    pager = local(store).pager
    pager.cold = False
    monkeypatch.setattr(pager, "note_few", lambda rows, nanoseconds: told.append(rows))
    rows = np.array([[3, 4]])
    monkeypatch.setattr(local_store, "SLOW_NS", 1 << 60)
    store[rows], store.take(rows)
    assert told == []
    monkeypatch.setattr(local_store, "SLOW_NS", -1)
    store[rows], store.take(rows), store.take(rows, out=np.empty((1, 2, DIM)))
    assert told == [2, 2, 2]


def test_the_map_is_left_alone_while_pages_may_be_missing(
    store: qstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_otherwise: list[int] = []
    pager = local(store).pager
    monkeypatch.setattr(pager, "note_read", lambda rows, missing, spent: read_otherwise.append(rows))
    rows = np.array([3, 4])
    for read in (store.__getitem__, store.take, partial(store.take, out=np.empty((2, DIM)))):
        pager.cold = True
        read(rows)
    assert read_otherwise == [2, 2, 2]


def test_closing_while_others_read(path: str, no_leaks: None) -> None:
    """A reader gets its rows or ClosedError, and the file goes when the last one is done."""
    for _ in range(20):
        store = qstore.open(path)
        rows, started = np.arange(0, ROWS, 40), threading.Event()
        expected = store[rows]
        wrong: list[Any] = []

        def read(
            store: qstore.Store = store,
            expected: NDArray[Any] = expected,
            rows: NDArray[Any] = rows,
            started: threading.Event = started,
            wrong: list[Any] = wrong,
        ) -> None:
            out = np.empty_like(expected)
            try:
                while True:
                    both = store[rows], store.take(rows, out=out)
                    wrong.extend(found for found in both if not np.array_equal(found, expected))
                    started.set()
            except qstore.ClosedError:
                pass

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        started.wait()
        store.close()
        for reader in readers:
            reader.join()
        assert wrong == []
