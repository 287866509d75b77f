"""Stores with one defect that HDF5 itself writes: other ways of keeping data, links and attributes."""

from __future__ import annotations

import ctypes
import io
import re
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5f, h5p
from hdf5_edit import patched
from hdf5_seal import seal
from numpy.typing import NDArray

import qstore

__all__ = ["Defect", "heaps", "library_storage", "rebuilt"]


VALUES = np.array([[1, -0.5, 0.25], [2, 3, -4]], np.float32)


@dataclass(frozen=True)
class Defect:
    """A file that must be refused.

    Attributes
    ----------
    content : bytes
    message : str
        Words of the error.
    error : str
        Name of its class.
    """

    content: bytes
    message: str
    error: str = "FormatError"


def _arrays() -> dict[str, NDArray[Any]]:
    codes, scales = qstore.quantize(VALUES)
    return {"codes": codes, "scales": scales, "checksums": np.zeros((1, 2), np.uint32)}


def rebuilt(make: Mapping[str, Callable[[h5py.File], object]] | None = None, **options: Any) -> bytes:
    """A store made by plain h5py; `make` replaces the making of single datasets."""
    options = {"libver": ("v108", "v108"), "alignment_threshold": 1, "alignment_interval": 4096, **options}
    memory = io.BytesIO()
    with h5py.File(memory, "w", **options) as file:
        for name, array in _arrays().items():
            if make and name in make:
                make[name](file)
            else:
                file.create_dataset(name, data=array, track_times=False)
        _describe(file)
    return timeless(memory.getvalue())


def _describe(file: h5py.File) -> None:
    texts = {"format": "qstore", "formula": "(codes - 128) * scales", "content_id": "0" * 32}
    for name, text in texts.items():
        file.attrs[name] = np.bytes_(text.encode())
    file.attrs["version"] = np.array([1, 0], np.uint32)
    file.attrs["zero_point"] = np.uint8(128)


def timeless(content: bytes) -> bytes:
    """`content` without the clock times that h5py cannot be kept from storing for some objects."""
    changed = bytearray(content)
    for match in re.finditer(b"OHDR\x02", content):
        start = match.start() + 6
        if changed[start - 1] & 0x20:
            changed[start : start + 16] = bytes(16)
    return bytes(seal(changed))


def library_storage() -> dict[str, Defect]:
    """Datasets stored in other ways, as HDF5 itself writes them."""
    codes, scales = qstore.quantize(VALUES)

    def made(name: str = "codes", **options: Any) -> bytes:
        data = codes if name == "codes" else scales
        return rebuilt(
            {name: lambda file: file.create_dataset(name, data=data, track_times=False, **options)}
        )

    def virtual(file: h5py.File) -> None:
        target = h5py.VirtualLayout(shape=codes.shape, dtype=np.uint8)
        target[:] = h5py.VirtualSource("outside.h5", "codes", shape=codes.shape)
        file.create_virtual_dataset("codes", target)

    def external(file: h5py.File) -> None:
        file.create_dataset(
            "codes", codes.shape, np.uint8, external=[("outside.bin", 0, 6)], track_times=False
        )

    def group(file: h5py.File) -> None:
        file.create_group("codes")

    def extendible(file: h5py.File) -> None:
        file.create_dataset("codes", data=codes, maxshape=(None, 3), chunks=(2, 3), track_times=False)

    def filtered(**options: Any) -> Defect:
        return Defect(made(chunks=(1, 3), **options), "/codes has filters")

    def named_type(file: h5py.File) -> None:
        file["kind"] = np.dtype(np.uint8)
        file.create_dataset("codes", data=codes, dtype=file["kind"], track_times=False)

    contiguous = "/codes is chunked, compact or virtual"
    return {
        "chunked-codes": Defect(made(chunks=(1, 3)), contiguous),
        "chunked-scales": Defect(made("scales", chunks=(1,)), "/scales is chunked, compact or virtual"),
        "extendible-codes": Defect(rebuilt({"codes": extendible}), contiguous),
        "gzip-codes": filtered(compression="gzip"),
        "lzf-codes": filtered(compression="lzf"),
        "shuffled-codes": filtered(shuffle=True),
        "fletcher32-codes": filtered(fletcher32=True),
        "scaleoffset-codes": filtered(scaleoffset=3),
        # HDF5 makes virtual datasets with superblock 3 only, which has the same fields as 2.
        "virtual-codes": Defect(
            patched(rebuilt({"codes": virtual}, libver=("v110", "v110")), 8, b"\x02\x08\x08\x00"), contiguous
        ),
        "external-codes": Defect(rebuilt({"codes": external}), "/codes has an external file list"),
        "group-for-codes": Defect(rebuilt({"codes": group}), "/codes has the links of a group"),
        "named-type": Defect(rebuilt({"codes": named_type}), "/codes has a shared message"),
    }


def heaps() -> dict[str, Defect]:
    """Links and attributes in heaps, whose blocks HDF5 would pass through filters before any check."""
    word = "keeps its links or attributes in a heap"
    filtered = bytearray(dense(links=True, deflate=True))
    # 1 is gzip's number; HDF5 looks for 200 in its plug-in folders, and loads what lies there.
    filtered[filtered.index(struct.pack("<BBHHHI", 2, 1, 1, 1, 1, 6), filtered.index(b"FRHP")) + 2] = 200
    return {
        "links-in-a-heap": Defect(dense(links=True), word),
        "links-in-a-gzip-heap": Defect(dense(links=True, deflate=True), word),
        "links-in-a-heap-with-a-plug-in-filter": Defect(bytes(seal(filtered, frhp_parts(filtered))), word),
        "attributes-in-a-heap": Defect(dense(links=False), word),
    }


def frhp_parts(content: bytes | bytearray) -> list[tuple[int, int]]:
    """Where the checksum of the (first) fractal heap with a filter belongs."""
    start = content.index(b"FRHP")
    return [(start, start + 166)]


def dense(links: bool, deflate: bool = False) -> bytes:
    """A store whose root group keeps its links or its attributes in a fractal heap."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.h5")
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
        access.set_alignment(1, 4096)
        made = h5f.create(bytes(path), h5f.ACC_TRUNC, _dense_creation(links, deflate), access)
        with h5py.File(made) as file:
            _fill(file)
        made.close()
        return path.read_bytes()


def _dense_creation(links: bool, deflate: bool) -> h5p.PropFCID:
    # h5py has these calls for other property lists, not for that of a file and its root group.
    library = hdf5_library()
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    if links:
        library.H5Pset_link_phase_change(ctypes.c_int64(creation.id), 0, 0)
    else:
        creation.set_attr_phase_change(0, 0)
    if deflate:
        library.H5Pset_deflate(ctypes.c_int64(creation.id), 6)
    return creation


def _fill(file: h5py.File) -> None:
    for name, array in _arrays().items():
        file.create_dataset(name, data=array, track_times=False)
    _describe(file)


def hdf5_library() -> ctypes.CDLL:
    """The HDF5 library that h5py has loaded."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return ctypes.CDLL(next(line.split()[-1] for line in maps if "/libhdf5" in line and "_hl" not in line))
