"""GGUF files: tensors in float types, or in llama.cpp's quantized blocks, most unpacked by the engine."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import ggml_blocks
from ...errors import MissingExtraError, SourceError
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import check_matrix, check_range, shortened
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from ..remote_files import open_file
from ..tensor_choice import only_matrix, unknown_tensor
from .header import MAGIC, Entry, Header, read_header
from .parts import read_whole
from .types import PLAIN_TYPES, QUANTIZED_TYPES

__all__ = ["GGUFFormat"]


class GGUFFormat:
    """A `.gguf` file, or all that belong to one. Shapes are NumPy's: GGUF's own are the other way round."""

    name = "GGUF"
    suffixes: tuple[str, ...] = (".gguf",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a GGUF file."""
        return head.startswith(MAGIC)

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors of all parts, sorted by name; quantized ones with what reading them gives, float32.

        Raises
        ------
        SourceError
        IncompleteError
            Parts are missing.
        """
        whole = read_whole(path)
        whole.check_complete()
        return whole.tensors()

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor; quantized ones come as the float32 values they stand for.

        Other parts than the one it is in may be missing where its name is given.

        Raises
        ------
        SourceError
            The file is malformed or cut short, or the tensor is not a matrix of a supported type.
        IncompleteError
            Parts are missing, and the tensor is in none that is there.
        TensorError
            Several matrices and no name, or a name that is not there.
        MissingExtraError
            The tensor is quantized in one of the few types that are left to the gguf library, which is not
            installed.
        """
        whole = read_whole(path)
        if tensor is None:
            whole.check_complete()
            tensor = only_matrix(path, whole.tensors()).name
        part = whole.path_of(tensor)
        if part is None:
            whole.check_complete()
            raise unknown_tensor(path, tensor, [info.name for info in whole.tensors()])
        with ExitStack() as on_error:
            file = on_error.enter_context(open_file(part))
            header = read_header(file)
            if tensor not in header.entries:
                raise SourceError(f"{part} was changed while it was opened: open it again")
            source = _rows(file, header, header.entries[tensor])
            on_error.pop_all()
        return source


class DequantizedRows(RowSource):
    """Rows that lie in a file as quantized blocks, as the float32 values that the gguf library makes of them.

    The library itself is asked for types that :mod:`qstore.engine.ggml_blocks` lacks. `read` may run in any
    number of threads and holds the rows it returns, with the library a few times over.
    """

    dtype = "float32"

    def __init__(self, file: RawFile, header: Header, entry: Entry) -> None:
        self.name = entry.info.name
        self._where = f"{file.path}: tensor {shortened(repr(self.name))}"
        check_matrix(self._where, entry.info.shape, self.dtype)
        self.rows, self.dim = entry.info.shape
        self._type_name, block, block_bytes = QUANTIZED_TYPES[entry.type]
        self._row_bytes = self.dim // block * block_bytes
        self._file, self._header, self._entry = file, header, entry
        file.will_read(entry.begin, entry.end)
        self._library: Any = None
        if self._type_name not in ggml_blocks.BLOCK_TYPES:
            self._library, self._type = _library(self._where, entry.type)
            self._by_library(np.zeros((1, block_bytes), np.uint8))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        position = self._entry.begin + start * self._row_bytes
        blocks = self._file.read_array(position, (stop - start, self._row_bytes), np.dtype(np.uint8))
        # The library cannot reshape nothing.
        if self._library is not None and stop > start:
            return self._by_library(blocks)
        values = np.empty((stop - start, self.dim), np.float32)
        if self._library is None:
            ggml_blocks.unpack(self._type_name, blocks, values)
        return values

    def _by_library(self, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            with np.errstate(all="ignore"):  # infinite scales are the quantizer's to refuse
                values: NDArray[np.float32] = self._library.dequantize(blocks, self._type)
        except NotImplementedError as error:
            raise SourceError(
                f"{self._where}: {error}; upgrade gguf, or convert the tensor to F16"
            ) from error
        return values

    def fingerprint(self) -> Fingerprint:
        """Size, time and header of the file as they were when it was opened."""
        return {
            "kind": "gguf",
            **self._file.identity,
            "dtype": self._type_name,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._header.crc32,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._file.close()


def _rows(file: RawFile, header: Header, entry: Entry) -> RowSource:
    if entry.type in QUANTIZED_TYPES:
        return DequantizedRows(file, header, entry)
    item = PLAIN_TYPES.get(entry.type)
    if item is None:
        where = f"{file.path}: tensor {shortened(repr(entry.info.name))}"
        raise SourceError(
            f"{where} holds {entry.info.dtype}, which is not supported; convert it to F16 first"
        )
    return ContiguousRows(
        file,
        kind="gguf",
        name=entry.info.name,
        offset=entry.begin,
        shape=entry.info.shape,
        dtype=item,
        header_crc32=header.crc32,
    )


def _library(where: str, type_number: int) -> tuple[Any, Any]:
    """The gguf library, and its word for the type."""
    type_name = QUANTIZED_TYPES[type_number][0]
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError(
            f'{where} is quantized ({type_name}): reading it needs pip install "qstore[gguf]"'
        ) from error
    try:
        return gguf, gguf.GGMLQuantizationType(type_number)
    except ValueError as error:
        raise SourceError(f"{where} holds {type_name}, which this gguf lacks: upgrade it") from error
