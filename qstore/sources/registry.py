"""The formats that can be read, and which one a given thing is: by content first, then by its name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol, runtime_checkable

from ..engine.arrays import is_tensor
from ..errors import IncompleteError, SourceError
from ..system.options import flag, shown
from ..system.stand_ins import Archive, archive_of, refused_format, stand_in, unpacking
from ..system.urls import without_file_scheme
from .addresses import Address, as_address, file_name
from .arrow import ArrowFormat
from .base import Source, TensorInfo
from .bigann import BigANNFormat
from .concatenated import are_paths, concatenated
from .containers.byte_stream import name_inside, open_stream, packing_of, unpacked_head
from .containers.tensor_file import TensorFile
from .directories import checkpoint_in
from .files import RawFile
from .gguf.tensors import GGUFFormat
from .hdf5.datasets import HDF5Format
from .joined import joined
from .keras_zip import KerasFormat
from .memory.array import ArraySource, nested_list_source
from .memory.chunks import ChunkSource
from .numbered import chosen
from .numpy.npy import NpyFormat
from .numpy.npz import NpzFormat
from .onnx.tensors import OnnxFormat
from .pairs import is_pair, pair_source
from .parquet import ParquetFormat
from .quantized_weights import Choice, listed, open_tensor
from .remote_files import open_file
from .safetensors.index import SafetensorsIndexFormat
from .safetensors.shards import ShardsFormat
from .safetensors.tensors import SafetensorsFormat
from .torch.checkpoint_zip import TorchIndexFormat, TorchZipFormat
from .torch.distributed import DistributedFormat
from .torch.memory_tensor import tensor_source
from .vecs import VecsFormat
from .words.binary import BinaryWordVectorsFormat
from .words.fasttext import FastTextFormat
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
    """

    name: str
    suffixes: tuple[str, ...]

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the first bytes (up to 4096) are those of this format; `path` is for its name alone."""

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors of a file."""

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the named tensor, or of the only matrix."""


@runtime_checkable
class FormatOfMany(Format, Protocol):
    """A format whose files hold tensors by name: what is quantized there may lie in several of them."""

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors of a file by name."""


_STREAMED: tuple[Format, ...] = (BinaryWordVectorsFormat(), TextWordVectorsFormat())
"""Those that are read from front to back, and so from packed files too."""
_ZIPPED: tuple[Format, ...] = (TorchZipFormat(), NpzFormat(), KerasFormat())
"""Those that are zip archives themselves."""

_PLACED: tuple[Format, ...] = (
    NpyFormat(),
    HDF5Format(),
    SafetensorsIndexFormat(),
    SafetensorsFormat(),
    TorchIndexFormat(),
    DistributedFormat(),
    *_ZIPPED,
    VecsFormat(),
    FastTextFormat(),
    BigANNFormat(),
    ParquetFormat(),
    ArrowFormat(),
    OnnxFormat(),
    GGUFFormat(),
)
"""Those that are read at any place."""

_RANGED = tuple(
    one
    for one in _PLACED
    if isinstance(one, (NpyFormat, SafetensorsFormat, SafetensorsIndexFormat, GGUFFormat))
)
"""Those that are read behind URLs, too: what is wanted lies in one place, which the header tells."""

FORMATS: tuple[Format, ...] = (*_PLACED, *_STREAMED)
"""In the order they are tried: text, which tells least of itself, last."""


