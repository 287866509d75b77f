"""HDF5: the contract, exact values, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import DIM, NUMPY_TYPES, ROWS, Maker, SourceContract, files_open_in, matrix_of, refused
from source_files import make_hdf5

from qstore.errors import SourceError, TensorError
from qstore.sources import TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


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


FILES = {
    "hdf5": Maker(make_hdf5()),
    "hdf5-named": Maker(make_hdf5(), "layers/0/weight"),
    "hdf5-slash": Maker(make_hdf5(), "/layers/0/weight"),
    "hdf5-userblock": Maker(make_hdf5(userblock=512)),
    "hdf5-gzip": Maker(
        make_hdf5(chunks=(100, 3), compression="gzip", maxshape=(None, None)), working_memory=1 << 20
    ),
    "hdf5-compact": Maker(make_compact, read_at_opening=True),  # HDF5 reads it with the header
    "hdf5-converted": Maker(make_converted, working_memory=1 << 21),
}


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = FILES


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
    refused(h5_path, "says that it is a qstore store, but it has no attribute 'version'", "restore the file")
    with pytest.raises(SourceError, match="says that it is a qstore store"):
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
