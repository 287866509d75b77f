"""Checkpoints of quantized weights: those that libraries wrote, taken apart and put together otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from source_files import with_header

from qstore.sources import QuantizedSource, RowSource

__all__ = ["LIBRARIES", "Held", "check", "matrix", "of_library", "read", "save", "save_sharded"]

_DATA = Path(__file__).parents[1] / "data" / "quantized"
LIBRARIES = sorted(path.name for path in _DATA.iterdir())
"""Names of the checkpoints that libraries wrote."""


@dataclass(frozen=True)
class Held:
    """A tensor of a file, in the format's own words."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def rows(self, *picked: int) -> Held:
        """Only these rows."""
        size = len(self.data) // self.shape[0]
        data = b"".join(self.data[row * size : (row + 1) * size] for row in picked)
        return replace(self, shape=(len(picked), *self.shape[1:]), data=data)


def of_library(name: str) -> Path:
    """Directory of one of :data:`LIBRARIES`."""
    return _DATA / name


def _expected(name: str, what: str) -> NDArray[Any] | None:
    path = of_library(name) / f"{what}.npy"
    return np.load(path) if path.exists() else None


def check(source: Any, name: str) -> None:
    """What the library says, in any slices."""
    assert isinstance(source, RowSource)
    whole = source.read(0, source.rows)
    for start, stop in ((0, 0), (1, 2), (3, source.rows), (source.rows, source.rows)):
        np.testing.assert_array_equal(source.read(start, stop), whole[start:stop])
    values = _expected(name, "values")
    if values is None:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(0, source.rows)
        np.testing.assert_array_equal(codes, _expected(name, "codes"))
        np.testing.assert_array_equal(scales, _expected(name, "scales"))
    else:
        np.testing.assert_array_equal(whole.astype(np.float32), values)
        assert whole.dtype == (np.float64 if isinstance(source, QuantizedSource) else np.float32)


def read(path: Path) -> tuple[dict[str, Held], dict[str, str]]:
    """Tensors and metadata of a file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    data = content[8 + size :]
    return {
        name: Held(one["dtype"], tuple(one["shape"]), data[slice(*one["data_offsets"])])
        for name, one in header.items()
    }, metadata


def save(path: Path, tensors: dict[str, Held], metadata: dict[str, str] | None = None) -> Path:
    """A file of these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, one in tensors.items():
        offsets = [len(data), len(data) + len(one.data)]
        header[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": offsets}
        data += one.data
    path.write_bytes(with_header(json.dumps(header).encode(), data))
    return path


def save_sharded(directory: Path, tensors: dict[str, Held], metadata: dict[str, str]) -> Path:
    """A checkpoint with one file for each tensor."""
    shards = {}
    for number, (name, one) in enumerate(tensors.items()):
        shards[name] = f"model-{number + 1:05}-of-{len(tensors):05}.safetensors"
        save(directory / shards[name], {name: one}, metadata)
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": shards}))
    return path


_TYPES = {"float32": "F32", "float64": "F64", "float16": "F16", "int8": "I8", "uint8": "U8", "int32": "I32"}
_TYPES |= {"int64": "I64", "uint32": "U32"}


def matrix(values: NDArray[Any], dtype: str | None = None) -> Held:
    """A tensor of these values; `dtype` where their bytes are of a type that NumPy lacks."""
    return Held(dtype or _TYPES[values.dtype.name], values.shape, np.ascontiguousarray(values).tobytes())
