"""NumPy's .npz files: a zip archive of .npy members.

Members that are stored are read in place; compressed ones (`numpy.savez_compressed`) as a stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Fingerprint, Source, TensorInfo
from ..checks import shortened, type_name
from ..containers.contiguous import ContiguousRows
from ..containers.inflate import Inflated
from ..containers.zip_members import DEFLATED, STORED, Archive, Member, first_name
from ..files import RawFile
from ..tensor_choice import only_matrix, unknown_tensor
from .npy import LONGEST_HEADER, FortranRows, NpyHeader, check_array, parse_header

__all__ = ["NpzFormat"]

_SUFFIX = ".npy"
_CHUNK_BYTES = 4 << 20


class NpzFormat:
    """Arrays by name; names are those of the members without ``.npy``."""

    name = "npz"
    suffixes: tuple[str, ...] = (".npz",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a zip archive of .npy files."""
        return first_name(head).endswith(_SUFFIX)

    def tensors(self, path: str) -> list[TensorInfo]:
        """All arrays, sorted by name; those that cannot be read are opaque. Other members are left out.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            archive = Archive(file)
            return [_info(file, archive, name) for name in sorted(_arrays(archive))]

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the rows of one array: by any range where it is stored, as a stream where compressed.

        Raises
        ------
        SourceError
            The file is malformed or cut short, or the array is not a matrix of a supported type.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            source = _open(file, tensor)
            on_error.pop_all()
        return source


def _arrays(archive: Archive) -> dict[str, Member]:
    members = archive.members.items()
    return {name.removesuffix(_SUFFIX): member for name, member in members if name.endswith(_SUFFIX)}


def _info(file: RawFile, archive: Archive, name: str) -> TensorInfo:
    head = _head(file, archive, name, _arrays(archive)[name])
    try:
        header = parse_header(_where(file, name), head)
    except SourceError:  # it must not hide the others: a record of 500 fields, a type that NumPy lacks
        return TensorInfo(name, (), "opaque (no header that can be read)")
    return TensorInfo(name, header.shape, type_name(header.dtype))


def _where(file: RawFile, name: str) -> str:
    return f"{file.path}: tensor {shortened(repr(name))}"


def _head(file: RawFile, archive: Archive, name: str, member: Member) -> bytes:
    """Its first bytes, which hold the header."""
    begin, count = archive.offset_of(member), min(member.size, LONGEST_HEADER)
    if member.method == STORED:
        return file.read_bytes(begin, count)
    return _inflated(file, archive, name, member).read(count)


def _inflated(file: RawFile, archive: Archive, name: str, member: Member) -> Inflated:
    if member.method != DEFLATED:
        raise SourceError(
            f"{_where(file, name)} is compressed with method {member.method}: expected deflate; "
            f"save it again with numpy.savez"
        )
    return Inflated(file, _where(file, name), archive.offset_of(member), member)


def _open(file: RawFile, name: str | None) -> Source:
    archive = Archive(file)
    arrays = _arrays(archive)
    if name is None:
        name = only_matrix(file.path, [_info(file, archive, each) for each in arrays]).name
    if name not in arrays:
        raise unknown_tensor(file.path, name, arrays)
    member = arrays[name]
    where = _where(file, name)
    header = parse_header(where, _head(file, archive, name, member))
    check_array(where, header, f"np.load(path)[{shortened(repr(name))}]")
    _check_size(where, header, member)
    if member.method != STORED:
        return DeflatedRows(file, archive, name, member, header)
    rows = FortranRows if header.fortran_order else ContiguousRows
    return rows(
        file,
        kind="npz",
        name=name,
        offset=archive.offset_of(member) + header.end,
        shape=header.shape,
        dtype=header.dtype,
        header_crc32=header.crc32,
    )


def _check_size(where: str, header: NpyHeader, member: Member) -> None:
    expected = header.end + header.shape[0] * header.shape[1] * header.dtype.itemsize
    if expected != member.size:
        raise SourceError(
            f"{where} expected {expected} bytes for shape {header.shape}, found {member.size} in the zip "
            f"archive; get the file again"
        )


class DeflatedRows(Source):
    """Rows of a compressed member, from front to back.

    Each :meth:`chunks` begins at the front again: what comes before `start` is decompressed and dropped.
    Memory holds one chunk, whatever the size claimed.

    Parameters
    ----------
    file : RawFile
        Closed by :meth:`close`; stays the caller's when this raises.
    archive : Archive
    name : str
    member : Member
    header : NpyHeader

    Raises
    ------
    SourceError
        The values lie column after column: no row is complete before all is decompressed.
    """

    rows: int

    def __init__(self, file: RawFile, archive: Archive, name: str, member: Member, header: NpyHeader) -> None:
        if header.fortran_order and min(header.shape) > 1:
            raise SourceError(
                f"{_where(file, name)} is compressed and in Fortran order: expected C order, "
                f"or no compression; save it again with numpy.savez"
            )
        self.name, self.dtype = name, type_name(header.dtype)
        self.rows, self.dim = header.shape
        self._file, self._archive, self._member, self._header = file, archive, member, header

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on in pieces of about 4 MiB.

        Raises
        ------
        SourceError
            While iterating: the compressed data is damaged or ends early. Its CRC is compared before the last
            rows are given.
        """
        row_bytes = self.dim * self._header.dtype.itemsize
        step = max(1, _CHUNK_BYTES // row_bytes)
        stream = _inflated(self._file, self._archive, self.name, self._member)
        stream.skip(self._header.end + start * row_bytes)
        for first in range(start, self.rows, step):
            count = min(step, self.rows - first)
            raw = np.empty(count * row_bytes, np.uint8)
            stream.read_into(raw.data)
            if first + count == self.rows:  # who has all rows may stop: the end is looked at now
                stream.finish()
            yield raw.view(self._header.dtype).reshape(count, self.dim)

    def fingerprint(self) -> Fingerprint:
        """Size, time and header of the file as they were when it was opened."""
        return {
            "kind": "npz",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": zlib.crc32(self._member.crc32.to_bytes(4, "little"), self._header.crc32),
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        self._file.close()
