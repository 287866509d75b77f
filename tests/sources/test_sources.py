"""Sources: one contract for all of them, exact values, and what each format must refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
    Make,
    Maker,
    SourceContract,
    files_open_in,
    make_directory,
    matrix_of,
    refused,
    same,
)

from qstore.engine.quantization import to_float64
from qstore.errors import SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source

SAFETENSORS_NAMES = {
    name: name[0].upper() + name.lstrip("abcdefghijklmnopqrstuvwxyz") for name in NUMPY_TYPES
}
SAFETENSORS_NAMES |= {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def safetensors_bytes(tensors: dict[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> bytes:
    """A file as the format's own library lays it out."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, values in tensors.items():
        word = values.dtype.names[0] if values.dtype.names else values.dtype.name
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {
            "dtype": SAFETENSORS_NAMES[word],
            "shape": list(values.shape),
            "data_offsets": offsets,
        }
        data += values.tobytes()
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


# ---------------------------------------------------------------- the contract


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


def make_npy(version: tuple[int, int], order: str = "C") -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        path = directory / "matrix.npy"
        with open(path, "wb") as file:
            npy_format.write_array(file, np.asarray(values, order="F" if order == "F" else "C"), version)
        return path

    return make


def make_hdf5(userblock: int = 0, **options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        path = directory / "model.h5"
        with h5py.File(path, "w", userblock_size=userblock) as file:
            file["bias"] = np.zeros(3)
            file.create_dataset("layers/0/weight", data=values, **options)
        return path

    return make


def make_compact(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "compact.h5"
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        item = h5py.h5t.py_create(values.dtype)
        dataset = h5py.h5d.create(file.id, b"w", item, h5py.h5s.create_simple(values.shape), plan)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
    return path


def make_converted(directory: Path, values: NDArray[Any]) -> Path:
    """A float type of 61 bits, which NumPy lacks: HDF5 converts it to float64."""
    path = directory / "converted.h5"
    with h5py.File(path, "w") as file:
        item = h5py.h5t.IEEE_F64LE.copy()
        item.set_fields(60, 49, 11, 0, 49)
        item.set_precision(61)
        dataset = h5py.h5d.create(file.id, b"w", item, h5py.h5s.create_simple(values.shape))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
    return path


def make_safetensors(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "model.safetensors"
    tensors = {"a.bias": np.zeros(3, np.float32), "z.weight": values}
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    return path


def make_sharded(directory: Path, values: NDArray[Any]) -> Path:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (directory / first).write_bytes(safetensors_bytes({"a.bias": np.zeros(3, np.float32)}))
    (directory / second).write_bytes(safetensors_bytes({"b.bias": np.ones(2, np.int8), "z.weight": values}))
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a.bias": first, "b.bias": second, "z.weight": second}}))
    return path


def make_chunks(directory: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[:100], values[100:100], values[100:101], values[101:]]


def make_zarr(directory: Path, values: NDArray[Any]) -> Any:
    zarr = pytest.importorskip("zarr", reason="zarr arrays are sources through .shape and slices")
    return zarr.array(np.ascontiguousarray(values), chunks=(100, 3))


FILES = {
    "npy": Maker(make_npy((1, 0))),
    "npy-2.0": Maker(make_npy((2, 0))),
    "npy-3.0": Maker(make_npy((3, 0))),
    "npy-fortran": Maker(make_npy((1, 0), "F")),
    "hdf5": Maker(make_hdf5()),
    "hdf5-named": Maker(make_hdf5(), "layers/0/weight"),
    "hdf5-slash": Maker(make_hdf5(), "/layers/0/weight"),
    "hdf5-userblock": Maker(make_hdf5(userblock=512)),
    "hdf5-gzip": Maker(
        make_hdf5(chunks=(100, 3), compression="gzip", maxshape=(None, None)), working_memory=1 << 20
    ),
    "hdf5-compact": Maker(make_compact, read_at_opening=True),  # HDF5 reads it with the header
    "hdf5-converted": Maker(make_converted, working_memory=1 << 21),
    "safetensors": Maker(make_safetensors),
    "safetensors-named": Maker(make_safetensors, "z.weight"),
    "safetensors-directory": Maker(make_directory(make_safetensors)),
    "sharded": Maker(make_sharded),
    "sharded-named": Maker(make_sharded, "z.weight"),
    "sharded-directory": Maker(make_directory(make_sharded)),
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
    makers: ClassVar[dict[str, Maker]] = {**FILES, **ARRAYS, **STREAMS}


def test_fingerprint_sees_the_time(tmp_path: Path) -> None:
    path = make_npy((1, 0))(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        before = source.fingerprint()
    os.utime(path, ns=(0, 12345))
    with open_source(path) as source:
        assert source.fingerprint() == {**(before or {}), "mtime_ns": 12345}


def test_fingerprint_sees_the_header(tmp_path: Path) -> None:
    path, values = tmp_path / "m.safetensors", matrix_of("float32")
    prints = []
    for metadata in ({"epoch": "1"}, {"epoch": "2"}):
        path.write_bytes(safetensors_bytes({"w": values}, metadata))
        os.utime(path, ns=(0, 0))
        with open_source(path) as source:
            prints.append(source.fingerprint())
    assert prints[0] != prints[1]


@pytest.mark.parametrize("name", ["hdf5", "hdf5-gzip"])
def test_fingerprint_sees_where_a_dataset_lies(tmp_path: Path, name: str) -> None:
    prints = []
    for padding in (100, 200):
        path = FILES[name].make(tmp_path, matrix_of("float32"))
        with h5py.File(path, "a") as file:
            file.attrs["note"] = np.bytes_(b"x" * padding)
        os.truncate(path, 40_000)
        os.utime(path, ns=(0, 0))
        with open_source(path) as source:
            prints.append(source.fingerprint())
    assert prints[0] != prints[1]


def test_fingerprint_sees_the_index(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        before = source.fingerprint()
    path.write_text(path.read_text() + " ")
    with open_source(path) as source:
        assert source.fingerprint() != before


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


# ---------------------------------------------------------------- exact values


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, ">f4", ">i8", ">f2"])
def test_npy_equals_numpy(tmp_path: Path, dtype: str, order: str) -> None:
    path = make_npy((1, 0), order)(tmp_path, matrix_of(dtype))
    with open_source(str(path)) as source:
        assert source.dtype == np.dtype(dtype).newbyteorder("=").name
        assert np.array_equal(np.concatenate(list(source.chunks())), np.load(path))
    assert list_tensors(path) == [TensorInfo("", (ROWS, DIM), source.dtype)]


@pytest.mark.parametrize("options", [{}, {"chunks": (50, 2)}], ids=["contiguous", "chunked"])
@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, ">f4", ">i8", ">f2"])
def test_hdf5_equals_h5py(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    path = make_hdf5(**options)(tmp_path, matrix_of(dtype))
    with h5py.File(path) as file, open_source(path) as source:
        assert source.dtype == np.dtype(dtype).newbyteorder("=").name
        assert source.name == "layers/0/weight"
        assert np.array_equal(np.concatenate(list(source.chunks())), file["layers/0/weight"][:])
    name = source.dtype
    expected = [TensorInfo("bias", (3,), "float64"), TensorInfo("layers/0/weight", (ROWS, DIM), name)]
    assert list_tensors(path) == expected


@pytest.mark.parametrize("dtype", SAFETENSORS_NAMES)
@pytest.mark.parametrize("make", [make_safetensors, make_sharded])
def test_safetensors_every_type(tmp_path: Path, make: Make, dtype: str) -> None:
    values = matrix_of(dtype)
    path = make(tmp_path, values)
    with open_source(path) as source:
        assert (source.name, source.dtype) == ("z.weight", dtype)
        assert same(np.concatenate(list(source.chunks())), values)
    assert TensorInfo("z.weight", (ROWS, DIM), dtype) in list_tensors(path)
    assert [info.name for info in list_tensors(path)] == sorted(info.name for info in list_tensors(path))


@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, "bfloat16"])
def test_safetensors_equals_its_own_library(tmp_path: Path, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="safetensors needs it for bfloat16")
    library = pytest.importorskip("safetensors.numpy", reason="compares with the format's own library")
    item = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    path = tmp_path / "own.safetensors"
    library.save_file({"w": matrix_of(dtype).view(item), "b": np.zeros(3, np.float32)}, path)
    with open_source(path) as source:
        assert source.dtype == dtype
        found = np.concatenate(list(source.chunks()))
    expected = library.load_file(path)["w"]
    assert np.array_equal(to_float64(found), expected.astype(np.float64))


@pytest.mark.parametrize("name", RAW_TYPES)
def test_raw_types_equal_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="compares with its types")
    values = matrix_of(name).view(getattr(ml_dtypes, name))
    with open_source(values) as source:
        assert source.dtype == name
        assert isinstance(source, RowSource)
        assert source.read(0, ROWS).dtype == values.dtype
        assert np.array_equal(to_float64(source.read(3, 50)), values[3:50].astype(np.float64))


