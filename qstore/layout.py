"""Format v1: names, places and attributes, and the metadata of a store to be written.

``docs/format.md`` is the specification. h5py makes the metadata, through a sparse in-memory file object.
What is read is checked in :mod:`.inspection`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "ALIGNMENT",
    "CODES_OFFSET",
    "DTYPE_LIMIT",
    "FORMAT_VERSION",
    "FORMULA",
    "ITEM_SIZES",
    "MOST_COLUMNS",
    "NAME_LIMIT",
    "SIGNATURE",
    "SUPERBLOCK_SIZE",
    "Composition",
    "Extent",
    "Facts",
    "block_rows",
    "compose",
    "content_id",
    "shapes",
]

FORMAT_VERSION = (1, 0)
FORMULA = "(codes - 128) * scales"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK_SIZE = 48
ALIGNMENT = 4096
CODES_OFFSET = 12288
NAME_LIMIT = 2048
"""Longest tensor name in bytes of UTF-8: all attributes together stay below 3 KB."""
DTYPE_LIMIT = 64
"""Longest name of an element type in bytes."""

MOST_COLUMNS = 1 << 40
"""Without rows the file's size bounds nothing, and NumPy refuses shapes it cannot count in bytes."""

_BLOCK_CODES = 1 << 20
ITEM_SIZES = {"codes": 1, "scales": 8, "checksums": 4}


class Extent(NamedTuple):
    """Where the data of a dataset lies."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First byte behind it."""
        return self.offset + self.size


@dataclass(frozen=True)
class Facts:
    """What a store says of itself.

    Attributes
    ----------
    rows, dim : int
        Shape of the matrix.
    version : tuple of int
        Major and minor version of the format.
    content_id : str
        32 hexadecimal digits.
    tensor, source_dtype : str
        What it was built from; empty if unknown.
    """

    rows: int
    dim: int
    version: tuple[int, int]
    content_id: str
    tensor: str
    source_dtype: str


@dataclass(frozen=True)
class Composition:
    """The metadata of a store: everything in the file but the data.

    Attributes
    ----------
    segments : list of (int, bytes)
        Where to write what; the superblock, at 0, comes last.
    extents : dict of str to Extent
        Where the data of each dataset goes.
    size : int
        Size of the whole file in bytes.
    """

    segments: list[tuple[int, bytes]]
    extents: dict[str, Extent]
    size: int

    def gaps(self) -> list[Extent]:
        """What is neither metadata nor data: alignment. It has to be zero for the bytes to be the same."""
        used = [Extent(offset, len(data)) for offset, data in self.segments]
        used = sorted([*used, *(extent for extent in self.extents.values() if extent.size)])
        pairs = zip([*used], [*used[1:], Extent(self.size, 0)], strict=True)
        return [Extent(one.stop, after.offset - one.stop) for one, after in pairs if after.offset > one.stop]


def block_rows(dim: int) -> int:
    """Rows of one checksum block."""
    return max(1, _BLOCK_CODES // dim)


def block_count(rows: int, dim: int) -> int:
    """Number of checksum blocks."""
    return -(-rows // block_rows(dim))


def shapes(rows: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Shape of each dataset, in the order they are made."""
    return {"codes": (rows, dim), "scales": (rows,), "checksums": (block_count(rows, dim), 2)}


def content_id(rows: int, dim: int, checksums: NDArray[np.uint32]) -> str:
    """Identity of the content: 32 hexadecimal digits over shape and checksums.

    The same matrix gives the same id on every machine. It tells contents apart; it is no signature.
    """
    import hashlib  # loads OpenSSL: 4 ms that reading rows does not need

    digest = hashlib.sha256(b"qstore content 1\n" + struct.pack("<QQ", rows, dim))
    digest.update(np.ascontiguousarray(checksums, dtype="<u4").tobytes())
    return digest.hexdigest()[:32]


class _SparseFile(io.RawIOBase):
    """Keeps what is written to it by offset; HDF5 reads nothing back while it creates a file."""

    def __init__(self) -> None:
        self.segments: dict[int, bytes] = {}
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset if whence == os.SEEK_SET else self.size + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self.segments[self._position] = piece
        self._position += len(piece)
        self.size = max(self.size, self._position)
        return len(piece)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size


def compose(rows: int, dim: int, attributes: Mapping[str, str]) -> Composition:
    """Make the metadata of a store.

    Parameters
    ----------
    rows, dim : int
        Shape of the matrix; `rows` may be 0.
    attributes : mapping
        ``content_id`` and, where they are known, ``tensor`` and ``source_dtype``.

    Notes
    -----
    Early allocation and no fill values: HDF5 places the data but writes only metadata, which takes
    1 to 2 ms at any size. Datasets come before attributes: attributes first would move the codes.
    """
    from h5py import h5f

    memory = _SparseFile()
    file_id = h5f.create(b"store", h5f.ACC_TRUNC, _creation_list(), _access_list(memory))
    extents = {name: _create_dataset(file_id, name, shape) for name, shape in shapes(rows, dim).items()}
    _create_attributes(file_id, attributes)
    file_id.close()
    if rows and extents["codes"].offset != CODES_OFFSET:
        raise FormatError(f"HDF5 placed the codes at {extents['codes'].offset}, not at {CODES_OFFSET}")
    segments = sorted(memory.segments.items(), reverse=True)
    return Composition(segments, extents, memory.size)


def _access_list(file: io.RawIOBase) -> h5py.h5p.PropFAID:
    from h5py import h5f, h5fd, h5p

    access = h5p.create(h5p.FILE_ACCESS)
    # Superblock 2: checksummed metadata, no consistency flags that refuse a file after a crash.
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    access.set_alignment(1, ALIGNMENT)
    access.set_fileobj_driver(h5fd.fileobj_driver, file)
    return access


def _creation_list() -> h5py.h5p.PropFCID:
    from h5py import h5p

    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    return creation


def _create_dataset(file_id: h5py.h5f.FileID, name: str, shape: tuple[int, ...]) -> Extent:
    from h5py import h5d, h5p, h5s

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    dataset = h5d.create(file_id, name.encode(), _file_type(name), h5s.create_simple(shape), creation)
    size = ITEM_SIZES[name]
    for length in shape:
        size *= length
    return Extent(dataset.get_offset() or 0, size)


def _file_type(name: str) -> h5py.h5t.TypeID:
    from h5py import h5t

    return {"codes": h5t.STD_U8LE, "scales": h5t.IEEE_F64LE, "checksums": h5t.STD_U32LE}[name]


def _create_attributes(file_id: h5py.h5f.FileID, attributes: Mapping[str, str]) -> None:
    from h5py import h5a, h5s, h5t

    scalar = h5s.create(h5s.SCALAR)
    texts = {"format": "qstore", "formula": FORMULA, **attributes}
    for name, text in texts.items():
        raw = text.encode()
        if raw:  # HDF5 has no strings of length 0
            string = h5t.C_S1.copy()
            string.set_size(len(raw))
            string.set_strpad(h5t.STR_NULLPAD)
            string.set_cset(h5t.CSET_ASCII if raw.isascii() else h5t.CSET_UTF8)
            value = np.array(raw, dtype=f"S{len(raw)}")
            h5a.create(file_id, name.encode(), string, scalar).write(value, mtype=string)
    version = h5a.create(file_id, b"version", h5t.STD_U32LE, h5s.create_simple((2,)))
    version.write(np.array(FORMAT_VERSION, dtype=np.uint32))
    h5a.create(file_id, b"zero_point", h5t.STD_U8LE, scalar).write(np.array(128, dtype=np.uint8))
