""".fvecs, .bvecs, .ivecs and raw files: the contract, exact values, and files that do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import (
    DIM,
    NUMPY_TYPES,
    RAW_TYPES,
    ROWS,
    Maker,
    SourceContract,
    files_open_in,
    matrix_of,
    refused,
    same,
)

from qstore.errors import SourceError
from qstore.sources import RawSource, RowSource, TensorInfo, list_tensors, open_source

TYPES = {"fvecs": "float32", "bvecs": "uint8", "ivecs": "int32"}


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def vecs_bytes(values: NDArray[Any]) -> bytes:
    width = np.int32(values.shape[1]).tobytes()
    return b"".join(width + row.tobytes() for row in values)


def make_fvecs(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "m.fvecs"
    path.write_bytes(vecs_bytes(values))
    return path


def make_raw(offset: int) -> Callable[[Path, NDArray[Any]], RawSource]:
    def make(directory: Path, values: NDArray[Any]) -> RawSource:
        path = directory / "m.raw"
        path.write_bytes(b"h" * offset + values.tobytes())
        return RawSource(path, "float32", values.shape[1], offset)

    return make


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        # No rows are no bytes, and any number of whole rows is a whole file.
        "fvecs": Maker(make_fvecs, holds_no_rows=False, tells_length=False, working_memory=20_000),
        "raw": Maker(make_raw(0), tells_length=False),
        "raw-offset": Maker(make_raw(77), tells_length=False),
    }


@pytest.mark.parametrize("suffix", TYPES)
def test_every_type(tmp_path: Path, suffix: str) -> None:
    values = matrix_of(TYPES[suffix])
    path = tmp_path / f"M.{suffix.upper()}"
    path.write_bytes(vecs_bytes(values))
    with open_source(path) as source:
        assert source.dtype == TYPES[suffix]
        assert same(np.concatenate(list(source.chunks())), values)
    assert list_tensors(path) == [TensorInfo("", (ROWS, DIM), TYPES[suffix])]


def test_vecs_have_no_names(tmp_path: Path) -> None:
    refused(make_fvecs(tmp_path, matrix_of("float32")), "leave tensor= out", tensor="w")


def test_a_row_of_another_width_is_named(tmp_path: Path) -> None:
    values = matrix_of("float32")
    content = bytearray(vecs_bytes(values))
    content[100 * (4 + 4 * DIM)] = DIM + 1
    path = tmp_path / "m.fvecs"
    path.write_bytes(content)
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert same(source.read(0, 100), values[:100])
        for start in (0, 90, 100):
            with pytest.raises(
                SourceError, match=f"row 100 has {DIM + 1} columns: expected {DIM}, as in row 0"
            ):
                source.read(start, 200)


def test_vecs_cut_short_at_every_length(tmp_path: Path) -> None:
    values = matrix_of("float32", 20)
    path = make_fvecs(tmp_path, values)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if length and length % (4 + 4 * DIM) == 0:
            with open_source(path) as source:
                assert same(np.concatenate(list(source.chunks())), values[: length // (4 + 4 * DIM)])
        else:
            refused(path, "m.fvecs")


@pytest.mark.parametrize("width", [0, -1, -(2**31), 2**31 - 1, DIM + 1])
def test_first_widths_that_cannot_be(tmp_path: Path, width: int) -> None:
    path = tmp_path / "m.fvecs"
    path.write_bytes(width.to_bytes(4, "little", signed=True) + vecs_bytes(matrix_of("float32"))[4:])
    refused(path, f"row 0 has {width} columns: expected at least 1, and a file of whole rows")


@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, *RAW_TYPES, ">f4", ">i2"])
def test_raw_files_of_every_type(tmp_path: Path, dtype: str) -> None:
    values = matrix_of(dtype)
    path = tmp_path / "m.raw"
    path.write_bytes(values.tobytes())
    with RawSource(path, dtype, DIM) as source:
        assert open_source(source) is source
        assert same(np.concatenate(list(source.chunks())), values)
    with RawSource(os.fspath(path), values.dtype, DIM, offset=2 * DIM * values.itemsize, rows=3) as source:
        assert same(np.concatenate(list(source.chunks())), values[2:5])


def test_raw_fingerprints_tell_offsets_and_byte_orders_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.raw"
    path.write_bytes(bytes(400))
    prints = []
    for dtype, offset in (("float32", 0), ("float32", 80), ("float32", 4), (">f4", 0)):
        with RawSource(path, dtype, 5, offset, rows=3) as source:
            prints.append(str(source.fingerprint()))
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("text", "dtype", "dim", "offset"),
    [("float32:5", "float32", 5, 0), ("bfloat16:10:20", "bfloat16", 10, 20), (">f4:5", "float32", 5, 0)],
)
def test_raw_from_text(tmp_path: Path, text: str, dtype: str, dim: int, offset: int) -> None:
    path = tmp_path / "m.raw"
    path.write_bytes(bytes(400 + offset))
    with RawSource.from_text(path, text) as source:
        assert (source.dtype, source.dim, (source.fingerprint() or {})["offset"]) == (dtype, dim, offset)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "float32",
        "float32:",
        ":5",
        "float32:5:",
        "float32:5:1:2",
        "float32:-5",
        "float32:x",
        "float32:5:٣٤x",
    ],
)
def test_raw_texts_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.raw"
    path.write_bytes(bytes(400))
    with pytest.raises(SourceError, match="expected"):
        RawSource.from_text(path, text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float32", "dim": 7}, "expected whole rows of 28 bytes from byte 0 on, found 400 bytes"),
        ({"dtype": "float32", "dim": 5, "offset": 3}, "expected whole rows of 20 bytes from byte 3 on"),
        ({"dtype": "float32", "dim": 5, "offset": 401}, "from byte 401 on, found 400 bytes"),
        (
            {"dtype": "float32", "dim": 5, "rows": 21},
            "ends early: 21 × 5 float32 expected 420 bytes, found 400",
        ),
        ({"dtype": "float32", "dim": 2**40, "rows": 2**40}, "ends early"),
        ({"dtype": "float32", "dim": 0}, "dim is 0, expected an integer of at least 1"),
        ({"dtype": "float32", "dim": 5, "offset": -4}, "offset is -4, expected an integer of at least 0"),
        ({"dtype": "float32", "dim": 5, "rows": -1}, "rows is -1, expected an integer of at least 0"),
        ({"dtype": "complex64", "dim": 5}, "dtype is 'complex64', expected one of float16"),
        ({"dtype": "nonsense", "dim": 5}, "dtype is 'nonsense', expected one of float16"),
    ],
)
def test_raw_files_that_do_not_fit(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = tmp_path / "m.raw"
    path.write_bytes(bytes(400))
    with pytest.raises(SourceError) as caught:
        RawSource(path, **options)
    assert words in str(caught.value)


def test_raw_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        RawSource(tmp_path / "m.raw", "float32", 5)