@pytest.mark.parametrize(
    "make", [make_npy((1, 0)), make_npy((1, 0), "F"), make_hdf5(), make_hdf5(chunks=True)]
)
@pytest.mark.parametrize("name", RAW_TYPES)
def test_marker_types_survive_files(tmp_path: Path, make: Make, name: str) -> None:
    values = matrix_of(name)
    with open_source(make(tmp_path, values)) as source:
        assert source.dtype == name
        assert same(np.concatenate(list(source.chunks())), values)


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


def test_sources_pass_through(tmp_path: Path) -> None:
    with open_source(make_safetensors(tmp_path, matrix_of("float32"))) as source:
        assert open_source(source) is source
        assert open_source(source, "z.weight") is source
        refused(source, "has no tensor names", tensor="other")
        assert list_tensors(source) == [TensorInfo("z.weight", (ROWS, DIM), "float32")]


def test_list_of_an_array() -> None:
    assert list_tensors(np.zeros((3, 2), ">i2")) == [TensorInfo("", (3, 2), "int16")]
    with pytest.raises(SourceError, match="gives chunks"):
        list_tensors([np.zeros((3, 2))])


def test_content_decides_before_the_name(tmp_path: Path) -> None:
    values = matrix_of("float32")
    for number, make in enumerate(
        [make_npy((1, 0)), make_hdf5(), make_hdf5(userblock=2048), make_safetensors]
    ):
        path = make(tmp_path, values).rename(tmp_path / f"{number}.npy")
        with open_source(path) as source:
            assert same(np.concatenate(list(source.chunks())), values)


