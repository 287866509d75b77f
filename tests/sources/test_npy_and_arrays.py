""".npy files and arrays in memory: the contract, exact values, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import numpy.lib.format as npy_format
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
from source_files import make_hdf5, make_npy

from qstore.engine.quantization import to_float64
from qstore.errors import SourceError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


class DaskLike:
    """Slices lazily: what comes out of [] is an array only after np.asarray."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, key: Any) -> DaskLike:
        return DaskLike(self._values[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._values


class TorchLike(DaskLike):
    """Has a dtype that NumPy does not know."""

    def __init__(self, values: NDArray[Any]) -> None:
        super().__init__(values)
        self.dtype = "torch.float32"  # type: ignore[assignment]

    def __getitem__(self, key: Any) -> TorchLike:
        return TorchLike(self._values[key])


def make_chunks(directory: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[:100], values[100:100], values[100:101], values[101:]]


def make_zarr(directory: Path, values: NDArray[Any]) -> Any:
    zarr = pytest.importorskip("zarr", reason="zarr arrays are sources through .shape and slices")
    return zarr.array(np.ascontiguousarray(values), chunks=(100, 3))


NPY = {
    "npy": Maker(make_npy((1, 0))),
    "npy-2.0": Maker(make_npy((2, 0))),
    "npy-3.0": Maker(make_npy((3, 0))),
    "npy-fortran": Maker(make_npy((1, 0), "F")),
}
ARRAYS = {
    "ndarray": Maker(lambda directory, values: values, file=False),
    "strided": Maker(lambda directory, values: np.repeat(values, 2, axis=1)[:, ::2], file=False),
    "dask-like": Maker(lambda directory, values: DaskLike(values), file=False),
    "torch-like": Maker(lambda directory, values: TorchLike(values), file=False),
    "zarr": Maker(make_zarr, file=False),
}
STREAMS = {
    "chunks": Maker(make_chunks, file=False, sliced=False, rows_known=False),
    "iterator": Maker(
        lambda directory, values: iter(make_chunks(directory, values)),
        file=False,
        sliced=False,
        rows_known=False,
    ),
}


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {**NPY, **ARRAYS, **STREAMS}


def test_fingerprint_sees_the_time(tmp_path: Path) -> None:
    path = make_npy((1, 0))(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        before = source.fingerprint()
    os.utime(path, ns=(0, 12345))
    with open_source(path) as source:
        assert source.fingerprint() == {**(before or {}), "mtime_ns": 12345}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_have_no_fingerprint(tmp_path: Path, name: str) -> None:
    assert STREAMS[name].fingerprint(tmp_path / "it", matrix_of("float32")) is None


def test_partial_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix_of("float32")
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    with open_source(make_npy((1, 0))(tmp_path, values)) as source:
        assert same(np.concatenate(list(source.chunks())), values)


def test_a_failing_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_source(make_npy((1, 0))(tmp_path, matrix_of("float32"))) as source:
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(SourceError, match=r"matrix.npy cannot be read at byte 128: Input/output error"):
            next(source.chunks())


def test_more_rows_than_32_bits_hold(tmp_path: Path) -> None:
    rows, dim = 2**32 + 5, 4
    path = tmp_path / "large.npy"
    with open(path, "wb") as file:
        npy_format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (rows, dim)}
        )
        end = file.tell() + rows * dim
    os.truncate(path, end)
    with open(path, "r+b") as file:
        file.seek(end - 4)
        file.write(b"\1\2\3\4")
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert source.read(rows - 2, rows).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4]]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, ">f4", ">i8", ">f2"])
def test_npy_equals_numpy(tmp_path: Path, dtype: str, order: str) -> None:
    path = make_npy((1, 0), order)(tmp_path, matrix_of(dtype))
    with open_source(str(path)) as source:
        assert source.dtype == np.dtype(dtype).newbyteorder("=").name
        assert np.array_equal(np.concatenate(list(source.chunks())), np.load(path))
    assert list_tensors(path) == [TensorInfo("", (ROWS, DIM), source.dtype)]