def open_source(
    obj: Any,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
) -> Source:
    """Source of the matrix that `obj` is or holds.

    Parameters
    ----------
    obj : path, array, iterable or Source
        A file or checkpoint directory; a list of such, taken one after the other; anything with `.shape`
        and row slices; a tuple of codes and scales, of anything such; a list of lists; an iterable of 2-D
        chunks.
        A Source is returned as it is.
    tensor : str, optional
        Which tensor of a file, or of each. May be left out where only one is a matrix.
    join : bool
        `tensor` is a pattern: all tensors whose names match are one matrix, see :mod:`.numbered`.
    scale : str, optional
        Name of the tensor that scales its codes, where no convention tells (:mod:`.quantized_weights`).
    as_stored : bool
        Take the numbers of the tensor as they are, whatever lies beside it.

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
    choice = Choice(scale, as_stored)
    if flag("join", join):
        return _open_joined(obj, tensor, choice)
    if isinstance(obj, (str, os.PathLike)):
        path, file_format = _identify(obj)
        return _opener(path, file_format, choice)(tensor)
    if are_paths(obj):
        return concatenated(obj, lambda path: open_source(path, tensor, False, scale, as_stored))
    _check_no_scale(type(obj).__name__, choice)
    if tensor is not None and not (isinstance(obj, Source) and obj.name == tensor):
        raise SourceError(
            f"{type(obj).__name__} has no tensor names: leave tensor={tensor!r} out, or give a file"
        )
    return obj if isinstance(obj, Source) else _source_in_memory(obj)


def _opener(path: str, file_format: Format, choice: Choice) -> Callable[[str | None], Source]:
    """What opens a tensor by its name, or the only matrix; headers are read once, whatever is opened."""
    if isinstance(file_format, FormatOfMany):
        file = file_format.tensor_file(path)
        return lambda tensor: open_tensor(file, tensor, choice)
    _check_no_scale(path, choice)
    return lambda tensor: file_format.open(path, tensor)


def _open_joined(obj: Any, pattern: str | None, choice: Choice) -> Source:
    if not isinstance(obj, (str, os.PathLike)):
        raise SourceError(
            f"{type(obj).__name__} holds no tensors by name that could be joined: expected one file or "
            f"checkpoint; leave join=True (--join) out"
        )
    path, file_format = _identify(obj)
    if pattern is None:
        raise SourceError(
            f"{path}: join=True (--join) expects a pattern of the names of the tensors to join: give tensor= "
            f"(--tensor PATTERN), such as 'ngram_embedding.shard_*.weight'"
        )
    missing: tuple[str, ...] = ()
    try:
        # Tensors that are scaled by hand are looked for by the names that the file has.
        by_hand = Choice(as_stored=choice.as_stored or choice.scale is not None)
        found = _listed(path, file_format, by_hand)
    except IncompleteError as error:
        if error.missing is None:
            raise
        found, missing = list(error.tensors), error.missing
    _check_one_scale(path, found, choice.scale)
    return joined(chosen(path, found, pattern, missing), _opener(path, file_format, choice))


def _check_one_scale(path: str, found: list[TensorInfo], scale: str | None) -> None:
    """A scale that is given by hand is one number for all that is joined."""
    for one in found:
        if one.name == scale and math.prod(one.shape) != 1:
            raise SourceError(
                f"{path}: the scale {scale!r:.200} has shape {one.shape}, expected one number for all "
                f"that is joined; leave scale= (--scale) out where each has its own beside it"
            )


def _check_no_scale(where: str, choice: Choice) -> None:
    if choice.scale is not None:
        raise SourceError(
            f"{where} holds no tensors by name that one could scale another, as scale={choice.scale!r} "
            f"(--scale) asks for: give a tuple of codes and scales"
        )


def list_tensors(obj: Any, as_stored: bool = False) -> list[TensorInfo]:
    """All tensors of a file or checkpoint directory, or the one an array or Source is.

    Parameters
    ----------
    obj : path-like, array-like or Source
        What :func:`qstore.build` takes, but for lists of files and iterables of chunks. No data is read.
    as_stored : bool
        All tensors as they lie in the file. Else weights that are quantized are one matrix with their scales.

    Returns
    -------
    list of TensorInfo
        In the order of the file.

    Raises
    ------
    SourceError
        It cannot be read, or is an iterable, whose shape is unknown before it ends.
    """
    if isinstance(obj, (str, os.PathLike)):
        path, file_format = _identify(obj)
        return _listed(path, file_format, Choice(as_stored=as_stored))
    source = obj if isinstance(obj, Source) else _source_in_memory(obj)
    if source.rows is None:
        raise SourceError(
            f"{type(obj).__name__} gives chunks: expected a file or an array, whose shape is known"
        )
    return [TensorInfo(source.name, (source.rows, source.dim), source.dtype)]


def _listed(path: str, file_format: Format, choice: Choice) -> list[TensorInfo]:
    if not isinstance(file_format, FormatOfMany) or choice.as_stored:
        return file_format.tensors(path)
    try:
        found = file_format.tensors(path)
    except IncompleteError as error:
        there = [info.name for info in error.tensors]
        raise IncompleteError(
            str(error), tuple(listed(file_format.tensor_file(path), there, choice)), error.missing
        ) from None
    return listed(file_format.tensor_file(path), [info.name for info in found], choice)


def _source_in_memory(obj: Any) -> Source:
    if is_tensor(obj):
        return tensor_source(obj)
    if is_pair(obj):
        return pair_source(*obj)
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
    given = as_address(given)
    if isinstance(given, Address):
        return _identify_behind_url(given)
    path = os.fsdecode(without_file_scheme(given))
    if os.path.isdir(path):
        path = checkpoint_in(path)
        if os.path.isdir(path):
            return path, ShardsFormat()
    with RawFile(path) as file:
        if file.size == 0:
            raise SourceError(f"{path} is empty: expected one of {_known()}")
        head = file.read_bytes(0, min(file.size, _HEAD_BYTES))
        file_format = _by_content(_PLACED, path, head) or _of_packed(file, head)
        file_format = file_format or _by_content(_STREAMED, path, head) or _by_name(FORMATS, path)
    refused = None if file_format else refused_format(path, head)
    if refused is not None:
        raise SourceError(f"{path} is {refused}")
    if file_format is None:
        raise SourceError(
            f"{path} is of no known format: expected one of {_known()}; it starts with {head[:8]!r}"
        )
    return path, file_format


def _identify_behind_url(path: Address) -> tuple[str, Format]:
    from ..system.remote_objects.opening import list_folder

    place: str = path
    if list_folder(path.url) is not None:
        place = checkpoint_in(path)
    elif not path.name:
        raise SourceError(
            f"{path} cannot be listed over HTTP: expected the URL of a file, such as model.safetensors "
            f"or model.safetensors.index.json in it"
        )
    return place, _format_behind_url(place)


def _format_behind_url(path: str) -> Format:
    with open_file(path) as file:
        if file.size == 0:
            raise SourceError(f"{path} is empty: expected one of {_known(_RANGED)}")
        head = file.read_bytes(0, min(file.size, _HEAD_BYTES))
    name = file_name(path)
    file_format = _by_content(_PLACED, name, head) or _by_name(FORMATS, name)
    if file_format not in _RANGED:
        store = " (a store need not be built: qstore.open and qstore info read it where it is)"
        raise SourceError(
            f"{path} is {'of no known format' if file_format is None else file_format.name}: expected one of "
            f"{_known(_RANGED)}, which are read behind URLs; download it first, and give its path"
            f"{store if isinstance(file_format, HDF5Format) else ''}"
        )
    return file_format


def _by_content(formats: Iterable[Format], name: str, head: bytes) -> Format | None:
    return next((known for known in formats if known.matches(name, head)), None)


def _by_name(formats: Iterable[Format], name: str) -> Format | None:
    return next((known for known in formats if name.lower().endswith(known.suffixes)), None)


def _of_packed(file: RawFile, head: bytes) -> Format | None:
    """Format of what a packed file holds, or of a zip archive by its own name; None: it is not packed."""
    kind = archive_of(head)
    if kind is None:
        return None
    packing = packing_of(file)
    if packing is None:
        raise SourceError(f"{file.path} is {stand_in(file.path, head)}")
    zipped = _by_name(_ZIPPED, file.path) if head.startswith(b"PK") else None
    try:
        name = name_inside(file, packing)
    except SourceError:
        if zipped is None:
            raise
        return zipped
    inside = unpacked_head(file, _HEAD_BYTES)
    by_name = _by_name(_STREAMED, name) if archive_of(inside) is None else None
    return _by_content(_STREAMED, name, inside) or by_name or zipped or _refuse_packed(file, packing, inside)


def _refuse_packed(file: RawFile, packing: Archive, inside: bytes) -> NoReturn:
    inner = archive_of(inside)
    if inner is not None and inner.command == "tar -xf":
        raise SourceError(f"{file.path} is {inner.name} in {packing.name}: {unpacking(file.path, inner)}")
    open_stream(file).read(1)  # where it is damaged, that is the reason
    raise SourceError(
        f"{file.path} is {packing.name}, and holds no word vectors, expected some: other formats are not "
        f"read packed; {unpacking(file.path, packing)}"
    )


def _known(formats: Iterable[Format] = FORMATS) -> str:
    names = ", ".join(f"{known.name} ({', '.join(known.suffixes)})" for known in formats)
    return names + (", word vectors also packed (.gz, .xz, .bz2, .zip)" if formats is FORMATS else "")