# ---------------------------------------------------------------- arrays and chunks refused


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


def test_no_chunks_refused() -> None:
    refused([], "the iterable is empty", "of shape (0, columns)")
    refused(iter(()), "the iterable is empty")


def test_single_rows_refused() -> None:
    refused([np.zeros(3), np.zeros(3)], "chunk 0 (from row 0) is one row of shape (3,)", "np.stack")
    refused([1.0, 2.0], "chunk 0 (from row 0) has shape ()")
    refused([np.zeros((2, 2, 2))], "chunk 0 (from row 0) has shape (2, 2, 2)", "found 3 dimensions")


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (np.zeros((2, 4), np.float32), "has 4 columns: expected 3"),
        (np.zeros(3, np.float32), r"is one row of shape \(3,\)"),
        (np.zeros((2, 3), np.float64), "holds float64: expected float32"),
        (np.zeros((2, 3), np.uint16), "holds uint16: expected float32"),
        (np.zeros((2, 3), object), "holds object: expected float32"),
        ([[1, 2, 3], [4, 5]], "no array of numbers"),
    ],
)
def test_later_chunks_are_checked(later: Any, words: str) -> None:
    first = np.zeros((5, 3), np.float32)
    source = open_source(iter([first, first, later]))
    chunks = source.chunks()
    assert [len(next(chunks)), len(next(chunks))] == [5, 5]
    with pytest.raises(SourceError, match=rf"chunk 2 \(from row 10\).*{words}"):
        next(chunks)
    # Rows that are skipped are checked as well.
    with pytest.raises(SourceError, match="chunk 2"):
        list(open_source([first, first, later]).chunks(12))


