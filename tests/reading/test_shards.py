"""Stores of several files: read as one, published and grown atomically, never zeros for what is missing."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import multiprocessing
import operator
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.engine import kernels, part_kernels, quantization
from qstore.opening import natural_order
from qstore.reading import shard_files

ROWS, DIM = 3001, 48
CUTS = (0, 700, 701, 701, 1500, 2999, ROWS)


def make_shards(folder: Path, values: NDArray[Any], cuts: tuple[int, ...] = CUTS) -> list[str]:
    """Build a store of each piece of a matrix; their names."""
    folder.mkdir(exist_ok=True)
    names = [f"part-{number}.h5" for number in range(len(cuts) - 1)]
    for name, start, stop in zip(names, cuts, cuts[1:], strict=False):
        qstore.build(values[start:stop], folder / name)
    return names


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    make_shards(tmp_path / "shards", matrix)
    qstore.publish_shards(tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def one(tmp_path: Path, matrix: NDArray[Any]) -> Iterator[qstore.Store]:
    """The same rows in one file."""
    qstore.build(matrix, tmp_path / "one.h5")
    with qstore.open(tmp_path / "one.h5") as store:
        yield store


@pytest.fixture(params=["directory", "list", "pattern"])
def sharded(request: pytest.FixtureRequest, folder: Path) -> Iterator[qstore.Store]:
    """The shards as one store, by each of the ways to say which."""
    what: Any = {
        "directory": folder,
        "list": [folder / f"part-{number}.h5" for number in range(6)],
        "pattern": str(folder / "part-*.h5"),
    }[request.param]
    with qstore.open(what) as store:
        yield store


# Reading ------------------------------------------------------------------------------------------


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
    with pytest.raises(qstore.FormatError, match=f"has keys of kind None, expected {kind}"):
        qstore.append_shards(tmp_path, ["bare.h5"])
    with qstore.open(str(tmp_path / "*.h5")) as store:
        assert store.key_kind is None
        with pytest.raises(IndexError, match="have no keys, or not in all its shards"):
            store.rows_of([keys[0]])


# Life ---------------------------------------------------------------------------------------------


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


# What is missing, swapped or broken ---------------------------------------------------------------


def read_all(folder: Path) -> None:
    with qstore.open(folder) as store:
        store[:]


def test_missing_shard(folder: Path, no_leaks: None) -> None:
    (folder / "part-3.h5").unlink()
    with pytest.raises(qstore.ShardError, match=r"part-3\.h5 \(missing\)"):
        qstore.open(folder)


def test_shard_lost_while_open(folder: Path) -> None:
    with qstore.open(folder) as store:
        assert store[0].shape == (DIM,)
        (folder / "part-3.h5").unlink()
        keys: list[Any] = [800, slice(None), [0, 800], (800, 1)]
        for key in keys:
            with pytest.raises(
                qstore.ShardError, match=r"shard number 3 is missing: expected a file .*part-3\.h5"
            ):
                store[key]
        assert store[0].shape == (DIM,)
        report = store.verify()
        assert not report.ok
        assert report.problems[0].startswith("shard number 3 is missing")


def test_swapped_shards(folder: Path) -> None:
    """Of one size, so that only their content tells them apart."""
    values = np.random.default_rng(0).standard_normal((20, 4))
    make_shards(folder.parent / "two", values, (0, 10, 20))
    two = folder.parent / "two"
    qstore.publish_shards(two)
    (two / "part-0.h5").rename(two / "x")
    (two / "part-1.h5").rename(two / "part-0.h5")
    (two / "x").rename(two / "part-1.h5")
    with qstore.open(two) as store:
        for read in (lambda: store[0], lambda: store[[19]], lambda: store[5:15], lambda: next(store.parts())):
            with pytest.raises(
                qstore.ShardError, match=r"part-\d\.h5 holds 10 rows with content .* has been replaced"
            ):
                read()
        assert len(store.verify().problems) == 2


def test_replaced_shard_while_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MOST_MAPPED", 1)
    values = np.random.default_rng(0).standard_normal((20, 4))
    make_shards(tmp_path / "two", values, (0, 10, 20))
    qstore.publish_shards(tmp_path / "two")
    with qstore.open(tmp_path / "two") as store:
        store[0], store[19]
        qstore.build(values[:10] * 2, tmp_path / "two" / "part-0.h5", overwrite=True)
        with pytest.raises(qstore.ShardError, match="has been replaced"):
            store[0]


def test_truncated_and_broken_shards(folder: Path) -> None:
    with (folder / "part-0.h5").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(qstore.ShardError, match=r"part-0\.h5 \(expected \d+ bytes, found 20000 bytes\)"):
        qstore.open(folder)
    with pytest.raises(qstore.FormatError, match="truncated"):
        qstore.open(str(folder / "part-*.h5"))


def test_broken_header(folder: Path) -> None:
    with (folder / "part-0.h5").open("r+b") as file:
        file.write(b"nonsense")
    with qstore.open(folder) as store, pytest.raises(qstore.ShardError, match="shard number 0 is broken"):
        store[0]


def test_verify_finds_flipped_bits(folder: Path, sharded: qstore.Store) -> None:
    seen: list[Any] = []
    report = sharded.verify(progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert (report.rows, report.blocks, seen[-1]) == (ROWS, 5, (ROWS, ROWS))
    path = folder / "part-4.h5"
    content = bytearray(path.read_bytes())
    content[12288 + 5] ^= 1
    path.write_bytes(content)
    with qstore.open(folder) as store:
        report = store.verify()
    assert not report.ok
    assert report.broken_blocks == (3,)
    assert report.problems == ("shard part-4.h5: block 0 (rows 0 to 1498): codes differ from the checksum",)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_shards_are_regular_files_of_the_directory(folder: Path, tmp_path: Path, kind: str) -> None:
    with qstore.open(folder) as opened:
        shutil.move(folder / "part-0.h5", tmp_path / "outside.h5")
        if kind == "link":
            (folder / "part-0.h5").symlink_to(tmp_path / "outside.h5")
        elif kind == "folder":
            (folder / "part-0.h5").mkdir()
        else:
            os.mkfifo(folder / "part-0.h5")
        with pytest.raises(qstore.ShardError, match="no regular file"):
            qstore.open(folder)
        with pytest.raises(qstore.ShardError, match="shard number 0 is missing"):
            opened[0]


def test_directory_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(qstore.FormatError, match=r"qstore\.json: there is no manifest.*publish_shards"):
        qstore.open(tmp_path)


def test_files_of_other_columns(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")
    qstore.build(np.eye(4), tmp_path / "b.h5")
    for attempt in (
        lambda: qstore.open([tmp_path / "a.h5", tmp_path / "b.h5"]),
        lambda: qstore.publish_shards(tmp_path),
    ):
        with pytest.raises(qstore.FormatError, match=r"b\.h5 has 4 columns, expected 3"):
            attempt()
    assert not (tmp_path / "qstore.json").exists()


# Manifests ----------------------------------------------------------------------------------------


def sealed(members: dict[str, Any]) -> bytes:
    """A manifest with a right checksum, whatever it says."""
    text = json.dumps({**members, "checksum": "0" * 8}).encode()
    return text.replace(b'"checksum": "00000000"', b'"checksum": "%08x"' % zlib.crc32(text))


def shard_of(**changes: Any) -> dict[str, Any]:
    return {"name": "part-0.h5", "rows": 700, "bytes": 1, "content_id": "0" * 32, **changes}


DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "zip"}, '"format" is .zip., expected "qstore shards"'),
    "version of a number": ({"version": 1}, '"version" is 1, expected list'),
    "version of texts": ({"version": ["1", "0"]}, "expected two whole numbers"),
    "version never published": ({"version": [0, 9]}, "was never published"),
    "dim of a float": ({"dim": 48.0}, '"dim" is 48.0, expected int'),
    "dim of a truth": ({"dim": True}, '"dim" is True, expected int'),
    "no dim": ({"dim": None}, '"dim" is None'),
    "no columns": ({"dim": 0}, '"dim" is 0, expected 1'),
    "too many columns": ({"dim": 1 << 41}, '"dim" is'),
    "rows that do not add up": ({"rows": 3000}, '"rows" is 3000, but the shards have 3001'),
    "rows below zero": ({"shards": [shard_of(rows=-1)]}, "which cannot be"),
    "rows past 64 bits": ({"shards": [shard_of(rows=1 << 64)]}, "which cannot be"),
    "rows past 64 bits in all": (
        {"shards": [shard_of(rows=1 << 62), shard_of(name="b", rows=1 << 62)]},
        "more than",
    ),
    "bytes of a text": ({"shards": [shard_of(bytes="1")]}, '"bytes" is'),
    "name of a number": ({"shards": [shard_of(name=5)]}, '"name" is 5'),
    "name with a slash": ({"shards": [shard_of(name="../part-0.h5")]}, "cannot be the name of a shard"),
    "absolute name": ({"shards": [shard_of(name="/etc/passwd")]}, "cannot be the name of a shard"),
    "name with a backslash": ({"shards": [shard_of(name="a\\b")]}, "cannot be the name of a shard"),
    "name with a zero": ({"shards": [shard_of(name="a\0b")]}, "cannot be the name of a shard"),
    "hidden name": ({"shards": [shard_of(name=".x.h5")]}, "cannot be the name of a shard"),
    "dots": ({"shards": [shard_of(name="..")]}, "cannot be the name of a shard"),
    "no name": ({"shards": [shard_of(name="")]}, "cannot be the name of a shard"),
    "long name": ({"shards": [shard_of(name="x" * 256)]}, "cannot be the name of a shard"),
    "surrogate": ({"shards": [shard_of(name="\ud800")]}, "cannot be the name of a shard"),
    "its own name": ({"shards": [shard_of(name="qstore.json")]}, "cannot be the name of a shard"),
    "a name twice": ({"shards": [shard_of(), shard_of()]}, "stands twice"),
    "bad content id": ({"shards": [shard_of(content_id="X" * 32)]}, "not 32 hexadecimal digits"),
    "short content id": ({"shards": [shard_of(content_id="0" * 31)]}, "not 32 hexadecimal digits"),
    "another content id": ({"content_id": "0" * 32}, '"content_id" does not belong to the shards'),
    "shards of an object": ({"shards": {}}, '"shards" is {}, expected list'),
    "shard of a text": ({"shards": ["part-0.h5"]}, "a shard is 'part-0.h5', expected an object"),
    "tensor of a number": ({"tensor": 5}, '"tensor" is 5, expected str'),
    "keys of a number": ({"keys": 5}, '"keys" is 5, expected "text"'),
    "long tensor": ({"tensor": "x" * 2049}, "expected at most 2048"),
    "surrogate tensor": ({"tensor": "\ud800"}, '"tensor" is no text'),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_manifest_with_one_defect(folder: Path, defect: str) -> None:
    changes, message = DEFECTS[defect]
    path = folder / "qstore.json"
    good = json.loads(path.read_bytes())
    path.write_bytes(sealed(good))
    read_all(folder)
    path.write_bytes(sealed({**good, **changes}))
    with pytest.raises(qstore.FormatError, match=message) as caught:
        qstore.open(folder)
    assert str(path) in str(caught.value)


def test_newer_manifests(folder: Path) -> None:
    path = folder / "qstore.json"
    good = json.loads(path.read_bytes())
    path.write_bytes(sealed({**good, "version": [1, 7], "more": {"a": 1}}))
    read_all(folder)
    path.write_bytes(sealed({**good, "version": [2, 0]}))
    with pytest.raises(qstore.VersionError, match="upgrade qstore"):
        qstore.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"[]", "expected a JSON object"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"dim": 1, "dim": 2}', "stands twice"),
        (b'{"dim": NaN}', "NaN is no JSON"),
        (b'{"dim": ' + b"9" * 5000 + b"}", "expected JSON"),
        (b'{"format": "qstore shards", "version": [1, 0]}', "no .checksum."),
    ],
)
def test_other_files_as_manifest(folder: Path, content: bytes, message: str) -> None:
    (folder / "qstore.json").write_bytes(content)
    with pytest.raises(qstore.FormatError, match=message):
        qstore.open(folder)


def test_manifests_have_a_largest_size(folder: Path) -> None:
    os.truncate(folder / "qstore.json", 1 << 40)
    with pytest.raises(qstore.FormatError, match="expected at most"):
        qstore.open(folder)


def test_every_changed_byte_of_a_manifest_is_noticed(folder: Path) -> None:
    path = folder / "qstore.json"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(qstore.FormatError):
            qstore.open(folder)


def test_manifest_is_as_documented(folder: Path) -> None:
    text = (folder / "qstore.json").read_bytes()
    found = json.loads(text)
    assert found["format"] == "qstore shards"
    assert found["version"] == [1, 0]
    assert (found["dim"], found["rows"]) == (DIM, ROWS)
    assert list(found["shards"][0]) == ["name", "rows", "bytes", "content_id"]
    zeroed = re.sub(rb'"checksum": "[0-9a-f]{8}"', b'"checksum": "00000000"', text)
    assert int(found["checksum"], 16) == zlib.crc32(zeroed)
    assert sealed(found) != text  # the bytes count, not what they mean


# Publishing and appending -------------------------------------------------------------------------


def test_publish(tmp_path: Path, matrix: NDArray[Any]) -> None:
    folder = tmp_path / "x"
    names = make_shards(folder, matrix)
    shards = qstore.publish_shards(folder, names[::-1])
    assert [os.path.basename(shard.path) for shard in shards] == names[::-1]
    before = (folder / "qstore.json").stat()
    assert qstore.publish_shards(folder, names[::-1]) == shards
    assert (folder / "qstore.json").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(qstore.ExistsError, match=r"qstore\.json exists"):
        qstore.publish_shards(folder, names)
    assert qstore.publish_shards(folder, names, overwrite=True)[0].path == str(folder / names[0])
    assert sorted(os.listdir(folder)) == sorted([*names, "qstore.json"])


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], qstore.SourceError, "name at least one"),
        (["part-0.h5", "part-0.h5"], qstore.FormatError, "stands twice"),
        (["nothing.h5"], qstore.OutputError, "cannot publish .*nothing.h5: No such file"),
        (["../x/part-0.h5"], qstore.FormatError, "cannot be the name of a shard"),
        (["notes.txt"], qstore.FormatError, "not an HDF5 file"),
        (["link.h5"], qstore.OutputError, "a link, expected a file"),
        ("part-0.h5", TypeError, "expected a sequence of names"),
    ],
)
def test_publish_refuses(
    tmp_path: Path, matrix: NDArray[Any], names: Any, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "x"
    make_shards(folder, matrix, (0, 5))
    (folder / "notes.txt").write_text("some notes")
    (folder / "link.h5").symlink_to(folder / "part-0.h5")
    with pytest.raises(error, match=message):
        qstore.publish_shards(folder, names)
    assert not (folder / "qstore.json").exists()
    qstore.publish_shards(folder, ["part-0.h5"])
    if names and "part-0.h5" not in names:
        with pytest.raises(error, match=message):
            qstore.append_shards(folder, names)


def test_publish_nothing(tmp_path: Path) -> None:
    with pytest.raises(qstore.SourceError, match=r"holds no \*\.h5"):
        qstore.publish_shards(tmp_path)
    with pytest.raises(qstore.OutputError, match="No such file"):
        qstore.publish_shards(tmp_path / "nowhere")


def test_append(folder: Path, matrix: NDArray[Any]) -> None:
    with qstore.open(folder) as old:
        qstore.build(matrix[:10], folder / "more.h5")
        shards = qstore.append_shards(folder, ["more.h5"])
        assert (shards[-1].first, shards[-1].rows) == (ROWS, 10)
        assert len(old) == ROWS
        with qstore.open(folder) as new:
            assert len(new) == ROWS + 10
            np.testing.assert_array_equal(new[ROWS:], old[:10])
    with pytest.raises(qstore.FormatError, match="is a shard already"):
        qstore.append_shards(folder, ["more.h5"])
    qstore.build(np.eye(3), folder / "odd.h5")
    with pytest.raises(qstore.FormatError, match="has 3 columns, expected 48"):
        qstore.append_shards(folder, ["odd.h5"])
    (folder / "qstore.json").unlink()
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.append_shards(folder, ["more.h5"])


def test_appenders_do_not_lose_each_others_shards(folder: Path) -> None:
    names = [f"new-{number}.h5" for number in range(12)]
    for number, name in enumerate(names):
        qstore.build(np.full((3, DIM), number, np.float32), folder / name)
    append = functools.partial(qstore.append_shards, folder)
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(append, [[name] for name in names]))
    with qstore.open(folder) as store:
        assert len(store) == ROWS + 36
        assert sorted(store[ROWS::3, 0].tolist()) == list(range(12))


KILLED = """\
import os, sys, qstore
from qstore import durable
folder, step = sys.argv[1], int(sys.argv[2])
count = 0
def counted(name, call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return call(*arguments, **options)
    return run
for name in ("fsync", "replace", "open"):
    setattr(os, name, counted(name, getattr(os, name)))
{call}
"""


@pytest.mark.parametrize(
    "call", ["append_shards(folder, ['more.h5'])", "publish_shards(folder, overwrite=True)"]
)
def test_killed_at_every_step(folder: Path, matrix: NDArray[Any], call: str) -> None:
    """Readers see the old manifest or the new one, and the same command again ends well."""
    qstore.build(matrix[:10], folder / "more.h5")
    old = (folder / "qstore.json").read_bytes()
    script = KILLED.replace("{call}", f"qstore.{call}")
    for step in range(1, 100):
        (folder / "qstore.json").write_bytes(old)
        run = subprocess.run([sys.executable, "-c", script, str(folder), str(step)], check=False)
        with qstore.open(folder) as store:
            assert len(store) in (ROWS, ROWS + 10)
            store[:]
        if run.returncode == 0:
            break
        assert run.returncode == 9
    assert 4 < step < 99
    (folder / "qstore.json").write_bytes(old)
    qstore.append_shards(folder, ["more.h5"])
    assert sorted(os.listdir(folder)) == sorted(
        [*(f"part-{n}.h5" for n in range(6)), "more.h5", "qstore.json"]
    )


def test_a_full_disk_publishes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (folder / "qstore.json").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(qstore.OutputError, match=r"cannot write .*qstore\.json: No space left"):
        qstore.publish_shards(folder, ["part-0.h5"], overwrite=True)
    assert (folder / "qstore.json").read_bytes() == old
    assert not list(folder.glob("*.tmp"))


# Command line -------------------------------------------------------------------------------------


def test_commands_take_directories(
    folder: Path,
    one: qstore.Store,
    matrix: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["dim"], found["shards"], found["datasets"]) == (ROWS, DIM, 6, {})
    assert found["file_bytes"] == sum((folder / f"part-{n}.h5").stat().st_size for n in range(6))
    assert main(["info", str(folder)]) == 0
    assert "6 shards" in capsys.readouterr().out
    assert main(["ls", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shape"] == [ROWS, DIM]
    for rows in (["2998", "-1"], ["690:710"], ["::-500"]):
        assert main(["get", str(folder), *rows]) == 0
        sharded = capsys.readouterr().out
        assert main(["get", one.path, *rows]) == 0
        assert capsys.readouterr().out == sharded
    assert main(["get", str(folder), "3001"]) == 1
    assert main(["get", str(folder), "0", "-o", str(folder / "part-1.h5")]) == 2
    np.save(tmp_path / "matrix.npy", matrix)
    assert main(["verify", str(folder), "--against", str(tmp_path / "matrix.npy")]) == 0
    capsys.readouterr()
    for codes in ([], ["--codes"]):
        outs = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
        for source, out in zip((str(folder), one.path), outs, strict=True):
            assert main(["export", source, "-o", out, "-q", "--force", *codes]) == 0
        assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()
    assert main(["export", str(folder), "-o", str(folder / "part-1.h5"), "--format", "npy", "--force"]) == 2
    (folder / "part-2.h5").unlink()
    assert main(["verify", str(folder)]) == 1
    assert "part-2.h5 (missing)" in capsys.readouterr().err


def test_append_command(tmp_path: Path, matrix: NDArray[Any], capsys: pytest.CaptureFixture[str]) -> None:
    make_shards(tmp_path / "x", matrix, (0, 5, 9))
    assert main(["append", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out.split()[2:] == ["shards", "2", "rows", "9"]
    qstore.build(matrix[:1], tmp_path / "x" / "more.h5")
    assert main(["append", str(tmp_path / "x"), "more.h5", "--json"]) == 0
    assert [shard["rows"] for shard in json.loads(capsys.readouterr().out)] == [5, 4, 1]
    assert main(["append", str(tmp_path / "x"), "more.h5"]) == 1
    assert "is a shard already" in capsys.readouterr().err


# Kernels ------------------------------------------------------------------------------------------


@pytest.fixture(params=["NumPy", "baseline", "avx2", "avx512"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    native: Any = kernels.extension()
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "_native", None)
        monkeypatch.setattr(kernels, "_engine", quantization)
        yield "NumPy"
        return
    if native is None:
        pytest.skip("no extension")
    before = native.level()
    try:
        native.set_level(request.param)
    except ValueError:
        pytest.skip(f"this machine lacks {request.param}")
    yield request.param
    native.set_level(before)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    dim=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_rows_of_parts_are_rows_of_the_whole(engine: str, lengths: list[int], dim: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    total = sum(lengths)
    codes = random.integers(0, 256, (total, dim), dtype=np.uint8)
    scales = random.random(total) * 10.0 ** random.integers(-320, 300, total)
    firsts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
    rows = random.integers(-total, total, 50) if total else np.empty(0, np.int64)
    touched = part_kernels.touch_parts(firsts, total, rows)
    expected = {int(np.flatnonzero(firsts <= row % total)[-1]) for row in rows.tolist()}
    assert set(np.flatnonzero(touched).tolist()) == expected
    some = np.flatnonzero(touched)
    tables = (
        firsts[some],
        total,
        tuple(codes[firsts[k] : firsts[k] + lengths[k]] for k in some),
        tuple(scales[firsts[k] : firsts[k] + lengths[k]] for k in some),
    )
    for dtype in ("float32", "float64", "float16"):
        out, whole = np.full((2, rows.size, dim), 7, dtype)
        part_kernels.gather_parts(*tables, rows, out)
        quantization.gather(codes, scales, rows, whole)
        np.testing.assert_array_equal(out, whole)
    copied = np.empty((rows.size, dim), np.uint8), np.empty(rows.size)
    part_kernels.copy_parts(*tables, rows, *copied)
    np.testing.assert_array_equal(copied[0], codes[rows])
    np.testing.assert_array_equal(copied[1], scales[rows])
    for bad in (total, -total - 1, 2**63 - 1, -(2**63)):
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds for axis 0 with size {total}"):
            part_kernels.touch_parts(firsts, total, np.array([bad]))


BAD_CALLS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "firsts that fall": lambda good: {"firsts": good["firsts"][::-1].copy()},
    "firsts past the rows": lambda good: {"total": 3},
    "negative total": lambda good: {"total": -1},
    "too few codes": lambda good: {"codes": good["codes"][:1]},
    "too few scales": lambda good: {"scales": good["scales"][:1]},
    "a list": lambda good: {"codes": list(good["codes"])},
    "no arrays": lambda good: {"codes": (None, None)},
    "other columns": lambda good: {"codes": (good["codes"][0][:, :3].copy(), good["codes"][1])},
    "short scales": lambda good: {"scales": (good["scales"][0][:2], good["scales"][1])},
    "other types": lambda good: {"scales": tuple(s.astype(np.float32) for s in good["scales"])},
    "another out": lambda good: {"out": np.empty((2, 8), np.float32)},
    "out read-only": lambda good: {"out": np.broadcast_to(np.float32(0), (4, 8))},
    "rows of float64": lambda good: {"rows": np.zeros(4)},
}


@pytest.mark.parametrize("defect", BAD_CALLS)
def test_extension_checks_its_arguments(defect: str) -> None:
    native = kernels.extension()
    if native is None:
        pytest.skip("no extension")
    good: dict[str, Any] = {
        "firsts": np.array([0, 5]),
        "total": 10,
        "codes": tuple(np.full((5, 8), k, np.uint8) for k in range(2)),
        "scales": tuple(np.ones(5) for _ in range(2)),
        "rows": np.array([0, 9, -1, 5]),
        "out": np.empty((4, 8), np.float32),
    }
    assert native.gather_parts(*good.values()) == -1
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.gather_parts(*{**good, **BAD_CALLS[defect](good)}.values())
    for outside in ([10], [-11], [2**63 - 1], [-(2**63)]):
        rows, out = np.array(outside), np.full((1, 8), 7, np.float32)
        assert native.gather_parts(*{**good, "rows": rows, "out": out}.values()) == 0
        assert (out == 7).all()
    gap = {**good, "firsts": np.array([0, 6]), "total": 11, "rows": np.array([0, 5, 6, 7])}
    assert native.gather_parts(*gap.values()) == 1
    with pytest.raises(TypeError, match="takes 6 arguments"):
        native.gather_parts()


# Building -----------------------------------------------------------------------------------------


def shard_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def sources_of(folder: Path, matrix: NDArray[Any]) -> dict[str, Any]:
    np.save(folder / "matrix.npy", matrix)
    codes, scales = qstore.quantize(matrix)
    lines = (" ".join([f"w{row}", *map(repr, values.tolist())]) for row, values in enumerate(matrix))
    (folder / "words.txt").write_text("\n".join([f"{len(matrix)} {DIM}", *lines]) + "\n")
    return {
        "file": folder / "matrix.npy",
        "array": matrix,
        "chunks": (matrix[start : start + 170] for start in range(0, len(matrix), 170)),
        "codes": (codes, scales),
        "words": folder / "words.txt",
    }


@pytest.mark.parametrize("kind", ["file", "array", "chunks", "codes", "words"])
def test_build_in_shards(tmp_path: Path, matrix: NDArray[Any], kind: str) -> None:
    source = sources_of(tmp_path, matrix[20:1020])[kind]
    seen: list[int] = []
    report = qstore.build_shards(source, tmp_path / "x", 300, progress=lambda done, total: seen.append(done))
    assert (report.rows, report.dim, report.rows_resumed, seen[-1]) == (1000, DIM, 0, 1000)
    names = [f"part-0000{number}.h5" for number in range(4)]
    assert sorted(os.listdir(tmp_path / "x")) == [*names, "qstore.json"]
    qstore.build(sources_of(tmp_path, matrix[20:1020])[kind], tmp_path / "one.h5")
    with qstore.open(tmp_path / "x") as store, qstore.open(tmp_path / "one.h5") as one:
        np.testing.assert_array_equal(store[:], one[:])
        assert (store.source_dtype, store.key_kind) == (one.source_dtype, one.key_kind)
        if kind == "words":
            assert store.rows_of(["w999", "w0"]).tolist() == [999, 0]
    before = shard_bytes(tmp_path / "x")
    qstore.build_shards(
        sources_of(tmp_path, matrix[20:1020])[kind], tmp_path / "x", 300, overwrite=True, threads=1
    )
    assert shard_bytes(tmp_path / "x") == before
    joined = qstore.concat([tmp_path / "x"], tmp_path / "joined.h5")
    with qstore.open(tmp_path / "one.h5") as one:
        assert joined.content_id == one.content_id


@pytest.mark.parametrize("streamed", [False, True])
def test_build_in_shards_with_keys_and_rows(tmp_path: Path, matrix: NDArray[Any], streamed: bool) -> None:
    keys = np.arange(1000) * 3
    source: Any = iter([matrix[:400], matrix[400:1000]]) if streamed else matrix[:1000]
    qstore.build_shards(source, tmp_path / "x", 300, keys=keys, rows=slice(50, None))
    with qstore.open(tmp_path / "x") as store:
        assert [shard.rows for shard in store.shards] == [300, 300, 300, 50]
        assert store.rows_of([150, 2997]).tolist() == [0, 949]
        np.testing.assert_array_equal(store.key_of(slice(None)), keys[50:])
    with pytest.raises(qstore.SourceError, match="there are 1000 keys, expected one for each"):
        qstore.build_shards(matrix[:999], tmp_path / "y", 300, keys=keys)
    with pytest.raises(qstore.SourceError, match="there are 5 keys, expected one for each"):
        qstore.build_shards(iter([matrix]), tmp_path / "z", 300, keys=iter(range(5)))


def test_no_rows_in_shards(tmp_path: Path) -> None:
    sources: list[Any] = [np.empty((0, 3)), iter([np.empty((0, 3))])]
    for number, source in enumerate(sources):
        qstore.build_shards(source, tmp_path / str(number), 10)
        with qstore.open(tmp_path / str(number)) as store:
            assert store.shape == (0, 3)


def test_build_in_shards_refuses(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build_shards(matrix, tmp_path / "x", 1000)
    with pytest.raises(qstore.ExistsError, match=r"qstore\.json exists; pass overwrite=True"):
        qstore.build_shards(matrix, tmp_path / "x", 1000)
    with pytest.raises(qstore.SourceError, match="shard_rows is 0"):
        qstore.build_shards(matrix, tmp_path / "y", 0)
    assert not (tmp_path / "y").exists()
    qstore.build_shards(matrix[:10], tmp_path / "x", 7, overwrite=True)
    assert sorted(os.listdir(tmp_path / "x")) == ["part-00000.h5", "part-00001.h5", "qstore.json"]


def stopped(folder: Path, source: Any, after: int, **options: Any) -> None:
    """A build that is interrupted once so many rows are done."""

    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        qstore.build_shards(source, folder, 1000, progress=stop, **options)


def test_interrupted_build_goes_on(tmp_path: Path, matrix: NDArray[Any]) -> None:
    np.save(tmp_path / "m.npy", matrix)
    qstore.build_shards(tmp_path / "m.npy", tmp_path / "whole", 1000)
    expected = shard_bytes(tmp_path / "whole")
    folder = tmp_path / "x"
    stopped(folder, tmp_path / "m.npy", 2000)
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.open(folder)
    kept = (folder / "part-00000.h5").stat()
    with pytest.raises(qstore.ResumeError, match="shard_rows differ"):
        qstore.build_shards(tmp_path / "m.npy", folder, 500)
    report = qstore.build_shards(tmp_path / "m.npy", folder, 1000)
    assert report.rows_resumed >= 1000
    assert (folder / "part-00000.h5").stat().st_ino == kept.st_ino
    assert shard_bytes(folder) == expected


@pytest.mark.parametrize("change", ["touched", "restarted", "replaced", "array"])
def test_shards_of_what_may_be_another_source_are_built_again(
    tmp_path: Path, matrix: NDArray[Any], change: str
) -> None:
    np.save(tmp_path / "m.npy", matrix)
    source: Any = matrix if change == "array" else tmp_path / "m.npy"
    stopped(tmp_path / "x", source, 2000)
    if change in ("touched", "replaced"):
        np.save(tmp_path / "m.npy", matrix if change == "touched" else matrix * 2)
        os.utime(tmp_path / "m.npy", (1, 1))
        stopped(tmp_path / "x", source, 1000)  # what it leaves behind is of the new source alone
    report = qstore.build_shards(source, tmp_path / "x", 1000, resume=change != "restarted")
    with qstore.open(tmp_path / "x") as store:
        qstore.build(np.load(tmp_path / "m.npy"), tmp_path / "one.h5")
        with qstore.open(tmp_path / "one.h5") as one:
            np.testing.assert_array_equal(store[:], one[:])
    assert report.rows_resumed <= 1000


BUILT = """\
import os, sys, qstore
step, count = int(sys.argv[1]), 0
def counted(call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return call(*arguments, **options)
    return run
for name in ("fsync", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
qstore.build_shards("m.npy", "x", 10, threads=1, overwrite=sys.argv[2] == "over")
"""


@pytest.mark.parametrize("over", ["fresh", "over"])
def test_builds_killed_at_every_step(tmp_path: Path, over: str) -> None:
    """After each kill, what opens is the old store or the new one, and the same command ends well."""
    values = np.random.default_rng(0).standard_normal((25, 4))
    expected = []
    for number in (2, 1):
        np.save(tmp_path / "m.npy", values * number)
        qstore.build_shards(tmp_path / "m.npy", tmp_path / f"good{number}", 10)
        expected.append(shard_bytes(tmp_path / f"good{number}"))
    for step in range(1, 60):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        if over == "over":
            shutil.copytree(tmp_path / "good2", tmp_path / "x")
        run = subprocess.run([sys.executable, "-c", BUILT, str(step), over], cwd=tmp_path, check=False)
        assert run.returncode in (0, 9)
        if (tmp_path / "x" / "qstore.json").exists():
            read_all(tmp_path / "x")
        qstore.build_shards(
            tmp_path / "m.npy", tmp_path / "x", 10, overwrite=run.returncode == 0 or over == "over"
        )
        for left in (tmp_path / "x").glob("*.tmp"):
            left.unlink()
        assert shard_bytes(tmp_path / "x") == expected[1]
        if run.returncode == 0:
            break
    assert 10 < step < 59


def test_build_command_in_shards(
    tmp_path: Path, matrix: NDArray[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "m.npy", matrix)
    command = ["build", str(tmp_path / "m.npy"), "-o", str(tmp_path / "x") + "/", "--shard-rows", "1000"]
    assert main(command) == 0
    assert "3,001 × 48" in capsys.readouterr().out
    assert main([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3001
    assert main([*command, "--dry-run"]) == 2
    with qstore.open(tmp_path / "x") as store:
        assert len(store.shards) == 4
