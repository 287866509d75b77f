"""Checkpoints of torch.save: a zip archive of a pickle and one member for each storage.

Layout: https://docs.pytorch.org/docs/stable/notes/serialization.html. The pickle is read by an
interpreter of our own, which can build nothing but descriptions of tensors; the data is read by position.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import SourceError
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import check_matrix, shortened
from ..containers.checkpoint_index import IndexFormat
from ..containers.contiguous import ContiguousRows
from ..containers.tensor_file import TensorFile, byte_shape
from ..containers.zip_members import MAGIC, STORED, Archive, Member, first_name
from ..files import RawFile
from ..quantized import QUANTIZED
from ..tensor_choice import only_matrix, unknown_tensor
from .checkpoint_pickle import Found, read_tensors
from .restricted_pickle import Opaque, PickleRefused
from .tensor_rows import TorchCodes, conversion, is_by_row, item_dtype, rows_of
from .types import OpaqueTensor, Storage, Tensor

__all__ = ["TorchIndexFormat", "TorchZipFormat", "bytes_of_only", "rows_of_only"]

_RESAVE = "torch.save(torch.load(path, weights_only=True), new_path)"
# What torch.save wrote before version 1.6: a pickle of this number comes first.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LONGEST_PICKLE = 100_000_000
# Those of its classes that hold a code for each value, and scales as their shapes say.
_TORCHAO = ("Int8Tensor", "Float8Tensor", "IntxUnpackedToInt8Tensor")


class TorchZipFormat:
    """State dicts and other nested containers of tensors, as torch.save writes them since torch 1.6."""

    name = "torch checkpoint"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin")

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a checkpoint, a legacy one included."""
        return first_name(head).endswith("/data.pkl") or head[2:].startswith(_LEGACY)

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors, sorted by name, and opaque objects among them.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            checkpoint = _read_whole(file)
        return [_info(name, checkpoint.tensors[name]) for name in sorted(checkpoint.tensors)]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor.

        Raises
        ------
        SourceError
            The file is malformed, cut short or legacy; or the tensor is opaque, or no matrix of a supported
            type with contiguous rows or columns.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            source = _open(file, _read_whole(file), tensor, {})
            on_error.pop_all()
        return source

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors by name, and opaque objects among them."""
        return _TorchTensors(path)


class TorchIndexFormat(IndexFormat):
    """A checkpoint in several torch files, described by an index in JSON."""

    name = "torch checkpoint index"
    suffixes: tuple[str, ...] = (".bin.index.json", ".bin.index.fp16.json")

    def tensors_in(self, file: RawFile) -> Mapping[str, TensorInfo]:
        """All tensors of one shard by name."""
        return {name: _info(name, tensor) for name, tensor in _read(file).tensors.items()}

    def open_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of a tensor of one shard."""
        return _open(file, _read(file), tensor, origin)

    def open_bytes_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of the bytes of a tensor of one shard."""
        return _open_bytes(file, _read(file), tensor, origin)


class _TorchTensors(TensorFile):
    def __init__(self, path: str) -> None:
        self.path = path
        with RawFile(path) as file:
            self._checkpoint = _read_whole(file)
            self._version = file.size, file.mtime_ns
        self.names = self._checkpoint.tensors.keys()

    def info(self, name: str) -> TensorInfo:
        return _info(name, self._checkpoint.tensors[name])

    def open(self, name: str) -> RowSource:
        return self._opened(_open, name)

    def open_bytes(self, name: str) -> RowSource:
        return self._opened(_open_bytes, name)

    def metadata_beside(self, name: str) -> dict[str, str]:
        return {whose: json.dumps({"_type": kind}) for whose, kind in self._checkpoint.torchao.items()}

    def _opened(
        self, opened: Callable[[RawFile, _Checkpoint, str, Fingerprint], RowSource], name: str
    ) -> RowSource:
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(self.path))
            if (file.size, file.mtime_ns) != self._version:
                raise SourceError(f"{self.path} was changed while it was read; build again")
            checkpoint = replace(self._checkpoint, archive=self._checkpoint.archive.through(file))
            source = opened(file, checkpoint, name, {})
            on_error.pop_all()
        return source


def rows_of_only(file: RawFile, name: str, shape: tuple[int, int], dtype: str) -> RowSource:
    """Source of the tensor that is all a file holds, which it closes.

    Parameters
    ----------
    file : RawFile
    name : str
        What the source is called; the file has no name for it.
    shape, dtype
        What it must be.

    Raises
    ------
    SourceError
        The file is malformed, or holds something else.
    """
    checkpoint, found = _only(file, shape, dtype)
    return rows_of(
        file,
        file.path,
        found,
        dtype=item_dtype(dtype),
        name=name,
        begin=checkpoint.begin_of(file.path, name, found.storage),
        header_crc32=checkpoint.crc32,
    )


def bytes_of_only(file: RawFile, name: str, shape: tuple[int, ...], dtype: str) -> RowSource:
    """Source of the bytes of the tensor that is all a file holds; as :func:`rows_of_only`, of any shape."""
    checkpoint, found = _only(file, shape, dtype)
    return _bytes_of(file, file.path, found, checkpoint, name, {})


def _only(file: RawFile, shape: tuple[int, ...], dtype: str) -> tuple[_Checkpoint, Tensor]:
    checkpoint = _read(file)
    found = checkpoint.tensors.get("")
    shown = type(found).__name__
    if isinstance(found, (Tensor, OpaqueTensor)):
        shown = f"{found.shape} of {found.dtype}" if isinstance(found, Tensor) else f"Opaque ({found.kind})"
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (shape, dtype):
        remedy = f"; save {found.remedy} in its place" if isinstance(found, OpaqueTensor) else ""
        raise SourceError(
            f"{file.path}: expected one tensor of shape {shape} of {dtype}, found {shortened(shown)}{remedy}"
        )
    return checkpoint, found


@dataclass(frozen=True)
class _Checkpoint:
    archive: Archive
    prefix: str
    """Of the names of all members: a directory."""
    tensors: dict[str, Found]
    crc32: int
    torchao: Mapping[str, str] = field(default_factory=dict)
    """Names of weights that torchao has quantized, and the class of each."""

    def member_of(self, path: str, name: str, storage: Storage) -> Member:
        """Member that holds a storage; `name` is that of the tensor, for the error.

        Raises
        ------
        SourceError
            There is none, it is compressed, or of another size.
        """
        where = f"{path}: tensor {shortened(repr(name))}"
        member = self.archive.members.get(f"{self.prefix}data/{storage.key}")
        if member is None:
            raise SourceError(
                f"{where} expected its data in member {shortened(repr(storage.key))}, found no such member"
            )
        if member.method != STORED:
            raise SourceError(f"{where} is compressed: expected plain data; save it again: {_RESAVE}")
        if member.size != storage.size:
            raise SourceError(f"{where} expected {storage.size} bytes of data, found {member.size}")
        return member

    def begin_of(self, path: str, name: str, storage: Storage) -> int:
        """Position of a storage in the file; errors as those of :meth:`member_of`."""
        return self.archive.offset_of(self.member_of(path, name, storage))


def _read(file: RawFile) -> _Checkpoint:
    if file.read_bytes(0, min(4, file.size)) != MAGIC:
        raise SourceError(
            f"{file.path} is no zip checkpoint: expected what torch.save has written since torch 1.6, found "
            f"another or older format; nothing of it was run; if torch can read it, save it again: {_RESAVE}"
        )
    archive = Archive(file)
    prefix = _prefix(file.path, archive)
    _check_byte_order(file, archive, prefix)
    data = _content(file, archive, archive.members[prefix + "data.pkl"], _LONGEST_PICKLE)
    try:
        tensors = read_tensors(data)
    except PickleRefused as error:
        raise SourceError(
            f"{file.path} cannot be read: {error}; nothing of it was run; get it again, or, where it was "
            f"made, save the tensors alone: torch.save(model.state_dict(), new_path)"
        ) from error
    except SourceError as error:
        raise SourceError(f"{file.path}: {error}") from error
    checkpoint = _Checkpoint(archive, prefix, tensors, zlib.crc32(data))
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            checkpoint.member_of(file.path, name, tensor.storage)
    return checkpoint


def _read_whole(file: RawFile) -> _Checkpoint:
    """A checkpoint that no index describes: weights of torchao as they are where it flattens them itself."""
    checkpoint = _read(file)
    tensors, kinds = dict(checkpoint.tensors), {}
    for name, one in checkpoint.tensors.items():
        parent, dot, leaf = name.rpartition(".")
        whose, _, kind = one.kind.rpartition(".") if isinstance(one, OpaqueTensor) else ("", "", "")
        if not isinstance(one, OpaqueTensor) or leaf != "weight" or whose.partition(".")[0] != "torchao":
            continue
        parts = {f"{parent}{dot}_weight_{part}": tensor for part, tensor in one.parts.items()}
        if kind in _TORCHAO and parts and not parts.keys() & tensors.keys():
            del tensors[name]
            tensors.update(parts)
            kinds[name] = kind
    for name, one in tensors.items():
        if isinstance(one, Tensor):
            checkpoint.member_of(file.path, name, one.storage)
    return replace(checkpoint, tensors=tensors, torchao=kinds)


def _prefix(path: str, archive: Archive) -> str:
    found = [name for name in archive.members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise SourceError(
            f"{path} is no torch checkpoint: expected one member NAME/data.pkl in the zip archive, "
            f"found {len(found)}"
        )
    return found[0].removesuffix("data.pkl")


def _check_byte_order(file: RawFile, archive: Archive, prefix: str) -> None:
    member = archive.members.get(prefix + "byteorder")
    found = b"little" if member is None else _content(file, archive, member, 16)
    if found != b"little":
        raise SourceError(
            f"{file.path}: expected little-endian data, found {found!r}; save it again where it can be read: "
            f"{_RESAVE}"
        )


def _content(file: RawFile, archive: Archive, member: Member, most: int) -> bytes:
    if member.method != STORED or member.size > most:
        raise SourceError(
            f"{file.path}: member {shortened(repr(member.name))} expected at most {most} bytes without "
            f"compression, found {member.size} with method {member.method}; save it again: {_RESAVE}"
        )
    return file.read_bytes(archive.offset_of(member), member.size)


def _info(name: str, found: Found) -> TensorInfo:
    if isinstance(found, Opaque):
        return TensorInfo(name, (), f"opaque ({found.name})")
    if isinstance(found, OpaqueTensor):
        return TensorInfo(name, found.shape, f"opaque ({found.kind}, {found.dtype})")
    return TensorInfo(name, found.shape, QUANTIZED if is_by_row(found) else found.dtype)


def _open(file: RawFile, checkpoint: _Checkpoint, name: str | None, origin: Fingerprint) -> RowSource:
    found = checkpoint.tensors
    if name is None:
        name = only_matrix(file.path, [_info(name, tensor) for name, tensor in found.items()]).name
    if name not in found:
        tensors = [name for name, one in found.items() if not isinstance(one, Opaque)]
        raise unknown_tensor(file.path, name, tensors)
    where = f"{file.path}: tensor {shortened(repr(name))}" if name else f"{file.path}: what it holds"
    tensor = _plain(where, found[name])

    def rows(tensor: Tensor, dtype: np.dtype[Any]) -> RowSource:
        return rows_of(
            file,
            where,
            tensor,
            dtype=dtype,
            name=name,
            begin=checkpoint.begin_of(file.path, name, tensor.storage),
            header_crc32=checkpoint.crc32,
            origin=origin,
        )

    if is_by_row(tensor):
        return TorchCodes(where, tensor, rows)
    check_matrix(where, tensor.shape, tensor.dtype, conversion(tensor.dtype))
    return rows(tensor, item_dtype(tensor.dtype))


def _open_bytes(file: RawFile, checkpoint: _Checkpoint, name: str, origin: Fingerprint) -> RowSource:
    where = f"{file.path}: tensor {shortened(repr(name))}"
    return _bytes_of(file, where, _plain(where, checkpoint.tensors[name]), checkpoint, name, origin)


def _bytes_of(
    file: RawFile, where: str, tensor: Tensor, checkpoint: _Checkpoint, name: str, origin: Fingerprint
) -> RowSource:
    if tensor.quantizer is not None or tensor.negated or not _is_in_order(tensor):
        raise SourceError(
            f"{where} has strides {shortened(str(tensor.strides))} for shape {shortened(str(tensor.shape))}: "
            f"expected plain items in order; save tensor.contiguous() instead"
        )
    size = math.prod(tensor.shape) * tensor.item_size
    return ContiguousRows(
        file,
        kind="torch",
        name=name,
        offset=checkpoint.begin_of(file.path, name, tensor.storage) + tensor.offset * tensor.item_size,
        shape=byte_shape(tensor.shape, size),
        dtype=np.dtype(np.uint8),
        header_crc32=checkpoint.crc32,
        origin=origin,
    )


def _is_in_order(tensor: Tensor) -> bool:
    """Whether its items follow one another as those of an array in C order."""
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != expected:
            return math.prod(tensor.shape) == 0
        expected *= length
    return True


def _plain(where: str, found: Found) -> Tensor:
    if isinstance(found, Opaque):
        raise SourceError(
            f"{where} is opaque ({found.name}): expected a tensor; nothing of it was made or run; where "
            f"the file was made, save what it holds as plain tensors: torch.save(model.state_dict(), "
            f"new_path), or torch.save({{'weight': torch.as_tensor(values)}}, new_path)"
        )
    if isinstance(found, OpaqueTensor):
        raise SourceError(
            f"{where} is opaque ({found.kind}, {found.dtype}): expected a plain tensor; "
            f"save {found.remedy} in its place"
        )
    return found