@pytest.mark.parametrize("name", RAW_TYPES)
def test_raw_types_equal_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="compares with its types")
    values = matrix_of(name).view(getattr(ml_dtypes, name))
    with open_source(values) as source:
        assert source.dtype == name
        assert isinstance(source, RowSource)
        assert source.read(0, ROWS).dtype == values.dtype
        assert np.array_equal(to_float64(source.read(3, 50)), values[3:50].astype(np.float64))


def test_plain_uint16_are_integers() -> None:
    assert open_source(np.zeros((2, 2), np.uint16)).dtype == "uint16"


def test_objects_of_libraries(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    values = matrix_of("float32")
    mapped_path = tmp_path_factory.mktemp("mapped") / "m.npy"  # NumPy closes maps with the garbage only
    np.save(mapped_path, values)
    with h5py.File(make_hdf5(chunks=(10, 2))(tmp_path, values)) as file:
        for array in (np.load(mapped_path, mmap_mode="r"), file["layers/0/weight"]):
            source = open_source(array)
            assert isinstance(source, RowSource)
            assert same(source.read(10, 200), values[10:200])


def test_arrays_are_not_copied() -> None:
    values = matrix_of("float32")
    source = open_source(values)
    assert isinstance(source, RowSource)
    assert np.shares_memory(source.read(0, 10), values)


def test_lists_of_lists() -> None:
    source = open_source([[1, 2, 3], (4, 5, 6)])
    assert isinstance(source, RowSource)
    assert (source.rows, source.dim, source.dtype) == (2, 3, "int64")
    assert source.read(0, 2).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_list_of_an_array() -> None:
    assert list_tensors(np.zeros((3, 2), ">i2")) == [TensorInfo("", (3, 2), "int16")]
    with pytest.raises(SourceError, match="gives chunks"):
        list_tensors([np.zeros((3, 2))])


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        (bool, "bool"),
        (np.complex64, "complex64"),
        (object, "object"),
        (np.longdouble, np.dtype(np.longdouble).name),
        ("S4", "|S4"),
        ("U4", "<U4"),
        ("M8[s]", "datetime64[s]"),
        ([("float32", "u1")], "[('float32', 'u1')]"),
        ([("bfloat16", "<f8")], "[('bfloat16', '<f8')]"),
        ([("x", "<f4"), ("y", "<f4")], "'x'"),
    ],
)
def test_types_refused(tmp_path: Path, dtype: Any, word: str) -> None:
    values = np.zeros((3, 2), dtype)
    for obj in (values, DaskLike(values), [values], iter([values])):
        refused(obj, word, "expected one of float16")
    if dtype is not object:
        path = tmp_path / "x.npy"
        np.save(path, values)
        refused(path, word, "expected one of float16")


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4), (0,)])
def test_ranks_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape), f"has shape {shape}: expected 2 dimensions (rows, columns), found {len(shape)}")
    np.save(tmp_path / "x.npy", np.zeros(shape))
    refused(
        tmp_path / "x.npy", f"has shape {shape}: expected 2 dimensions (rows, columns), found {len(shape)}"
    )


def test_no_columns_refused(tmp_path: Path) -> None:
    values = np.zeros((3, 0))
    empty_rows: list[list[float]] = [[], []]
    np.save(tmp_path / "x.npy", values)
    for obj in (values, [values], empty_rows, tmp_path / "x.npy"):
        refused(obj, "expected at least 1 column, found 0")


def test_masked_arrays_refused() -> None:
    masked = np.ma.masked_array(np.zeros((2, 2)), mask=[[False, True], [False, False]])
    refused(masked, "masked array", ".filled(0)")
    refused([masked], "masked array", ".filled(0)")


@pytest.mark.parametrize("obj", [None, 7, b"path", object()])
def test_things_that_are_no_source(obj: Any) -> None:
    refused(obj, f"{type(obj).__name__} is no source: expected a path, an array")


