"""export: every format read back by hand and by its own library, and nothing left where it fails."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.exporting import FORMATS, parquet, selection, word2vec
from qstore.exporting.npy import NpyFormat
from qstore.exporting.selection import Selection
from qstore.system import durable_files

MakeStore = Callable[..., qstore.Store]

SUFFIXES = {
    "npy": ".npy",
    "safetensors": ".safetensors",
    "word2vec-text": ".txt",
    "word2vec-binary": ".bin",
    "parquet": ".parquet",
    "torch": ".pt",
}
WITHOUT_LIBRARY = [name for name in SUFFIXES if name != "parquet"]
DTYPES = {known.name: known.dtypes for known in FORMATS}
NAME = "embed/words.weight"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    """A store of a tensor with a name, with a row of zeros, a huge row and a tiny row."""
    folder = tmp_path_factory.mktemp("export")
    values = np.random.default_rng(7).standard_normal((3001, 48)).astype(np.float32)
    values[5] = 0
    values[17] *= 1e4
    values[18] *= 1e-30
    with h5py.File(folder / "in.hdf5", "w") as file:
        file[NAME] = values
    qstore.build(folder / "in.hdf5", folder / "store.h5")
    with qstore.open(folder / "store.h5") as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows: everything comes in many pieces."""
    monkeypatch.setattr(selection, "_BLOCK_VALUES", 100 * 48)
    monkeypatch.setattr(word2vec, "_TEXT_VALUES", 100 * 48)
    monkeypatch.setattr(parquet, "_ROW_GROUP_VALUES", 1000 * 48)


def values_of(store: qstore.Store, dtype: str = "float32") -> NDArray[Any]:
    return store.astype(dtype)[:]


# Read by hand -----------------------------------------------------------------------------------------


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    assert data % 8 == 0
    types = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1"}
    found = {}
    for name, about in json.loads(raw[8:data]).items():
        if name != "__metadata__":
            begin, end = (data + offset for offset in about["data_offsets"])
            found[name] = np.frombuffer(raw[begin:end], types[about["dtype"]]).reshape(about["shape"])
    return found


def read_text(path: Path, dtype: str) -> tuple[list[str], NDArray[Any]]:
    first, *lines = path.read_text().splitlines()
    rows, dim = map(int, first.split(" "))
    fields = [line.split(" ") for line in lines]
    return [line[0] for line in fields], np.array([line[1:] for line in fields], dtype).reshape(rows, dim)


def read_binary(path: Path) -> tuple[list[str], NDArray[Any]]:
    raw = path.read_bytes()
    first, _, body = raw.partition(b"\n")
    rows, dim = map(int, first.split())
    words, vectors = [], []
    for _ in range(rows):
        word, _, body = body.partition(b" ")
        words.append(word.decode())
        vectors.append(np.frombuffer(body[: 4 * dim], "<f4"))
        assert body[4 * dim : 4 * dim + 1] == b"\n"
        body = body[4 * dim + 1 :]
    assert body == b""
    return words, np.array(vectors, np.float32).reshape(rows, dim)