def test_byte_order_of_chunks_may_differ() -> None:
    values = matrix_of("float32")
    source = open_source(iter([values, values.astype(">f4")]))
    assert same(np.concatenate(list(source.chunks())), np.concatenate([values, values]))


def test_chunks_that_end_before_the_start() -> None:
    with pytest.raises(SourceError, match="end early: expected more than 9 rows, found 4"):
        list(open_source(iter([np.zeros((4, 2))])).chunks(9))


def test_an_iterator_is_read_once() -> None:
    values = matrix_of("float32")
    once = open_source(iter([values]))
    list(once.chunks())
    with pytest.raises(SourceError, match="has been read already"):
        once.chunks()
    often = open_source([values])
    assert [len(list(often.chunks())) for _ in range(3)] == [1, 1, 1]


def test_errors_of_a_generator_pass_through() -> None:
    def failing() -> Iterator[NDArray[Any]]:
        yield np.zeros((2, 2))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(open_source(failing()).chunks())


def test_only_the_first_chunk_is_taken_early() -> None:
    taken: list[int] = []

    def counting() -> Iterator[NDArray[Any]]:
        for number in range(3):
            taken.append(number)
            yield np.full((2, 2), number)

    source = open_source(counting())
    assert taken == [0]
    assert [int(chunk[0, 0]) for chunk in source.chunks()] == [0, 1, 2]


# ---------------------------------------------------------------- files refused


def test_paths_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.npy", "missing.npy does not exist")
    refused(tmp_path, "is a directory without a checkpoint: expected", "model.safetensors.index.json")
    refused("nul\0byte", "cannot be opened: embedded null byte")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "cannot be opened: Too many levels of symbolic links")
    (tmp_path / "empty.npy").touch()
    refused(
        tmp_path / "empty.npy",
        "is empty: expected one of npy (.npy), HDF5 (.h5",
        "safetensors (.safetensors)",
    )
    (tmp_path / "text.doc").write_text("the quick brown fox")
    refused(tmp_path / "text.doc", "of no known format: expected one of npy (.npy)", "b'the quic'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = make_npy((1, 0))(tmp_path, matrix_of("float32"))
    path.chmod(0)
    refused(path, "cannot be opened: Permission denied")


def test_pipes_and_devices_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    refused(tmp_path / "pipe.npy", "is a pipe, socket or device: expected a regular file")
    refused("/dev/zero", "is a pipe, socket or device")
    with pytest.raises(SourceError, match="is a pipe"):
        list_tensors(tmp_path / "pipe.npy")


def test_wrong_content_behind_a_known_name(tmp_path: Path) -> None:
    for name, words in (
        ("x.npy", "is no .npy file that can be read"),
        ("x.h5", "cannot be read as HDF5"),
        ("x.safetensors", "no complete safetensors file"),
        ("x.safetensors.index.json", "expected JSON"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        refused(tmp_path / name, words)


def test_unknown_names_give_the_closest(tmp_path: Path) -> None:
    names = ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight", "head.weight"]
    tensors = {name: matrix_of("float32", 4) for name in names}
    single = tmp_path / "m.safetensors"
    single.write_bytes(safetensors_bytes(tensors))
    hdf5 = tmp_path / "m.h5"
    with h5py.File(hdf5, "w") as file:
        for name in names:
            file[name] = tensors[name]
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "m.safetensors")}))
    for path in (single, hdf5, index):
        error = refused(path, "did you mean", names[0], tensor="word_embedings.weight", error=TensorError)
        assert isinstance(error, TensorError)
        assert error.candidates[0] == names[0]
        refused(path, f"did you mean '{names[1]}'?", tensor="POSITION", error=TensorError)
        error = refused(path, "it holds ", *names, tensor="qqq", error=TensorError)
        assert isinstance(error, TensorError)
        assert set(error.candidates) == set(names)


