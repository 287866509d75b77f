""".npz files: the contract, exact values against NumPy, and archives that lie."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
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

from qstore.errors import SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def make_stored(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "m.npz"
    np.savez(path, bias=np.zeros(3), weight=values)
    return path


def make_fortran(directory: Path, values: NDArray[Any]) -> Path:
    return make_stored(directory, np.asarray(values, order="F"))


def make_deflated(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "m.npz"
    np.savez_compressed(path, bias=np.zeros(3), weight=values)
    return path


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "stored": Maker(make_stored),
        "stored-named": Maker(make_stored, "weight"),
        "stored-fortran": Maker(make_fortran),
        "deflated": Maker(make_deflated, sliced=False, working_memory=1 << 20),
        "deflated-named": Maker(make_deflated, "weight", sliced=False, working_memory=1 << 20),
    }


@pytest.mark.parametrize("make", [make_stored, make_fortran, make_deflated])
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, *RAW_TYPES, ">f4", ">i8"])
def test_equals_numpy(tmp_path: Path, make: Any, dtype: str) -> None:
    values = matrix_of(dtype)
    path = make(tmp_path, values)
    with open_source(path) as source:
        assert source.name == "weight"
        assert same(np.concatenate(list(source.chunks())), values)
        name = source.dtype
    assert list_tensors(path) == [
        TensorInfo("bias", (3,), "float64"),
        TensorInfo("weight", (ROWS, DIM), name),
    ]


def test_names_go_by_the_member(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    arrays: dict[str, Any] = {"deep/er": matrix_of("float32", 4), "ünïcode": np.eye(2)}
    np.savez(path, matrix_of("float32", 3), **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "not an array")
    assert [info.name for info in list_tensors(path)] == ["arr_0", "deep/er", "ünïcode"]
    for name, rows in (("arr_0", 3), ("deep/er", 4), ("ünïcode", 2)):
        with open_source(path, name) as source:
            assert source.rows == rows
    refused(path, "holds 3 matrices", error=TensorError)
    refused(path, "did you mean 'deep/er'?", tensor="deeper", error=TensorError)


def test_known_by_its_content(tmp_path: Path) -> None:
    path = make_stored(tmp_path, matrix_of("float32")).rename(tmp_path / "m.bin")
    with open_source(path) as source:
        assert source.rows == ROWS


def test_stored_members_are_read_in_place(tmp_path: Path) -> None:
    values = matrix_of("float32", 100_000, 8)
    with open_source(make_stored(tmp_path, values)) as source:
        assert isinstance(source, RowSource)
        tracemalloc.start()
        assert same(source.read(99_990, 100_000), values[-10:])
        assert tracemalloc.get_traced_memory()[1] < 10_000
        tracemalloc.stop()


def test_single_rows_and_columns_in_fortran_order(tmp_path: Path) -> None:
    for shape in ((1, DIM), (ROWS, 1)):
        values = np.asarray(matrix_of("float32", *shape), order="F")
        with open_source(make_deflated(tmp_path, values)) as source:
            assert same(np.concatenate(list(source.chunks())), values)


def test_compressed_fortran_order_refused(tmp_path: Path) -> None:
    values = np.asarray(matrix_of("float32"), order="F")
    refused(make_deflated(tmp_path, values), "compressed and in Fortran order", "numpy.savez")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("w.npy", npy(np.eye(3)))
    refused(path, f"compressed with method {method}: expected deflate", "numpy.savez")


def test_objects_and_other_shapes_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, objects=np.array([[object]]), cube=np.zeros((2, 2, 2)), raw=np.zeros((2, 2), "V2"))
    refused(path, "holds object: expected one of float16", tensor="objects")
    refused(path, "has shape (2, 2, 2): expected 2 dimensions", tensor="cube")
    refused(path, "bfloat16) if its items are of that type", tensor="raw")
    np.savez(path)
    refused(path, "found no tensors at all")


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def deflated(content: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return squeeze.compress(content) + squeeze.flush()


def archive_of(path: Path, packed: bytes, size: int, crc32: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of one member "w.npy" that says what it is told to."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", packed)
        info = archive.infolist()[0]
        info.compress_type, info.file_size, info.CRC = method, size, crc32
    content = bytearray(path.read_bytes())
    content[8:10] = method.to_bytes(2, "little")
    path.write_bytes(content)
    return path


def read_all(path: Path) -> list[NDArray[Any]]:
    with open_source(path) as source:
        return list(source.chunks())


CONTENT = npy(np.arange(40_000, dtype=np.float32).reshape(10_000, 4))


def test_an_archive_made_by_hand(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "m.npz", deflated(CONTENT), len(CONTENT), zlib.crc32(CONTENT))
    assert sum(map(len, read_all(path))) == 10_000


def test_damaged_streams(tmp_path: Path) -> None:
    packed = deflated(CONTENT)
    for stream, size, crc32, words in (
        (packed, len(CONTENT), 1, "is damaged: its CRC-32 differs"),
        (packed[:-2000], len(CONTENT), 0, "ends early: expected 160128 bytes"),
        (deflated(CONTENT[:-1]), len(CONTENT), 0, "ends early: expected 160128 bytes"),
        (
            b"\x07" + packed,
            len(CONTENT),
            0,
            "is damaged: Error -3 while decompressing data: invalid block type",
        ),
    ):
        path = archive_of(tmp_path / "m.npz", stream, size, crc32)
        with pytest.raises(SourceError, match=words):
            read_all(path)


def test_claims_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    packed = deflated(CONTENT)
    archive_of(path, packed, len(CONTENT) + 1, 0)
    refused(path, f"expected {len(CONTENT)} bytes for shape (10000, 4), found {len(CONTENT) + 1}")
    archive_of(path, packed, 0xFFFFFFF0, 0)
    refused(path, "compressed ones, found a claim of 4294967280")
    archive_of(path, b"", 0, 0)
    refused(path, "is no .npy file that can be read")
    archive_of(path, CONTENT, len(CONTENT), 0, zipfile.ZIP_STORED)
    assert len(read_all(path)) == 1
    archive_of(path, CONTENT[:-1], len(CONTENT) - 1, 0, zipfile.ZIP_STORED)
    refused(path, f"expected {len(CONTENT)} bytes")


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """1 GiB of zeros in 1 MB: read chunk by chunk, and stopped at any time."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 256)}
    )
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = squeeze.compress(header.getvalue())
    piece = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    packed += piece + (squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)) * 1023
    path = archive_of(tmp_path / "m.npz", packed, len(header.getvalue()) + (1 << 30), 0)
    assert path.stat().st_size < 2_000_000
    tracemalloc.start()
    with open_source(path) as source:
        assert source.rows == 1 << 20
        chunks = source.chunks()
        assert [len(next(chunks)) for _ in range(3)] == [4096] * 3
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", npy(np.eye(2)))
        archive.writestr("w.npy", npy(np.eye(3)))
    refused(tmp_path / "m.npz", "the name 'w.npy' stands twice")


def test_damage_never_escapes(tmp_path: Path) -> None:
    path = make_deflated(tmp_path, matrix_of("float32", 20))
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    outcomes = {True: 0, False: 0}
    for place in rng.integers(0, len(whole), 600):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            with open_source(path, "weight") as source:
                assert same(np.concatenate(list(source.chunks())), matrix_of("float32", 20))
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 50


def test_changed_while_it_was_read(tmp_path: Path) -> None:
    path = make_deflated(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        source.check_unchanged()
        os.utime(path, ns=(0, 1))
        with pytest.raises(SourceError, match="was changed while it was read"):
            source.check_unchanged()
