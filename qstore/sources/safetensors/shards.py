"""Directories of shards by torch's HuggingFaceStorageWriter that were not consolidated.

Each process has saved its pieces under the names of the whole tensors, and where they begin. The whole shape
stands nowhere: it is where the pieces end, if they leave no hole. How many shards there were is not told
either, so that one shard alone is never taken for all.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import IncompleteError, SourceError
from ..base import RowSource, TensorInfo
from ..checks import check_matrix, shortened
from ..containers.checkpoint_index import together
from ..containers.contiguous import ContiguousRows
from ..containers.tensor_file import TensorFile
from ..containers.tiles import Box, TiledRows, bands_of, byte_boxes
from ..files import RawFile, one_of_many
from ..tensor_choice import only_matrix, unknown_tensor
from .tensors import Entry, Header, byte_layout_of, conversion, item_bits, item_dtype, layout_of, read_header

__all__ = ["SHARD", "ShardsFormat"]

SHARD = re.compile(
    r"shard-(?P<shard>[0-9]{5,9})-model-(?P<part>[0-9]{5,9})-of-(?P<parts>[0-9]{5,9})\.safetensors"
)
"""Names of the files: one for each process and part of a model."""

_SHOWN = 6


class ShardsFormat:
    """All shards of a directory, by its path."""

    name = "safetensors shards"
    suffixes: tuple[str, ...] = ()

    def matches(self, path: str, head: bytes) -> bool:
        """Never: it is no file."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors, whole, sorted by name.

        Raises
        ------
        SourceError
            A shard is malformed, or shards are missing.
        IncompleteError
            Pieces of a tensor are; what is wrong is named.
        """
        found, problems = _whole_ones(_read(path))
        if problems:
            raise IncompleteError(together(problems), tuple(found))
        return found

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor.

        Raises
        ------
        SourceError
            A shard is malformed or missing, the pieces overlap or leave a hole, or it is no matrix of a
            supported type.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        found = _ShardedTensors(path)
        if tensor is None:
            found.check_complete()
            tensor = only_matrix(path, _whole_ones(found.shards)[0]).name
        return found.open(tensor)

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors, whole, by name."""
        return _ShardedTensors(path)


class _ShardedTensors(TensorFile):
    def __init__(self, path: str) -> None:
        self.path = path
        self.shards = _read(path)
        self.names = self.shards.pieces.keys()

    def info(self, name: str) -> TensorInfo:
        return _info(self.shards, name)

    def open(self, name: str) -> RowSource:
        if name not in self.names:
            raise unknown_tensor(self.path, name, self.names)
        shape, where = _shape(self.shards, name), _where(self.shards, name)
        word = self.shards.pieces[name][0].entry.info.dtype
        check_matrix(where, shape, word, conversion(shortened(repr(name)), word))
        return self._opened(name, (shape[0], shape[1]), _boxes(self.shards, name), item_dtype(word))

    def open_bytes(self, name: str) -> RowSource:
        shape, where, pieces = _shape(self.shards, name), _where(self.shards, name), self.shards.pieces[name]
        bits = item_bits(where, pieces[0].entry.info.dtype)
        held = [(piece.offsets, piece.entry.info.shape) for piece in pieces]
        return self._opened(name, *byte_boxes(where, shape, held, bits), None)

    def check_complete(self) -> None:
        problems = _whole_ones(self.shards)[1]
        if problems:
            raise SourceError(together(problems))

    def _opened(
        self, name: str, shape: tuple[int, int], boxes: list[Box], dtype: np.dtype[Any] | None
    ) -> RowSource:
        with ExitStack() as on_error:
            source = _open(self.shards, name, shape, boxes, dtype, on_error)
            on_error.pop_all()
        return source


@dataclass(frozen=True)
class _Piece:
    file: str
    offsets: tuple[int, ...]
    entry: Entry

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(self.offsets, self.entry.info.shape, strict=True)))


@dataclass(frozen=True)
class _Shards:
    path: str
    headers: dict[str, Header]
    """File name → what it holds."""
    pieces: dict[str, list[_Piece]]
    """Tensor name → its pieces, in the order of the shards."""
    missing: dict[str, list[str]]
    """Part of the model → names of files."""


def _read(path: str) -> _Shards:
    names = {name: found for name in sorted(os.listdir(path)) if (found := SHARD.fullmatch(name))}
    headers: dict[str, Header] = {}
    pieces: dict[str, list[_Piece]] = {}
    missing = _missing(path, names)
    for name in names:
        file_path = os.path.join(path, name)
        with RawFile(file_path) as file:
            headers[name] = header = read_header(file, pieces=True)
        if header.offsets is None:
            raise SourceError(f"{file_path} expected DCP_SHARDING_INFO, which says where its tensors begin")
        for tensor, entry in header.entries.items():
            pieces.setdefault(tensor, []).append(_Piece(name, header.offsets[tensor], entry))
    return _Shards(path, headers, pieces, missing)