def test_several_matrices_are_listed(tmp_path: Path) -> None:
    tensors = {"a": matrix_of("float32", 4), "b": matrix_of("bfloat16", 9), "c": np.zeros(3, np.float32)}
    single, hdf5 = tmp_path / "m.safetensors", tmp_path / "m.h5"
    single.write_bytes(safetensors_bytes(tensors))
    with h5py.File(hdf5, "w") as file:
        for name, values in tensors.items():
            file[name] = values
    for path in (single, hdf5):
        words = [
            "holds 2 matrices",
            "tensor= (--tensor NAME)",
            f"'a'  (4, {DIM})  float32",
            f"'b'  (9, {DIM})  bfloat16",
        ]
        error = refused(path, *words, error=TensorError)
        assert isinstance(error, TensorError)
        assert error.candidates == ("a", "b")
        refused(path, "tensor 'c' has shape (3,): expected 2 dimensions", tensor="c")
        with open_source(path, "b") as source:
            assert source.rows == 9


def test_no_matrix_at_all(tmp_path: Path) -> None:
    single = tmp_path / "m.safetensors"
    single.write_bytes(safetensors_bytes({"cube": np.zeros((2, 2, 2), np.float32)}))
    refused(single, "tensor 'cube' has shape (2, 2, 2): expected 2 dimensions")
    single.write_bytes(with_header(b"{}"))
    refused(single, "found no tensors at all")
    refused(single, "holds no tensors at all", tensor="x", error=TensorError)


def test_names_for_npy_refused(tmp_path: Path) -> None:
    refused(make_npy((1, 0))(tmp_path, matrix_of("float32")), "leave tensor= out", tensor="w")


# ---------------------------------------------------------------- .npy refused


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


# ---------------------------------------------------------------- safetensors refused


def header_of(**tensors: tuple[str, list[Any], list[Any]]) -> bytes:
    words = ("dtype", "shape", "data_offsets")
    return json.dumps(
        {name: dict(zip(words, entry, strict=True)) for name, entry in tensors.items()}
    ).encode()


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        (header_of(w=("F32", [2, 2], [0, 12])), 12, "expected 16 bytes, found data_offsets that hold 12"),
        (header_of(w=("F32", [2**40, 2**40], [0, 16])), 16, f"expected {2**82} bytes"),
        (header_of(w=("F32", [2**62, 4], [0, 0])), 0, f"expected {2**66} bytes"),
        (header_of(w=("F32", [2, 2], [0, 16])), 15, "ends early: expected 16 bytes of data, found 15"),
        (header_of(w=("F32", [2, 2], [0, 16])), 17, "belong to no tensor"),
        (header_of(w=("F32", [2, 2], [16, 32])), 32, "from byte 0 on, found 16 to 32"),
        (header_of(w=("F32", [2, 2], [-16, 0])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, -2], [0, 16])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, 2.0], [0, 16])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, True], [0, 8])), 8, "integers ≥ 0"),
        (header_of(w=("F32", [2, 2], [0, 16, 32])), 32, "two data_offsets"),
        (header_of(w=("F32", [2, 2], [16, 0])), 16, "found data_offsets that hold -16"),
        (
            header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [8, 24])),
            24,
            "from byte 16 on, found 8 to 24",
        ),
        (
            header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [20, 36])),
            36,
            "from byte 16 on, found 20 to 36",
        ),
        (header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [0, 16])), 16, "overlap"),
        (header_of(w=("F4", [1, 3], [0, 1])), 1, "expected 1.5 bytes"),
        (header_of(w=("BOOL", [2, 2], [0, 4])), 4, "'w' holds bool"),
        (header_of(w=("C64", [2, 2], [0, 32])), 32, "'w' holds complex64"),
        (header_of(w=("F8_E8M0", [2, 2], [0, 4])), 4, "'w' holds float8_e8m0fnu"),
        (header_of(w=("float32", [2, 2], [0, 16])), 16, "unknown type float32"),
        (b'{"w": {"dtype": "F32", "shape": [2, 2]}}', 16, "two data_offsets"),
        (b'{"w": 7}', 16, "two data_offsets"),
        (b'{"w": null}', 16, "two data_offsets"),
        (b'{"w": {"dtype": 3, "shape": [2, 2], "data_offsets": [0, 16]}}', 16, "two data_offsets"),
        (b'{"w": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}}', 16, "two data_offsets"),
        (b'{"a": 1, "a": 1}', 0, "'a' stands twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32"}}', 0, "'dtype' stands twice"),
        (b'{"a":' * 100_000, 0, "expected JSON"),
        (b'{"a":' + b"[" * 200_000, 0, "expected JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "expected JSON"),
        (b'{"\\ud800": 1}', 0, "expected JSON"),
        (b'{"\xff": 1}', 0, "expected JSON"),
        (b"{", 0, "expected JSON"),
        (b"", 0, "expected JSON"),
        (b"[]", 0, "expected a JSON object, found list"),
    ],
)
def test_safetensors_malformed(tmp_path: Path, header: bytes, size: int, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, bytes(size)))
    error = refused(path, words)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1, 3])
