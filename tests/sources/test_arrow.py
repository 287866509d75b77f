"""Arrow's files and streams, Feather, and what `datasets` writes: by pyarrow, and damaged ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import DIM, NUMPY_TYPES, ROWS, Make, Maker, SourceContract, matrix_of, refused

import qstore
from qstore.errors import SourceError, TensorError
from qstore.sources import TensorInfo, list_tensors, open_source

pyarrow = pytest.importorskip("pyarrow", reason="it writes and reads Arrow")
feather = pytest.importorskip("pyarrow.feather", reason="it writes Feather")


def fixed_lists(values: NDArray[Any]) -> Any:
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def lists(values: NDArray[Any]) -> Any:
    flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    return pyarrow.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1], flat)


def write(path: Path, table: Any, batch: int = 1000, *, stream: bool = False, **options: Any) -> Path:
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(str(path), table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, batch)
    return path


def into(column: Any, name: str = "model.arrow", **options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        ids = np.arange(len(values))
        table = pyarrow.table({"id": ids, "vector": column(values), "text": list(map(str, ids))})
        return write(directory / name, table, **options)

    return make


def into_feather(directory: Path, values: NDArray[Any]) -> Path:
    feather.write_feather(
        pyarrow.table({"vector": lists(values)}), str(directory / "m.feather"), chunksize=99
    )
    return directory / "m.feather"


NO_ROWS: dict[str, Any] = {"sliced": False, "holds_no_rows": False}


class TestContract(SourceContract):
    makers: ClassVar = {
        "file": Maker(into(fixed_lists), sliced=False),
        "stream": Maker(into(fixed_lists, stream=True), sliced=False),
        "named": Maker(into(fixed_lists), "vector", sliced=False),
        "lists": Maker(into(lists, batch=100), **NO_ROWS),
        "lists-stream": Maker(into(lists, "other.name", batch=100, stream=True), **NO_ROWS),
        "zstd": Maker(into(lists, compression="zstd"), **NO_ROWS),
        "feather": Maker(into_feather, **NO_ROWS),
    }

    def test_reading_holds_little(self, maker: Maker, tmp_path: Path) -> None:
        """Of pyarrow's memory: some batches, of 1000 rows at most."""
        path = maker.make(tmp_path, matrix_of("float32", 60_000, 128))
        held, most = pyarrow.total_allocated_bytes(), 0
        with open_source(path, maker.tensor) as source:
            for _ in source.chunks():
                most = max(most, pyarrow.total_allocated_bytes() - held)
        assert most < (8 << 20)


def read(path: Path, tensor: str | None = None) -> NDArray[Any]:
    with open_source(path, tensor) as source:
        return np.concatenate(list(source.chunks()))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("column", [fixed_lists, lists])
@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_equals_pyarrow(tmp_path: Path, column: Any, dtype: str, stream: bool) -> None:
    values = matrix_of(dtype)
    path = write(tmp_path / "x.arrow", pyarrow.table({"v": column(values)}), 100, stream=stream)
    assert list_tensors(path) == [TensorInfo("v", (ROWS, DIM), dtype)]
    found = read(path)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "kind", ["string", "large_string", "int64", "uint8", "dictionary"], ids=lambda kind: f"keys-{kind}"
)
def test_keys(tmp_path: Path, kind: str, stream: bool) -> None:
    values = matrix_of("float32", 200)
    texts = [f"w{row}" for row in range(200)]
    if kind == "dictionary":
        keys = pyarrow.array(texts).dictionary_encode()
    else:
        keys = pyarrow.array(texts if "string" in kind else range(200), getattr(pyarrow, kind)())
    path = write(tmp_path / "x.arrow", pyarrow.table({"v": lists(values), "key": keys}), 90, stream=stream)
    qstore.build(path, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        assert list(store.key_of(slice(None))) == (list(range(200)) if "int" in kind else texts)
        assert np.array_equal(store.codes, qstore.quantize(values)[0])
    with open_source(path) as source:
        for start in (0, 89, 90, 199):
            pairs = list(source.keyed_chunks(start))
            assert sum(len(keys) for _, keys in pairs) == 200 - start
            assert np.array_equal(np.concatenate([chunk for chunk, _ in pairs]), values[start:])


def test_keys_that_can_be_none(tmp_path: Path) -> None:
    table = pyarrow.table({"v": lists(matrix_of("float32", 2)), "key": [1.5, 2.5]})
    with pytest.raises(SourceError, match="holds double: expected strings or whole numbers"):
        qstore.build(write(tmp_path / "x.arrow", table), tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0], [1.0]], "row 1 expected 2 values, found 1"),
        ([[1.0, 2.0], None], "row 1 is null: expected 2 numbers"),
        ([[1.0, 2.0], [1.0, None]], "row 1, column 1 is null"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, rows: Any, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(write(tmp_path / "x.arrow", pyarrow.table({"v": pyarrow.array(rows)})))


def test_several_matrices(tmp_path: Path) -> None:
    column = lists(matrix_of("float32", 3))
    path = write(tmp_path / "x.arrow", pyarrow.table({"a": column, "b": column}))
    refused(path, "holds 2 matrices", error=TensorError)
    refused(path, "has no tensor 'c'", tensor="c", error=TensorError)
    twice = pyarrow.Table.from_arrays([column, column], names=["v", "v"])
    refused(write(path, twice), "2 columns named 'v'", tensor="v", error=TensorError)


def test_the_first_feather_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(40) + b"FEA1")
    refused(tmp_path / "x.feather", "of Feather's first version")


@pytest.mark.parametrize("stream", [True, False])
def test_random_damage_never_escapes(tmp_path: Path, stream: bool) -> None:
    rng = np.random.default_rng(7)
    path = into(lists, batch=100, stream=stream)(tmp_path, matrix_of("float32"))
    whole = path.read_bytes()
    outcomes = {True: 0, False: 0}
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(8, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read(path, "vector")
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 10
