"""An HDF5 file that may be hostile, opened so that it leads to no other one.

HDF5 can point outside a file (external links, external storage, virtual datasets). Nothing of that is
followed: only hard links are, and h5py sees the file through an object that can open no other one.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ...errors import SourceError
from ..base import TensorInfo
from ..checks import shortened, type_name
from ..files import RawFile
from ..tensor_choice import unknown_tensor

__all__ = [
    "CHUNK_CACHE_BYTES",
    "LONGEST_ROW",
    "MAGIC",
    "check_storage",
    "child_of",
    "element_type_of",
    "find_dataset",
    "header_crc32",
    "is_store",
    "list_datasets",
    "named_errors",
    "open_hdf5",
]

LONGEST_ROW = 1 << 30
"""Through HDF5 a row is read whole: a file of 4 KB can claim one row of 16 GiB."""

MAGIC = b"\x89HDF\r\n\x1a\n"
_HEADER_BYTES = 2048
_KERAS = re.compile(rb"(.*/)?vars/[0-9]+", re.DOTALL)

# h5py's default of 1 MiB holds less than one row of chunks of a wide table, so that each chunk would be
# decompressed once for every range of rows that touches it. A ceiling: small files take less.
CHUNK_CACHE_BYTES = 64 << 20
_CHUNK_CACHE = {"rdcc_nbytes": CHUNK_CACHE_BYTES, "rdcc_nslots": 12_421}


class _FileObject(io.RawIOBase):
    """What h5py reads a file through. It asks for exact reads and does not look at the count."""

    def __init__(self, file: RawFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read starts."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set where the next read starts."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or raise SourceError."""
        view = memoryview(buffer).cast("B")
        self._file.read_into(view, self._position)
        self._position += len(view)
        return len(view)


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn what h5py raises on malformed files into SourceError."""
    try:
        yield
    except SourceError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise SourceError(f"{path} cannot be read as HDF5: {shortened(str(error))}") from error


def open_hdf5(file: RawFile, stack: ExitStack) -> Any:
    """h5py's object for a file, which `stack` closes."""
    import h5py

    with named_errors(file.path):
        return stack.enter_context(h5py.File(_FileObject(file), "r", **_CHUNK_CACHE))


def is_store(h5: Any) -> bool:
    """Whether it says that it is a store, in the words that a store has for that."""
    import h5py

    if not h5py.h5a.exists(h5.id, b"format"):
        return False
    attribute = h5py.h5a.open(h5.id, b"format")
    kind = attribute.get_type()
    # Only what a store would hold is read: text of variable length can make HDF5 loop for ever.
    if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str() or kind.get_size() > 64:
        return False
    return attribute.shape == () and bytes(h5.attrs["format"]) == b"qstore"


def _hard_link(group_id: Any, name: bytes) -> bool:
    import h5py

    return bool(group_id.links.get_info(name).type == h5py.h5l.TYPE_HARD)


def list_datasets(h5: Any) -> list[TensorInfo]:
    """Every dataset once, under the first of its names; without recursion, for groups may hold themselves."""
    import h5py

    found: list[TensorInfo] = []
    seen: set[int] = set()
    groups = [("", h5.id)]
    while groups:
        prefix, group_id = groups.pop()
        for raw in group_id:
            if not _hard_link(group_id, raw):
                continue
            node, name = h5py.h5o.open(group_id, raw), prefix + raw.decode("utf-8", "surrogateescape")
            address = h5py.h5o.get_info(node).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(node, h5py.h5g.GroupID):
                groups.append((name + "/", node))
            elif isinstance(node, h5py.h5d.DatasetID) and node.shape is not None:
                found.append(TensorInfo(name, node.shape, element_type_of(node)))
    return sorted(found, key=lambda info: info.name)


def find_dataset(h5: Any, path: str, name: str) -> Any:
    """Identifier of a dataset, one component of the name at a time so that no link is followed."""
    import h5py

    node = h5.id
    for part in name.split("/"):
        node = child_of(node, path, name, part)
        if node is None:
            break
    if not isinstance(node, h5py.h5d.DatasetID):
        raise unknown_tensor(path, name, [info.name for info in list_datasets(h5)])
    return node


def child_of(node: Any, path: str, name: str, part: str) -> Any:
    """What the link `part` of a group leads to; None where there is no such link or no group."""
    import h5py

    raw = part.encode("utf-8", "surrogateescape")
    if not isinstance(node, h5py.h5g.GroupID) or part in ("", ".") or not node.links.exists(raw):
        return None
    if not _hard_link(node, raw):
        raise SourceError(
            f"{path}: {shortened(repr(part))} in tensor {shortened(repr(name))} is a soft or external "
            f"link, and those are not followed; give the name, or the file, of what it points to"
        )
    return h5py.h5o.open(node, raw)


def element_type_of(dataset_id: Any) -> str:
    """Name of the element type, as :func:`.checks.type_name` gives it."""
    import h5py

    kind = dataset_id.get_type().get_class()
    # NumPy's type of these two is a plain integer's.
    if kind in (h5py.h5t.ENUM, h5py.h5t.BITFIELD):
        return "enum" if kind == h5py.h5t.ENUM else "bitfield"
    # Keras keeps bfloat16 as two bytes without a type, and says so in this attribute and nowhere else.
    two_bytes = kind == h5py.h5t.OPAQUE and dataset_id.get_type().get_size() == 2
    if two_bytes and h5py.h5a.exists(dataset_id, b"dtype"):
        return "bfloat16" if _KERAS.fullmatch(h5py.h5i.get_name(dataset_id) or b"") else "unknown type"
    try:
        return type_name(dataset_id.dtype)
    except (TypeError, ValueError):
        return "unknown type"


def check_storage(where: str, dataset_id: Any) -> None:
    """Refuse data that lies elsewhere, was never written, or needs a filter that is not there.

    Raises
    ------
    SourceError
    """
    import h5py

    plan = dataset_id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        raise SourceError(
            f"{where} is a virtual dataset, and those are not followed; give the files it is made of"
        )
    if plan.get_layout() == h5py.h5d.CONTIGUOUS and plan.get_external_count():
        raise SourceError(
            f"{where} lies in external files, and those are not followed; copy it into one file"
        )
    for number in range(plan.get_nfilters()):
        code, _, _, name = plan.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise SourceError(
                f"{where} is compressed with filter {code} ({shortened(repr(name))}), which this h5py lacks; "
                f"import hdf5plugin first, or save it with gzip"
            )
    if dataset_id.shape[0] and not dataset_id.get_storage_size():
        # HDF5 would read zeros: the usual trace of a program that was killed before it wrote.
        raise SourceError(f"{where} expected data, found none: its values were never written; save it again")


def header_crc32(file: RawFile, dataset_id: Any) -> int:
    """CRC-32 of the superblock with the root group, and of where the data is."""
    place = f"{dataset_id.get_offset()} {dataset_id.get_storage_size()}".encode()
    return zlib.crc32(file.read_bytes(0, min(file.size, _HEADER_BYTES)), zlib.crc32(place))
