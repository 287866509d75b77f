"""ONNX models: their initializers, in the file or in external data beside it.

Data is found by what the initializers say alone. What the graph makes of quantized ones: :mod:`.tables`.
"""

from __future__ import annotations

import math
import os
import zlib
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.quantization import marker_dtype
from ...errors import SourceError
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import check_matrix, check_range, shortened
from ..containers.checkpoint_index import is_plain_name
from ..containers.contiguous import ContiguousRows
from ..containers.tensor_file import TensorFile, byte_shape
from ..files import RawFile
from ..quantized_weights import DescribedTensors
from ..quantized_weights.recipe import Recipe
from ..tensor_choice import only_matrix, unknown_tensor
from .graph import BITS, Initializer, read_model
from .protobuf import packed_varints
from .tables import Tables

__all__ = ["OnnxFormat"]

# Of zero points: a byte each as a rule, ten where they are negative.
_MOST_NUMBERS = 64 << 20


class OnnxFormat:
    """One model; the initializers of its graph are the tensors."""

    name = "ONNX"
    suffixes: tuple[str, ...] = (".onnx",)

    def matches(self, path: str, head: bytes) -> bool:
        """Never: messages of protobuf have no mark. The name tells."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All initializers, sorted by name.

        Raises
        ------
        SourceError
        """
        file = _Initializers(path)
        return [file.info(name) for name in sorted(file.names)]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one initializer, as the numbers that it holds.

        Raises
        ------
        SourceError
            The file is malformed or cut short; the tensor is no matrix of a supported type, or its external
            data is not where the model says.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        file = _Initializers(path)
        if tensor is None:
            tensor = only_matrix(path, [file.info(name) for name in file.names]).name
        return file.open(tensor)

    def tensor_file(self, path: str) -> TensorFile:
        """All initializers by name, and what the graph says of them."""
        return _Initializers(path)


