"""Format v1: names, places and attributes, and the metadata of a store to be written.

``docs/format.md`` is the specification. h5py makes the metadata, through a sparse in-memory file object.
What is read is checked in :mod:`.inspection`.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "ALIGNMENT",
    "CODES_OFFSET",
    "DTYPE_LIMIT",
    "FIDELITY_NUMBERS",
    "FORMAT_VERSION",
    "FORMULA",
    "KEY_NAMES",
    "MOST_COLUMNS",
    "NAME_LIMIT",
    "NO_PARTS",
    "SIGNATURE",
    "SUPERBLOCK_SIZE",
    "TYPES",
    "Composition",
    "Extent",
    "Facts",
    "KeyPart",
    "Parts",
    "block_rows",
    "compose",
    "content_id",
    "fidelity_checksum",
    "fidelity_intact",
    "places",
    "sampled_rows",
    "shapes",
    "size_of",
    "version_of",
]

FORMAT_VERSION = (1, 1)
"""The newest version that is written; :func:`version_of` tells that of one store."""
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
_SAMPLED_SHARE = 64

FIDELITY_NUMBERS = 45
"""Length of ``/fidelity``; :mod:`.fidelity` knows what they are."""

KEY_NAMES = {
    "text": ("hashes", "rows", "offsets", "bytes", "checksums"),
    "integer": ("ids", "sorted", "rows", "checksums"),
}
"""The datasets of the group ``/keys``, in the order they are made; the first one tells the kind of keys."""

TYPES = {
    "codes": "<u1",
    "scales": "<f8",
    "checksums": "<u4",
    "fidelity": "<f8",
    "keys/hashes": "<u8",
    "keys/rows": "<i8",
    "keys/offsets": "<i8",
    "keys/bytes": "<u1",
    "keys/ids": "<i8",
    "keys/sorted": "<i8",
    "keys/checksums": "<u4",
}
"""Element type of each dataset, in NumPy's words."""


class KeyPart(NamedTuple):
    """What the shapes of the key datasets follow from, besides the number of rows.

    Attributes
    ----------
    kind : {"text", "integer"}
    text_bytes : int
        Bytes of all texts together, in UTF-8; 0 for integers.
    """

    kind: Literal["text", "integer"]
    text_bytes: int


class Parts(NamedTuple):
    """What a store may have or not; None or False: it has not."""

    keys: KeyPart | None = None
    fidelity: bool = False


NO_PARTS = Parts()


class Extent(NamedTuple):
    """Where the data of a dataset lies."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First byte behind it."""
        return self.offset + self.size


class Facts(NamedTuple):
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
    key_kind : {"text", "integer"} or None
        What the keys of the rows are, if they have any.
    extents : mapping of str to Extent
        Where the data of each dataset lies, if it is one file.
    """

    rows: int
    dim: int
    version: tuple[int, int]
    content_id: str
    tensor: str
    source_dtype: str
    key_kind: Literal["text", "integer"] | None = None
    extents: Mapping[str, Extent] = MappingProxyType({})


class Composition(NamedTuple):
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


def sampled_rows(dim: int) -> int:
    """How many rows of each checksum block, the first ones, have their errors measured for ``/fidelity``."""
    return max(1, block_rows(dim) // _SAMPLED_SHARE)


def block_count(rows: int, dim: int) -> int:
    """Number of checksum blocks."""
    return -(-rows // block_rows(dim))


def shapes(rows: int, dim: int, parts: Parts = NO_PARTS) -> dict[str, tuple[int, ...]]:
    """Shape of each dataset, in the order they are made. Members of a group are called ``group/name``."""
    found: dict[str, tuple[int, ...]] = {
        "codes": (rows, dim),
        "scales": (rows,),
        "checksums": (block_count(rows, dim), 2),
    }
    if parts.keys is not None:
        names = KEY_NAMES[parts.keys.kind]
        special = {"offsets": rows + 1, "bytes": parts.keys.text_bytes, "checksums": len(names) - 1}
        found |= {f"keys/{name}": (special.get(name, rows),) for name in names}
    if parts.fidelity:
        found["fidelity"] = (FIDELITY_NUMBERS,)
    return found


def size_of(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of the data of a dataset."""
    return math.prod(shape) * int(TYPES[name][-1])


