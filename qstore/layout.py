"""Format v1: names, places and attributes. Metadata out, checks in; only this module knows the HDF5.

``docs/format.md`` is the specification. h5py is used for the metadata alone: to make it, through a
sparse in-memory file object, and to check it, through positioned reads of one descriptor, so that a
forged file can make HDF5 open no other file.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, VersionError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "ALIGNMENT",
    "CODES_OFFSET",
    "DTYPE_LIMIT",
    "FORMAT_VERSION",
    "NAME_LIMIT",
    "SIGNATURE",
    "SUPERBLOCK_SIZE",
    "Composition",
    "Description",
    "Extent",
    "block_rows",
    "compose",
    "content_id",
    "inspect",
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

_BLOCK_CODES = 1 << 20
_ITEM_SIZES = {"codes": 1, "scales": 8, "checksums": 4}


class Extent(NamedTuple):
    """Where the data of a dataset lies."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """First byte behind it."""
        return self.offset + self.size


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


@dataclass(frozen=True)
class Description:
    """What the checked metadata of a store says."""

    rows: int
    dim: int
    extents: dict[str, Extent]
    version: tuple[int, int]
    content_id: str
    tensor: str
    source_dtype: str


def block_rows(dim: int) -> int:
    """Rows of one checksum block."""
    return max(1, _BLOCK_CODES // dim)


def block_count(rows: int, dim: int) -> int:
    """Number of checksum blocks."""
    return -(-rows // block_rows(dim))


def _shapes(rows: int, dim: int) -> dict[str, tuple[int, ...]]:
    return {"codes": (rows, dim), "scales": (rows,), "checksums": (block_count(rows, dim), 2)}


def content_id(rows: int, dim: int, checksums: NDArray[np.uint32]) -> str:
    """Identity of the content: 32 hexadecimal digits over shape and checksums.

    The same matrix gives the same id on every machine. It tells contents apart; it is no signature.
    """
    import hashlib  # loads OpenSSL: 4 ms that reading rows does not need

    digest = hashlib.sha256(b"qstore content 1\n" + struct.pack("<QQ", rows, dim))
    digest.update(np.ascontiguousarray(checksums, dtype="<u4").tobytes())
    return digest.hexdigest()[:32]


# Writing ---------------------------------------------------------------------------------------------


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
    extents = {name: _create_dataset(file_id, name, shape) for name, shape in _shapes(rows, dim).items()}
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
    size = _ITEM_SIZES[name]
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


# Reading ---------------------------------------------------------------------------------------------


class _PositionedFile(io.RawIOBase):
    """Read-only file object over one descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset if whence == os.SEEK_SET else self._size + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._fd, [buffer], self._position)
        self._position += count
        return count


def inspect(fd: int, path: str) -> Description:
    """Check the metadata of the file behind `fd` and return what it says.

    Parameters
    ----------
    fd : int
        Descriptor of a regular file, open for reading.
    path : str
        For the messages.

    Raises
    ------
    FormatError
        Where anything is not exactly as format v1 wants it.
    VersionError
        Where the file has a newer major version.
    """
    size = os.fstat(fd).st_size
    _check_signature(os.pread(fd, len(SIGNATURE), 0), size, path)
    try:
        with _open_metadata(fd, size) as file_id:
            return _describe(file_id, size)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:  # h5py raises nearly every built-in exception on damaged metadata
        raise FormatError(
            f"{path}: the HDF5 metadata is damaged or not of a qstore store ({error})"
        ) from error


def _check_signature(found: bytes, size: int, path: str) -> None:
    if found == SIGNATURE:
        return
    if not size:
        raise FormatError(f"{path}: the file is empty, expected a qstore store")
    if not any(found):
        raise FormatError(f"{path}: the build of this store has not been finished; run it again to go on")
    raise FormatError(f"{path}: not an HDF5 file (it begins with {found!r}), expected a qstore store")


@contextlib.contextmanager
def _open_metadata(fd: int, size: int) -> Iterator[h5py.h5f.FileID]:
    from h5py import h5f

    file_id = h5f.open(b"store", h5f.ACC_RDONLY, _access_list(_PositionedFile(fd, size)))
    try:
        yield file_id
    finally:
        file_id.close()


def _describe(file_id: h5py.h5f.FileID, size: int) -> Description:
    if _text(file_id, "format") != "qstore":
        raise FormatError('the root attribute "format" is not "qstore": this is some other HDF5 file')
    version = _version(file_id)
    codes = _dataset(file_id, "codes", 2, size)
    rows, dim = codes.shape
    if dim < 1:
        raise FormatError(f"/codes has shape {codes.shape}, expected at least one column")
    extents = {"codes": codes.extent}
    for name, shape in _shapes(rows, dim).items():
        found = _dataset(file_id, name, len(shape), size)
        if found.shape != shape:
            raise FormatError(f"/{name} has shape {found.shape}, expected {shape}")
        extents[name] = found.extent
    if rows and codes.extent.offset != CODES_OFFSET:
        raise FormatError(f"/codes lies at byte {codes.extent.offset}, expected {CODES_OFFSET}")
    _check_overlaps(extents)
    _check_constants(file_id)
    return Description(
        rows=rows,
        dim=dim,
        extents=extents,
        version=version,
        content_id=_content_id(file_id),
        tensor=_text(file_id, "tensor"),
        source_dtype=_text(file_id, "source_dtype"),
    )


class _Dataset(NamedTuple):
    shape: tuple[int, ...]
    extent: Extent


