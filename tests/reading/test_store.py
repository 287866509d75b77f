"""The reader: what it gives, how long it lives, who may share it."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.reading.local_store import LocalStore
from qstore.system.paging import Pager, Steps

MakeStore = Callable[..., qstore.Store]


def reference(store: qstore.Store, dtype: str = "float32") -> NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):
        return ((store.codes.astype(np.float64) - 128) * np.array(store.scales)[:, None]).astype(dtype)


def pager_of(store: qstore.Store) -> Pager:
    assert isinstance(store._mapping, LocalStore)
    return store._mapping.pager


def test_facts(make_store: MakeStore, matrix: NDArray[Any], tmp_path: Path) -> None:
    store = make_store(matrix)
    assert store.shape == (3001, 48)
    assert (store.ndim, store.size, len(store)) == (2, 3001 * 48, 3001)
    assert (store.dtype, store.nbytes) == (np.dtype("float32"), 3001 * 48 * 4)
    assert store.path == str(tmp_path / "store.h5")
    assert (store.source_dtype, store.tensor, store.format_version) == ("float32", "", (1, 1))
    assert repr(store) == f"<qstore.Store {store.path}: 3001 × 48, read as float32>"
    assert len(store.content_id) == 32
    assert make_store(matrix, "again.h5").content_id == store.content_id
    assert make_store(matrix[1:], "other.h5").content_id != store.content_id


def test_codes_and_scales_are_the_quantized_matrix(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    codes, scales = qstore.quantize(matrix)
    np.testing.assert_array_equal(store.codes, codes)
    np.testing.assert_array_equal(store.scales, scales)
    for view in (store.codes, store.scales, store.checksums):
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_whole_matrix_every_way(make_store: MakeStore, matrix: NDArray[Any], dtype: str) -> None:
    store = make_store(matrix).astype(dtype)
    expected = reference(store, dtype)
    assert store.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(store[:], expected)
    np.testing.assert_array_equal(np.asarray(store), expected)
    np.testing.assert_array_equal(np.array(list(store)), expected)
    np.testing.assert_array_equal(np.concatenate([block for _, block in store.blocks()]), expected)
    starts = [start for start, block in store.blocks(700) if len(block) in (700, 201)]
    assert starts == [0, 700, 1400, 2100, 2800]
    np.testing.assert_array_equal(store.take(np.arange(3001)), expected)


def test_rows_of_an_iteration_are_their_own(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    row = next(iter(make_store(matrix)))
    assert row.base is None


def test_blocks_of_no_rows(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        next(make_store(matrix).blocks(0))


def test_take(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    expected = reference(store)
    rows = np.random.default_rng(0).integers(-3001, 3001, (20, 5))
    np.testing.assert_array_equal(store.take(rows), expected[rows])
    np.testing.assert_array_equal(store.take(3), expected[3])
    np.testing.assert_array_equal(store.take([]), expected[:0])
    np.testing.assert_array_equal(store.take(rows.astype(np.int16)), expected[rows])
    for dtype in ("float32", "float64", "float16"):
        out = np.full((20, 5, 48), np.nan, dtype)
        assert store.take(rows, out=out) is out
        np.testing.assert_array_equal(out, reference(store, dtype)[rows])
    many = np.random.default_rng(0).integers(0, 3001, 30_000)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(store.take(many, threads=threads), expected[many])


@pytest.mark.parametrize("rows", [[3001], [-3002], [0, 1, 9999], 2**62])
def test_take_out_of_range(make_store: MakeStore, matrix: NDArray[Any], rows: Any) -> None:
    with pytest.raises(IndexError, match="is out of bounds for axis 0 with size 3001"):
        make_store(matrix).take(rows)


@pytest.mark.parametrize("rows", [[1.5], ["a"], [True], np.array([None])])
def test_take_wants_integers(make_store: MakeStore, matrix: NDArray[Any], rows: Any) -> None:
    with pytest.raises(IndexError, match="integers"):
        make_store(matrix).take(rows)


def test_take_codes(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    rows = np.random.default_rng(0).integers(-3001, 3001, (300, 5))
    codes, scales = store.take_codes(rows)
    np.testing.assert_array_equal(codes, store.codes[rows])
    np.testing.assert_array_equal(scales, store.scales[rows])
    out = np.zeros((2, 48), np.uint8), np.zeros(2)
    assert store.take_codes([-1, 0], out=out)[0] is out[0]
    np.testing.assert_array_equal(out[1], store.scales[[-1, 0]])
    assert store.take_codes([])[0].shape == (0, 48)
    with pytest.raises(IndexError, match="index 3001 is out of bounds for axis 0 with size 3001"):
        store.take_codes([0, 3001], out=out)
    np.testing.assert_array_equal(out[1], store.scales[[-1, 0]])
    with pytest.raises(ValueError, match="expected C-contiguous"):
        store.take_codes([0], out=out)


def test_parts(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    for first, last in ((0, None), (5, 9), (-3, None), (7, 7), (9, 2)):
        found = list(store.parts(first, last))
        assert len(found) == (store.codes[first:last].size > 0)
        for part in found:
            assert part.first == slice(first, last).indices(3001)[0]
            np.testing.assert_array_equal(part.codes, store.codes[first:last])
            np.testing.assert_array_equal(part.scales, store.scales[first:last])
    del found, part


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 47), np.float32),
        np.empty((3, 48), np.float32),
        np.empty((2, 48), np.int32),
        np.empty((2, 48), np.float32, order="F"),
        np.empty((2, 48), ">f4"),
    ],
    ids=["columns", "rows", "dtype", "order", "byte order"],
)
def test_take_checks_out(make_store: MakeStore, matrix: NDArray[Any], out: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected C-contiguous"):
        make_store(matrix).take([0, 1], out=out)


def test_take_needs_a_writable_out(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    out = np.zeros((2, 48), np.float32)
    out.flags.writeable = False
    with pytest.raises((ValueError, TypeError, BufferError), match=r"read-only|writ"):
        make_store(matrix).take([0, 1], out=out)
    assert not out.any()


def pooled(store: qstore.Store, rows: Any, offsets: Any, weights: Any, mode: str) -> NDArray[np.float64]:
    """By the definition, a row at a time."""
    ends = [*offsets[1:], len(rows)]
    sums = np.zeros((len(offsets), store.shape[1]))
    for bag, (start, end) in enumerate(zip(offsets, ends, strict=True)):
        for at in range(start, end):
            weight = 1.0 if weights is None else float(weights[at])
            with np.errstate(over="ignore"):
                factor = weight * store.scales[rows[at]]
                sums[bag] += factor * (store.codes[rows[at]].astype(np.float64) - 128)
        if mode == "mean" and end > start:
            sums[bag] /= end - start
    return sums


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [None, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_pool(make_store: MakeStore, matrix: NDArray[Any], mode: Any, weighted: Any, dtype: str) -> None:
    store = make_store(matrix[20:]).astype(dtype)
    random = np.random.default_rng(0)
    rows = random.integers(-len(store), len(store), 200)
    offsets = [0, 0, 3, 50, 50, 199, 200]
    weights = None if weighted is None else (random.standard_normal(200) * 3).astype(weighted)
    expected = pooled(store, rows, offsets, weights, mode)
    found = store.pool(rows, offsets, weights, mode)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, expected.astype(dtype))
    out = np.empty((7, 48), np.float64)
    assert store.pool(rows, offsets, weights, mode, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("rows", "offsets", "options", "error", "message"),
    [
        ([0, 5000], [0], {}, IndexError, "out of bounds for axis 0 with size 3001"),
        ([0, 1], [1], {}, ValueError, "offsets must start with 0"),
        ([0, 1], [0, 2, 1], {}, ValueError, "never fall"),
        ([0, 1], [0, 3], {}, ValueError, "offsets"),
        ([0, 1], [], {}, ValueError, "no offsets"),
        ([[0, 1]], [0], {}, ValueError, "expected 1-D"),
        ([0.5], [0], {}, IndexError, "integers"),
        ([0, 1], [0], {"weights": [1.0]}, ValueError, "weights have shape"),
        ([0, 1], [0], {"weights": ["a", "b"]}, ValueError, "weights have shape"),
        ([0, 1], [0], {"mode": "max"}, ValueError, "mode is 'max'"),
        ([0, 1], [0], {"out": np.empty((1, 47))}, ValueError, "expected C-contiguous"),
        ([0, 1], [0], {"out": np.empty((1, 48), np.float16)}, ValueError, "expected C-contiguous"),
    ],
)
def test_pool_checks_its_arguments(
    make_store: MakeStore,
    matrix: NDArray[Any],
    rows: Any,
    offsets: Any,
    options: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        make_store(matrix).pool(rows, offsets, **options)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("resident_bytes", [0, None])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_that_is_not_there_leaves_all_bags_alone(
    tmp_path: Path, warm: bool, resident_bytes: int | None, threads: int
) -> None:
    """Bags are filled by several threads, and piece by piece while rows may have to be waited for."""
    qstore.build(np.ones((1500, 1000), np.float32), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5", resident_bytes=resident_bytes) as store:
        if warm:
            store.take(np.tile(np.arange(len(store)), 12))
        out = np.full((3000, 1000), 7, np.float32)
        with pytest.raises(IndexError, match="index 1500 is out of bounds"):
            store.pool([*range(1500), *range(1, 1501)], np.arange(3000), out=out, threads=threads)
        assert (out == 7).all()


def test_pool_of_nothing(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    assert store.pool([], []).shape == (0, 48)
    np.testing.assert_array_equal(store.pool([], [0, 0]), np.zeros((2, 48), np.float32))


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_reads_that_wait_for_the_disk(tmp_path: Path, resident: bool, dropped: bool) -> None:
    """The same rows come, whether pages are asked for ahead or not."""
    values = np.random.default_rng(5).standard_normal((30_000, 64)).astype(np.float32)
    qstore.build(values, tmp_path / "x.h5")
    if dropped:
        with (tmp_path / "x.h5").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with qstore.open(tmp_path / "x.h5", resident_scales=resident) as store:
        pager_of(store).cold = not dropped
        rows = np.random.default_rng(6).integers(-30_000, 30_000, 5000)
        for few in (rows[:3], rows[:500]):
            np.testing.assert_array_equal(store.take(few), reference(store)[few])
            pager_of(store).cold = True
        np.testing.assert_array_equal(store[rows], reference(store)[rows])
        pager_of(store).cold = True
        np.testing.assert_array_equal(store[17:29_999], reference(store)[17:29_999])
        pager_of(store).cold = True
        np.testing.assert_array_equal(store[rows, 3:7], reference(store)[rows, 3:7])
        pager_of(store).cold = True
        with pytest.raises(IndexError, match="out of bounds"):
            store.take([0, 30_000])
        assert not store.scales.flags.writeable


def test_warm_reads_ask_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).standard_normal((30_000, 64)).astype(np.float32)
    qstore.build(values, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        store.verify()
        pager = pager_of(store)
        missing: list[int] = []

        def noted(rows: int, found_missing: int, nanoseconds: int) -> None:
            missing.append(found_missing)
            Steps.note_read(pager, rows, found_missing, nanoseconds)

        monkeypatch.setattr(pager, "note_read", noted)
        store.take(np.arange(0, 30_000, 3), threads=1)
        assert missing == [0, 0, 0, 0]  # pieces of 1,024 rows, until 4,096 were there
        assert not pager.cold
        store.take(np.arange(0, 30_000, 2), threads=1)
        assert len(missing) == 4


def test_pickle_keeps_the_scales_resident(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    with (
        qstore.open(tmp_path / "x.h5", resident_scales=True) as store,
        pickle.loads(pickle.dumps(store)) as copy,
    ):
        assert copy._mapping.resident_scales
        np.testing.assert_array_equal(copy[:], store[:])


def test_array_protocol(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix[20:])
    expected = reference(store)
    np.testing.assert_array_equal(np.asarray(store, dtype="float64"), reference(store, "float64"))
    np.testing.assert_array_equal(np.asarray(store, dtype="int32"), expected.astype("int32"))
    np.testing.assert_array_equal(np.array(store, copy=True), expected)
    with pytest.raises(ValueError, match="copy"):
        np.array(store, copy=False)
    np.testing.assert_allclose(np.mean(store), reference(store, "float64").mean(), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["int8", "complex64", "float128", object])
def test_astype_knows_three_types(make_store: MakeStore, matrix: NDArray[Any], dtype: Any) -> None:
    with pytest.raises(ValueError, match="expected one of float32, float64, float16"):
        make_store(matrix).astype(dtype)


def test_map_style_dataset(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    np.testing.assert_array_equal(store.__getitems__([4, 2, 2]), reference(store)[[4, 2, 2]])


def test_token_follows_the_content(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store, same = make_store(matrix), make_store(matrix, "same.h5")
    assert store.__dask_tokenize__() == same.__dask_tokenize__()
    assert store.__dask_tokenize__() != store.astype("float64").__dask_tokenize__()
    assert store.__dask_tokenize__() != make_store(matrix[1:], "other.h5").__dask_tokenize__()


def test_context_manager_closes(tmp_path: Path, matrix: NDArray[Any], no_leaks: None) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        shared = store.astype("float64")
    store.close()
    for closed in (store, shared):
        for key in (0, [1, 2], (..., 0)):
            with pytest.raises(qstore.ClosedError, match="is closed"):
                closed[key]
        for name in ("codes", "scales", "checksums"):
            with pytest.raises(qstore.ClosedError, match="is closed"):
                getattr(closed, name)
        with pytest.raises(qstore.ClosedError, match="is closed"):
            closed.take([0])
    assert store.shape == (3001, 48)


def test_close_with_views_raises_and_keeps_the_store(
    tmp_path: Path, matrix: NDArray[Any], no_leaks: None
) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    store = qstore.open(tmp_path / "x.h5")
    row = store.codes[5]
    with pytest.raises(BufferError, match="arrays made from"):
        store.close()
    np.testing.assert_array_equal(store.codes[5], row)
    np.testing.assert_array_equal(store[5], reference(store)[5])
    del row
    store.close()


def test_dropped_stores_leave_nothing(tmp_path: Path, matrix: NDArray[Any], no_leaks: None) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    for _ in range(2000):
        qstore.open(tmp_path / "x.h5")
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for _ in range(2000):
        with pytest.raises(qstore.FormatError):
            qstore.open(tmp_path / "bad.h5")


def test_pickle(make_store: MakeStore, matrix: NDArray[Any], tmp_path: Path) -> None:
    store = make_store(matrix).astype("float64")
    text = pickle.dumps(store)
    assert len(text) < 500
    with pickle.loads(text) as copy:
        assert copy.dtype == np.float64
        np.testing.assert_array_equal(copy[:], store[:])
    qstore.build(matrix[1:], tmp_path / "store.h5", overwrite=True)
    with pytest.raises(qstore.FormatError, match="has been replaced"):
        pickle.loads(text)
    (tmp_path / "store.h5").unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(text)


def test_pickle_keeps_an_absolute_path(
    matrix: NDArray[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qstore.build(matrix, tmp_path / "x.h5")
    monkeypatch.chdir(tmp_path)
    with qstore.open("x.h5") as store:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.path == str(tmp_path / "x.h5")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(make_store: MakeStore, matrix: NDArray[Any], method: str) -> None:
    store = make_store(matrix)
    keys = [[i, -i - 1] for i in range(6)]
    store.take(np.arange(3000), threads=2)  # a pool made before the fork must not be used after it
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(operator.getitem, [store] * 6, keys))
    for key, rows in zip(keys, found, strict=True):
        np.testing.assert_array_equal(rows, reference(store)[key])


def test_inherited_by_fork(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    expected = reference(store)
    rows = np.random.default_rng(0).integers(0, 3001, 20_000)
    store.take(rows, threads=2)
    child = os.fork()
    if child == 0:
        right = (
            np.array_equal(store.take(rows, threads=2), expected[rows])
            and np.array_equal(store.take(rows[:5]), expected[rows[:5]])
            and np.array_equal(store[rows[:5]], expected[rows[:5]])
            and np.array_equal(store[7], expected[7])
        )
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    store = make_store(matrix)
    expected = reference(store)
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            rows = random.integers(0, 3001, 500)
            if not np.array_equal(store[rows], expected[rows]) or not np.array_equal(
                store[int(rows[0])], expected[rows[0]]
            ):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_replaced_and_unlinked_files_keep_serving(
    make_store: MakeStore, matrix: NDArray[Any], tmp_path: Path
) -> None:
    store = make_store(matrix)
    expected = reference(store)
    qstore.build(matrix * 2, tmp_path / "store.h5", overwrite=True)
    np.testing.assert_array_equal(store[:], expected)
    (tmp_path / "store.h5").unlink()
    np.testing.assert_array_equal(store[:], expected)


def test_read_only_file_and_folder(matrix: NDArray[Any], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    qstore.build(matrix, folder / "x.h5")
    os.chmod(folder / "x.h5", 0o444)
    os.chmod(folder, 0o555)
    before = os.listdir(folder)
    with qstore.open(folder / "x.h5") as store:
        assert store.verify().ok
    os.chmod(folder, 0o755)
    assert os.listdir(folder) == before


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        qstore.open(tmp_path / "missing.h5")
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.open(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        qstore.open(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bytes(5000), "has not been finished"),
        (b"PK\x03\x04 something else", "this is a zip archive: unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(4096), "the superblock has version 0, expected 2"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(qstore.FormatError, match=message) as caught:
        qstore.open(tmp_path / "x.h5")
    assert str(tmp_path / "x.h5") in str(caught.value)


def test_verify_names_the_broken_block(make_store: MakeStore, matrix: NDArray[Any], tmp_path: Path) -> None:
    wide = np.tile(matrix, (20, 1))
    store = make_store(wide)
    report = store.verify()
    assert report.ok
    assert (report.rows, report.blocks, report.block_rows, report.broken_blocks) == (60020, 3, 21845, ())
    place = 12288 + 48 * 30_000
    with (tmp_path / "store.h5").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    broken = store.verify()
    assert not broken.ok
    assert broken.broken_blocks == (1,)
    assert broken.content_id_ok
    assert broken.problems == ("block 1 (rows 21845 to 43689): codes differ from the checksum",)
    for threads in (1, 2, 7):
        assert store.verify(threads=threads) == broken
    with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
        store.verify(threads=0)


def test_verify_reports_progress(make_store: MakeStore, matrix: NDArray[Any]) -> None:
    seen: list[tuple[int, int | None]] = []
    make_store(matrix).verify(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3001, 3001)]


def test_truncation_under_the_map_kills_only_the_reader(
    make_store: MakeStore, matrix: NDArray[Any], tmp_path: Path
) -> None:
    make_store(matrix)
    script = (
        "import os, sys, qstore\nstore = qstore.open(sys.argv[1])\nos.truncate(sys.argv[1], 0)\nstore[0]\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store.h5")], capture_output=True, check=False
    )
    assert run.returncode == -7  # SIGBUS, as docs/reliability.md says
    gc.collect()
