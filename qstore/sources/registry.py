"""The formats that can be read, and which one a given thing is: by content first, then by its name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

from ..engine.arrays import is_tensor
from ..errors import SourceError
from ..system.options import shown
from .base import Source, TensorInfo
from .concatenated import are_paths, concatenated
from .files import RawFile
from .gguf.tensors import GGUFFormat
from .hdf5 import HDF5Format
from .memory.array import ArraySource, nested_list_source
from .memory.chunks import ChunkSource
from .numpy.npy import NpyFormat
from .numpy.npz import NpzFormat
from .parquet import ParquetFormat
from .quantized import CodesSource, is_pair
from .safetensors.index import SafetensorsIndexFormat
from .safetensors.tensors import SafetensorsFormat
from .torch.checkpoint_zip import TorchIndexFormat, TorchZipFormat
from .torch.memory_tensor import tensor_source
from .vecs import VecsFormat
from .words.binary import BinaryWordVectorsFormat
from .words.text import TextWordVectorsFormat

__all__ = ["FORMATS", "Format", "list_tensors", "open_source"]

_HEAD_BYTES = 4096


class Format(Protocol):
    """What the registry asks of a file format. All methods raise `SourceError` and leave no file open.

    Attributes
    ----------
    name : str
    suffixes : tuple of str
        Ends of file names, in lower case.
    checkpoint_names : tuple of str
        Files that make a directory a checkpoint of this format.
    """

    name: str
    suffixes: tuple[str, ...]
    checkpoint_names: tuple[str, ...]

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the first bytes (up to 4096) are those of this format."""

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors of a file."""

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the named tensor, or of the only matrix."""


FORMATS: tuple[Format, ...] = (
    NpyFormat(),
    HDF5Format(),
    SafetensorsIndexFormat(),
    SafetensorsFormat(),
    TorchIndexFormat(),
    TorchZipFormat(),
    NpzFormat(),
    VecsFormat(),
    ParquetFormat(),
    GGUFFormat(),
    BinaryWordVectorsFormat(),
    TextWordVectorsFormat(),
)
"""In the order they are tried: text, which tells least of itself, last."""


def open_source(obj: Any, tensor: str | None = None) -> Source:
    """Source of the matrix that `obj` is or holds.

    Parameters
    ----------
    obj : path, array, iterable or Source
        A file or checkpoint directory; a list of such, taken one after the other; anything with `.shape`
        and row slices; a tuple of codes and scales; a list of lists; an iterable of 2-D chunks.
        A Source is returned as it is.
    tensor : str, optional
        Which tensor of a file, or of each. May be left out where only one is a matrix.

    Returns
    -------
    Source
        To be closed by the caller.

    Raises
    ------
    TensorError
        Several matrices and no name, or a name that is not there.
    SourceError
        Anything else that keeps the matrix from being read.

    Examples
    --------
    >>> import numpy as np
    >>> with open_source(np.zeros((4, 2), np.float16)) as source:
    ...     source.rows, source.dim, source.dtype
    (4, 2, 'float16')
    """
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor is {shown(tensor)}, expected the name of one")
    if isinstance(obj, (str, os.PathLike)):
        path, file_format = _identify(obj)
        return file_format.open(path, tensor)
    if are_paths(obj):
        return concatenated(obj, lambda path: open_source(path, tensor))
    if tensor is not None and not (isinstance(obj, Source) and obj.name == tensor):
        raise SourceError(
            f"{type(obj).__name__} has no tensor names: leave tensor={tensor!r} out, or give a file"
        )
    return obj if isinstance(obj, Source) else _source_in_memory(obj)


def list_tensors(obj: Any) -> list[TensorInfo]:
    """All tensors of a file or checkpoint directory, or the one an array or Source is.

    Raises
    ------
    SourceError
        It cannot be read, or is an iterable, whose shape is unknown before it ends.
    """
    if isinstance(obj, (str, os.PathLike)):
        path, file_format = _identify(obj)
        return file_format.tensors(path)
    source = obj if isinstance(obj, Source) else _source_in_memory(obj)
    if source.rows is None:
        raise SourceError(
            f"{type(obj).__name__} gives chunks: expected a file or an array, whose shape is known"
        )
    return [TensorInfo(source.name, (source.rows, source.dim), source.dtype)]


def _source_in_memory(obj: Any) -> Source:
    if is_tensor(obj):
        return tensor_source(obj)
    if is_pair(obj):
        return CodesSource(*obj)
    if hasattr(obj, "shape"):
        return ArraySource(obj)
    if hasattr(obj, "keys"):
        raise SourceError(
            f"{type(obj).__name__} holds arrays by name: give one of them, for example obj['weight']"
        )
    if isinstance(obj, (list, tuple)) and obj and isinstance(obj[0], (list, tuple)):
        return nested_list_source(obj)
    if isinstance(obj, Iterable) and not isinstance(obj, (bytes, bytearray, memoryview)):
        return ChunkSource(obj)
    raise SourceError(
        f"{type(obj).__name__} is no source: expected a path, an array of shape (rows, columns), "
        f"or an iterable of 2-D chunks"
    )


def _identify(given: str | os.PathLike[Any]) -> tuple[str, Format]:
    path = os.fsdecode(given)
    if os.path.isdir(path):
        return _checkpoint(path)
    with RawFile(path) as file:
        if file.size == 0:
            raise SourceError(f"{path} is empty: expected one of {_known()}")
        head = file.read_bytes(0, min(file.size, _HEAD_BYTES))
    lower = path.lower()
    by_content = (known for known in FORMATS if known.matches(path, head))
    by_name = (known for known in FORMATS if lower.endswith(known.suffixes))
    file_format = next(by_content, None) or next(by_name, None)
    if file_format is None:
        raise SourceError(
            f"{path} is of no known format: expected one of {_known()}; it starts with {head[:8]!r}"
        )
    return path, file_format


def _checkpoint(directory: str) -> tuple[str, Format]:
    for file_format in FORMATS:
        for name in file_format.checkpoint_names:
            path = os.path.join(directory, name)
            if os.path.exists(path):
                return path, file_format
    names = ", ".join(name for file_format in FORMATS for name in file_format.checkpoint_names)
    raise SourceError(
        f"{directory} is a directory without a checkpoint: expected {names} in it, or the path of a file"
    )


def _known() -> str:
    return ", ".join(f"{known.name} ({', '.join(known.suffixes)})" for known in FORMATS)