class StateDict(pickle.Unpickler):
    """The pickle of a torch file, without torch."""

    archive: zipfile.ZipFile

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if module == "torch":
            return {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8"}[name]
        return {("collections", "OrderedDict"): dict}[module, name]

    def persistent_load(self, about: Any) -> NDArray[Any]:
        kind, dtype, key, location, count = about
        assert (kind, location) == ("storage", "cpu")
        values = np.frombuffer(self.archive.read(f"archive/data/{key}"), dtype)
        assert len(values) == count
        return values

    @staticmethod
    def tensor(
        values: Any, offset: int, shape: Any, strides: Any, gradient: bool, hooks: Any
    ) -> NDArray[Any]:
        assert (offset, strides, gradient, hooks) == (0, (shape[1], 1), False, {})
        return np.asarray(values).reshape(shape)


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/version") == b"3\n"
        with archive.open("archive/data.pkl") as pickled:
            reader = StateDict(pickled)
            reader.archive = archive
            found: dict[str, NDArray[Any]] = reader.load()
    return found


def read_back(path: Path, dtype: str) -> NDArray[Any]:
    """The matrix in a file of any format."""
    readers: dict[str, Callable[[], NDArray[Any]]] = {
        ".npy": lambda: np.load(path),
        ".safetensors": lambda: read_safetensors(path)[NAME],
        ".txt": lambda: read_text(path, dtype)[1],
        ".bin": lambda: read_binary(path)[1],
        ".pt": lambda: read_torch(path)[NAME],
    }
    found = readers[path.suffix]()
    assert found.dtype == dtype
    return found


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in WITHOUT_LIBRARY for dtype in DTYPES[name]]
)
def test_values_are_those_of_the_store(store: qstore.Store, tmp_path: Path, name: str, dtype: str) -> None:
    path = tmp_path / f"out{SUFFIXES[name]}"
    report = qstore.export(store, path, dtype=dtype)
    np.testing.assert_array_equal(read_back(path, dtype), values_of(store, dtype))
    assert (report.path, report.format, report.rows, report.dim) == (str(path), name, 3001, 48)
    assert (report.dtype, report.file_bytes) == (dtype, path.stat().st_size)
    assert report.seconds > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_quantizing_an_export_gives_the_same_codes(
    store: qstore.Store, tmp_path: Path, name: str, dtype: str
) -> None:
    if dtype in DTYPES[name]:
        path = tmp_path / f"out{SUFFIXES[name]}"
        qstore.export(store, path, dtype=dtype)
        codes, scales = qstore.quantize(read_back(path, dtype))
        np.testing.assert_array_equal(codes, store.codes)
        if dtype == "float64":
            np.testing.assert_array_equal(scales, store.scales)


