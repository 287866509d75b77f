"""Datasets of HDF5 files, from files that may be hostile.

HDF5 can point outside a file (external links, external storage, virtual datasets). Nothing of that is
followed: only hard links are, and h5py sees the file through an object that can open no other one.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from numpy.typing import NDArray

from ..errors import SourceError
from .base import Fingerprint, RowSource, TensorInfo
from .checks import check_matrix, check_range, shortened, type_name
from .containers.contiguous import ContiguousRows
from .files import RawFile
from .tensor_choice import only_matrix, unknown_tensor

__all__ = ["HDF5Format"]

# Through HDF5 a row is read whole: a file of 4 KB can claim one row of 16 GiB.
_LONGEST_ROW = 1 << 30

_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEADER_BYTES = 2048

# h5py's default of 1 MiB holds less than one row of chunks of a wide table, so that each chunk would be
# decompressed once for every range of rows that touches it. A ceiling: small files take less.
_CHUNK_CACHE = {"rdcc_nbytes": 64 << 20, "rdcc_nslots": 12_421}


class HDF5Format:
    """Any HDF5 file that is not a store."""

    name = "HDF5"
    suffixes: tuple[str, ...] = (".h5", ".hdf5", ".hdf")
    checkpoint_names: tuple[str, ...] = ()

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the signature stands at the start or after a user block."""
        return any(head.startswith(_MAGIC, start) for start in (0, 512, 1024, 2048))

    def tensors(self, path: str) -> list[TensorInfo]:
        """All datasets that hard links lead to, at any depth, sorted by name.

        Raises
        ------
        SourceError
        """
        with ExitStack() as stack:
            h5 = _open_file(stack.enter_context(RawFile(path)), stack)
            with _named_errors(path):
                return _list(h5)

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one dataset, named with or without a leading slash.

        Raises
        ------
        SourceError
            The file is malformed, cut short or a store already; the dataset is not a matrix of a
            supported type, holds no data, or lies outside the file.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            h5 = _open_file(file, on_error)
            with _named_errors(path):
                name = only_matrix(path, _list(h5)).name if tensor is None else tensor.strip("/")
                dataset = _find(h5, path, name)
                source = _rows(file, h5, name, dataset)
            if isinstance(source, ContiguousRows):
                h5.close()
            on_error.pop_all()
        return source


class DatasetRows(RowSource):
    """Rows of a dataset that only HDF5 can read: chunked, compressed, or of a type NumPy lacks.

    `read` may run in any number of threads; h5py lets them in one at a time.
    """

    def __init__(self, file: RawFile, h5: Any, name: str, dataset_id: Any) -> None:
        import h5py

        self.name, self.dtype = name, _type_name(dataset_id)
        self.rows, self.dim = dataset_id.shape
        if self.dim * dataset_id.dtype.itemsize > _LONGEST_ROW:
            raise SourceError(
                f"{file.path}: tensor {name!r} has rows of {self.dim * dataset_id.dtype.itemsize} bytes, "
                f"expected at most {_LONGEST_ROW}; save it contiguous and uncompressed to read longer ones"
            )
        self._file, self._h5, self._dataset = file, h5, h5py.Dataset(dataset_id)
        self._header_crc32 = _header_crc32(file, dataset_id)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`."""
        check_range(f"{self._file.path}: tensor {self.name!r}", start, stop, self.rows)
        with _named_errors(self._file.path):
            block: NDArray[Any] = self._dataset[start:stop]
        return block

    def fingerprint(self) -> Fingerprint:
        """Size, time and header of the file as they were when it was opened."""
        return {
            "kind": "hdf5",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._header_crc32,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._h5.close()
        self._file.close()


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
def _named_errors(path: str) -> Iterator[None]:
    """Turn what h5py raises on malformed files into SourceError."""
    try:
        yield
    except SourceError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise SourceError(f"{path} cannot be read as HDF5: {shortened(str(error))}") from error


def _open_file(file: RawFile, stack: ExitStack) -> Any:
    import h5py

    with _named_errors(file.path):
        h5 = stack.enter_context(h5py.File(_FileObject(file), "r", **_CHUNK_CACHE))
        if _is_store(h5):
            raise SourceError(
                f"{file.path} is a qstore store already: expected a matrix to quantize; "
                f"read it with qstore.open, or give the file it was built from"
            )
    return h5


def _is_store(h5: Any) -> bool:
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


def _list(h5: Any) -> list[TensorInfo]:
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
                found.append(TensorInfo(name, node.shape, _type_name(node)))
    return sorted(found, key=lambda info: info.name)


def _find(h5: Any, path: str, name: str) -> Any:
    """Identifier of a dataset, one component of the name at a time so that no link is followed."""
    import h5py

    node = h5.id
    for part in name.split("/"):
        raw = part.encode("utf-8", "surrogateescape")
        if not isinstance(node, h5py.h5g.GroupID) or part in ("", ".") or not node.links.exists(raw):
            raise unknown_tensor(path, name, [info.name for info in _list(h5)])
        if not _hard_link(node, raw):
            raise SourceError(
                f"{path}: {shortened(repr(part))} in tensor {shortened(repr(name))} is a soft or external "
                f"link, and those are not followed; give the name, or the file, of what it points to"
            )
        node = h5py.h5o.open(node, raw)
    if not isinstance(node, h5py.h5d.DatasetID):
        raise unknown_tensor(path, name, [info.name for info in _list(h5)])
    return node


def _type_name(dataset_id: Any) -> str:
    import h5py

    kind = dataset_id.get_type().get_class()
    # NumPy's type of these two is a plain integer's.
    if kind in (h5py.h5t.ENUM, h5py.h5t.BITFIELD):
        return "enum" if kind == h5py.h5t.ENUM else "bitfield"
    try:
        return type_name(dataset_id.dtype)
    except (TypeError, ValueError):
        return "unknown type"


def _rows(file: RawFile, h5: Any, name: str, dataset_id: Any) -> RowSource:
    import h5py

    where = f"{file.path}: tensor {shortened(repr(name))}"
    check_matrix(where, dataset_id.shape or (), _type_name(dataset_id))
    _check_storage(where, dataset_id)
    offset = dataset_id.get_offset()
    # Equal types: the bytes in the file are NumPy's, so that HDF5 has nothing to convert.
    if offset is None or dataset_id.get_type() != h5py.h5t.py_create(dataset_id.dtype):
        return DatasetRows(file, h5, name, dataset_id)
    return ContiguousRows(
        file,
        kind="hdf5",
        name=name,
        offset=offset,
        shape=dataset_id.shape,
        dtype=dataset_id.dtype,
        header_crc32=_header_crc32(file, dataset_id),
    )


def _check_storage(where: str, dataset_id: Any) -> None:
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


def _header_crc32(file: RawFile, dataset_id: Any) -> int:
    # The superblock with the root group, and where the data is.
    place = f"{dataset_id.get_offset()} {dataset_id.get_storage_size()}".encode()
    return zlib.crc32(file.read_bytes(0, min(file.size, _HEADER_BYTES)), zlib.crc32(place))
