"""Datasets of HDF5 files, from files that may be hostile; see :mod:`.safe_file`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from numpy.typing import NDArray

from ...engine.arrays import conversion
from ...engine.quantization import marker_dtype
from ...errors import SourceError
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import check_matrix, check_range, shortened
from ..containers.chunk_rows import ChunkRows, rows_of_chunks
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from ..tensor_choice import only_matrix, unknown_tensor
from .keras import KerasTable, scales_of, with_tables
from .safe_file import (
    CHUNK_CACHE_BYTES,
    LONGEST_ROW,
    MAGIC,
    check_storage,
    element_type_of,
    find_dataset,
    header_crc32,
    is_store,
    list_datasets,
    named_errors,
    open_hdf5,
)
from .store_again import StoreAgain

__all__ = ["HDF5Format", "datasets_in", "open_dataset"]

_LONGEST_WORD = 64


class HDF5Format:
    """Any HDF5 file. A store is one matrix that is quantized already, whatever else its file holds."""

    name = "HDF5"
    suffixes: tuple[str, ...] = (".h5", ".hdf5", ".hdf")

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the signature stands at the start or after a user block."""
        return any(head.startswith(MAGIC, start) for start in (0, 512, 1024, 2048))

    def tensors(self, path: str) -> list[TensorInfo]:
        """All datasets that hard links lead to, at any depth, sorted by name.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            return datasets_in(file)

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one dataset, named with or without a leading slash, or of a store.

        Raises
        ------
        SourceError
            The file is malformed or cut short; the dataset is not a matrix of a supported type, holds no
            data, or lies outside the file; codes and scales without what says what they mean.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            source = open_dataset(on_error.enter_context(RawFile(path)), tensor)
            on_error.pop_all()
        return source


def datasets_in(file: RawFile) -> list[TensorInfo]:
    """What :meth:`HDF5Format.tensors` gives, of a file that is open; it stays so."""
    with ExitStack() as stack:
        h5 = open_hdf5(file, stack)
        with named_errors(file.path):
            if is_store(h5):
                store = StoreAgain(file, h5)
                return [TensorInfo(store.name, (store.rows, store.dim), store.dtype)]
            return with_tables(list_datasets(h5))


def open_dataset(file: RawFile, tensor: str | None) -> RowSource:
    """What :meth:`HDF5Format.open` gives, of a file that is open: closed with it, else the caller's."""
    with ExitStack() as on_error:
        h5 = open_hdf5(file, on_error)
        with named_errors(file.path):
            source = _store(file, h5, tensor) if is_store(h5) else _matrix(file, h5, tensor)
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

        self.name, self.dtype = name, element_type_of(dataset_id)
        self.rows, self.dim = dataset_id.shape
        if self.dim * dataset_id.dtype.itemsize > LONGEST_ROW:
            raise SourceError(
                f"{file.path}: tensor {name!r} has rows of {self.dim * dataset_id.dtype.itemsize} bytes, "
                f"expected at most {LONGEST_ROW}; save it contiguous and uncompressed to read longer ones"
            )
        self._file, self._h5, self._dataset = file, h5, h5py.Dataset(dataset_id)
        self._header_crc32 = header_crc32(file, dataset_id)
        row_bytes = self.dim * dataset_id.dtype.itemsize
        chunk = rows_of_chunks(self._dataset)
        # What fits HDF5's own cache of chunks is unpacked once anyway.
        self._chunks = ChunkRows(self.rows, chunk, row_bytes, least=CHUNK_CACHE_BYTES)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, a view where a large chunk is held; see :meth:`RowSource.read`."""
        check_range(f"{self._file.path}: tensor {self.name!r}", start, stop, self.rows)
        block = self._chunks.read(start, stop, self._slice)
        return block.view(marker_dtype(self.dtype)) if self.dtype == "bfloat16" else block

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        with named_errors(self._file.path):
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


def _store(file: RawFile, h5: Any, tensor: str | None) -> RowSource:
    store = StoreAgain(file, h5)
    if tensor not in (None, store.name):
        raise unknown_tensor(file.path, tensor, [store.name])
    return store


def _matrix(file: RawFile, h5: Any, tensor: str | None) -> RowSource:
    if tensor is None:
        found = with_tables(list_datasets(h5))
        _check_no_codes(file.path, found)
        tensor = only_matrix(file.path, found).name
    name = tensor.strip("/")
    dataset = find_dataset(h5, file.path, name)
    scales = scales_of(h5, file.path, name, dataset)
    rows = _rows(file, h5, name, dataset)
    if scales is None:
        return rows
    where = f"{file.path}: tensor {shortened(repr(name))}"
    check_storage(where, scales)
    return KerasTable(rows, scales, where, file.path, h5.close)


def _check_no_codes(path: str, found: Sequence[TensorInfo]) -> None:
    """Codes that have lost what says so must not be taken for values."""
    by_name = {info.name: info for info in found}
    for info in found:
        scales = by_name.get(info.name.removesuffix("codes") + "scales")
        if (
            info.name.rpartition("/")[2] == "codes"
            and info.dtype in ("uint8", "int8")
            and scales is not None
            and scales.dtype.startswith("float")
            and scales.shape in (info.shape[:1], (*info.shape[:1], 1))
        ):
            raise SourceError(
                f"{path} holds {shortened(repr(info.name))} and {shortened(repr(scales.name))}, as a qstore "
                f"store does, but not the attributes of one (format, formula, version, zero_point): if they "
                f"are codes and scales, build from both, "
                f"qstore.build((file[{info.name!r}], file[{scales.name!r}]), OUT) with "
                f"file = h5py.File(…); to quantize the codes themselves, name them: tensor={info.name!r} "
                f"(--tensor {info.name})"
            )


def _rows(file: RawFile, h5: Any, name: str, dataset_id: Any) -> RowSource:
    import h5py

    where = f"{file.path}: tensor {shortened(repr(name))}"
    word = element_type_of(dataset_id)
    check_matrix(where, dataset_id.shape or (), word, conversion(word, f"file[{shortened(repr(name))}][:]"))
    _check_packing(where, name, dataset_id)
    check_storage(where, dataset_id)
    offset = dataset_id.get_offset()
    if offset is not None:
        _check_size(where, dataset_id)
    # Equal types: the bytes in the file are NumPy's, so that HDF5 has nothing to convert.
    plain = word == "bfloat16" or dataset_id.get_type() == h5py.h5t.py_create(dataset_id.dtype)
    if offset is None or not plain:
        return DatasetRows(file, h5, name, dataset_id)
    return ContiguousRows(
        file,
        kind="hdf5",
        name=name,
        offset=offset,
        shape=dataset_id.shape,
        dtype=marker_dtype(word) if word == "bfloat16" else dataset_id.dtype,
        header_crc32=header_crc32(file, dataset_id),
    )


def _check_size(where: str, dataset_id: Any) -> None:
    """Refuse a contiguous dataset whose place is not as large as its shape: what is behind is another's."""
    expected = math.prod(dataset_id.shape) * dataset_id.get_type().get_size()
    if dataset_id.get_storage_size() != expected:
        raise SourceError(
            f"{where} of shape {dataset_id.shape} expected {expected} bytes, found "
            f"{dataset_id.get_storage_size()}; the file is damaged: get it again"
        )