def test_codes_and_scales(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    assert qstore.export(store, path, codes=True).dtype == "uint8"
    found = read_safetensors(path)
    np.testing.assert_array_equal(found["codes"], store.codes)
    np.testing.assert_array_equal(found["scales"], store.scales)
    raw = path.read_bytes()
    about = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert about == {"tensor": NAME, "zero_point": "128", "formula": "(codes - 128) * scales"}


@pytest.mark.parametrize("rows", [(0, 0), (1, 2), (250, None), slice(-7, None), slice(5, 1205)])
@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_some_rows(store: qstore.Store, tmp_path: Path, name: str, rows: Any) -> None:
    path = tmp_path / f"out{SUFFIXES[name]}"
    report = qstore.export(store, path, rows=rows)
    expected = store[rows if isinstance(rows, slice) else slice(*rows)]
    assert report.rows == len(expected)
    np.testing.assert_array_equal(read_back(path, "float32"), expected)


def test_some_rows_of_codes(store: qstore.Store, tmp_path: Path) -> None:
    qstore.export(store, tmp_path / "out.safetensors", codes=True, rows=(90, 301))
    found = read_safetensors(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(found["codes"], store.codes[90:301])
    np.testing.assert_array_equal(found["scales"], store.scales[90:301])


def test_row_numbers_and_keys_are_words(store: qstore.Store, tmp_path: Path) -> None:
    keys = [f"wörd-{row}" for row in range(3001)]
    for suffix, read in ((".txt", lambda path: read_text(path, "float32")), (".bin", read_binary)):
        qstore.export(store, tmp_path / f"numbers{suffix}", rows=(98, 205))
        assert read(tmp_path / f"numbers{suffix}")[0] == [str(row) for row in range(98, 205)]
        qstore.export(store, tmp_path / f"keys{suffix}", rows=(98, 205), keys=keys)
        assert read(tmp_path / f"keys{suffix}")[0] == keys[98:205]


def test_a_tensor_without_a_name_is_weight(make_store: MakeStore, tmp_path: Path) -> None:
    opened = make_store(np.ones((2, 3)))
    qstore.export(opened, tmp_path / "out.pt")
    qstore.export(opened, tmp_path / "out.safetensors")
    assert list(read_torch(tmp_path / "out.pt")) == ["weight"]
    assert list(read_safetensors(tmp_path / "out.safetensors")) == ["weight"]


def test_text_has_the_shortest_exact_numbers(make_store: MakeStore, tmp_path: Path) -> None:
    values = np.array([[0.25, -12.7], [3e-9, 1e22]])
    opened = make_store(values)
    qstore.export(opened, tmp_path / "out.vec", dtype="float64")
    lines = [f"{row} {' '.join(map(repr, opened.astype('float64')[row].tolist()))}" for row in range(2)]
    assert (tmp_path / "out.vec").read_text() == "\n".join(["2 2", *lines, ""])
    qstore.export(opened, tmp_path / "out.txt")
    lines = [f"{row} {' '.join(map(str, opened[row]))}" for row in range(2)]
    assert (tmp_path / "out.txt").read_text() == "\n".join(["2 2", *lines, ""])


def test_a_path_a_store_of_another_type_and_an_engine_agree(store: qstore.Store, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.pt" for number in range(3)]
    qstore.export(store.path, paths[0])
    qstore.export(store.astype("float64"), paths[1])
    qstore.export(store, str(paths[2]), format="torch")
    assert len({path.read_bytes() for path in paths}) == 1  # no clock, no random id


def test_values_of_a_torch_file_are_aligned(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.pt"
    qstore.export(store, path)
    position = path.read_bytes().index(store[:100].tobytes())
    assert position % 64 == 0


def test_sizes_beyond_32_bits_in_a_torch_file(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 1000)
        qstore.export(store, tmp_path / "out.pt")
    np.testing.assert_array_equal(read_torch(tmp_path / "out.pt")[NAME], store[:])
    torch = pytest.importorskip("torch", reason="torch is not installed")
    np.testing.assert_array_equal(torch.load(tmp_path / "out.pt", weights_only=True)[NAME], store[:])


# Read by each format's own library --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES["safetensors"])
def test_safetensors_reads_it(store: qstore.Store, tmp_path: Path, dtype: str) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    qstore.export(store, tmp_path / "out.safetensors", dtype=dtype)
    np.testing.assert_array_equal(
        library.load_file(tmp_path / "out.safetensors")[NAME], values_of(store, dtype)
    )
    qstore.export(store, tmp_path / "codes.safetensors", codes=True)
    found = library.load_file(tmp_path / "codes.safetensors")
    np.testing.assert_array_equal(found["codes"], store.codes)
    np.testing.assert_array_equal(found["scales"], store.scales)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", DTYPES["torch"])
def test_torch_reads_it(store: qstore.Store, tmp_path: Path, dtype: str, mmap: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for rows in ((0, 3001), (0, 0)):
        path = tmp_path / f"{rows[1]}.pt"
        qstore.export(store, path, dtype=dtype, rows=rows)
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert list(found) == [NAME]
        np.testing.assert_array_equal(found[NAME].numpy(), values_of(store, dtype)[: rows[1]])
    module = torch.nn.Embedding(3001, 48, dtype=getattr(torch, dtype))
    qstore.export(store, tmp_path / "whole.pt", dtype=dtype)
    state = torch.load(tmp_path / "whole.pt", weights_only=True, mmap=mmap)
    module.load_state_dict({"weight": state[NAME]})
    np.testing.assert_array_equal(module.weight.detach().numpy(), values_of(store, dtype))


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_gensim_reads_it(store: qstore.Store, tmp_path: Path, suffix: str) -> None:
    gensim = pytest.importorskip("gensim.models", reason="gensim is not installed")
    keys = [f"wörd-{row}" for row in range(3001)]
    qstore.export(store, tmp_path / f"out{suffix}", keys=keys)
    found = gensim.KeyedVectors.load_word2vec_format(tmp_path / f"out{suffix}", binary=suffix == ".bin")
    assert found.index_to_key == keys
    np.testing.assert_array_equal(found.vectors, store[:])


@pytest.mark.parametrize("dtype", DTYPES["parquet"])
def test_pyarrow_reads_it(store: qstore.Store, tmp_path: Path, dtype: str) -> None:
    library = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "out.parquet"
    qstore.export(store, path, dtype=dtype)
    table = library.read_table(path)
    assert table.column_names == ["embedding"]
    assert table.schema.field("embedding").type.list_size == 48
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 48), values_of(store, dtype))
    if dtype != "float16":
        np.testing.assert_array_equal(qstore.quantize(flat.reshape(-1, 48))[0], store.codes)
    keys = [f"key {row}" for row in range(3001)]  # blanks are fine here
    qstore.export(store, path, dtype=dtype, keys=keys, rows=(700, 2300), overwrite=True)
    table = library.read_table(path)
    assert table["key"].to_pylist() == keys[700:2300]
    assert library.ParquetFile(path).num_row_groups == 2
    qstore.export(store, path, dtype=dtype, rows=(0, 0), overwrite=True)
    assert library.read_table(path).num_rows == 0


def test_pyarrow_missing(store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[parquet\]"'):
        qstore.export(store, tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == []


# Built again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SUFFIXES)
def test_building_from_an_export_gives_the_same_codes(
    store: qstore.Store, tmp_path: Path, name: str, dtype: str
) -> None:
    if dtype not in DTYPES[name]:
        return
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / f"out{SUFFIXES[name]}"
    qstore.export(store, path, dtype=dtype)
    qstore.build(path, tmp_path / "again.h5")
    with qstore.open(tmp_path / "again.h5") as again:
        np.testing.assert_array_equal(again.codes, store.codes)


# What cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xyz", {}, r"out\.xyz tells no format: expected .*\.npy \(npy\)"),
        ("out.npy", {"format": "xyz"}, "format is 'xyz', expected one of npy, "),
        ("out.npy", {"dtype": "int8"}, "npy holds float32 or float64 or float16, found dtype 'int8'"),
        ("out.bin", {"dtype": "float64"}, "word2vec-binary holds float32, found dtype 'float64'"),
        ("out.npy", {"codes": True}, "codes can only be exported to safetensors"),
        ("out.safetensors", {"codes": True, "dtype": "float64"}, "without a dtype"),
        ("out.npy", {"keys": ["a"] * 3001}, "npy has no place for keys: leave keys out, or choose word2vec"),
        ("out.txt", {"keys": ["a"]}, "there are 1 keys, expected one for each of the store's 3001 rows"),
        ("out.txt", {"keys": ["a"] * 3000 + ["b c"]}, r"key of row 3000 is 'b c', .* export to \.parquet"),
        ("out.txt", {"keys": [""] * 3001}, "key of row 0 is ''"),
        ("out.bin", {"keys": ["a"] * 500 + ["x\n"] * 2501}, r"key of row 500 is 'x\\n'"),
        ("out.bin", {"keys": [7] * 3001}, "key of row 0 is 7, expected text"),
        ("out.bin", {"keys": ["\ud800"] * 3001}, "key of row 0 is '.ud800', expected text"),
    ],
)
def test_what_cannot_be_exported(
    store: qstore.Store, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(qstore.ExportError, match=message):
        qstore.export(store, tmp_path / name, **options)
    assert os.listdir(tmp_path) == []


def test_the_store_itself_is_not_replaced(store: qstore.Store) -> None:
    before = Path(store.path).read_bytes()
    with pytest.raises(qstore.ExportError, match="is the store itself"):
        qstore.export(store, store.path, format="npy", overwrite=True)
    assert Path(store.path).read_bytes() == before


@pytest.mark.parametrize("rows", [(0, 3002), slice(0, 10, 2)])
def test_rows_that_are_not_there(store: qstore.Store, tmp_path: Path, rows: Any) -> None:
    with pytest.raises(qstore.SourceError, match="rows"):
        qstore.export(store, tmp_path / "out.npy", rows=rows)


def test_what_is_there_is_replaced_only_when_asked(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_text("precious")
    (tmp_path / "link.npy").symlink_to(path)
    for name in (path, tmp_path / "link.npy"):
        with pytest.raises(qstore.ExistsError, match="overwrite=True"):
            qstore.export(store, name)
    assert path.read_text() == "precious"
    qstore.export(store, tmp_path / "link.npy", overwrite=True)
    assert (tmp_path / "link.npy").is_symlink()
    np.testing.assert_array_equal(np.load(path), store[:])


def test_places_that_cannot_be_written(store: qstore.Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (
        ("pipe.npy", "not a regular file"),
        ("folder.npy", "is a directory"),
        ("no/out.npy", "there is no directory"),
    ):
        with pytest.raises(qstore.OutputError, match=message):
            qstore.export(store, tmp_path / name, overwrite=True)


def test_an_output_that_appears_meanwhile_is_kept(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    with pytest.raises(qstore.ExistsError):
        qstore.export(store, path, progress=lambda done, total: path.write_text("precious"))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["out.npy"]


# Interrupted, full, large -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.usefixtures("no_leaks")
def test_an_interrupted_export_leaves_nothing(store: qstore.Store, tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")

    def stop(done: int, total: int | None) -> None:
        assert total == 3001
        if done >= 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.export(store.path, tmp_path / f"out{SUFFIXES[name]}", progress=stop)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.usefixtures("no_leaks")
def test_a_full_disk(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codes: bool
) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    if codes and name != "safetensors":
        return
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited here")
    signal = pytest.importorskip("signal")
    monkeypatch.setattr(durable_files, "allocate", lambda fd, size: None)
    (tmp_path / "out").mkdir()
    kept, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # EFBIG stands for ENOSPC
        with pytest.raises(qstore.OutputError, match=r"cannot write .*/out/out\."):
            qstore.export(store.path, tmp_path / "out" / f"out{SUFFIXES[name]}", codes=codes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, kept)
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk_is_told_before_anything_is_read(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def full(fd: int, size: int) -> None:
        asked.append(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files, "allocate", full)
    monkeypatch.setattr(Selection, "blocks", pytest.fail)
    with pytest.raises(qstore.OutputError, match="No space left on device; free some space"):
        qstore.export(store, tmp_path / "out.npy")
    assert asked == [3001 * 48 * 4]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_space_reserved_is_never_more_than_the_file(
    store: qstore.Store, tmp_path: Path, name: str
) -> None:
    known = next(known for known in FORMATS if known.name == name)
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    qstore.export(store, tmp_path / "out", format=name)
    chosen = Selection(store, 0, 3001, None, "text", lambda count: None)
    assert 0 <= known.least_size(chosen) <= (tmp_path / "out").stat().st_size
    assert known.least_size(chosen) in (0, store.nbytes)


@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_memory_is_that_of_a_block(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(selection, "_BLOCK_VALUES", 1 << 15)
    monkeypatch.setattr(word2vec, "_TEXT_VALUES", 1 << 12)
    rows = 4_000 if name == "word2vec-text" else 60_000
    opened = make_store(np.ones((rows, 64), np.float32))
    tracemalloc.start()
    try:
        qstore.export(opened, tmp_path / f"out{SUFFIXES[name]}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / f"out{SUFFIXES[name]}").stat().st_size / 2
    assert peak < 1.5e6


def test_what_is_written_is_synced_and_then_named(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{fd}")).name.partition(".tmp")[0][:7])
        fsync(fd)

    def replaced(source: Path, target: Path) -> None:
        events.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    qstore.export(store, tmp_path / "out.npy")
    assert events == ["sync out.npy", "replace out.npy", f"sync {tmp_path.name[:7]}"]


def test_two_outputs_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with durable_files.atomic_output(tmp_path / "x") as one:
        with durable_files.atomic_output(tmp_path / "x") as other:
            other.write(b"other")
        one.write(b"one")
    assert (tmp_path / "x").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("codes", [False, True])
def test_progress(store: qstore.Store, tmp_path: Path, codes: bool) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "out.safetensors"
    qstore.export(store, path, codes=codes, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3001, 3001)
    assert len(seen) > 5


# The command ------------------------------------------------------------------------------------------


def test_command(store: qstore.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", store.path, "-o", str(tmp_path / "out.npy"), "--rows", "-5:", "--dtype", "float64"]
    assert main(words) == 0
    assert "5 × 48 float64" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), values_of(store, "float64")[-5:])
    assert main(words) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(qstore.ExportReport.__dataclass_fields__)
    assert main([*words, "--force", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_command_with_codes_and_a_format(store: qstore.Store, tmp_path: Path) -> None:
    words = ["export", store.path, "--codes", "--format", "safetensors", "-q", "-o"]
    assert main([*words, str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(read_safetensors(tmp_path / "out")["codes"], store.codes)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-o", "out.xyz"], 2),
        (["-o", "out.npy", "--codes"], 2),
        (["-o", "out.npy", "--dtype", "int8"], 2),
        (["-o", "out.npy", "--rows", "0:9:2"], 2),
        (["-o", "out.npy", "--rows", "0:4000"], 1),
        ([], 2),
    ],
)
def test_command_used_wrongly(
    store: qstore.Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", store.path, *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: " in captured.err
    assert os.listdir(tmp_path) == []


def test_every_format_is_tested() -> None:
    assert set(SUFFIXES) == {known.name for known in FORMATS}
    suffixes = [suffix for known in FORMATS for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_an_error_of_the_system_names_the_output(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: NpyFormat, file: BinaryIO, chosen: Selection) -> None:
        file.write(b"some")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(NpyFormat, "write", broken)
    with pytest.raises(qstore.OutputError, match="Input/output error"):
        qstore.export(store, tmp_path / "out.npy")
    assert os.listdir(tmp_path) == []
