"""Parquet: columns of lists, written by pyarrow and read back exactly, and files that are not matrices."""

from __future__ import annotations

import builtins
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import DIM, NUMPY_TYPES, ROWS, Make, Maker, SourceContract, matrix_of, refused

import qstore
from qstore.errors import MissingExtraError, SourceError, TensorError
from qstore.sources import TensorInfo, list_tensors, open_source
from qstore.sources.parquet import ParquetRows

pyarrow = pytest.importorskip("pyarrow", reason="it writes and reads Parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="it writes and reads Parquet")


def fixed_lists(values: NDArray[Any]) -> Any:
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def lists(values: NDArray[Any]) -> Any:
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    return pyarrow.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1], flat)


def large_lists(values: NDArray[Any]) -> Any:
    return lists(values).cast(pyarrow.large_list(pyarrow.from_numpy_dtype(values.dtype)))


def into(column: Any, name: str = "model.parquet", **options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        ids = np.arange(len(values))
        table = pyarrow.table({"id": ids, "vector": column(values), "text": list(map(str, ids))})
        parquet.write_table(table, directory / name, **options)
        return directory / name

    return make


STREAM: dict[str, Any] = {"sliced": False}


class TestContract(SourceContract):
    makers: ClassVar = {
        "fixed": Maker(into(fixed_lists), **STREAM),
        "named": Maker(into(fixed_lists), "vector", **STREAM),
        "groups": Maker(into(fixed_lists, row_group_size=100), **STREAM),
        "lists": Maker(into(lists), **STREAM, holds_no_rows=False),
        "large-lists": Maker(into(large_lists, row_group_size=77), **STREAM, holds_no_rows=False),
        "zstd": Maker(into(lists, compression="zstd"), **STREAM, holds_no_rows=False),
        "pages": Maker(
            into(lists, data_page_size=1 << 15, use_dictionary=False), **STREAM, holds_no_rows=False
        ),
        "other-name": Maker(into(fixed_lists, "model.data"), **STREAM),
    }

    def test_reading_holds_little(self, maker: Maker, tmp_path: Path) -> None:
        """Of pyarrow's memory and of Python's."""
        path = maker.make(tmp_path, matrix_of("float32", 60_000, 128))
        held, most = pyarrow.total_allocated_bytes(), 0
        tracemalloc.start()
        with open_source(path, maker.tensor) as source:
            for chunk in source.chunks():
                most = max(most, pyarrow.total_allocated_bytes() - held)
                assert chunk.nbytes <= 4 << 20
        most += tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (1 << 18) < most < (24 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.parquet"


def write(path: Path, **columns: Any) -> None:
    parquet.write_table(pyarrow.table(columns), path)


def read(path: Path, tensor: str | None = None) -> NDArray[Any]:
    with open_source(path, tensor) as source:
        return np.concatenate(list(source.chunks()))


def fails(path: Path, *words: str, tensor: str | None = None) -> None:
    with pytest.raises(SourceError) as caught:
        read(path, tensor)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("column", [fixed_lists, lists, large_lists])
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_equals_pyarrow(path: Path, column: Any, dtype: str) -> None:
    values = matrix_of(dtype)
    write(path, v=column(values))
    assert list_tensors(path) == [TensorInfo("v", (ROWS, DIM), dtype)]
    found = read(path)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    again = np.array(parquet.read_table(path)["v"].to_pylist(), dtype)
    assert np.array_equal(found, again)


def test_store_is_that_of_the_array(tmp_path: Path) -> None:
    values = matrix_of("float32", 3000, 64)
    path = into(fixed_lists, row_group_size=700)(tmp_path, values)
    report = qstore.build(path, tmp_path / "m.h5", rows=(100, 2500))
    assert (report.rows, report.tensor, report.source_dtype) == (2400, "vector", "float32")
    with qstore.open(tmp_path / "m.h5") as store:
        assert np.array_equal(store.codes, qstore.quantize(values[100:2500])[0])


def test_all_columns_are_listed(tmp_path: Path) -> None:
    path = into(lists)(tmp_path, matrix_of("float16"))
    assert list_tensors(path) == [
        TensorInfo("id", (ROWS,), "int64"),
        TensorInfo("vector", (ROWS, DIM), "float16"),
        TensorInfo("text", (ROWS,), "string"),
    ]


def test_several_matrices(path: Path) -> None:
    a, b = matrix_of("float32", 9), matrix_of("int8", 9, 2)
    write(path, a=lists(a), **{"b.c": fixed_lists(b)})
    refused(path, "holds 2 matrices", "'a'  (9, 5)  float32", "'b.c'  (9, 2)  int8", error=TensorError)
    assert np.array_equal(read(path, "a"), a)
    assert np.array_equal(read(path, "b.c"), b)
    refused(path, "has no tensor 'c'", "'b.c'", tensor="c", error=TensorError)


def test_several_chunks_and_slices(path: Path) -> None:
    values = matrix_of("float32", 40_000, 33)
    parquet.write_table(pyarrow.table({"v": lists(values)}), path, row_group_size=9_999)
    with open_source(path) as source:
        for start in (0, 1, 9_999, 35_000, 39_999, 40_000):
            chunks = list(source.chunks(start))
            assert sum(map(len, chunks)) == 40_000 - start
            assert np.array_equal(np.concatenate([values[:0], *chunks]), values[start:])


# ------------------------------------------------------------------------- keys


@pytest.mark.parametrize("start", [0, 150, 256])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("string", str),
        ("large_string", str),
        ("int64", int),
        ("int8", int),
        ("uint32", int),
    ],
)
def test_keys(path: Path, kind: str, expected: type, start: int) -> None:
    values = matrix_of("float32")
    numbers = np.arange(ROWS) % 100
    keys = pyarrow.array(list(map(expected, numbers)), getattr(pyarrow, kind)())
    parquet.write_table(pyarrow.table({"v": lists(values), "k": keys}), path, row_group_size=100)
    with ParquetRows(str(path), keys="k") as source:
        assert source.keyed
        pairs = list(source.keyed_chunks(start))
        assert np.array_equal(np.concatenate(list(source.chunks(start))), values[start:])
    assert np.array_equal(np.concatenate([chunk for chunk, _ in pairs]), values[start:])
    assert [key for _, part in pairs for key in part] == list(map(expected, numbers[start:]))
    assert all(isinstance(part, list if expected is str else np.ndarray) for _, part in pairs)