def _missing(path: str, names: dict[str, re.Match[str]]) -> dict[str, list[str]]:
    """Names of files that are not there, by part of the model.

    Raises
    ------
    SourceError
        A whole shard is not, or the files are not of one checkpoint.
    """
    totals = {found["parts"] for found in names.values()}
    numbers = sorted({int(found["shard"]) for found in names.values()})
    if len(totals) != 1:
        raise SourceError(
            f"{path} holds shards of models in {' and '.join(sorted(totals))} parts: expected one"
        )
    if len(numbers) == 1 or numbers != list(range(1, len(numbers) + 1)):
        listed = ", ".join(map(str, numbers[:_SHOWN])) + (" …" if len(numbers) > _SHOWN else "")
        raise SourceError(
            f"{path} expected shards 1, 2 and so on, as torch's HuggingFaceStorageWriter saves them, one a "
            f"process, found only {listed}: others hold the rest of its tensors; get them too, or save with "
            f"enable_consolidation=True; if it is all there is, save it again: "
            f"safetensors.torch.save_file(safetensors.torch.load_file(path), new_path)"
        )
    missing: dict[str, list[str]] = {}
    for part in sorted({found["part"] for found in names.values()}):
        for number in numbers:
            name = f"shard-{number:05d}-model-{part}-of-{next(iter(totals))}.safetensors"
            if name not in names:
                missing.setdefault(part, []).append(name)
    return missing


def _whole_ones(shards: _Shards) -> tuple[list[TensorInfo], list[str]]:
    """All tensors whose pieces leave one shape, by name, and what is wrong with the others, in words."""
    found, problems = [], []
    for name in sorted(shards.pieces):
        try:
            shape = _shape(shards, name)
            if len(shape) == 2:
                bands_of(_where(shards, name), (shape[0], shape[1]), _boxes(shards, name))
        except SourceError as error:
            problems.append(str(error))
        else:
            found.append(_info(shards, name))
    return found, list(dict.fromkeys(problems))


def _info(shards: _Shards, name: str) -> TensorInfo:
    return TensorInfo(name, _shape(shards, name), shards.pieces[name][0].entry.info.dtype)


def _where(shards: _Shards, name: str) -> str:
    return f"{shards.path}: tensor {shortened(repr(name))}"


def _boxes(shards: _Shards, name: str) -> list[Box]:
    return [Box(*piece.offsets, *piece.entry.info.shape) for piece in shards.pieces[name]]


def _shape(shards: _Shards, name: str) -> tuple[int, ...]:
    """The shape of the whole tensor: where its pieces end."""
    pieces, where = shards.pieces[name], _where(shards, name)
    part = SHARD.fullmatch(pieces[0].file)
    missing = shards.missing.get(part["part"] if part else "", [])
    if missing:
        raise SourceError(
            f"{where} may have pieces in files that are not there, expected all: "
            f"{shortened(', '.join(missing), 1000)}; get them too, or save with enable_consolidation=True"
        )
    kinds = {(piece.entry.info.dtype, len(piece.offsets)) for piece in pieces}
    if len(kinds) != 1:
        infos = [piece.entry.info for piece in pieces[:_SHOWN]]
        shown = ", ".join(f"{info.shape} of {info.dtype}" for info in infos)
        raise SourceError(f"{where} expected pieces of one type and one number of dimensions, found {shown}")
    shape = tuple(map(max, zip(*(piece.ends for piece in pieces), strict=True)))
    held = sum(math.prod(piece.entry.info.shape) for piece in pieces)
    if len(shape) != 2 and held != math.prod(shape):
        raise SourceError(
            f"{where} of shape {shape} expected {math.prod(shape)} values in its pieces, found {held}"
        )
    return shape


def _open(
    shards: _Shards,
    name: str,
    shape: tuple[int, int],
    boxes: list[Box],
    dtype: np.dtype[Any] | None,
    files: ExitStack,
) -> TiledRows:
    """Rows of items, or of bytes where no dtype is given."""
    where, pieces = _where(shards, name), shards.pieces[name]
    bands = bands_of(where, shape, boxes)
    sources: dict[int, RowSource] = {}
    for number in dict.fromkeys(number for band in bands for number in band.boxes):
        piece = pieces[number]
        file = files.enter_context(one_of_many(os.path.join(shards.path, piece.file), len(pieces)))
        header = read_header(file, pieces=True)
        if header.crc32 != shards.headers[piece.file].crc32:
            raise SourceError(f"{file.path} was changed while it was read; build again")
        layout = byte_layout_of(header, name) if dtype is None else layout_of(file.path, header, name)
        sources[number] = ContiguousRows(file, **layout)
    return TiledRows(
        where,
        kind="safetensors shards",
        name=name,
        shape=shape,
        dtype=np.dtype(np.uint8) if dtype is None else dtype,
        boxes=boxes,
        bands=bands,
        sources=sources,
        origin={},
    )
