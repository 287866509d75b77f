"""What an error tells to do is done here, as it stands in the message, and must work."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from source_contract import matrix_of, refused, same
from torch_files import checkpoint, state, tensor

import qstore
from qstore.cli import main
from qstore.engine.quantization import marker_dtype, to_float64
from qstore.errors import SourceError, TensorError
from qstore.sources import RawSource, list_tensors, open_source

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
"""Values of float8, too."""


def done(error: Exception, pattern: str, **names: Any) -> Any:
    """What the expression gives that stands in a message; the pattern is that of its text."""
    found = re.search(pattern, str(error))
    assert found, str(error)
    modules = ("numpy.lib.recfunctions", "ml_dtypes", "safetensors.torch", "torch", "h5py")
    for module in modules:
        if module.split(".")[0] in found[0]:
            importlib.import_module(module)
    known = {word: sys.modules.get(word) for word in ("numpy", "ml_dtypes", "safetensors", "torch", "h5py")}
    return eval(found[0], {**known, "np": np, **names})


def content(source: Any, tensor: str | None = None) -> Any:
    with open_source(source, tensor) as opened:
        return np.concatenate([np.empty((0, opened.dim)), *map(to_float64, opened.chunks())])


def error_of(source: Any, tensor: str | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        content(source, tensor)
    return caught.value


# ---------------------------------------------------------------- types that NumPy has


NUMPY_TYPES: list[tuple[Any, str]] = [
    (VALUES > 0, r"values\.astype\('float32'\)"),
    (VALUES.astype(np.longdouble), r"values\.astype\('float32'\)"),
    (VALUES.astype(object), r"values\.astype\('float32'\)"),
    (VALUES.astype("U8"), r"values\.astype\('float32'\)"),
    (VALUES.astype("S8"), r"values\.astype\('float32'\)"),
    (VALUES.astype(int).astype("M8[s]"), r"values\.astype\('float32'\)"),
    (VALUES + 1j * VALUES, r"values\.real"),
    (VALUES - 1j * VALUES, r"values\.real"),
]


@pytest.mark.parametrize(("values", "pattern"), NUMPY_TYPES)
def test_arrays(values: Any, pattern: str) -> None:
    expected = values.real if values.dtype.kind == "c" else values.astype("float64")
    for source in (values, [values], iter([values])):
        assert same(content(done(error_of(source), pattern, values=values)), expected)
    with pytest.raises(SourceError) as caught:
        qstore.quantize(values)
    codes, scales = qstore.quantize(done(caught.value, pattern.replace("values", "x"), x=values))
    assert np.array_equal(codes, qstore.quantize(expected)[0])
    assert np.array_equal(scales, qstore.quantize(expected)[1])


def test_imaginary_parts_are_not_dropped() -> None:
    values = VALUES + 1j * (VALUES + 1)
    error = error_of(values)
    assert "astype" not in str(error)
    assert same(content(done(error, r"values\.imag", values=values)), values.imag)


def test_records() -> None:
    """As np.genfromtxt makes them: one dimension, and fields."""
    records = np.array([(1.0, 2), (3.0, 4)], [("a", "<f4"), ("b", "<i4")])
    pattern = r"numpy\.lib\.recfunctions\.structured_to_unstructured\(\w+\)"
    assert content(done(error_of(records), pattern, values=records)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(SourceError) as caught:
        qstore.quantize(records)
    assert done(caught.value, pattern, x=records).tolist() == [[1, 2], [3, 4]]


def test_files_of_records(tmp_path: Path) -> None:
    records = np.array([(1.0, 2), (3.0, 4)], [("a", "<f4"), ("b", "<i4")])
    path = tmp_path / "r.npy"
    np.save(path, records)
    pattern = r"numpy\.lib\.recfunctions\.structured_to_unstructured\(np\.load\(path\)\)"
    assert content(done(error_of(path), pattern, path=path)).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("values", [values for values, _ in NUMPY_TYPES if values.dtype != object])
def test_npy_and_npz(tmp_path: Path, values: Any) -> None:
    expected = values.real if values.dtype.kind == "c" else values.astype("float64")
    path, archive = tmp_path / "x.npy", tmp_path / "x.npz"
    np.save(path, values)
    np.savez(archive, w=values)
    pattern = r"np\.load\(path\)\S*?\.(astype\('float32'\)|real)"
    assert same(content(done(error_of(path), pattern, path=path)), expected)
    assert same(content(done(error_of(archive), pattern, path=archive)), expected)


@pytest.mark.parametrize("values", [VALUES > 0, VALUES + 1j])
def test_hdf5(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a/w"] = values
    error = error_of(path)
    pattern = r"file\['a/w'\]\[:\]\.(astype\('float32'\)|real)"
    with h5py.File(path) as file:
        assert same(content(done(error, pattern, file=file)), np.real(values).astype(float))


def test_enums_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        kind = h5py.enum_dtype({"a": 0, "b": 1}, "i4")
        file.create_dataset("w", data=np.eye(3, dtype="i4"), dtype=kind)
    error = error_of(path)
    with h5py.File(path) as file:
        assert same(content(done(error, r"file\['w'\]\[:\]\.astype\('float32'\)", file=file)), np.eye(3))


def test_pickled_objects(tmp_path: Path) -> None:
    path, values = tmp_path / "x.npy", VALUES.astype(object)
    np.save(path, values)
    error = error_of(path)
    assert "pickle, which is never read" in str(error)
    np.save(path, done(error, r"values\.astype\('float32'\)", values=values))
    assert same(content(path), VALUES)


# ---------------------------------------------------------------- types that NumPy lacks


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_items_without_a_type(tmp_path: Path, name: str, order: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has these types")
    values = VALUES.astype(getattr(ml_dtypes, name))
    values = np.asfortranarray(values) if order == "F" else values
    path, archive, h5 = tmp_path / "x.npy", tmp_path / "x.npz", tmp_path / "x.h5"
    np.save(path, values)
    np.savez(archive, w=values)
    with h5py.File(h5, "w") as file:
        file["w"] = values
    view = r"\.view\(ml_dtypes\.\w+\)"
    error = error_of(path)
    assert same(content(done(error, r"np\.load\(path\)" + view, path=path)), VALUES)
    assert same(content(done(error_of(archive), r"np\.load\(path\)\['w'\]" + view, path=archive)), VALUES)
    with h5py.File(h5) as file:
        assert same(content(done(error_of(h5), r"file\['w'\]\[:\]" + view, file=file)), VALUES)
    lost = np.load(path)
    assert same(content(done(error_of(lost), r"values" + view, values=lost)), VALUES)
    assert ("--raw" in str(error)) == (order == "C")
    if order == "C":
        raw = re.search(r"--raw (\S+)\)", str(error))
        assert raw
        assert same(content(RawSource.from_text(path, raw[1])), VALUES)
        out = tmp_path / "out.h5"
        assert main(["build", str(path), "--raw", raw[1], "-o", str(out), "--quiet"]) == 0
        with qstore.open(out) as store:
            assert store.source_dtype == name
            assert qstore.verify_against(store, VALUES).ok


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_float8_that_numpy_writes_and_cannot_read(tmp_path: Path, version: tuple[int, int]) -> None:
    """float8_e5m2 goes into files as a float of one byte, which nothing else is."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has this type")
    values = VALUES.astype(ml_dtypes.float8_e5m2)
    path, archive = tmp_path / "x.npy", tmp_path / "x.npz"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, values, version)
    with pytest.raises(ValueError, match="not a valid dtype"):
        np.load(path)
    np.savez_compressed(archive, w=values, more=np.zeros(3))
    for source in (path, archive):
        with open_source(source) as opened:
            assert opened.dtype == "float8_e5m2"
        assert same(content(source), values.astype(float))
    assert [info.dtype for info in list_tensors(archive)] == ["float64", "float8_e5m2"]


