"""Stores and Dask: lazy arrays of stores; searches, statistics and sharded stores made by tasks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
import qstore.dask
from qstore.analysis.stats import part_rows
from qstore.format.layout import block_rows

MakeStore = Callable[..., qstore.Store]

dask = pytest.importorskip("dask", reason="tests the integration of Dask")
da = pytest.importorskip("dask.array", reason="tests the integration of Dask")

for name in ("lazy", "reductions"):  # each test runs alone, so none may count on what another imports
    importlib.import_module(f"qstore.dask.{name}")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The scheduler of tests that do not ask for another one."""
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture
def store(make_store: MakeStore, matrix: NDArray[np.float32]) -> qstore.Store:
    return make_store(matrix)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What tasks of this process read of stores."""
    keys: list[Any] = []
    read = qstore.dask.lazy.StoreRows.__getitem__

    def noting(rows: Any, key: Any) -> Any:
        keys.append(key)
        return read(rows, key)

    monkeypatch.setattr(qstore.dask.lazy.StoreRows, "__getitem__", noting)
    return keys


def codes_of(store: qstore.Store) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    return store.take_codes(np.arange(len(store)))


def assert_same_rows(path: Path, values: NDArray[Any]) -> None:
    """The sharded store holds the codes and scales that a single build makes."""
    codes, scales = qstore.quantize(values)
    with qstore.open(path) as store:
        found, factors = codes_of(store)
        assert np.array_equal(found, codes)
        assert np.array_equal(factors, scales)
        assert store.verify().ok


# ---------------------------------------------------------------- a store as an array


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("chunks", [None, 700, (700, 20), (-1, 48), "auto"])
def test_the_whole_array(store: qstore.Store, dtype: str, chunks: Any) -> None:
    lazy = qstore.dask.from_store(store, chunks, dtype)
    assert (lazy.shape, lazy.dtype) == (store.shape, np.dtype(dtype))
    found = lazy.compute()
    assert found.dtype == lazy.dtype
    assert np.array_equal(found, store.astype(dtype)[...])


def test_a_path_will_do(store: qstore.Store) -> None:
    assert np.array_equal(qstore.dask.from_store(store.path).compute(), store[...])
    assert np.array_equal(
        qstore.dask.from_store(Path(store.path), 100).sum(axis=1).compute(), store[...].sum(1)
    )


def test_reading_is_lazy(store: qstore.Store, reads: list[Any]) -> None:
    lazy = qstore.dask.from_store(store, 1000)
    part, row, doubled = lazy[1200:1205, 3:7], lazy[-1], lazy * 2
    assert reads == []
    assert np.array_equal(part.compute(), store[1200:1205, 3:7])
    assert np.array_equal(row.compute(), store[-1])
    assert reads == [(slice(1200, 1205, None), slice(3, 7, None)), (3000, slice(0, 48, None))]
    assert np.array_equal(doubled[[5, 2999, 5]].compute(), store[[5, 2999, 5]] * 2)


def test_names_are_made_of_the_content(make_store: MakeStore, store: qstore.Store) -> None:
    name = qstore.dask.from_store(store).name
    again = make_store(store[...], "again.h5")
    assert qstore.dask.from_store(again.path).name == name
    others = [
        qstore.dask.from_store(store, 100),
        qstore.dask.from_store(store, dtype="float64"),
        qstore.dask.from_store(make_store(-store[...], "other.h5")),
    ]
    assert len({name, *(other.name for other in others)}) == 4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_chunks_by_default(dtype: str) -> None:
    """Whole checksum blocks of whole rows, 64 to 128 MiB."""

    class Shape:
        shape = (10**9, 768)

    Shape.dtype = np.dtype(dtype)  # type: ignore[attr-defined]
    rows, columns = qstore.dask.lazy._default_chunks(Shape)  # type: ignore[arg-type]
    assert columns == -1
    assert rows % block_rows(768) == 0
    assert 64 << 20 <= rows * 768 * np.dtype(dtype).itemsize <= 128 << 20


@pytest.mark.usefixtures("no_leaks")
def test_tasks_carry_no_rows(store: qstore.Store) -> None:
    lazy = qstore.dask.from_store(store, 100)
    data = pickle.dumps(lazy)
    assert len(data) < 10_000
    again = pickle.loads(data)
    assert np.array_equal(again.compute(), store[...])
    assert qstore.dask.lazy._arrived.cache_info().currsize == 1
    qstore.dask.lazy._arrived.cache_clear()


def test_a_store_that_was_replaced(make_store: MakeStore, store: qstore.Store) -> None:
    lazy = pickle.loads(pickle.dumps(qstore.dask.from_store(store)))
    make_store(-store[...])
    with pytest.raises(qstore.FormatError, match="the file has been replaced"):
        lazy.compute()


def test_arrays_of_sharded_stores(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.dask.build(da.from_array(matrix, chunks=(1000, 48)), tmp_path / "table")
    lazy = qstore.dask.from_store(tmp_path / "table", 700)
    with qstore.open(tmp_path / "table") as store:
        assert np.array_equal(lazy.compute(), store[...])
    assert np.array_equal(pickle.loads(pickle.dumps(lazy))[990:1010].compute(), lazy.compute()[990:1010])
    qstore.dask.lazy._arrived.cache_clear()


# ---------------------------------------------------------------- an array as a store


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint16"])
def test_build(tmp_path: Path, matrix: NDArray[np.float32], dtype: str) -> None:
    values = np.clip(matrix * 10, 0, 100).astype(dtype)
    array = da.from_array(values, chunks=(700, 20))
    report = qstore.dask.build(array, tmp_path / "new" / "table", tensor="words")
    assert_same_rows(tmp_path / "new" / "table", values)
    assert (report.rows, report.dim, report.source_dtype, report.tensor) == (3001, 48, dtype, "words")
    assert report.source_bytes == values.nbytes
    with qstore.open(report.path) as store:
        assert [shard.rows for shard in store.shards] == [700, 700, 700, 700, 201]
        assert (store.source_dtype, store.tensor) == (dtype, "words")
        assert report.file_bytes == sum(path.stat().st_size for path in Path(report.path).iterdir())


def test_rows_of_a_shard(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    array = da.from_array(matrix, chunks=(700, 20))
    qstore.dask.build(array, tmp_path, shard_rows=1600)
    with qstore.open(tmp_path) as store:
        assert [shard.rows for shard in store.shards] == [1600, 1401]
    assert_same_rows(tmp_path, matrix)
    with pytest.raises(qstore.SourceError, match="shard_rows is 0"):
        qstore.dask.build(array, tmp_path, shard_rows=0)


def test_shards_without_rows(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    array = da.concatenate([da.from_array(matrix[:0]), da.from_array(matrix[:9]), da.from_array(matrix[:0])])
    qstore.dask.build(array, tmp_path / "some")
    assert_same_rows(tmp_path / "some", matrix[:9])
    qstore.dask.build(array[:0], tmp_path / "none")
    with qstore.open(tmp_path / "none") as store:
        assert store.shape == (0, 48)


def test_what_is_there_is_kept(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    array = da.from_array(matrix, chunks=(1000, 48))
    qstore.dask.build(array, tmp_path)
    before = qstore.open(tmp_path)
    computed: list[int] = []

    def negated(block: NDArray[Any]) -> NDArray[Any]:
        computed.append(len(block))
        return -block

    other = array.map_blocks(negated, dtype=array.dtype, meta=matrix[:0, :0])
    with pytest.raises(qstore.ExistsError, match="overwrite=True"):
        qstore.dask.build(other, tmp_path)
    assert computed == []
    qstore.dask.build(other, tmp_path, overwrite=True)
    assert_same_rows(tmp_path, -matrix)
    assert np.array_equal(codes_of(before)[0], qstore.quantize(matrix)[0])
    before.close()


def test_the_same_again_is_the_same(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    array = da.from_array(matrix, chunks=(1000, 48))
    for name in ("a", "b"):
        qstore.dask.build(array, tmp_path / name)
    qstore.dask.build(array, tmp_path / "b", overwrite=True)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]


def test_what_is_not_finite(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    matrix[2500, 7] = np.nan
    array = da.from_array(matrix, chunks=(1000, 20))
    with pytest.raises(qstore.NonFiniteError, match="row 2500, column 7 is nan"):
        qstore.dask.build(array, tmp_path)
    assert not (tmp_path / "qstore.json").exists()
    qstore.dask.build(array, tmp_path, nonfinite="zero")
    matrix[2500, 7] = 0
    assert_same_rows(tmp_path, matrix)


def test_arrays_refused(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    array = da.from_array(matrix, chunks=(1000, 48))
    for wrong, message in (
        (array[array[:, 0] > 1], "compute_chunk_sizes"),
        (array[0], "expected 2 dimensions"),
        (array.astype(complex), "complex128"),
        (matrix, "is of type ndarray, expected a Dask array"),
    ):
        with pytest.raises(qstore.SourceError, match=message):
            qstore.dask.build(wrong, tmp_path / "table")
    assert not (tmp_path / "table").exists()
    (tmp_path / "file").touch()
    with pytest.raises(qstore.OutputError):
        qstore.dask.build(array, tmp_path / "file")


# ---------------------------------------------------------------- searching


@pytest.fixture
def table(tmp_path: Path, matrix: NDArray[np.float32]) -> qstore.Store:
    """A store of four shards, whose rows recur: many scores are equal."""
    qstore.dask.build(da.from_array(np.tile(matrix[:150], (8, 1)), chunks=(350, 48)), tmp_path / "table")
    return qstore.open(tmp_path / "table")


def assert_found_alike(found: Any, expected: Any) -> None:
    for some, same in zip(found, expected, strict=True):
        assert (some.dtype, some.shape) == (same.dtype, same.shape)
        assert np.array_equal(some, same)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("task_rows", [None, 1200, 800, 97, 20])
def test_search(table: qstore.Store, metric: Any, task_rows: int | None) -> None:
    queries = np.random.default_rng(1).standard_normal((3, 48))
    queries[2] = 0  # all scores are equal, but those of l2
    for k in (1, 10, 5000):
        lazy = qstore.dask.search(table, queries, k, metric, task_rows=task_rows)
        assert_found_alike(lazy.compute(), table.search(queries, k, metric))
    one = qstore.dask.search(table.path, queries[0], metric=metric, task_rows=task_rows)
    assert_found_alike(one.compute(), table.search(queries[0], metric=metric))


@pytest.mark.parametrize(
    "rows",
    [slice(100, 900), slice(None, None, -3), [3, 1199, 3, -2], slice(5, 5), [], np.arange(1200) % 7 == 0],
)
def test_search_of_some_rows(table: qstore.Store, rows: Any) -> None:
    query = table[17]
    lazy = qstore.dask.search(table, query, 20, rows=rows, task_rows=110)
    assert_found_alike(lazy.compute(), table.search(query, 20, rows=rows))


def test_search_of_nothing(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(matrix[:0])
    for queries in (matrix[:2], matrix[0], matrix[:0]):
        assert_found_alike(qstore.dask.search(store, queries).compute(), store.search(queries))


def test_ranges_of_tasks(table: qstore.Store) -> None:
    """They join whole small shards, cut large ones, and never straddle a seam for nothing."""
    ranges = qstore.dask.reductions._ranges
    assert ranges(table, None) == [(0, 1200)]
    assert ranges(table, 800) == [(0, 700), (700, 1200)]
    assert ranges(table, 200) == [
        (0, 200),
        (200, 350),
        (350, 550),
        (550, 700),
        (700, 900),
        (900, 1050),
        (1050, 1200),
    ]


def test_search_says_at_once_what_is_wrong(table: qstore.Store) -> None:
    query = table[0]
    for wrong in ({"k": 0}, {"metric": "angle"}, {"task_rows": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            qstore.dask.search(table, query, **wrong)
    with pytest.raises(ValueError, match="expected"):
        qstore.dask.search(table, query[:5])
    with pytest.raises(IndexError):
        qstore.dask.search(table, query, rows=[1200])


def test_names_of_searches(table: qstore.Store) -> None:
    def key(**options: Any) -> str:
        return str(qstore.dask.search(table, table[0], **options).key)

    assert key() == key()
    assert len({key(), key(k=3), key(metric="dot"), key(rows=[1]), key(task_rows=9)}) == 5


# ---------------------------------------------------------------- statistics


def assert_same_stats(found: Any, expected: Any, *, exactly: bool = False) -> None:
    for field in dataclasses.fields(expected):
        one, same = getattr(found, field.name), getattr(expected, field.name)
        if dataclasses.is_dataclass(same):
            assert_same_stats(one, same, exactly=exactly)
        elif isinstance(same, float) or getattr(same, "dtype", None) == np.float64:
            np.testing.assert_allclose(one, same, rtol=0 if exactly else 1e-12, atol=0 if exactly else 1e-12)
        elif isinstance(same, np.ndarray):
            assert np.array_equal(one, same)
        else:
            assert one == same or same != same


@pytest.mark.parametrize("task_rows", [None, 1200, 97])
def test_stats(table: qstore.Store, task_rows: int | None) -> None:
    expected = table.stats()
    assert expected.duplicates.rows == 7 * 149  # one row is of zeros
    for place in (table, table.path):
        assert_same_stats(qstore.dask.stats(place, task_rows=task_rows).compute(), expected)


def test_stats_of_many_tasks_are_exact_where_they_are_the_parts(make_store: MakeStore) -> None:
    """More values than are kept, an outlier, zeros, and repeated rows that different tasks see."""
    values = np.random.default_rng(2).standard_normal((300_000, 24)).astype(np.float32)
    values[:, 3] *= 40
    values[299_000:] = values[:1000]
    values[5], values[250_000] = 0, 0
    store = make_store(values)
    expected = store.stats()
    assert expected.warnings
    step = part_rows(24)
    assert len(qstore.dask.reductions._ranges(store, step)) == 2
    lazy = qstore.dask.stats(store, task_rows=step)
    assert_same_stats(lazy.compute(), expected, exactly=True)
    assert_same_stats(qstore.dask.stats(store, task_rows=10_000).compute(), expected)


def test_stats_of_nothing(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(matrix[:0])
    found = qstore.dask.stats(store).compute()
    assert (found.rows, found.dim, found.norms.count) == (0, 48, 0)
    assert_same_stats(found, store.stats())


def test_totals_are_as_they_were_after_a_sum(table: qstore.Store) -> None:
    """A task that a scheduler runs again gets the same."""
    place = qstore.dask.lazy.StoreRows.of(table)
    totals = [qstore.dask.reductions._survey_rows(place, a, b) for a, b in ((0, 500), (500, 1200))]
    for _ in range(2):
        total = qstore.dask.reductions._sum(totals, table.shape)
        assert_same_stats(qstore.dask.reductions._report(place, total), table.stats())


# ---------------------------------------------------------------- processes


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Client of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="tests the integration of distributed")
    with (
        dask.config.set({"logging.distributed": "error"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_a_cluster_builds_the_same(tmp_path: Path, matrix: NDArray[np.float32], client: Any) -> None:
    array = da.from_array(matrix, chunks=(300, 20))
    with dask.config.set(scheduler=client):
        qstore.dask.build(array, tmp_path / "cluster")
    qstore.dask.build(array, tmp_path / "threads")
    assert_same_rows(tmp_path / "cluster", matrix)
    for path in (tmp_path / "threads").iterdir():
        assert (tmp_path / "cluster" / path.name).read_bytes() == path.read_bytes()


def test_a_cluster_reads(store: qstore.Store, client: Any) -> None:
    lazy = qstore.dask.from_store(store, 300)
    assert np.array_equal(client.compute(lazy).result(), store[...])
    held = client.run(lambda: sum(".h5" in line for line in open("/proc/self/maps")))
    assert all(maps <= 2 for maps in held.values())  # one store, which maps its file twice
    client.run(lambda: sys.modules["qstore.dask.lazy"]._arrived.cache_clear())


def test_a_cluster_searches_and_surveys(table: qstore.Store, client: Any) -> None:
    queries = table[[5, 70]]
    lazy = qstore.dask.search(table, queries, 30, task_rows=100)
    assert_found_alike(client.compute(lazy).result(), table.search(queries, 30))
    assert_same_stats(client.compute(qstore.dask.stats(table, task_rows=100)).result(), table.stats())
    client.run(lambda: sys.modules["qstore.dask.lazy"]._arrived.cache_clear())


def test_a_killed_worker_costs_a_retry(tmp_path: Path, matrix: NDArray[np.float32], client: Any) -> None:
    """The first worker that has written half of a shard dies; its chunks go to the others."""
    marker, folder = tmp_path / "died", tmp_path / "table"

    def die_once(path: str) -> int:
        import os

        from qstore.writer import Writer

        append = Writer.append

        def dying(writer: Any, chunk: Any) -> None:
            append(writer, chunk[: len(chunk) // 2])
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                append(writer, chunk[len(chunk) // 2 :])
            else:
                os._exit(1)

        setattr(Writer, "append", dying)  # noqa: B010
        return os.getpid()

    workers = set(client.run(die_once, str(marker)).values())
    with dask.config.set(scheduler=client):
        qstore.dask.build(da.from_array(matrix, chunks=(300, 48)), folder)
    assert marker.exists()
    assert set(client.run(os.getpid).values()) != workers
    assert_same_rows(folder, matrix)
    assert {path.suffix for path in folder.iterdir()} == {".h5", ".json"}


# ---------------------------------------------------------------- without Dask


def test_without_dask(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    for name in ("library", "lazy"):
        monkeypatch.delitem(sys.modules, f"qstore.dask.{name}", raising=False)
    monkeypatch.delitem(vars(qstore.dask), "from_store", raising=False)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[dask\]"'):
        qstore.dask.from_store(store)


def test_names_of_the_package() -> None:
    assert set(qstore.dask.__all__) <= set(dir(qstore.dask))
    for name in qstore.dask.__all__:
        assert getattr(qstore.dask, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qstore.dask.nothing  # noqa: B018