def test_mappings_refused() -> None:
    refused({"weight": np.zeros((2, 2))}, "dict holds arrays by name", "obj['weight']")


def test_names_for_arrays_refused() -> None:
    refused(np.zeros((2, 2)), "ndarray has no tensor names: leave tensor='w' out", tensor="w")
    refused([np.zeros((2, 2))], "list has no tensor names", tensor="w")


def test_ragged_list_names_the_row() -> None:
    refused([[1, 2], [3, 4], [5]], "ragged: row 2 expected 2 values, found 1")
    refused([[1, 2], [3, [4]]], "no array of numbers")


def test_slices_that_lie_are_refused() -> None:
    class Short(DaskLike):
        def __getitem__(self, key: Any) -> DaskLike:
            return DaskLike(self._values[key][:-1])

    class Broken(DaskLike):
        def __getitem__(self, key: Any) -> DaskLike:
            raise RuntimeError("gone away")

    values = np.zeros((5, 2), np.float32)
    for array, words in (
        (Short(values), r"expected shape \(5, 2\) of float32, found \(4, 2\)"),
        (Broken(values), "gone"),
    ):
        source = open_source(array)
        assert isinstance(source, RowSource)
        with pytest.raises(SourceError, match=words):
            source.read(0, 5)


def test_unknown_lengths_refused() -> None:
    array = DaskLike(np.zeros((2, 2)))
    array.shape = (float("nan"), 2)
    refused(array, "compute_chunk_sizes()")


def test_names_for_npy_refused(tmp_path: Path) -> None:
    refused(make_npy((1, 0))(tmp_path, matrix_of("float32")), "leave tensor= out", tensor="w")


def npy_bytes(header: bytes, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    width = 2 if version == b"\1\0" else 4
    stated = len(header) if length is None else length
    return b"\x93NUMPY" + version + stated.to_bytes(width, "little") + header + bytes(64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(2,2)}", b"\4\0"), "found 4.0"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(2,2)}", length=60_000), "60000"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(2,2)}", b"\2\0", 2**32 - 1), "4294967295"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(-2,-2)}"), "(-2, -2)"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(-2,2)}"), "(-2, 2)"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(2.0,2)}"), "shape is not valid"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':False,'shape':(4611686018427387905,4)}"), "ends early"),
        (npy_bytes(b"{'descr':'<f4','fortran_order':True,'shape':(4611686018427387905,4)}"), "ends early"),
        (npy_bytes(b"{'descr':'|O','fortran_order':False,'shape':(2,2)}"), "holds object"),
        (npy_bytes(b"{'descr':'|V2','fortran_order':False,'shape':(2,2)}"), "ml_dtypes"),
        (npy_bytes(b"{'descr':('<f4',(2,)),'fortran_order':False,'shape':(2,2)}"), "expected one of float16"),
        (npy_bytes(b"{'descr':'qq','fortran_order':False,'shape':(2,2)}"), "descr is not a valid dtype"),
        (npy_bytes(b"{'descr':'<f4','shape':(2,2)}"), "correct keys"),
        (npy_bytes(b"{'descr':" + b"(" * 9000), "is no .npy file"),
        (npy_bytes(b"[" * 5000 + b"]" * 5000), "is no .npy file"),
        (npy_bytes(b"-" * 9000 + b"1"), "is no .npy file"),
        (npy_bytes(b"__import__('os').mkdir('gotcha')"), "is no .npy file"),
        (npy_bytes(b"'\xff" * 20), "is no .npy file"),
        (npy_bytes(b""), "is no .npy file"),
    ],
)
def test_npy_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    error = refused(path, words)
    assert len(str(error)) < 1000
    assert os.listdir(tmp_path) == ["x.npy"]


def test_npy_trailing_bytes_are_left_alone(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = make_npy((1, 0))(tmp_path, values)
    path.write_bytes(path.read_bytes() + b"more")
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), values)
