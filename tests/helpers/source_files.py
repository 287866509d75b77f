"""Matrices put into files of a format: .npy, HDF5, safetensors, and safetensors in several files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.lib.format as npy_format
from numpy.typing import NDArray
from source_contract import NUMPY_TYPES, Make

__all__ = [
    "SAFETENSORS_NAMES",
    "make_hdf5",
    "make_npy",
    "make_safetensors",
    "make_sharded",
    "safetensors_bytes",
    "with_header",
]


SAFETENSORS_NAMES = {
    name: name[0].upper() + name.lstrip("abcdefghijklmnopqrstuvwxyz") for name in NUMPY_TYPES
}
SAFETENSORS_NAMES |= {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}


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
