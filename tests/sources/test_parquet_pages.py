"""Lists of floats in Parquet, read page by page: what pyarrow gives, and what it says is wrong."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qstore.engine import kernels
from qstore.errors import SourceError
from qstore.sources import open_source
from qstore.sources.containers import parquet_pages
from qstore.sources.containers.parquet_pages import ListColumn
from qstore.sources.parquet import ParquetRows

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow writes Parquet files")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow writes Parquet files")

pytestmark = NEEDS_EXTENSION


@contextlib.contextmanager
def by_pyarrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_native", None)
        yield


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "_LEAST_VALUES", 1)


def matrix_of(dtype: str, rows: int, dim: int, distinct: int = 1 << 30) -> NDArray[Any]:
    rng = np.random.default_rng(rows * dim)
    return (rng.integers(0, distinct, (rows, dim)) / distinct).astype(dtype)


def column_of(values: NDArray[Any], nullable: bool = True, fixed: bool = False) -> Any:
    inner = pyarrow.field("element", pyarrow.from_numpy_dtype(values.dtype), nullable=nullable)
    flat = pyarrow.array(values.reshape(-1))
    if fixed:
        return pyarrow.FixedSizeListArray.from_arrays(flat, type=pyarrow.list_(inner, values.shape[1]))
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pyarrow.ListArray.from_arrays(offsets, flat, type=pyarrow.list_(inner))


def write(path: Path, column: Any, nullable: bool = True, **options: Any) -> Path:
    schema = pyarrow.schema(
        [pyarrow.field("key", pyarrow.string()), pyarrow.field("v", column.type, nullable=nullable)]
    )
    keys = pyarrow.array([f"w{row}" for row in range(len(column))])
    parquet.write_table(pyarrow.table([keys, column], schema=schema), path, **options)
    return path


Found = tuple[list[Any], list[Any], str]


def read(path: Path, start: int = 0, threads: int = 1) -> Found:
    rows: list[Any] = []
    keys: list[Any] = []
    try:
        with open_source(path) as source:
            source.threads = threads
            for values, some in source.keyed_chunks(start):
                assert len(values) == len(some)
                rows += [row.tobytes() for row in values]
                keys += list(some)
    except SourceError as error:
        return rows, keys, str(error)
    return rows, keys, ""


def pages_read(path: Path) -> int:
    """How many rows are read without pyarrow."""
    with contextlib.closing(ParquetRows(str(path))) as source:
        return sum(len(chunk) for chunk in source._of_pages(0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("compression", ["NONE", "SNAPPY", "GZIP", "ZSTD", "BROTLI"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.usefixtures("small_pages")
def test_every_row_without_pyarrow(tmp_path: Path, dtype: str, compression: str, version: str) -> None:
    values = matrix_of(dtype, 2000, 30)
    options: dict[str, Any] = {
        "compression": compression,
        "data_page_version": version,
        "row_group_size": 700,
    }
    layouts: tuple[dict[str, Any], ...] = (
        {"use_dictionary": True, "dictionary_pagesize_limit": 1 << 12},
        {"use_dictionary": True},
        {"use_dictionary": False, "data_page_size": 5000},
        {"use_dictionary": False, "column_encoding": {"v.list.element": "BYTE_STREAM_SPLIT"}},
    )
    for layout in layouts:
        path = write(tmp_path / "x.parquet", column_of(values), **options, **layout)
        assert pages_read(path) == 2000
        for start in (0, 1, 699, 700, 1333, 1999, 2000):
            found = read(path, start)
            assert found[0] == [row.tobytes() for row in values[start:]]
            assert found[1] == [f"w{row}" for row in range(start, 2000)]


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("nullable", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dim", [1, 2, 8, 300])
@pytest.mark.usefixtures("small_pages")
def test_levels(tmp_path: Path, fixed: bool, nullable: tuple[bool, bool], dim: int) -> None:
    values = matrix_of("float32", 700, dim, distinct=9)
    none: dict[str, Any] = {}
    for options in (none, {"data_page_size": 100, "write_batch_size": 7}):
        path = write(tmp_path / "x.parquet", column_of(values, nullable[0], fixed), nullable[1], **options)
        assert pages_read(path) == 700
        assert read(path)[0] == [row.tobytes() for row in values]


@pytest.mark.parametrize("row", [0, 1, 500, 999])
@pytest.mark.parametrize("bad", [None, [], [1, 2], [1, 2, 3, 4], [1, None, 3]])
@pytest.mark.usefixtures("small_pages")
def test_what_is_wrong_is_said_by_pyarrow(tmp_path: Path, row: int, bad: Any) -> None:
    rows: list[Any] = matrix_of("float32", 1000, 3).tolist()
    rows[row] = bad
    column = pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))
    path = write(tmp_path / "x.parquet", column, data_page_size=1000, row_group_size=400)
    with by_pyarrow():
        expected = read(path)
    found = read(path)
    assert found[2] == expected[2] != ""
    assert expected[0] == found[0][: len(expected[0])]
    assert f"row {max(1, row)}" in found[2] or row == 0


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "values": matrix_of(
            draw(st.sampled_from(["float16", "float32", "float64"])),
            draw(st.integers(1, 300)),
            draw(st.integers(1, 20)),
            draw(st.sampled_from([1, 2, 300, 1 << 30])),
        ),
        "nullable": draw(st.booleans()),
        "fixed": draw(st.booleans()),
        "options": {
            "compression": draw(st.sampled_from(["NONE", "SNAPPY", "ZSTD"])),
            "use_dictionary": draw(st.booleans()),
            "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
            "data_page_size": draw(st.sampled_from([64, 1000, 1 << 20])),
            "write_batch_size": draw(st.sampled_from([1, 7, 1024])),
            "row_group_size": draw(st.sampled_from([10, 77, 1000])),
        },
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_any_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(parquet_pages, "_LEAST_VALUES", 1)
    monkeypatch.setattr("qstore.sources.parquet._BATCH_BYTES", 1000)
    monkeypatch.setattr(ListColumn, "takes_time", True)
    path = tmp_path / "x.parquet"

    @given(tables(), st.integers(0, 300))
    @settings(max_examples=100 // threads)
    def compare(table: dict[str, Any], start: int) -> None:
        values = table["values"]
        write(path, column_of(values, table["nullable"], table["fixed"]), **table["options"])
        start = min(start, len(values))
        found = read(path, start, threads)
        assert found[0] == [row.tobytes() for row in values[start:]]
        assert found[1:] == ([f"w{row}" for row in range(start, len(values))], "")

    compare()


@given(st.binary(max_size=40))
def test_any_bytes_are_no_header(content: bytes) -> None:
    with contextlib.suppress(parquet_pages.Declined, IndexError):
        parquet_pages._fields(content, 0, 0)


def test_small_pages_are_left_to_pyarrow(tmp_path: Path) -> None:
    values = matrix_of("float32", 3000, 30)
    path = write(tmp_path / "x.parquet", column_of(values), use_dictionary=False, data_page_size=5000)
    assert pages_read(path) == 0
    assert read(path)[0] == [row.tobytes() for row in values]


def test_closed_while_it_is_read_ahead(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", column_of(matrix_of("float32", 60_000, 60)), compression="ZSTD")
    before = threading.active_count()
    with open_source(path) as source:
        source.threads = 2
        chunks = source.chunks()
        assert len(next(chunks)) > 0
        assert threading.active_count() > before
    assert threading.active_count() == before
