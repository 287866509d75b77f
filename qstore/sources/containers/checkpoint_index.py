"""Checkpoints in several files: an index in JSON says which file holds which tensor."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeGuard

from ...errors import IncompleteError, SourceError
from ..addresses import beside
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import shortened
from ..files import RawFile
from ..remote_files import exists, open_file
from ..tensor_choice import only_matrix, unknown_tensor
from .json_object import LONGEST_JSON, parse_json
from .tensor_file import TensorFile

__all__ = ["IndexFormat", "files_of_index", "is_plain_name", "together"]

_SHOWN = 12


class IndexFormat(ABC):
    """A checkpoint in several files of one format, described by an index in JSON."""

    name: str
    suffixes: tuple[str, ...]

    @abstractmethod
    def tensors_in(self, file: RawFile) -> Mapping[str, TensorInfo]:
        """All tensors of one shard by name."""

    @abstractmethod
    def open_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of a tensor of one shard, which closes `file`; `origin` goes into its fingerprint."""

    @abstractmethod
    def open_bytes_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of the bytes of a tensor of one shard, as :meth:`.TensorFile.open_bytes` gives them."""

    def metadata_in(self, file: RawFile) -> Mapping[str, str]:
        """What a shard says about itself."""
        return {}

    def matches(self, path: str, head: bytes) -> bool:
        """Never by its bytes: JSON looks like any other JSON. The name tells."""
        return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors of all shards, sorted by name.

        Raises
        ------
        SourceError
            The index is malformed.
        IncompleteError
            Shards are missing or cannot be read, or a tensor is not in its shard; all of that is named.
        """
        index = _read_index(path)
        found, problems = self._tensors(index)
        if problems:
            there = {info.name for info in found}
            missing = tuple(name for name in index.shards if name not in there)
            raise IncompleteError(together(problems), tuple(found), missing)
        return found

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor; errors as those of one file. Other shards may be missing."""
        index = _read_index(path)
        if tensor is None:
            found, problems = self._tensors(index)
            if problems:
                raise SourceError(together(problems))
            tensor = only_matrix(path, found).name
        return _opened(self, index, tensor, self.open_in)

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors of all shards by name. Shards that are not asked for may be missing."""
        return _IndexedTensors(self, _read_index(path))

    def _tensors(self, index: _Index) -> tuple[list[TensorInfo], list[str]]:
        """What is there of all that the index names, by name, and what is wrong with the rest, in words."""
        shards = sorted(set(index.shards.values()))
        missing = _missing(index, shards)
        found: dict[str, Mapping[str, TensorInfo]] = {}
        problems = [_are_missing(index, missing)] if missing else []
        for shard in shards:
            if shard not in missing:
                try:
                    with open_file(index.path_of(shard)) as file:
                        found[shard] = self.tensors_in(file)
                except SourceError as error:
                    problems.append(str(error))
        there = []
        for name, shard in sorted(index.shards.items()):
            if name in found.get(shard, ()):
                there.append(found[shard][name])
            elif shard in found:
                problems.append(str(_not_in_shard(index, name)))
        return there, problems


def _opened(
    kind: IndexFormat,
    index: _Index,
    tensor: str,
    open_in: Callable[[RawFile, str, Fingerprint], RowSource],
) -> RowSource:
    if tensor not in index.shards:
        raise unknown_tensor(index.path, tensor, index.shards)
    shard = index.shards[tensor]
    with ExitStack() as on_error:
        file = on_error.enter_context(_open_shard(index, shard))
        if tensor not in kind.tensors_in(file):
            raise _not_in_shard(index, tensor)
        # No time of the index: the shard's holds the data, and the index's bytes are known by their CRC.
        origin = {"shard": shard, "index_size": index.size, "index_crc32": index.crc32}
        source = open_in(file, tensor, origin)
        on_error.pop_all()
    return source


class _IndexedTensors(TensorFile):
    def __init__(self, kind: IndexFormat, index: _Index) -> None:
        self.path, self.names = index.path, index.shards.keys()
        self._kind, self._index = kind, index
        self._found: dict[str, Mapping[str, TensorInfo]] = {}

    def info(self, name: str) -> TensorInfo:
        shard = self._index.shards[name]
        if shard not in self._found:
            with _open_shard(self._index, shard) as file:
                self._found[shard] = self._kind.tensors_in(file)
        if name not in self._found[shard]:
            raise _not_in_shard(self._index, name)
        return self._found[shard][name]

    def metadata_beside(self, name: str) -> Mapping[str, str]:
        with _open_shard(self._index, self._index.shards[name]) as file:
            return self._kind.metadata_in(file)

    def open(self, name: str) -> RowSource:
        return _opened(self._kind, self._index, name, self._kind.open_in)

    def open_bytes(self, name: str) -> RowSource:
        return _opened(self._kind, self._index, name, self._kind.open_bytes_in)


@dataclass(frozen=True)
class _Index:
    path: str
    shards: dict[str, str]
    """Tensor name → file name."""
    size: int
    crc32: int

    def path_of(self, shard: str) -> str:
        """Where a shard lies: beside the index."""
        return beside(self.path, shard)


def _read_index(path: str) -> _Index:
    with open_file(path) as file:
        if file.size > LONGEST_JSON:
            raise SourceError(f"{path}: expected an index of at most {LONGEST_JSON} bytes, found {file.size}")
        text = file.read_bytes(0, file.size)
    shards = parse_json(path, text).get("weight_map")
    if not isinstance(shards, dict):
        raise SourceError(
            f"{path}: expected a weight_map of tensor names to file names, found {shortened(repr(shards))}"
        )
    for name, shard in shards.items():
        if not is_plain_name(shard):
            raise SourceError(
                f"{path}: tensor {shortened(repr(name))} expected the plain name of a file beside the index, "
                f"found {shortened(repr(shard))}"
            )
    return _Index(path, shards, len(text), zlib.crc32(text))


def is_plain_name(shard: Any) -> TypeGuard[str]:
    """Whether it names a file in the same directory: an index from elsewhere must not reach other places."""
    return isinstance(shard, str) and shard not in ("", ".", "..") and not set(shard) & set("/\\\0")


def together(problems: list[str]) -> str:
    """Several problems as one message, of the first twelve."""
    more = f"\n… and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "\n".join(problems[:_SHOWN]) + more


def files_of_index(path: str) -> set[str]:
    """Names of all files that an index leads to."""
    return set(_read_index(path).shards.values())


def _open_shard(index: _Index, shard: str) -> RawFile:
    if _missing(index, [shard]):
        raise SourceError(_are_missing(index, [shard]))
    return open_file(index.path_of(shard))


def _missing(index: _Index, shards: list[str]) -> list[str]:
    return [shard for shard in shards if not exists(index.path_of(shard))]


def _are_missing(index: _Index, missing: list[str]) -> str:
    names = shortened(", ".join(missing), 1000)
    return f"{index.path}: {len(missing)} of its files missing: {names}; get them again"


def _not_in_shard(index: _Index, tensor: str) -> SourceError:
    return SourceError(
        f"{index.path} expected tensor {shortened(repr(tensor))} in {index.shards[tensor]}, "
        f"found none there: get both again"
    )
