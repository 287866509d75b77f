"""NumPy's .npy files, read in row ranges and never mapped, never unpickled.

Layout: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1.0 to 3.0.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.lib.format as npy_format
from numpy.typing import NDArray

from ...engine.arrays import conversion, untyped
from ...engine.quantization import marker_dtype
from ...errors import SourceError
from ..addresses import Address
from ..base import RowSource, TensorInfo
from ..checks import check_matrix, check_range, shortened, type_name
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from ..remote_files import open_file

__all__ = [
    "LONGEST_HEADER",
    "FortranRows",
    "NpyFormat",
    "NpyHeader",
    "check_array",
    "parse_header",
]

LONGEST_HEADER = 10_012
"""Most bytes before the data. NumPy parses no header of more than 10,000 characters either."""

# A float of one byte, which NumPy writes and cannot read: float8_e5m2 alone calls itself so (ml_dtypes gives
# the other types of its size the kind "V").
_FLOAT8 = re.compile(rb"(\x93NUMPY(?:\x01\x00..|[\x02\x03]\x00....)\{'descr': ')[<>|]f1(?=',)", re.DOTALL)


class NpyFormat:
    """One unnamed array a file."""

    name = "npy"
    suffixes: tuple[str, ...] = (".npy",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a .npy file."""
        return head.startswith(npy_format.MAGIC_PREFIX)

    def tensors(self, path: str) -> list[TensorInfo]:
        """The array, whatever its shape and type.

        Raises
        ------
        SourceError
        """
        with open_file(path) as file:
            header = _read_header(file)
        return [TensorInfo("", header.shape, type_name(header.dtype))]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows.

        Raises
        ------
        SourceError
            `tensor` is not None, the file is malformed, cut short or holds several arrays, or the array is
            not a matrix of a supported type.
        """
        if tensor is not None:
            raise SourceError(f"{path}: a .npy file holds one array without a name; leave tensor= out")
        with ExitStack() as on_error:
            file = on_error.enter_context(open_file(path))
            header = _read_header(file)
            check_array(path, header, "np.load(path)", raw=True)
            if header.fortran_order and isinstance(path, Address):
                raise SourceError(
                    f"{path} lies column after column (Fortran order), so that any row is all over the file: "
                    f"expected rows, behind a URL; download it first, and give its path"
                )
            rows = FortranRows if header.fortran_order else ContiguousRows
            source = rows(
                file,
                kind="npy",
                name="",
                offset=header.end,
                shape=header.shape,
                dtype=header.dtype,
                header_crc32=header.crc32,
            )
            _check_end(file, header)
            on_error.pop_all()
        return source


class FortranRows(ContiguousRows):
    """Rows of a matrix that lies in the file column after column.

    A range of rows is one short read per column, so wide matrices are slow; memory stays that of the range.
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array in Fortran order; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        size = self._item.itemsize
        columns = np.empty((self.dim, (stop - start) * size), np.uint8)
        for number, column in enumerate(columns):
            self._file.read_into(column.data, self._offset + (number * self.rows + start) * size)
        return columns.view(self._item).T if stop > start else np.empty((0, self.dim), self._item)


@dataclass(frozen=True)
class NpyHeader:
    """What stands before the data.

    Attributes
    ----------
    shape : tuple of int
    fortran_order : bool
    dtype : numpy.dtype
    end : int
        Bytes before the data.
    crc32 : int
        Of those.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    end: int
    crc32: int


def check_array(where: str, header: NpyHeader, values: str, *, raw: bool = False) -> None:
    """Refuse what is no matrix of numbers, and say how to make one of it.

    Parameters
    ----------
    where : str
    header : NpyHeader
    values : str
        How to load the array.
    raw : bool
        Its items can also be taken from the file as they are.

    Raises
    ------
    SourceError
    """
    word = type_name(header.dtype)
    if header.dtype.hasobject:
        remedy = "it is a pickle, which is never read: save values.astype('float32') where they are made"
    else:
        remedy = conversion(word, values)
    were = untyped(word)
    if raw and were and len(header.shape) == 2 and not header.fortran_order:
        remedy += f" (--raw {were}:{header.shape[1]}:{header.end})"
    check_matrix(where, header.shape, word, remedy)


def _check_end(file: RawFile, header: NpyHeader) -> None:
    """Refuse a file that goes on with a further array; other bytes are left alone, as by NumPy."""
    mark = npy_format.MAGIC_PREFIX
    end = header.end + math.prod(header.shape) * header.dtype.itemsize
    if file.size >= end + len(mark) and file.read_bytes(end, len(mark)) == mark:
        raise SourceError(
            f"{file.path} holds several arrays one after the other: expected one, found another one behind "
            f"that of shape {header.shape}; load each with np.load(open_file) and give them as chunks, or "
            f"give np.load(path) where the first one is meant"
        )


def _read_header(file: RawFile) -> NpyHeader:
    return parse_header(file.path, file.read_bytes(0, min(file.size, LONGEST_HEADER)))


def parse_header(where: str, head: bytes) -> NpyHeader:
    """Parse the first bytes (up to :data:`LONGEST_HEADER`) of a .npy file; `where` starts an error.

    Raises
    ------
    SourceError
    """
    float8 = _FLOAT8.match(head)
    stream = io.BytesIO(head if float8 is None else float8[1] + b"|V1" + head[float8.end() :])
    try:
        shape, fortran_order, dtype = _parse(stream)
    except Exception as error:
        # On hostile bytes NumPy's parser raises a dozen types: SyntaxError, TokenError, RecursionError, …
        raise SourceError(f"{where} is no .npy file that can be read: {shortened(str(error))}") from error
    item = marker_dtype("float8_e5m2") if float8 else dtype
    end = stream.tell()
    return NpyHeader(tuple(int(length) for length in shape), fortran_order, item, end, zlib.crc32(head[:end]))


def _parse(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(stream, max_header_size=LONGEST_HEADER - 12)
    if version in ((2, 0), (3, 0)):
        # 3.0 differs in the encoding of field names alone, and no type with such names is taken.
        return npy_format.read_array_header_2_0(stream, max_header_size=LONGEST_HEADER - 12)
    raise SourceError(f"expected version 1.0, 2.0 or 3.0, found {version[0]}.{version[1]}")
