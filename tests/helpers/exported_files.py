"""A store to export, and its exports read by hand, without the libraries of the formats."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.exporting import parquet, selection, word2vec
from qstore.exporting.formats import FORMATS

__all__ = [
    "DTYPES",
    "NAME",
    "SUFFIXES",
    "WITHOUT_LIBRARY",
    "read_back",
    "read_binary",
    "read_safetensors",
    "read_text",
    "read_torch",
    "store_to_export",
    "use_small_blocks",
    "values_of",
]


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


@contextmanager
def store_to_export(folder: Path) -> Iterator[qstore.Store]:
    """A store of a tensor with a name, with a row of zeros, a huge row and a tiny row."""
    values = np.random.default_rng(7).standard_normal((3001, 48)).astype(np.float32)
    values[5] = 0
    values[17] *= 1e4
    values[18] *= 1e-30
    with h5py.File(folder / "in.hdf5", "w") as file:
        file[NAME] = values
    qstore.build(folder / "in.hdf5", folder / "store.h5")
    with qstore.open(folder / "store.h5") as opened:
        yield opened


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows: everything comes in many pieces."""
    monkeypatch.setattr(selection, "_BLOCK_VALUES", 100 * 48)
    monkeypatch.setattr(word2vec, "_TEXT_VALUES", 100 * 48)
    monkeypatch.setattr(parquet, "_ROW_GROUP_VALUES", 1000 * 48)


def values_of(store: qstore.Store, dtype: str = "float32") -> NDArray[Any]:
    return store.astype(dtype)[:]


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