def test_float8_in_fortran_order(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has this type")
    np.save(tmp_path / "x.npy", np.asfortranarray(VALUES.astype(ml_dtypes.float8_e5m2)))
    assert same(content(tmp_path / "x.npy"), VALUES.astype(ml_dtypes.float8_e5m2).astype(float))


def test_the_words_of_a_float8_header_may_stand_in_data(tmp_path: Path) -> None:
    """Nothing but the place right behind the length of a header counts."""
    words = np.frombuffer(b"\x93NUMPY\x01\x00v\x00{'descr': '<f1',  ", np.uint8)
    np.save(tmp_path / "x.npy", words.reshape(2, -1))
    assert same(content(tmp_path / "x.npy"), words.reshape(2, -1))


def test_items_of_other_sizes_have_no_type(tmp_path: Path) -> None:
    values = np.zeros((2, 3), "V3")
    np.save(tmp_path / "x.npy", values)
    for source in (values, tmp_path / "x.npy"):
        assert "its items have no type: save them as numbers" in str(error_of(source))


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("name", ["bool", "complex64", "complex32", "float8_e4m3fnuz", "float8_e8m0fnu"])
def test_torch(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    values = torch.from_numpy(VALUES).abs().to(getattr(torch, name))
    path = tmp_path / "m.pt"
    torch.save({"w": values, "v": torch.zeros(2)}, path)
    pattern = r"tensor\.(float\(\)|real\.contiguous\(\))"
    expected = (values.real if "complex" in name else values).double().numpy()
    memory, saved = error_of(values), error_of(path, "w")
    assert "give" in str(memory)
    assert "save" in str(saved)
    assert same(content(done(memory, pattern, tensor=values)), expected)
    torch.save({"w": done(saved, pattern, tensor=values)}, path)
    assert same(content(path), expected)


@pytest.mark.parametrize("name", ["bool", "complex64", "float8_e4m3fnuz", "float8_e8m0fnu"])
def test_safetensors(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    library = pytest.importorskip("safetensors.torch", reason="writes with safetensors")
    values = torch.from_numpy(VALUES).abs().to(getattr(torch, name))
    path = tmp_path / "m.safetensors"
    library.save_file({"w": values}, path)
    found = done(error_of(path), r"safetensors\.torch\.load_file\(path\)\['w'\]\.(float\(\)|real)", path=path)
    assert same(content(found), (values.real if "complex" in name else values).double().numpy())


def test_gguf_types_that_are_not_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="writes with gguf")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "test")
    writer.add_tensor("w", VALUES.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = path.read_bytes()
    place = whole.index(b"w" + (2).to_bytes(4, "little")) + 1 + 4 + 16
    path.write_bytes(whole[:place] + (31).to_bytes(4, "little") + whole[place + 4 :])
    refused(path, "GGML type 31, which is not supported; convert it to F16 first", tensor="w")
    path.write_bytes(whole)
    assert same(content(path), VALUES)


# ---------------------------------------------------------------- shapes, names, arguments


def test_other_ranks() -> None:
    cube = np.zeros((4, 3, 2))
    assert "reshape it" in str(error_of(cube))
    with pytest.raises(SourceError) as caught:
        qstore.quantize(cube)
    assert done(caught.value, r"x\.reshape\(len\(x\), -1\)", x=cube).shape == (4, 6)


def test_several_matrices(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=VALUES, b=VALUES + 1)
    refused(path, "choose one with tensor= (--tensor NAME)", error=TensorError)
    assert same(content(path, "b"), VALUES + 1)
    assert main(["build", str(path), "--tensor", "b", "-o", str(tmp_path / "b.h5"), "--quiet"]) == 0
    refused(path, "did you mean 'a'", tensor="A", error=TensorError)


def test_names_where_there_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    (tmp_path / "x.fvecs").write_bytes(b"\3\0\0\0" + VALUES[0].tobytes())
    for path in (tmp_path / "x.npy", tmp_path / "x.fvecs"):
        assert "leave tensor= out" in str(error_of(path, "w"))
        assert content(path).shape[1] == 3
    with pytest.raises(SourceError, match=r"leave tensor='w' out"):
        open_source(VALUES, "w")


def test_archives_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weight=VALUES)
    with np.load(tmp_path / "x.npz") as obj:
        error = error_of(obj)
        assert same(content(done(error, r"obj\['weight'\]", obj=obj)), VALUES)


def test_chunks() -> None:
    refused(iter([]), "for a matrix of 0 rows give one of shape (0, columns)")
    assert content(iter([VALUES[:0]])).shape == (0, 3)
    refused(iter(VALUES), "stack some rows with np.stack, or give row[None, :]")
    for advised in (np.stack(list(VALUES)), VALUES[0][None, :]):
        assert content(iter([advised])).shape[1] == 3
    mixed: list[Any] = [VALUES, VALUES.astype(np.float64)]
    assert "convert all chunks to one type" in str(error_of(mixed))
    assert content([chunk.astype(np.float64) for chunk in mixed]).shape == (8, 3)
    once = open_source(iter([VALUES]))
    assert len(list(once.chunks())) == 1
    with pytest.raises(SourceError, match="make a new one, or give a list of chunks"):
        list(once.chunks())
    again = open_source([VALUES])
    assert len(list(again.chunks())) == len(list(again.chunks())) == 1


def test_masks() -> None:
    masked = np.ma.array(VALUES, mask=VALUES > 5)
    found = (
        done(error_of(masked), r"\.filled\(0\)".replace(r"\.", "masked."), masked=masked) if False else None
    )
    assert found is None
    assert ".filled(0)" in str(error_of(masked))
    assert same(content(masked.filled(0)), np.where(VALUES > 5, 0, VALUES))


def test_dask_arrays_of_unknown_length() -> None:
    array = pytest.importorskip("dask.array", reason="is about Dask arrays")
    lazy = array.from_array(VALUES, chunks=(2, 3))
    some = lazy[lazy[:, 0] > -4]
    assert "call compute_chunk_sizes() first" in str(error_of(some))
    some.compute_chunk_sizes()
    assert same(content(some), VALUES[1:])


def test_inputs_that_differ(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    np.save(tmp_path / "b.npy", VALUES[:, :2])
    refused([tmp_path / "a.npy", tmp_path / "b.npy"], "build a store of each instead")
    for name in ("a", "b"):
        qstore.build(tmp_path / f"{name}.npy", tmp_path / f"{name}.h5")


def test_raw_files(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(VALUES.tobytes() + b"end")
    with pytest.raises(SourceError, match="check type, dim and offset, or give rows="):
        RawSource(path, "float32", 3)
    assert same(content(RawSource(path, "float32", 3, rows=4)), VALUES)


def test_scales_that_are_none() -> None:
    codes, scales = qstore.quantize(VALUES)
    refused((codes, -scales), "quantize the values again")
    codes, scales = qstore.quantize(VALUES)
    with open_source((codes, scales)) as source:
        assert source.rows == 4


# ---------------------------------------------------------------- files


def test_pipes(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is a pipe, socket or device: expected a regular file; save it to one first")
    (tmp_path / "copy.npy").write_bytes((tmp_path / "x.npy").read_bytes())
    assert same(content(tmp_path / "copy.npy"), VALUES)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_of_npz(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.npz"
    file = io.BytesIO()
    np.save(file, VALUES)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("w.npy", file.getvalue())
    refused(path, "save it again with numpy.savez")
    with np.load(path) as held:
        np.savez(tmp_path / "new.npz", **held)
    assert same(content(tmp_path / "new.npz"), VALUES)


def test_compressed_columns_of_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.asfortranarray(VALUES))
    refused(path, "save it again with numpy.savez")
    with np.load(path) as held:
        np.savez(tmp_path / "new.npz", **held)
    assert same(content(tmp_path / "new.npz"), VALUES)


def test_a_member_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """A record of 500 fields has a longer header than NumPy reads without being told so."""
    path = tmp_path / "x.npz"
    np.savez(path, w=VALUES, many=np.zeros(2, [(f"field{number}", "<f4") for number in range(500)]))
    assert [(info.name, info.dtype) for info in list_tensors(path)] == [
        ("many", "opaque (no header that can be read)"),
        ("w", "float32"),
    ]
    assert same(content(path), VALUES)
    refused(path, "tensor 'many' is no .npy file that can be read", tensor="many")


def links_of_hdf5(file: Any) -> Iterator[tuple[str, str]]:
    file["w"] = VALUES
    file["soft"] = h5py.SoftLink("/w")
    yield "soft", "give the name, or the file, of what it points to"
    file["virtual"] = np.zeros(1)
    del file["virtual"]
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(file["w"])
    file.create_virtual_dataset("virtual", layout)
    yield "virtual", "give the files it is made of"
    file.create_dataset("external", (4, 3), "f4", external=[("values.raw", 0, 48)])
    yield "external", "copy it into one file"
    file.create_dataset("empty", (4, 3), "f4")
    yield "empty", "its values were never written; save it again"


def test_hdf5_that_points_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "values.raw").write_bytes(VALUES.tobytes())
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        advice = dict(links_of_hdf5(file))
    for name, words in advice.items():
        assert words in str(error_of(path, name))
    assert same(content(path, "w"), VALUES)
    with h5py.File(path) as file, h5py.File(tmp_path / "copy.h5", "w") as copy:
        copy["external"] = file["external"][:]
        copy["empty"] = VALUES
    assert same(content(tmp_path / "copy.h5", "external"), VALUES)
    assert same(content(tmp_path / "copy.h5", "empty"), VALUES)


def test_filters_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((2, 3))
        plan.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL, (0,))  # Blosc
        space = h5py.h5s.create_simple((4, 3))
        h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, space, plan)
        file.create_dataset("gzip", data=VALUES, compression="gzip")
    if h5py.h5z.filter_avail(32_001):
        pytest.skip("this h5py has Blosc")
    assert "import hdf5plugin first, or save it with gzip" in str(error_of(path, "w"))
    assert same(content(path, "gzip"), VALUES)


@pytest.mark.parametrize("attributes", [("scale_factor", "add_offset"), ("scale_factor",), ("add_offset",)])
def test_packed_values_of_netcdf(tmp_path: Path, attributes: tuple[str, ...]) -> None:
    """What netCDF keeps are whole numbers; its attributes make the values of them."""
    path, packed = tmp_path / "x.nc", np.arange(12, dtype=np.int16).reshape(4, 3)
    with h5py.File(path, "w") as file:
        file["v"] = packed
        for name, value in zip(attributes, (0.5, -3.0), strict=False):
            file["v"].attrs[name] = value
    error = error_of(path)
    with h5py.File(path) as file:
        known = {
            name: file["v"].attrs.get(name, other) for name, other in (("scale_factor", 1), ("add_offset", 0))
        }
        values = done(error, r"file\['v'\]\[:\] \* scale_factor \+ add_offset", file=file, **known)
    assert same(content(values), packed * known["scale_factor"] + known["add_offset"])


@pytest.mark.parametrize(
    ("dtype", "said", "other"),
    [("i1", "true", "u1"), ("i2", np.bytes_("true"), "u2"), ("u1", "False", "i1"), (">i2", "true", None)],
)
def test_numbers_of_netcdf_whose_type_says_otherwise(
    tmp_path: Path, dtype: str, said: Any, other: str | None
) -> None:
    path, given = tmp_path / "x.nc", np.arange(-6, 6).astype(dtype).reshape(4, 3)
    with h5py.File(path, "w") as file:
        file["v"] = given
        file["v"].attrs["_Unsigned"] = said
    error = error_of(path)
    assert "its attribute _Unsigned" in str(error)
    with h5py.File(path) as file:
        values = done(error, r"file\['v'\]\[:\]\.view\('[<>]?[iu][0-9]'\)", file=file)
    expected = given.view(other) if other else given.astype(np.uint16)
    assert same(content(values), expected)


def test_numbers_of_netcdf_whose_type_says_the_same(tmp_path: Path) -> None:
    for number, (dtype, said) in enumerate([("i1", "false"), ("u1", "true"), ("f4", "true"), ("i1", 1)]):
        path, given = tmp_path / f"{number}.nc", np.arange(12).astype(dtype).reshape(4, 3)
        with h5py.File(path, "w") as file:
            file["v"] = given
            file["v"].attrs["_Unsigned"] = said
        assert same(content(path), given)


def test_a_store_is_copied_as_it_is(tmp_path: Path) -> None:
    qstore.build(VALUES, tmp_path / "s.h5")
    qstore.build(tmp_path / "s.h5", tmp_path / "t.h5")
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "t.h5").read_bytes()


