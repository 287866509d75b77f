"""Sharded safetensors checkpoints: an index in JSON that says which file holds which tensor."""

from __future__ import annotations

import os
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ..errors import SourceError
from .base import Fingerprint, RowSource, TensorInfo
from .checks import shortened
from .contiguous import ContiguousRows
from .files import RawFile
from .safetensors import LONGEST_HEADER, Entry, layout_of, parse_json, read_header
from .tensors import only_matrix, unknown_tensor

__all__ = ["SafetensorsIndexFormat"]


class SafetensorsIndexFormat:
    """A checkpoint in several `.safetensors` files, described by an index in JSON."""

    name = "safetensors index"
    suffixes: tuple[str, ...] = (".safetensors.index.json",)
    checkpoint_names: tuple[str, ...] = ("model.safetensors.index.json",)

    def matches(self, path: str, head: bytes) -> bool:
        """Never by its bytes: JSON looks like any other JSON. The name tells."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors of all shards, sorted by name.

        Raises
        ------
        SourceError
            The index or a shard is malformed; a shard is missing (all missing ones are named).
        """
        return _sharded_tensors(_read_index(path))

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor; errors as those of one file. Other shards may be missing."""
        index = _read_index(path)
        if tensor is None:
            tensor = only_matrix(path, _sharded_tensors(index)).name
        if tensor not in index.shards:
            raise unknown_tensor(path, tensor, index.shards)
        shard = index.shards[tensor]
        with ExitStack() as on_error:
            file = on_error.enter_context(_open_shard(index, shard))
            header = read_header(file)
            if tensor not in header.entries:
                raise SourceError(
                    f"{path} expected tensor {tensor!r} in {shard}, found none there: get both again"
                )
            source = _ShardRows(file, index, shard, layout_of(file.path, header, tensor))
            on_error.pop_all()
        return source


@dataclass(frozen=True)
class _Index:
    path: str
    shards: dict[str, str]
    """Tensor name → file name."""
    size: int
    crc32: int

    def path_of(self, shard: str) -> str:
        """Where a shard lies: beside the index."""
        return os.path.join(os.path.dirname(self.path), shard)


class _ShardRows(ContiguousRows):
    def __init__(self, file: RawFile, index: _Index, shard: str, layout: dict[str, Any]) -> None:
        super().__init__(file, **layout)
        self._index, self._shard = index, shard

    def fingerprint(self) -> Fingerprint:
        """That of the shard, and the index's content."""
        # No time of the index: the shard's holds the data, and the index's bytes are known by their CRC.
        index = {"index_size": self._index.size, "index_crc32": self._index.crc32}
        return {**super().fingerprint(), "shard": self._shard, **index}


def _read_index(path: str) -> _Index:
    with RawFile(path) as file:
        if file.size > LONGEST_HEADER:
            raise SourceError(
                f"{path}: expected an index of at most {LONGEST_HEADER} bytes, found {file.size}"
            )
        text = file.read_bytes(0, file.size)
    shards = parse_json(path, text).get("weight_map")
    if not isinstance(shards, dict):
        raise SourceError(
            f"{path}: expected a weight_map of tensor names to file names, found {shortened(repr(shards))}"
        )
    for name, shard in shards.items():
        if not _is_plain_name(shard):
            raise SourceError(
                f"{path}: tensor {shortened(repr(name))} expected the plain name of a file beside the index, "
                f"found {shortened(repr(shard))}"
            )
    return _Index(path, shards, len(text), zlib.crc32(text))


def _is_plain_name(shard: Any) -> bool:
    """Whether it names a file in the same directory: an index from elsewhere must not reach other places."""
    return isinstance(shard, str) and shard not in ("", ".", "..") and not set(shard) & set("/\\\0")


def _open_shard(index: _Index, shard: str) -> RawFile:
    _check_shards(index, [shard])
    return RawFile(index.path_of(shard))


def _check_shards(index: _Index, shards: list[str]) -> None:
    missing = [shard for shard in shards if not os.path.exists(index.path_of(shard))]
    if missing:
        names = shortened(", ".join(missing), 1000)
        raise SourceError(f"{index.path}: {len(missing)} of its files missing: {names}; get them again")


def _sharded_tensors(index: _Index) -> list[TensorInfo]:
    shards = sorted(set(index.shards.values()))
    _check_shards(index, shards)
    entries: dict[str, dict[str, Entry]] = {}
    for shard in shards:
        with RawFile(index.path_of(shard)) as file:
            entries[shard] = read_header(file).entries
    for name, shard in index.shards.items():
        if name not in entries[shard]:
            raise SourceError(
                f"{index.path} expected tensor {name!r} in {shard}, found none there: get both again"
            )
    return [entries[shard][name].info for name, shard in sorted(index.shards.items())]