def places(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Extent]:
    """Where the data of each dataset lies: it follows from the shapes.

    Each dataset, and each group before its members, has its header at the next multiple of 4096; the data
    begins 4096 bytes behind the header. The offset of a dataset without data is 0.
    """
    found: dict[str, Extent] = {}
    position, group = CODES_OFFSET - ALIGNMENT, ""
    for name, shape in shapes.items():
        previous, group = group, name.rpartition("/")[0]
        if group and group != previous:
            position += ALIGNMENT
        data, size = position + ALIGNMENT, size_of(name, shape)
        found[name] = Extent(data if size else 0, size)
        position = -(-(data + size) // ALIGNMENT) * ALIGNMENT
    return found


def version_of(parts: Parts) -> tuple[int, int]:
    """The lowest version of the format that has these parts."""
    return (1, 0) if parts == NO_PARTS else FORMAT_VERSION


def content_id(
    rows: int, dim: int, checksums: NDArray[np.uint32], key_checksums: NDArray[np.uint32] | None = None
) -> str:
    """Identity of the content: 32 hexadecimal digits over shape and checksums, those of the keys included.

    The same matrix with the same keys gives the same id on every machine. It tells contents apart; it is no
    signature.
    """
    import hashlib  # loads OpenSSL: 4 ms that reading rows does not need

    digest = hashlib.sha256(b"qstore content 1\n" + struct.pack("<QQ", rows, dim))
    digest.update(np.ascontiguousarray(checksums, dtype="<u4").tobytes())
    if key_checksums is not None:
        digest.update(b"keys\n" + np.ascontiguousarray(key_checksums, dtype="<u4").tobytes())
    return digest.hexdigest()[:32]


def fidelity_checksum(numbers: NDArray[np.float64]) -> int:
    """The last number of ``/fidelity``: CRC-32 of those before it."""
    return zlib.crc32(numbers.astype("<f8").tobytes())


def fidelity_intact(numbers: NDArray[np.float64]) -> bool:
    """Whether the numbers of ``/fidelity`` agree with their checksum."""
    return fidelity_checksum(numbers[:-1]) == float(numbers[-1])


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


def compose(rows: int, dim: int, attributes: Mapping[str, str], parts: Parts = NO_PARTS) -> Composition:
    """Make the metadata of a store.

    Parameters
    ----------
    rows, dim : int
        Shape of the matrix; `rows` may be 0.
    attributes : mapping
        ``content_id`` and, where they are known, ``tensor`` and ``source_dtype``.
    parts : Parts
        What the store has besides the matrix.

    Notes
    -----
    Early allocation and no fill values: HDF5 places the data but writes only metadata, which takes
    1 to 2 ms at any size. Datasets come before attributes: attributes first would move the codes.
    """
    from h5py import h5f
    from h5py._objects import phil

    memory = _SparseFile()
    wanted = shapes(rows, dim, parts)
    # HDF5 writes at the close only if nothing of the file is open any more. h5py's lock keeps other threads
    # from looking at identifiers that are just being let go: once, under Dask, a close came to nothing.
    with phil:
        file_id = h5f.create(b"store", h5f.ACC_TRUNC, _creation_list(), _access_list(memory))
        extents = _create_datasets(file_id, wanted)
        _create_attributes(file_id, attributes, version_of(parts))
        file_id.close()
    if extents != places(wanted):
        raise FormatError(f"HDF5 placed the data at {extents}, expected {places(wanted)}")
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


def _create_datasets(file_id: h5py.h5f.FileID, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Extent]:
    groups = {"": file_id}  # an open one would keep the file from closing: they go with this function
    extents = {}
    for path, shape in wanted.items():
        group, _, name = path.rpartition("/")
        if group not in groups:
            groups[group] = _create_group(file_id, group)
        extents[path] = _create_dataset(groups[group], name, path, shape)
    return extents


def _create_group(file_id: h5py.h5f.FileID, name: str) -> h5py.h5g.GroupID:
    from h5py import h5g, h5p

    creation = h5p.create(h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5g.create(file_id, name.encode(), None, creation)


def _create_dataset(
    group: h5py.h5f.FileID | h5py.h5g.GroupID, name: str, path: str, shape: tuple[int, ...]
) -> Extent:
    from h5py import h5d, h5p, h5s, h5t

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    kind = h5t.py_create(np.dtype(TYPES[path]))
    dataset = h5d.create(group, name.encode(), kind, h5s.create_simple(shape), creation)
    return Extent(dataset.get_offset() or 0, size_of(path, shape))


def _create_attributes(
    file_id: h5py.h5f.FileID, attributes: Mapping[str, str], version: tuple[int, int]
) -> None:
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
    numbers = h5a.create(file_id, b"version", h5t.STD_U32LE, h5s.create_simple((2,)))
    numbers.write(np.array(version, dtype=np.uint32))
    h5a.create(file_id, b"zero_point", h5t.STD_U8LE, scalar).write(np.array(128, dtype=np.uint8))
