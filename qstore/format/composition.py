"""The metadata of a store to be written: what HDF5 makes of a file whose data is not there yet."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import FormatError
from .layout import ALIGNMENT, FORMULA, NO_PARTS, TYPES, Extent, Parts, places, shapes, size_of, version_of

if TYPE_CHECKING:
    import h5py

__all__ = ["Composition", "compose"]


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
