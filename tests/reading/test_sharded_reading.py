"""Stores of several files: read as one, closed, pickled and shared as one."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import operator
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sharded_stores import CUTS, DIM, ROWS, make_shards, published, ways_to_open

import qstore
from qstore.opening import natural_order
from qstore.reading import shard_files


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    return published(tmp_path / "shards", matrix)


@pytest.fixture
def one(tmp_path: Path, matrix: NDArray[Any]) -> Iterator[qstore.Store]:
    """The same rows in one file."""
    qstore.build(matrix, tmp_path / "one.h5")
    with qstore.open(tmp_path / "one.h5") as store:
        yield store


@pytest.fixture(params=["directory", "list", "pattern"])
def sharded(request: pytest.FixtureRequest, folder: Path) -> Iterator[qstore.Store]:
    """The shards as one store, by each of the ways to say which."""
    with qstore.open(ways_to_open(folder)[request.param]) as store:
        yield store


# Reading ---------------------------------------------------------------------------------------------


def test_facts(sharded: qstore.Store, folder: Path, one: qstore.Store) -> None:
    assert sharded.shape == (ROWS, DIM)
    assert (len(sharded), sharded.size, sharded.source_dtype) == (ROWS, ROWS * DIM, "float32")
    assert str(folder) in sharded.path
    assert [shard.path for shard in sharded.shards] == [str(folder / f"part-{n}.h5") for n in range(6)]
    assert [shard.first for shard in sharded.shards] == list(CUTS[:-1])
    assert [shard.rows for shard in sharded.shards] == np.diff(CUTS).tolist()
    for shard in sharded.shards:
        with qstore.open(shard.path) as store:
            assert store.content_id == shard.content_id
    assert len(sharded.content_id) == 32
    assert sharded.content_id != one.content_id
    (alone,) = one.shards
    assert alone == qstore.Shard(one.path, 0, ROWS, one.content_id)


def test_content_id_is_that_of_the_shards_in_order(folder: Path) -> None:
    with qstore.open(folder) as store, qstore.open(str(folder / "*.h5")) as same:
        assert store.content_id == same.content_id
        with qstore.open([shard.path for shard in store.shards[::-1]]) as other:
            assert store.content_id != other.content_id


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_whole_matrix_every_way(sharded: qstore.Store, one: qstore.Store, dtype: str) -> None:
    store, expected = sharded.astype(dtype), one.astype(dtype)[:]
    np.testing.assert_array_equal(store[:], expected)
    np.testing.assert_array_equal(store[::-7], expected[::-7])
    np.testing.assert_array_equal(np.asarray(store), expected)
    np.testing.assert_array_equal(np.array(list(store)), expected)
    np.testing.assert_array_equal(np.concatenate([block for _, block in store.blocks(999)]), expected)
    np.testing.assert_array_equal(store.take(np.arange(ROWS)), expected)
    np.testing.assert_array_equal(
        [store[row] for row in range(-ROWS, ROWS, 50)], expected[np.arange(-ROWS, ROWS, 50)]
    )


def test_take(sharded: qstore.Store, one: qstore.Store) -> None:
    rows = np.random.default_rng(0).integers(-ROWS, ROWS, (200, 20))
    for dtype in ("float32", "float64", "float16"):
        out = np.full((200, 20, DIM), np.nan, dtype)
        assert sharded.take(rows, out=out) is out
        np.testing.assert_array_equal(out, one.astype(dtype).take(rows))
    many = np.random.default_rng(0).integers(0, ROWS, 50_000)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(sharded.take(many, threads=threads), one.take(many))
    np.testing.assert_array_equal(sharded[rows, 3:17], one[rows, 3:17])
    assert sharded.take([]).shape == (0, DIM)
    out = np.full((3, DIM), 7, np.float32)
    with pytest.raises(IndexError, match="index 3001 is out of bounds for axis 0 with size 3001"):
        sharded.take([0, 1, ROWS], out=out)
    assert (out == 7).all()


def test_take_codes_and_parts(sharded: qstore.Store, one: qstore.Store) -> None:
    rows = np.random.default_rng(0).integers(-ROWS, ROWS, 4000)
    codes, scales = sharded.take_codes(rows)
    np.testing.assert_array_equal(codes, one.codes[rows])
    np.testing.assert_array_equal(scales, one.scales[rows])
    for first, last in ((0, None), (690, 1501), (700, 701), (5, 5), (-2, None)):
        found = list(sharded.parts(first, last))
        np.testing.assert_array_equal(
            np.concatenate([codes[:0], *(part.codes for part in found)]), one.codes[first:last]
        )
        for part in found:
            np.testing.assert_array_equal(part.scales, one.scales[part.first : part.first + len(part.scales)])
            assert not part.codes.flags.writeable
    del found, part


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pool_gives_the_bits_of_one_file(
    sharded: qstore.Store, one: qstore.Store, mode: Any, weighted: bool
) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(20, ROWS, 60_000)  # the huge row 17 would hide the order of the others
    offsets = np.sort(np.concatenate([[0, 0, 30_000], random.integers(0, 60_000, 900)]))
    weights = random.standard_normal(60_000) if weighted else None
    for dtype in ("float32", "float64"):
        out = np.empty((903, DIM), dtype)
        assert sharded.pool(rows, offsets, weights, mode, out=out) is out
        np.testing.assert_array_equal(out, one.astype(dtype).pool(rows, offsets, weights, mode))
    with pytest.raises(ValueError, match="offsets must start with 0"):
        sharded.pool(rows, offsets + 1)
    with pytest.raises(IndexError, match="index 3001 is out of bounds"):
        sharded.pool([0, ROWS], [0])


def test_several_files_have_no_array_as_a_whole(sharded: qstore.Store) -> None:
    for name in ("codes", "scales", "checksums"):
        with pytest.raises(qstore.NoViewError, match=rf"has 6 shards, so its {name} .* store\.parts\(\)"):
            getattr(sharded, name)
        assert not hasattr(sharded, name)


@pytest.mark.parametrize("cold", [False, True])
def test_more_shards_than_may_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cold: bool, no_leaks: None
) -> None:
    monkeypatch.setattr(shard_files, "MOST_MAPPED", 5)
    monkeypatch.setattr("qstore.reading.sharded_store.MOST_MAPPED", 5)
    values = np.random.default_rng(3).standard_normal((400, 16))
    make_shards(tmp_path / "many", values, tuple(range(0, 401, 10)))
    qstore.build(values, tmp_path / "one.h5")
    qstore.publish_shards(tmp_path / "many")
    rows = np.random.default_rng(4).integers(-400, 400, 3000)
    with qstore.open(tmp_path / "many") as store, qstore.open(tmp_path / "one.h5") as single:
        backing: Any = store._mapping
        for some in (rows[:100], rows):
            backing._pager.cold = cold
            np.testing.assert_array_equal(store.take(some), single.take(some))
            assert len(backing._files._open) <= 5
            backing._pager.cold = cold
            np.testing.assert_array_equal(store.take_codes(some)[0], single.codes[some])
        np.testing.assert_array_equal(store.pool(rows, [0, 5, 2000]), single.pool(rows, [0, 5, 2000]))
        np.testing.assert_array_equal(store[:, 3], single[:, 3])
        assert store.verify().ok
        assert len(backing._files._open) <= 5
        del backing


def test_opening_many_shards_opens_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path / "x", np.eye(40), tuple(range(41)))
    qstore.publish_shards(tmp_path / "x")
    opened: list[str] = []
    monkeypatch.setattr(shard_files, "LocalStore", lambda path, *_, **__: opened.append(path))
    before = len(os.listdir("/proc/self/fd"))
    qstore.open(tmp_path / "x")
    assert (opened, len(os.listdir("/proc/self/fd"))) == ([], before)


def test_patterns_are_in_natural_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (10, 9, 1):
        qstore.build([[float(number)]], tmp_path / f"part-{number}.h5")
    monkeypatch.chdir(tmp_path)
    with qstore.open("part-*.h5") as store:
        assert store[:, 0].tolist() == [1, 9, 10]
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy[:, 0].tolist() == [1, 9, 10]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        qstore.open(str(tmp_path / "other-*.h5"))
    qstore.build([[7.0]], tmp_path / "odd[1].h5")
    with qstore.open(tmp_path / "odd[1].h5") as store:
        assert store[0, 0] == 7
    with pytest.raises(qstore.FormatError, match="no files to open"):
        qstore.open([])
    assert sorted(["a10b2", "a9", "a10b1", "b", ""], key=natural_order) == ["", "a9", "a10b1", "a10b2", "b"]


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_keys(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((20, 3))
    keys: list[Any] = [f"w{n}" if kind == "text" else 7 * n for n in range(20)]
    keys[15] = keys[3]  # in two shards: it stands for the first
    for number, (start, stop) in enumerate(((0, 5), (5, 5), (5, 14), (14, 20))):
        given = None if start == stop else keys[start:stop]
        qstore.build(values[start:stop], tmp_path / f"part-{number}.h5", keys=given)
    qstore.publish_shards(tmp_path, duplicates="first")
    with qstore.open(tmp_path) as store:
        assert store.key_kind == kind
        asked = [keys[19], keys[3], keys[0], keys[6]]
        assert store.rows_of(asked).tolist() == [19, 3, 0, 6]
        missing: Any = "none" if kind == "text" else -1
        assert store.rows_of([missing, keys[7]], default=-1).tolist() == [-1, 7]
        with pytest.raises(KeyError):
            store.rows_of([missing])
        assert list(store.key_of(slice(3, 16))) == keys[3:16]
        assert list(store.key_of([-1, 0, 5])) == [keys[19], keys[0], keys[5]]
        assert store.key_of(14) == keys[14]
        for wrong in ("w1", 5):
            with pytest.raises(TypeError):
                store.rows_of(wrong)
        if kind == "text":
            np.testing.assert_array_equal(store["w6"], store[6])
            np.testing.assert_array_equal(store[["w19", "w0"], 1:], store[[19, 0], 1:])
            assert "w6" in store
            assert "none" not in store
    qstore.build(values[:2], tmp_path / "bare.h5")
    with pytest.raises(qstore.FormatError, match=f"has no keys, expected keys of kind {kind}"):
        qstore.append_shards(tmp_path, ["bare.h5"])
    with qstore.open(str(tmp_path / "*.h5")) as store:
        assert store.key_kind is None
        with pytest.raises(
            IndexError,
            match=r"have keys of different kinds, expected one kind in all: .*bare\.h5 has no keys",
        ):
            store.rows_of([keys[0]])


# Life ------------------------------------------------------------------------------------------------


def test_close(folder: Path, no_leaks: None) -> None:
    store = qstore.open(folder)
    part = next(store.parts(1000, 1001))
    store[:]
    with pytest.raises(BufferError, match="cannot be closed while arrays"):
        store.close()
    assert store[0].shape == (DIM,)
    del part
    store.close()
    store.close()
    reads: tuple[Callable[[], object], ...] = (
        lambda: store[0],
        lambda: store[1:3],
        lambda: store[[0]],
        lambda: store[0, 0],
        lambda: store.pool([0], [0]),
        lambda: next(store.parts()),
        lambda: store.codes,
        lambda: store.verify(),
    )
    for read in reads:
        with pytest.raises(qstore.ClosedError, match="is closed"):
            read()


def test_dropped_stores_leave_nothing(folder: Path, no_leaks: None) -> None:
    for _ in range(50):
        qstore.open(folder)[[0, 3000, 1000]]


def test_pickle(folder: Path, matrix: NDArray[Any]) -> None:
    with qstore.open(folder, resident_scales=True) as store:
        text = pickle.dumps(store.astype("float64"))
        assert len(text) < 500
        with pickle.loads(text) as copy:
            np.testing.assert_array_equal(copy[:], store.astype("float64")[:])
    qstore.build(matrix[:5], folder / "more.h5")
    qstore.append_shards(folder, ["more.h5"])
    with pytest.raises(qstore.FormatError, match="has been replaced"):
        pickle.loads(text)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(sharded: qstore.Store, one: qstore.Store, method: str) -> None:
    keys = [[i, -i - 1] for i in range(6)]
    sharded.take(np.arange(3000), threads=2)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(operator.getitem, [sharded] * 6, keys))
    for key, rows in zip(keys, found, strict=True):
        np.testing.assert_array_equal(rows, one[key])


def test_threads_while_shards_come_and_go(
    folder: Path, one: qstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "MOST_MAPPED", 2)
    monkeypatch.setattr("qstore.reading.sharded_store.MOST_MAPPED", 2)
    expected = one[:]
    wrong: list[Any] = []
    with qstore.open(folder) as store:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                for _ in range(60):
                    rows = random.integers(0, ROWS, 50)
                    if not np.array_equal(store[rows], expected[rows]) or not np.array_equal(
                        store[int(rows[0])], expected[rows[0]]
                    ):
                        wrong.append(seed)
            except Exception as error:
                wrong.append(error)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []
