"""Torch checkpoints made without torch: pickles put together from opcodes, zipped as torch.save does."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from source_contract import Make

__all__ = [
    "ORDERED_DICT",
    "RESAVE",
    "STORAGES",
    "body",
    "checkpoint",
    "columns_of_wider",
    "contiguous",
    "make_view",
    "mapping",
    "rebuild",
    "state",
    "storage",
    "tensor",
]

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
RESAVE = "torch.save(torch.load(path, weights_only=True), new_path)"


def body(value: Any) -> bytes:
    """Opcodes that push a plain value."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def storage(key: str, count: int, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """Opcodes that push a storage."""
    what = f"c{module}\n{kind}\n".encode()
    return b"(" + body("storage") + what + body(key) + body("cpu") + body(count) + b"tQ"


def rebuild(
    held: bytes,
    offset: Any,
    shape: Any,
    strides: Any,
    function: str = "_rebuild_tensor_v2",
    more: bytes = b"",
) -> bytes:
    """Opcodes that push a view of a storage."""
    view = body(offset) + body(shape) + body(strides)
    return f"ctorch._utils\n{function}\n(".encode() + held + view + b"\x89" + ORDERED_DICT + more + b"tR"


def tensor(key: str, values: NDArray[Any]) -> bytes:
    """Opcodes that push a contiguous tensor of these values."""
    word = values.dtype.names[0] if values.dtype.names else values.dtype.name
    strides = tuple(step // values.itemsize for step in values.strides)
    return rebuild(storage(key, values.size, STORAGES[word]), 0, values.shape, strides)


def mapping(**members: bytes) -> bytes:
    """Opcodes that push a dict."""
    return b"}(" + b"".join(body(name.replace("__", ".")) + ops for name, ops in members.items()) + b"u"


def state(**members: bytes) -> bytes:
    """The pickle of a state dict; two underscores in a name stand for a dot."""
    return b"\x80\x02" + mapping(**members) + b"."


def checkpoint(
    path: Path,
    data: bytes,
    storages: dict[str, Any] | None = None,
    byteorder: bytes = b"little",
    method: int = 0,
) -> Path:
    """A zip archive of the pickle and the storages."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", byteorder)
        for key, values in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(values).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def make_view(view: Callable[[NDArray[Any]], tuple[NDArray[Any], int, tuple[int, int]]]) -> Make:
    """A checkpoint in which the matrix is a view: its storage, offset and strides are those `view` gives."""

    def make(directory: Path, values: NDArray[Any]) -> Path:
        held, offset, strides = view(values)
        ops = rebuild(storage("1", held.size), offset, values.shape, strides)
        bias = np.zeros(3, np.float32)
        data = state(a__bias=tensor("0", bias), z__weight=ops)
        return checkpoint(directory / "pytorch_model.bin", data, {"0": bias, "1": held})

    return make


def contiguous(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    return values, 0, (values.shape[1], 1)


def columns_of_wider(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    width = values.shape[1] + 10
    wider = np.full((len(values), width), np.nan, np.float32)
    wider[:, 3 : 3 + values.shape[1]] = values
    return wider, 3, (width, 1)