def _dataset(file_id: h5py.h5f.FileID, name: str, rank: int, file_size: int) -> _Dataset:
    """Shape and place of a dataset that is plain in every respect."""
    from h5py import h5d, h5l, h5o

    raw = name.encode()
    if not file_id.links.exists(raw):
        raise FormatError(f"there is no dataset /{name}")
    if file_id.links.get_info(raw).type != h5l.TYPE_HARD:
        raise FormatError(f"/{name} is a soft or external link, expected a dataset of this file")
    dataset = h5o.open(file_id, raw)
    if not isinstance(dataset, h5d.DatasetID):
        raise FormatError(f"/{name} is not a dataset")
    _check_storage(dataset, name)
    shape = _shape(dataset, name, rank)
    size = _ITEM_SIZES[name]
    for length in shape:
        size *= length
    offset = dataset.get_offset() if size else 0
    if offset is None:
        raise FormatError(f"/{name} has no place in the file")
    if offset % ALIGNMENT or offset + size > file_size:
        raise FormatError(
            f"/{name} should be {size} bytes at a multiple of {ALIGNMENT} inside the file, "
            f"found at byte {offset} of {file_size}: the file is truncated or damaged"
        )
    return _Dataset(shape, Extent(offset, size))


def _check_storage(dataset: h5py.h5d.DatasetID, name: str) -> None:
    from h5py import h5d

    creation = dataset.get_create_plist()
    if creation.get_layout() != h5d.CONTIGUOUS:
        raise FormatError(f"/{name} is chunked, compact or virtual, expected contiguous storage")
    if creation.get_nfilters():
        raise FormatError(f"/{name} has filters, expected none")
    if creation.get_external_count():
        raise FormatError(f"/{name} lies in an external file, expected its data in this file")
    if not dataset.get_type().equal(_file_type(name)):
        expected = {"codes": "uint8", "scales": "little-endian float64", "checksums": "little-endian uint32"}
        raise FormatError(f"/{name} has the wrong type, expected {expected[name]}")


def _shape(dataset: h5py.h5d.DatasetID, name: str, rank: int) -> tuple[int, ...]:
    from h5py import h5s

    space = dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE or space.get_simple_extent_ndims() != rank:
        raise FormatError(f"/{name} has the wrong rank, expected {rank} dimensions")
    return tuple(int(length) for length in space.get_simple_extent_dims())


def _check_overlaps(extents: Mapping[str, Extent]) -> None:
    placed = sorted((extent, name) for name, extent in extents.items() if extent.size)
    for (first, one), (second, other) in itertools.pairwise(placed):
        if first.stop > second.offset:
            raise FormatError(f"/{one} and /{other} overlap in the file")


def _attribute(file_id: h5py.h5f.FileID, name: str) -> h5py.h5a.AttrID | None:
    from h5py import h5a

    raw = name.encode()
    return h5a.open(file_id, raw) if h5a.exists(file_id, raw) else None


def _text(file_id: h5py.h5f.FileID, name: str) -> str:
    """A fixed-length string attribute; empty where it is missing."""
    from h5py import h5s, h5t

    attribute = _attribute(file_id, name)
    if attribute is None:
        return ""
    kind = attribute.get_type()
    if (
        not isinstance(kind, h5t.TypeStringID)
        or kind.is_variable_str()
        or kind.get_size() > NAME_LIMIT
        or attribute.get_space().get_simple_extent_type() != h5s.SCALAR
    ):
        raise FormatError(f'the root attribute "{name}" is not a short fixed-length string')
    value = np.empty((), dtype=f"S{kind.get_size()}")
    attribute.read(value, mtype=kind)
    return bytes(value[()]).decode("utf-8")


def _numbers(file_id: h5py.h5f.FileID, name: str, type_name: str, shape: tuple[int, ...]) -> list[int]:
    """An integer attribute of exactly this HDF5 type and shape."""
    from h5py import h5t

    attribute = _attribute(file_id, name)
    if attribute is None:
        raise FormatError(f'the root attribute "{name}" is missing')
    kind = getattr(h5t, type_name)
    if not attribute.get_type().equal(kind) or attribute.get_space().shape != shape:
        raise FormatError(f'the root attribute "{name}" has the wrong type or shape')
    value = np.empty(shape, dtype=kind.dtype)
    attribute.read(value)
    return [int(number) for number in value.reshape(-1)]


def _version(file_id: h5py.h5f.FileID) -> tuple[int, int]:
    major, minor = _numbers(file_id, "version", "STD_U32LE", (2,))
    if major > FORMAT_VERSION[0]:
        raise VersionError(f"format version {major}.{minor} is newer than this library reads: upgrade qstore")
    if major < FORMAT_VERSION[0]:
        raise FormatError(f"format version {major}.{minor} was never published")
    return major, minor


def _check_constants(file_id: h5py.h5f.FileID) -> None:
    zero_point = _numbers(file_id, "zero_point", "STD_U8LE", ())[0]
    if zero_point != 128:
        raise FormatError(f'the root attribute "zero_point" is {zero_point}, expected 128')
    if _text(file_id, "formula") != FORMULA:
        raise FormatError(f'the root attribute "formula" is not "{FORMULA}"')


def _content_id(file_id: h5py.h5f.FileID) -> str:
    text = _text(file_id, "content_id")
    if len(text) != 32 or set(text) - set("0123456789abcdef"):
        raise FormatError('the root attribute "content_id" is not 32 hexadecimal digits')
    return text