@pytest.mark.parametrize("what", ["compressed", "big-endian"])
def test_checkpoints_to_be_saved_again(tmp_path: Path, what: str) -> None:
    torch = pytest.importorskip("torch", reason="loads with torch")
    path, new_path = tmp_path / "m.pt", tmp_path / "new.pt"
    held = VALUES.astype(">f4") if what == "big-endian" else VALUES
    options = {"byteorder": b"big"} if what == "big-endian" else {"method": zipfile.ZIP_DEFLATED}
    checkpoint(path, state(w=tensor("0", VALUES)), {"0": held.view("V4")}, **options)
    done(
        error_of(path),
        r"torch\.save\(torch\.load\(path, weights_only=True\), new_path\)",
        torch=torch,
        path=path,
        new_path=new_path,
    )
    assert same(content(new_path), VALUES)


def test_strides(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    path, parts = tmp_path / "m.pt", torch.from_numpy(VALUES + 1j * VALUES)
    for view in (parts.real, parts.conj().imag, torch.from_numpy(VALUES)[:, ::2]):
        torch.save({"w": view}, path)
        torch.save({"w": done(error_of(path), r"tensor\.contiguous\(\)", tensor=view)}, path)
        assert same(content(path), view.resolve_neg().numpy())


def test_quantized_around_another_point(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once in a process that these are deprecated
        tensor = torch.quantize_per_channel(
            torch.from_numpy(VALUES), torch.full((4,), 0.5), torch.full((4,), 7), 0, torch.quint8
        )
    path = tmp_path / "m.pt"
    torch.save({"w": tensor}, path)
    for source in (path, tensor):
        error = error_of(source)
        assert "zero point 7" in str(error)
        assert same(
            content(done(error, r"tensor\.dequantize\(\)", tensor=tensor)), tensor.dequantize().numpy()
        )


def test_objects_that_are_no_source() -> None:
    for wrong in (None, 3, b"abc", bytearray(b"abc"), argparse.Namespace()):
        refused(wrong, "is no source: expected a path, an array of shape (rows, columns), or an iterable")


def test_types_that_a_raw_source_has() -> None:
    with pytest.raises(SourceError, match=r"expected one of float16, .*bfloat16"):
        RawSource("x", "float80", 3)
    assert marker_dtype("bfloat16").itemsize == 2


def test_matrices_of_columns_alone(tmp_path: Path) -> None:
    """The only tensor of a file is named by what is wrong with it."""
    np.savez(tmp_path / "x.npz", w=matrix_of("float32").reshape(-1))
    refused(tmp_path / "x.npz", "tensor 'w' has shape (1285,): expected 2 dimensions")