class _Initializers(DescribedTensors):
    def __init__(self, path: str) -> None:
        self.path = path
        with RawFile(path) as file:
            self._model = read_model(file)
            self._version = file.size, file.mtime_ns
        self.names = self._model.initializers.keys()
        self._tables = Tables(self._model)

    def info(self, name: str) -> TensorInfo:
        one = self._model.initializers[name]
        return TensorInfo(name, tuple(one.shape), one.dtype)

    def recipe(self, name: str) -> Recipe | None:
        return self._tables.recipe(name)

    def open(self, name: str) -> RowSource:
        if name not in self.names:
            raise unknown_tensor(self.path, name, self.names)
        one = self._model.initializers[name]
        check_matrix(self._where(one), one.shape, one.dtype)
        raw = one.dtype == "bfloat16" or one.dtype.startswith("float8")
        item = marker_dtype(one.dtype) if raw else np.dtype(one.dtype).newbyteorder("<")
        return self._opened(one, tuple(one.shape), item)

    def open_bytes(self, name: str) -> RowSource:
        """See :meth:`.TensorFile.open_bytes`; of types of less than 8 bits each byte is a row."""
        one = self._model.initializers[name]
        if one.dtype not in BITS:
            raise SourceError(f"{self._where(one)} holds {one.dtype}: expected a type that is known")
        size = _size(one)
        shape = (size, 1) if BITS[one.dtype] < 8 else byte_shape(tuple(one.shape), size)
        if one.data is None and not one.is_external and one.numbers is not None:
            return self._held(one, shape)
        return self._opened(one, shape, np.dtype(np.uint8))

    def _where(self, one: Initializer) -> str:
        return f"{self.path}: tensor {shortened(repr(one.name))}"

    def _opened(self, one: Initializer, shape: tuple[int, ...], item: np.dtype[Any]) -> RowSource:
        with ExitStack() as on_error:
            file, begin = self._place(one, on_error)
            source = ContiguousRows(
                file,
                kind="onnx",
                name=one.name,
                offset=begin,
                shape=shape,
                dtype=item,
                header_crc32=self._model.crc32,
            )
            on_error.pop_all()
        return source

    def _place(self, one: Initializer, files: ExitStack) -> tuple[RawFile, int]:
        """The file that holds the bytes of a tensor, and where they begin in it."""
        where, size = self._where(one), _size(one)
        if one.is_external:
            location, begin, found = _external(where, one, size)
            _check_length(where, one, found, size)
            file = files.enter_context(RawFile(os.path.join(os.path.dirname(self.path), location)))
            if begin + size > file.size:
                raise SourceError(
                    f"{where} ends early: expected {size} bytes from byte {begin} of {file.path} on, found "
                    f"{file.size} in all; get it again"
                )
            return file, begin
        if one.data is None:
            raise SourceError(
                f"{where} has its values in a form that is not read: expected bytes; save the model again "
                f"with onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))"
            )
        _check_length(where, one, one.data[1], size)
        return self._file(files), one.data[0]

    def _file(self, files: ExitStack) -> RawFile:
        file = files.enter_context(RawFile(self.path))
        if (file.size, file.mtime_ns) != self._version:
            raise SourceError(f"{self.path} was changed while it was read; build again")
        return file

    def _held(self, one: Initializer, shape: tuple[int, int]) -> RowSource:
        """Bytes of a tensor whose items are written as numbers of up to 32 bits: as a rule, a few of them."""
        where, (begin, count) = self._where(one), one.numbers or (0, 0)
        if count > _MOST_NUMBERS:
            raise SourceError(
                f"{where} has its values as numbers of {count} bytes: expected at most {_MOST_NUMBERS}; "
                f"save the model again with onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))"
            )
        with ExitStack() as on_error:
            file = self._file(on_error)
            found = packed_varints(file.read_bytes(begin, count))
            width = min(max(BITS[one.dtype] // 8, 1), 4)
            held = b"" if found is None else found.astype(f"<u{width}").tobytes()
            if found is None or len(held) != _size(one) or BITS[one.dtype] > 32:
                raise SourceError(
                    f"{where} of shape {tuple(one.shape)} expected {_size(one)} bytes of numbers, found "
                    f"{'none that can be read' if found is None else len(held)}"
                )
            source = _HeldRows(file, one.name, np.frombuffer(held, np.uint8).reshape(shape))
            on_error.pop_all()
        return source


class _HeldRows(RowSource):
    """Bytes that were made of what a file holds, and what file that is.

    Parameters
    ----------
    file : RawFile
        Closed with this.
    name : str
    values : ndarray of uint8
    """

    dtype = "uint8"

    def __init__(self, file: RawFile, name: str, values: NDArray[np.uint8]) -> None:
        self.name, (self.rows, self.dim) = name, values.shape
        self._file, self._values = file, values

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop`; see :meth:`.RowSource.read`."""
        check_range(self.name, start, stop, self.rows)
        return self._values[start:stop].copy()

    def fingerprint(self) -> Fingerprint:
        """The file, and the bytes."""
        return {
            "kind": "onnx",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "tensor": self.name,
            "crc32": zlib.crc32(self._values.data),
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        self._file.close()


def _size(one: Initializer) -> int:
    """Bytes of the whole."""
    return -(-math.prod(one.shape) * BITS.get(one.dtype, 8) // 8)


def _check_length(where: str, one: Initializer, found: int, expected: int) -> None:
    if found != expected:
        raise SourceError(f"{where} of shape {tuple(one.shape)} expected {expected} bytes, found {found}")


def _external(where: str, one: Initializer, size: int) -> tuple[str, int, int]:
    """Name of a file, where the data begins in it, and how many bytes it has."""
    location = one.external.get("location", "").removeprefix("./")
    if not is_plain_name(location):
        raise SourceError(
            f"{where} expected external data in a file beside the model, found {shortened(repr(location))}; "
            f"save it again with onnx.save(model, path, save_as_external_data=True, location=NAME)"
        )
    numbers = [one.external.get("offset", "0"), one.external.get("length", str(size))]
    if not all(text.isdecimal() and len(text) < 19 for text in numbers):
        raise SourceError(f"{where} has external data at {shortened(repr(numbers))}: expected two numbers")
    return location, int(numbers[0]), int(numbers[1])
