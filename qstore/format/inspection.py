"""Checks the metadata of a file: is it a store, exactly as format v1 wants it?

The file is read by ``pread`` from one descriptor, or in ranges from elsewhere, and taken apart by
:mod:`.hdf5_headers`; the HDF5 library never sees it, so that no file can make it load a filter or open
another file.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from ..errors import FormatError, VersionError
from ..system import stand_ins
from . import hdf5_headers
from .hdf5_headers import OtherLayout, ReadAt, Root
from .layout import (
    FIDELITY_NUMBERS,
    FORMAT_VERSION,
    FORMULA,
    MOST_COLUMNS,
    NAME_LIMIT,
    NO_PARTS,
    SIGNATURE,
    TYPES,
    Extent,
    Facts,
    KeyPart,
    Parts,
    places,
    shapes,
    size_of,
)

__all__ = ["SHAPE_OFFSET", "inspect", "inspect_file"]

SHAPE_OFFSET = 8208
"""Where the shape of /codes lies, as two uint64."""

# Where HDF5 looks for its signature, too: further on is what an unfinished store has written.
_USER_BLOCKS = (512, 1024, 2048)

# Datatype messages of STD_U8LE, STD_U32LE and so on. Equal bytes: no enum, odd precision or named type.
_U8 = bytes.fromhex("10000000 01000000 00000800")
_U32 = bytes.fromhex("10000000 04000000 00002000")
_FILE_TYPES = {
    "<u1": _U8,
    "<u4": _U32,
    "<u8": bytes.fromhex("10000000 08000000 00004000"),
    "<i8": bytes.fromhex("10080000 08000000 00004000"),
    "<f8": bytes.fromhex("11203f00 08000000 00004000 340b0034 ff030000"),
}


def inspect_file(fd: int, path: str) -> Facts:
    """Check the metadata of the regular file behind a descriptor; see :func:`inspect`."""
    return inspect(functools.partial(os.pread, fd), os.fstat(fd).st_size, path)


def inspect(read: ReadAt, size: int, path: str, *, keys: bool = True) -> Facts:
    """Check the metadata of a file and return what it says.

    Parameters
    ----------
    read : callable
        Gives bytes of the file, see :data:`.hdf5_headers.ReadAt`.
    size : int
        Size of the file in bytes.
    path : str
        For the messages.
    keys : bool
        Check the optional parts, too, keys and measured errors; else only of what kind the keys are, and the
        places of these parts are left out.

    Raises
    ------
    FormatError
        Where anything is not exactly as format v1 wants it.
    VersionError
        Where the file has a newer major version.
    """
    try:
        _check_signature(read, size, path)
        return _describe(read, size, keys)
    except OtherLayout as error:
        raise FormatError(
            f"{path}: {error}; another program, such as h5repack or h5py, has written or changed this file: "
            f"build from it, qstore build {path} -o NEW.h5 (qstore.build); the codes, scales and keys of a "
            f"store are taken over as they are"
        ) from None
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None


def _check_signature(read: ReadAt, size: int, path: str) -> None:
    found = read(len(SIGNATURE), 0)
    if found == SIGNATURE:
        return
    if not size:
        raise FormatError("the file is empty, expected a qstore store")
    for place in _USER_BLOCKS:
        if read(len(SIGNATURE), place) == SIGNATURE:
            raise OtherLayout(f"the HDF5 file begins at byte {place} only, behind a user block")
    if not any(found):
        raise FormatError("the build of this store has not been finished; run it again to go on")
    other = stand_ins.stand_in(path, read(stand_ins.HEAD_BYTES, 0))
    if other is not None:
        raise FormatError(f"this is {other}")
    raise FormatError(
        f"not an HDF5 file (it begins with {found!r}), expected a qstore store: qstore ls shows what a file "
        f"of another format holds, qstore build (qstore.build) makes a store of it"
    )


def _describe(read: ReadAt, size: int, keys: bool) -> Facts:
    root = hdf5_headers.read_root(read, size)
    if _text(root, "format") != "qstore":
        raise FormatError(
            'the root attribute "format" is not "qstore": this is some other HDF5 file, of '
            "which qstore build (qstore.build) can make a store"
        )
    version = _version(root)
    file = _File(read, size, dict(root.links))
    rows, dim = _dataset(file, "codes", 2).shape
    if not 1 <= dim <= MOST_COLUMNS:
        raise FormatError(f"/codes has shape {(rows, dim)}, expected 1 to {MOST_COLUMNS} columns")
    key_kind = _key_kind(file)
    parts = NO_PARTS
    if keys:
        key_part = _key_part(file, key_kind) if key_kind else None
        parts = Parts(keys=key_part, fidelity=_has_fidelity(file, version))
    extents = _datasets(file, shapes(rows, dim, parts))
    if read(16, SHAPE_OFFSET) != struct.pack("<QQ", rows, dim):
        raise OtherLayout(f"the shape of /codes is not at byte {SHAPE_OFFSET}, where other readers look")
    _check_constants(root)
    return Facts(
        rows=rows,
        dim=dim,
        extents=extents,
        version=version,
        content_id=_content_id(root),
        tensor=_text(root, "tensor"),
        source_dtype=_text(root, "source_dtype"),
        key_kind=key_kind,
    )


class _File(NamedTuple):
    """The file, and the address of what each path leads to: None for soft, external and other links."""

    read: ReadAt
    size: int
    links: dict[str, int | None]


class _Dataset(NamedTuple):
    shape: tuple[int, ...]
    extent: Extent


def _key_kind(file: _File) -> Literal["text", "integer"] | None:
    """Kind of the keys, if there are any; the links to their datasets are added to those of `file`."""
    if "keys" not in file.links:
        return None
    members = hdf5_headers.read_links(file.read, file.size, _address(file, "keys", "group"), "keys")
    file.links.update({f"keys/{name}": address for name, address in members.items()})
    if ("hashes" in members) == ("ids" in members):
        raise FormatError('/keys must have a dataset "hashes" or one "ids", and not both')
    return "text" if "hashes" in members else "integer"


def _key_part(file: _File, kind: Literal["text", "integer"]) -> KeyPart:
    return KeyPart(kind, _dataset(file, "keys/bytes", 1).shape[0] if kind == "text" else 0)


def _has_fidelity(file: _File, version: tuple[int, int]) -> bool:
    """Whether there is a ``/fidelity`` to be read. Newer minor versions may give the name another meaning."""
    if "fidelity" not in file.links or version <= FORMAT_VERSION:
        return "fidelity" in file.links and version == FORMAT_VERSION
    try:
        return _dataset(file, "fidelity", 1).shape == (FIDELITY_NUMBERS,)
    except FormatError:
        return False


def _address(file: _File, name: str, kind: str) -> int:
    if name not in file.links:
        raise FormatError(f"there is no {kind} /{name}")
    address = file.links[name]
    if address is None:
        raise FormatError(f"/{name} is a soft or external link, expected a {kind} of this file")
    return address


def _datasets(file: _File, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Extent]:
    """Places of all datasets: of these shapes, and where the format says, so that none overlap."""
    extents = {}
    for name, shape in wanted.items():
        found = _dataset(file, name, len(shape))
        if found.shape != shape:
            raise FormatError(f"/{name} has shape {found.shape}, expected {shape}")
        extents[name] = found.extent
    for name, place in places(wanted).items():
        if place.size and extents[name] != place:
            raise OtherLayout(f"/{name} lies at byte {extents[name].offset}, expected {place.offset}")
    return extents


def _dataset(file: _File, name: str, rank: int) -> _Dataset:
    """Shape and place of a dataset that is plain in every respect."""
    address = _address(file, name, "dataset")
    kind, shape, offset, stored = hdf5_headers.read_dataset(file.read, file.size, address, name)
    wanted = _FILE_TYPES[TYPES[name]]
    if kind != wanted:
        big_endian = kind == wanted[:1] + bytes([wanted[1] | 1]) + wanted[2:]
        raise (OtherLayout if big_endian else FormatError)(
            f"/{name} has the wrong type, expected little-endian {np.dtype(TYPES[name])}"
        )
    if shape is None or len(shape) != rank:
        raise FormatError(f"/{name} has the wrong rank, expected {rank} dimensions")
    size = size_of(name, shape)
    if size and offset is None:
        raise FormatError(f"/{name} has no place in the file")
    if stored != size:
        raise FormatError(f"/{name} has {stored} bytes of storage, expected {size}")
    extent = Extent(offset or 0, size)
    if size and extent.stop > file.size:
        raise FormatError(
            f"/{name} should end at byte {extent.stop}, found {file.size} bytes: the file is truncated"
        )
    return _Dataset(shape, extent)


def _text(root: Root, name: str) -> str:
    """A fixed-length string attribute; empty where it is missing."""
    found = root.attributes.get(name)
    if found is None:
        return ""
    kind, shape, value = found
    plain = kind[:4] in (b"\x13\x01\0\0", b"\x13\x11\0\0") and kind[4:] == struct.pack("<I", len(value))
    if not plain or shape != () or len(value) > NAME_LIMIT:
        raise FormatError(f'the root attribute "{name}" is not a short fixed-length string')
    try:
        return value.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise FormatError(f'the root attribute "{name}" is not UTF-8') from None


def _numbers(root: Root, name: str, kind: bytes, dtype: str, shape: tuple[int, ...]) -> list[int]:
    """An integer attribute of exactly this HDF5 type and shape."""
    found = root.attributes.get(name)
    if found is None:
        raise FormatError(f'the root attribute "{name}" is missing')
    expected = np.dtype(dtype).itemsize * math.prod(shape)
    if (found.kind, found.shape, len(found.value)) != (kind, shape, expected):
        raise OtherLayout(f'the root attribute "{name}" has the wrong type or shape')
    return [int(number) for number in np.frombuffer(found.value, dtype)]


def _version(root: Root) -> tuple[int, int]:
    major, minor = _numbers(root, "version", _U32, "<u4", (2,))
    if major > FORMAT_VERSION[0]:
        raise VersionError(f"format version {major}.{minor} is newer than this library reads: upgrade qstore")
    if major < FORMAT_VERSION[0]:
        raise FormatError(f"format version {major}.{minor} was never published")
    return major, minor


def _check_constants(root: Root) -> None:
    zero_point = _numbers(root, "zero_point", _U8, "u1", ())[0]
    if zero_point != 128:
        raise FormatError(f'the root attribute "zero_point" is {zero_point}, expected 128')
    if _text(root, "formula") != FORMULA:
        raise FormatError(f'the root attribute "formula" is not "{FORMULA}"')


def _content_id(root: Root) -> str:
    text = _text(root, "content_id")
    if len(text) != 32 or set(text) - set("0123456789abcdef"):
        raise FormatError('the root attribute "content_id" is not 32 hexadecimal digits')
    return text