def test_safetensors_header_lengths(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    refused(path, "no complete safetensors file", f"found a length of {length}")


def test_safetensors_longest_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((150_000_000).to_bytes(8, "little") + b"{")
    os.truncate(path, 200_000_000)
    refused(path, "a header of at most 100000000 bytes, found a length of 150000000")


def test_safetensors_unknown_type_that_ends_before_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header_of(a=("F32", [1], [0, 4]), new=("F3", [9], [4, 2])), bytes(2)))
    refused(path, "'new' expected data from byte 4 on, found 4 to 2")


def test_safetensors_megabyte_names_stay_short_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"n" * 2_000_000 + str(number): np.zeros((1, 1), np.float32) for number in range(2)}
    path.write_bytes(safetensors_bytes(tensors))
    assert len(str(refused(path, "2 matrices", error=TensorError))) < 2000
    assert len(str(refused(path, tensor="n" * 1_000_000, error=TensorError))) < 2000


def test_safetensors_with_many_names_answers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one = {"dtype": "F32", "shape": [0, 1], "data_offsets": [0, 0]}
    path.write_bytes(
        with_header(json.dumps({f"layer.{number}.weight": one for number in range(30_000)}).encode())
    )
    refused(path, "did you mean", tensor="layer.77.wieght", error=TensorError)


def test_safetensors_type_of_the_future_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header_of(new=("F3", [9], [0, 4]), w=("F32", [1, 2], [4, 12])), bytes(12)))
    with open_source(path) as source:
        assert source.name == "w"
    assert TensorInfo("new", (9,), "F3") in list_tensors(path)


@pytest.mark.parametrize(
    "shard",
    ["../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ".", "", "a\\b", "a\0b", 7, None, ["x"]],
)
def test_index_reaches_no_other_place(tmp_path: Path, shard: Any) -> None:
    directory = tmp_path / "checkpoint"
    (directory / "sub").mkdir(parents=True)
    for place in (tmp_path, directory / "sub"):
        make_safetensors(place, matrix_of("float32")).rename(place / "m.safetensors")
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"z.weight": shard}}))
    for tensor in (None, "z.weight"):
        refused(directory, "expected the plain name of a file beside the index", tensor=tensor)


def test_index_names_missing_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    refused(path, "1 of its files missing: model-00001-of-00002.safetensors; get them again")
    with pytest.raises(SourceError, match=r"model-00001-of-00002\.safetensors"):
        list_tensors(tmp_path)
    refused(path, "1 of its files missing: model-00001-of-00002.safetensors", tensor="a.bias")
    with open_source(path, "z.weight") as source:  # the shard that is needed is there
        assert source.rows == ROWS


def test_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    path.write_text(path.read_text().replace("z.weight", "y.weight"))
    for tensor in (None, "y.weight"):
        refused(
            path, "expected tensor 'y.weight' in model-00002-of-00002.safetensors, found none", tensor=tensor
        )