def _check_packing(where: str, name: str, dataset_id: Any) -> None:
    """netCDF keeps whole numbers in the place of values, and in attributes how to come back."""
    import h5py

    for attribute in (b"scale_factor", b"add_offset"):
        if h5py.h5a.exists(dataset_id, attribute):
            values = f"file[{shortened(repr(name))}]"
            raise SourceError(
                f"{where} is packed, as netCDF has it: its attribute {attribute.decode()} says how numbers "
                f"become values, expected plain values; give {values}[:] * scale_factor + add_offset, with "
                f"those of {values}.attrs"
            )
    if h5py.h5a.exists(dataset_id, b"_Unsigned"):
        _check_signs(where, name, dataset_id)


def _check_signs(where: str, name: str, dataset_id: Any) -> None:
    """netCDF's classic types lack unsigned numbers; this attribute says that signed ones stand for them."""
    import h5py

    attribute = h5py.h5a.open(dataset_id, b"_Unsigned")
    if attribute.get_storage_size() > _LONGEST_WORD:
        return
    said = h5py.Dataset(dataset_id).attrs["_Unsigned"]
    word = (said.decode("latin-1") if isinstance(said, bytes) else str(said)).strip("\0 ").lower()
    kind = dataset_id.dtype.kind
    other = {("i", "true"): "u", ("u", "false"): "i"}.get((kind, word))
    if other is not None:
        values = f"file[{shortened(repr(name))}]"
        raise SourceError(
            f"{where} is of {dataset_id.dtype.name}, but its attribute _Unsigned, which netCDF has for that, "
            f"is {word!r}: expected numbers of the type they stand for; give "
            f"{values}[:].view({dataset_id.dtype.str.replace(kind, other).lstrip('|')!r})"
        )