def test_keys_only_when_named(tmp_path: Path) -> None:
    path = into(lists)(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        assert not source.keyed
        with pytest.raises(SourceError, match="opened without keys="):
            source.keyed_chunks()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (pyarrow.array([1, None, 3]), "column 'k': row 1 is null: expected a key"),
        (pyarrow.array([1, 2, 2**63], pyarrow.uint64()), "keys of 64 bits with sign"),
        (pyarrow.array([1.0, 2.0, 3.0]), "holds double: expected strings or whole numbers"),
        (pyarrow.array([b"a", b"\xff", b"c"]), "row 1 is b'\\xff', bytes that are no UTF-8"),
        (pyarrow.array([b"a", b"b", b"c"], pyarrow.binary(1)), "holds fixed_size_binary"),
    ],
)
def test_keys_refused(path: Path, keys: Any, words: str) -> None:
    write(path, v=lists(matrix_of("float32", 3)), k=keys)
    with pytest.raises(SourceError) as caught, ParquetRows(str(path), keys="k") as source:
        list(source.keyed_chunks())
    assert words in str(caught.value)


def test_keys_of_no_column(path: Path) -> None:
    write(path, v=lists(matrix_of("float32", 3)), k=pyarrow.array(["a", "b", "c"]))
    with pytest.raises(TensorError, match="did you mean 'k'"):
        ParquetRows(str(path), keys="kk")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [100, 9_999, 17_000])
@pytest.mark.parametrize("row", [[1.0, 2.0], [1.0] * 4, []])
def test_ragged_rows_are_named(path: Path, bad: int, row: list[float]) -> None:
    rows = [[1.0, 2.0, 3.0]] * 20_000
    rows[bad] = row
    parquet.write_table(
        pyarrow.table({"v": pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))}),
        path,
        row_group_size=9_999,
    )
    fails(path, f"column 'v': row {bad} expected 3 values, found {len(row)}")


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("bad", [1, 10_000])
def test_nulls_are_named(path: Path, bad: int, fixed: bool) -> None:
    kind = pyarrow.list_(pyarrow.float32(), 3) if fixed else pyarrow.list_(pyarrow.float32())
    rows: list[Any] = [[1.0, 2.0, 3.0]] * 12_000
    rows[bad] = None
    write(path, v=pyarrow.array(rows, kind))
    fails(path, f"row {bad} is null: expected 3 numbers")
    rows[bad] = [1.0, None, 3.0]
    write(path, v=pyarrow.array(rows, kind))
    fails(path, f"row {bad}, column 1 is null: expected a number")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pyarrow.array([None, [1.0]]), "at least 1 column"),
        (pyarrow.array([[], [1.0]], pyarrow.list_(pyarrow.float32())), "at least 1 column"),
        (pyarrow.array([], pyarrow.list_(pyarrow.float32())), "at least 1 column"),
        (pyarrow.array([["a"], ["b"]]), "holds string"),
        (pyarrow.array([[True], [False]]), "holds bool"),
        (pyarrow.array([[[1.0]], [[2.0]]]), "holds list<"),
        (pyarrow.array([1.0, 2.0]), "has shape (2,)"),
        (pyarrow.array(["a", "b"]), "has shape (2,)"),
        (pyarrow.array([{"a": 1}, {"a": 2}]), "has shape (2,)"),
    ],
)
def test_columns_that_are_no_matrix(path: Path, column: Any, words: str) -> None:
    write(path, v=column)
    fails(path, words, "column 'v'", tensor="v")
    fails(path, words)


def test_two_columns_of_one_name(path: Path) -> None:
    column = lists(matrix_of("float32", 3))
    parquet.write_table(pyarrow.Table.from_arrays([column, column], names=["v", "v"]), path)
    refused(path, "holds no matrix")
    refused(path, "2 columns named 'v'", tensor="v", error=TensorError)


@pytest.mark.parametrize(
    "content", [b"PAR1", b"PAR1PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"PAR1" + bytes(99)]
)
def test_garbage(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, "cannot be read as Parquet")


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = into(lists, row_group_size=100)(tmp_path, matrix_of("float32"))
    whole = path.read_bytes()
    outcomes = {True: 0, False: 0}
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(4, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read(path, "vector")
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 20


def test_without_pyarrow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, v=lists(matrix_of("float32", 3)))
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for ask in (open_source, list_tensors):
        with pytest.raises(MissingExtraError, match=r'pip install "qstore\[parquet\]"'):
            ask(path)