def test_index_shards_must_be_regular_files(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    refused(path, "is a pipe", tensor="z.weight")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "7", '{"weight_map": []}', '{"weight_map": {"a": "x", "a": "y"}}', "{"]
)
def test_index_malformed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refused(tmp_path, "expected")


def test_index_comes_before_a_single_file(tmp_path: Path) -> None:
    values = matrix_of("float32")
    make_safetensors(tmp_path, values[:7])
    make_sharded(tmp_path, values)
    with open_source(tmp_path) as source:
        assert source.rows == ROWS


# ---------------------------------------------------------------- HDF5 refused


@pytest.fixture
def h5_path(tmp_path: Path) -> Path:
    """The path of an HDF5 file with the matrix "w"."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["w"] = matrix_of("float32")
    return path


def test_hdf5_follows_no_links(h5_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    shutil.copy(h5_path, other)
    with h5py.File(h5_path, "a") as file:
        file["external"] = h5py.ExternalLink(str(other), "/w")
        file["outside"] = h5py.ExternalLink(str(other), "/")
        file["soft"] = h5py.SoftLink("/w")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["group/up"] = h5py.SoftLink("/")
    assert [info.name for info in list_tensors(h5_path)] == ["w"]
    for name in ("external", "outside/w", "soft", "dangling", "group/up/w"):
        refused(h5_path, "soft or external link", "not followed", tensor=name)
    with open_source(h5_path) as source:
        assert source.name == "w"


def test_hdf5_groups_that_hold_themselves(h5_path: Path) -> None:
    with h5py.File(h5_path, "a") as file:
        file["group/deep"] = matrix_of("float32", 3)
        file["group/again"] = file["group"]
        file["group/root"] = file["/"]
        file["same"] = file["w"]
    assert sorted(info.shape for info in list_tensors(h5_path)) == [(3, DIM), (ROWS, DIM)]
    with open_source(h5_path, "group/again/again/deep") as source:
        assert source.rows == 3


def test_hdf5_deep_groups(h5_path: Path) -> None:
    with h5py.File(h5_path, "a") as file:
        group = file
        for _ in range(1500):
            group = group.create_group("g")
        group["bottom"] = np.zeros((2, 2))
    assert [info.shape for info in list_tensors(h5_path)] == [(2, 2), (ROWS, DIM)]
    with open_source(h5_path, "g/" * 1500 + "bottom") as source:
        assert source.rows == 2


@pytest.mark.parametrize("name", ["", "/", ".", "w/w", "w/.", "./w", "..", "group", "a//b"])
def test_hdf5_names_that_are_no_dataset(h5_path: Path, name: str) -> None:
    with h5py.File(h5_path, "a") as file:
        file.create_group("group")
    refused(h5_path, "has no tensor", tensor=name, error=TensorError)


def test_hdf5_external_storage_refused(h5_path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 64)
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("w", (4, 4), "f4", external=[(str(secret), 0, 64)])
    refused(h5_path, "tensor 'w' lies in external files")


def test_hdf5_virtual_dataset_refused(h5_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    shutil.copy(h5_path, other)
    with h5py.File(h5_path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((ROWS, DIM), "f4")
        layout[:] = h5py.VirtualSource(str(other), "w", (ROWS, DIM))
        file.create_virtual_dataset("v", layout)
    refused(h5_path, "tensor 'v' is a virtual dataset")


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 4)}])
def test_hdf5_never_written_refused(h5_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(h5_path, "w") as file:
        file.create_dataset("w", (2**40, 4), "f4", **options)
    refused(h5_path, "tensor 'w' expected data, found none")


def test_hdf5_filters_that_are_not_there(h5_path: Path) -> None:
    with h5py.File(h5_path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4, 4))
        plan.set_filter(60_000, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8, 8)), plan)
    refused(h5_path, "compressed with filter 60000", "hdf5plugin")


def make_enum(file: Any) -> None:
    file.create_dataset("x", (4, 4), h5py.enum_dtype({"RED": 0}, "u1"))


def make_bitfield(file: Any) -> None:
    h5py.h5d.create(file.id, b"x", h5py.h5t.STD_B8LE, h5py.h5s.create_simple((4, 4)))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda file: file.create_dataset("x", (4, 4), bool), "enum"),
        (make_enum, "enum"),
        (make_bitfield, "bitfield"),
        (lambda file: file.create_dataset("x", (4, 4), "c8"), "complex64"),
        (lambda file: file.create_dataset("x", (4, 4), h5py.string_dtype()), "object"),
        (lambda file: file.create_dataset("x", (4, 4), h5py.vlen_dtype("f4")), "object"),
        (lambda file: file.create_dataset("x", (4, 4), "S3"), "|S3"),
        (lambda file: file.create_dataset("x", (4, 4), "V2"), "V2"),
        (lambda file: file.create_dataset("x", (4, 4), [("float32", "u1")]), "float32"),
        (lambda file: file.create_dataset("x", (4, 4), np.longdouble), np.dtype(np.longdouble).name),
        (lambda file: file.create_dataset("x", (4,), "f4"), "has shape (4,)"),
        (lambda file: file.create_dataset("x", (4, 4, 4), "f4"), "has shape (4, 4, 4)"),
        (lambda file: file.create_dataset("x", (4, 0), "f4"), "expected at least 1 column"),
        (lambda file: file.create_dataset("x", data=1.0), "has shape ()"),
        (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "has shape ()"),
    ],
)
def test_hdf5_types_and_shapes_refused(h5_path: Path, make: Callable[[Any], Any], word: str) -> None:
    with h5py.File(h5_path, "a") as file:
        make(file)
    refused(h5_path, "tensor 'x'", word, "expected", tensor="x")
    with open_source(h5_path) as source:  # the only matrix all the same
        assert source.name == "w"


def test_hdf5_store_refused(h5_path: Path) -> None:
    with h5py.File(h5_path, "a") as file:
        file.attrs["format"] = np.bytes_(b"qstore")
    refused(h5_path, "is a qstore store already", "qstore.open")
    with pytest.raises(SourceError, match="is a qstore store already"):
        list_tensors(h5_path)


@pytest.mark.parametrize(
    "value", ["qstore", np.bytes_(b"other"), 7, np.array([b"qstore"]), np.bytes_(b"q" * 1000)]
)
def test_hdf5_other_formats_are_no_stores(h5_path: Path, value: Any) -> None:
    with h5py.File(h5_path, "a") as file:
        file.attrs["format"] = value
    with open_source(h5_path) as source:
        assert source.rows == ROWS


def test_hdf5_damage_never_escapes(h5_path: Path) -> None:
    with h5py.File(h5_path, "w", libver="latest") as file:
        file.create_dataset("g/w", data=matrix_of("float32", 40), chunks=(10, 3), compression="gzip")
        file["v"] = np.zeros(3)
    whole = h5_path.read_bytes()
    rng = np.random.default_rng(3)
    outcomes = {True: 0, False: 0}
    for place in rng.choice(len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        h5_path.write_bytes(damaged)
        try:
            with open_source(h5_path) as source:
                list(source.chunks())
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert outcomes[False] > 50
    assert outcomes[True] > 0


def test_hdf5_reads_through_one_descriptor(h5_path: Path) -> None:
    for name in ("contiguous", "chunked"):
        with h5py.File(h5_path, "w") as file:
            file.create_dataset("w", data=matrix_of("float32"), chunks=(10, 2) if name == "chunked" else None)
        with ExitStack() as stack:
            before = len(os.listdir("/proc/self/fd"))
            stack.enter_context(open_source(h5_path))
            assert len(os.listdir("/proc/self/fd")) == before + 1


def test_hdf5_rows_that_are_claimed_to_be_huge(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("m", shape=(1, 1 << 31), dtype="f8", chunks=(1, 1024))[0, 0] = 1
    refused(tmp_path / "x.h5", "rows of 17179869184 bytes", "contiguous")
