""".fbin, .f16bin, .u8bin, .i8bin and .ibin files of the big-ann benchmarks, and DiskANN's .bin.

Layout, https://big-ann-benchmarks.com/neurips21.html: the numbers of rows and of columns (uint32), then the
values, all little-endian.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..errors import SourceError
from .base import TensorInfo
from .containers.contiguous import ContiguousRows
from .files import RawFile

__all__ = ["BigANNFormat"]

_TYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"),
    ".f16bin": np.dtype("<f2"),
    ".u8bin": np.dtype("u1"),
    ".i8bin": np.dtype("i1"),
    ".ibin": np.dtype("<i4"),
}
_HEAD_BYTES = 8
# What the benchmarks' own downloader makes of the first rows of a file.
_CROP = re.compile(r"\.crop_nb_\d+\Z")
_UNTYPED = ".bin"


class BigANNFormat:
    """One unnamed matrix a file, whose name tells the type of its values."""

    name = "big-ann"
    suffixes: tuple[str, ...] = tuple(_TYPES)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the name is that of a part, or a `.bin` is exactly as long as its first bytes say."""
        suffix = _suffix(path)
        return suffix in _TYPES or (suffix == _UNTYPED and _item_size(path, head) is not None)

    def tensors(self, path: str) -> list[TensorInfo]:
        """The matrix.

        Raises
        ------
        SourceError
        """
        source = self.open(path, None)
        source.close()
        return [TensorInfo("", (source.rows, source.dim), source.dtype)]

    def open(self, path: str, tensor: str | None) -> ContiguousRows:
        """Source of the rows.

        Raises
        ------
        SourceError
            `tensor` is not None, the size is not that of the rows and columns it begins with, or the name
            does not tell the type of the values.
        """
        if tensor is not None:
            raise SourceError(f"{path}: a .fbin file holds one matrix without a name; leave tensor= out")
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            head = file.read_bytes(0, _HEAD_BYTES)
            rows, dim = _shape(head)
            item = _item(path, head, rows, dim)
            _check_size(file, rows, dim, item)
            source = ContiguousRows(
                file,
                kind="big-ann",
                name="",
                offset=_HEAD_BYTES,
                shape=(rows, dim),
                dtype=item,
                header_crc32=zlib.crc32(head),
            )
            on_error.pop_all()
        return source


def _suffix(path: str) -> str:
    return os.path.splitext(_CROP.sub("", path.lower()))[1]


def _shape(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head[:4], "little"), int.from_bytes(head[4:_HEAD_BYTES], "little")


def _item_size(path: str, head: bytes) -> int | None:
    """Bytes of a value, where the file is as long as its rows and columns say for one such number."""
    rows, dim = _shape(head)
    try:
        data = os.stat(path).st_size - _HEAD_BYTES
    except OSError:
        return None
    if rows * dim == 0 or data % (rows * dim):
        return None
    size = data // (rows * dim)
    return size if size in {item.itemsize for item in _TYPES.values()} else None


def _item(path: str, head: bytes, rows: int, dim: int) -> np.dtype[Any]:
    suffix = _suffix(path)
    if suffix in _TYPES:
        return _TYPES[suffix]
    size = _item_size(path, head)
    fitting = {name: item for name, item in _TYPES.items() if item.itemsize == size}
    if len(fitting) != 1:
        raws = " or ".join(f"--raw {item.newbyteorder('=').name}:{dim}:8" for item in fitting.values())
        raise SourceError(
            f"{path} is laid out as the big-ann benchmarks do: {rows:,} rows of {dim} values of {size} "
            f"bytes, but its name does not tell their type: expected one that ends with "
            f"{' or '.join(fitting)}; rename it, or say the type: {raws}"
        )
    return next(iter(fitting.values()))


def _check_size(file: RawFile, rows: int, dim: int, item: np.dtype[Any]) -> None:
    expected = _HEAD_BYTES + rows * dim * item.itemsize
    if file.size == expected:
        return
    why = "it is cut short, or another format"
    if _suffix(file.path) == ".ibin" and file.size == _HEAD_BYTES + rows * dim * 8:
        why = f"it holds neighbours and their distances: read the former with --raw int32:{dim}:8 --rows 0:N"
    raise SourceError(
        f"{file.path} says {rows:,} rows of {dim} columns of {item.newbyteorder('=').name}: expected "
        f"{expected} bytes, found {file.size}; {why}"
    )
