"""Checkpoints of torch.distributed.checkpoint: a directory of `.metadata` and files with pieces of tensors.

Each item of a `.distcp` file is what torch.save writes, a zip archive of its own, and is checked like any
other. Tensors may be cut over the files by rows, by columns or both.
"""

from __future__ import annotations

import os
import zlib
from contextlib import ExitStack
from typing import Any, NoReturn

import numpy as np

from ...errors import IncompleteError, SourceError
from ..base import RowSource, TensorInfo
from ..checks import check_matrix, shortened
from ..containers.checkpoint_index import together
from ..containers.tensor_file import TensorFile
from ..containers.tiles import Box, TiledRows, bands_of, byte_boxes
from ..files import FilePart, RawFile, one_of_many
from ..tensor_choice import only_matrix, unknown_tensor
from .checkpoint_zip import bytes_of_only, rows_of_only
from .distributed_metadata import Piece, Place, Saved, read_metadata
from .tensor_rows import conversion, item_dtype
from .types import DTYPES

__all__ = ["DISTRIBUTED_METADATA", "DistributedFormat", "is_distributed", "refuse_separate"]

DISTRIBUTED_METADATA = ".metadata"
"""Name of the file that says what lies where."""

_DATA = ".distcp"
_MARK = b"torch.distributed.checkpoint.metadata"


def is_distributed(head: bytes) -> bool:
    """Whether the first bytes of a `.metadata` file are those of torch's."""
    return _MARK in head[:100]


class DistributedFormat:
    """What torch.distributed.checkpoint.save writes, by the path of its `.metadata`."""

    name = "torch distributed checkpoint"
    suffixes: tuple[str, ...] = (DISTRIBUTED_METADATA, _DATA)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether it is `.metadata` of torch's, or a file beside one."""
        return path.endswith(_DATA) or (path.endswith(DISTRIBUTED_METADATA) and is_distributed(head))

    def tensors(self, path: str) -> list[TensorInfo]:
        """All tensors, sorted by name, and other objects among them.

        Raises
        ------
        SourceError
            It is malformed, or one of the files beside it.
        IncompleteError
            Files are missing or too short, or pieces of a matrix; all of that is named.
        """
        with RawFile(_checked(path)) as file:
            everything = read_metadata(file)
        problems, whole = _looked_at(path, everything)
        found = [info for info in _infos(everything) if info.name in whole]
        if problems:
            missing = tuple(name for name in everything if name not in whole)
            raise IncompleteError(together(problems), tuple(found), missing)
        return found

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one tensor. Files that hold nothing of it may be missing.

        Raises
        ------
        SourceError
            The checkpoint is malformed or incomplete; or the tensor is no matrix of a supported type.
        TensorError
            Several matrices and no name, or a name that is not there.
        """
        found = _Pieces(path)
        if tensor is None:
            found.check_complete()
            tensor = only_matrix(path, _infos(found.everything)).name
        return found.open(tensor)

    def tensor_file(self, path: str) -> TensorFile:
        """All tensors by name, and other objects among them. Files that are not asked for may be missing."""
        return _Pieces(path)


class _Pieces(TensorFile):
    def __init__(self, path: str) -> None:
        self.path = path
        with RawFile(_checked(path)) as file:
            self.everything = read_metadata(file)
        self.names = self.everything.keys()

    def info(self, name: str) -> TensorInfo:
        return _info(name, self.everything[name])

    def open(self, name: str) -> RowSource:
        saved = self._saved(name)
        check_matrix(_where(self.path, name), saved.shape, saved.dtype, conversion(saved.dtype))
        shape, boxes = (saved.shape[0], saved.shape[1]), _boxes(saved)
        return self._opened(name, saved, shape, boxes, item_dtype(saved.dtype))

    def open_bytes(self, name: str) -> RowSource:
        saved, where = self._saved(name), _where(self.path, name)
        pieces = [(piece.offsets, piece.sizes) for piece in saved.pieces]
        shape, boxes = byte_boxes(where, saved.shape, pieces, 8 * _item_size(where, saved))
        return self._opened(name, saved, shape, boxes, None)

    def check_complete(self) -> None:
        problems, _ = _looked_at(self.path, self.everything)
        if problems:
            raise SourceError(together(problems))

    def _saved(self, name: str) -> Saved:
        if name not in self.everything:
            raise unknown_tensor(
                self.path, name, [one for one, saved in self.everything.items() if saved.dtype]
            )
        saved = self.everything[name]
        if not saved.dtype:
            raise SourceError(
                f"{_where(self.path, name)} is opaque (an object): expected a tensor; nothing of it was made "
                f"or run; where the checkpoint was made, save it as one: torch.as_tensor(values)"
            )
        return saved

    def _opened(
        self, name: str, saved: Saved, shape: tuple[int, int], boxes: list[Box], dtype: np.dtype[Any] | None
    ) -> RowSource:
        with ExitStack() as on_error:
            source = _open(self.path, name, saved, shape, boxes, dtype, on_error)
            on_error.pop_all()
        return source


def _checked(path: str) -> str:
    """The path, unless it is that of a file that tells but a part."""
    name = os.path.basename(path)
    if name.endswith(_DATA):
        raise SourceError(
            f"{path} holds pieces of the tensors of a torch distributed checkpoint, and does not say which: "
            f"expected its directory, with {DISTRIBUTED_METADATA} and all {_DATA} files; give "
            f"{os.path.dirname(path) or os.curdir}"
        )
    if name != DISTRIBUTED_METADATA:
        refuse_separate(path)
    return path


def refuse_separate(path: str) -> NoReturn:
    """Refuse what each process has saved for itself.

    Raises
    ------
    SourceError
    """
    raise SourceError(
        f"{path} tells what one process has saved for itself, with use_collectives=False: expected "
        f"{DISTRIBUTED_METADATA}, which tells it for all; load the checkpoint with "
        f"torch.distributed.checkpoint.load(…, use_collectives=False) and save it again without that"
    )


def _infos(everything: dict[str, Saved]) -> list[TensorInfo]:
    return [_info(name, saved) for name, saved in sorted(everything.items())]


def _info(name: str, saved: Saved) -> TensorInfo:
    return TensorInfo(name, saved.shape, saved.dtype or "opaque (an object)")


def _looked_at(path: str, everything: dict[str, Saved]) -> tuple[list[str], set[str]]:
    """What is wrong, in words, and the names of all that is whole."""
    ends: dict[str, int] = {}
    for saved in everything.values():
        for place in (piece.place for piece in saved.pieces if piece.place):
            ends[place.file] = max(place.begin + place.size, ends.get(place.file, 0))
    problems: list[str] = []
    bad: set[str] = set()
    for name, end in sorted(ends.items()):
        try:
            with RawFile(_beside(path, name)) as file:
                FilePart(file, 0, end)
        except SourceError as error:
            problems.append(str(error))
            bad.add(name)
    whole = set()
    for name, saved in sorted(everything.items()):
        try:
            if len(saved.shape) == 2:
                bands_of(_where(path, name), (saved.shape[0], saved.shape[1]), _boxes(saved))
            places = [_place_of(path, name, piece) for piece in saved.pieces if 0 not in piece.sizes]
            if not any(place.file in bad for place in places):
                whole.add(name)
        except SourceError as error:
            problems.append(str(error))
    return problems, whole


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _where(path: str, name: str) -> str:
    return f"{path}: tensor {shortened(repr(name))}"


def _boxes(saved: Saved) -> list[Box]:
    return [Box(*piece.offsets, *piece.sizes) for piece in saved.pieces]


def _place_of(path: str, name: str, piece: Piece) -> Place:
    if piece.place is None:
        raise SourceError(
            f"{_where(path, name)} expected a place for its piece of shape {piece.sizes} at {piece.offsets}, "
            f"found none"
        )
    return piece.place


def _item_size(where: str, saved: Saved) -> int:
    if saved.dtype not in DTYPES:
        raise SourceError(f"{where} holds {shortened(saved.dtype)}: expected a type of torch that is known")
    return DTYPES[saved.dtype]


def _open(
    path: str,
    name: str,
    saved: Saved,
    shape: tuple[int, int],
    boxes: list[Box],
    dtype: np.dtype[Any] | None,
    files: ExitStack,
) -> TiledRows:
    """Rows of items, or of bytes where no dtype is given."""
    where = _where(path, name)
    bands = bands_of(where, shape, boxes)
    numbers = dict.fromkeys(number for band in bands for number in band.boxes)
    places = {number: _plain_place(path, name, saved.pieces[number]) for number in numbers}
    used = sorted({place.file for place in places.values()})
    opened = {file: files.enter_context(one_of_many(_beside(path, file), len(used))) for file in used}
    sources: dict[int, RowSource] = {}
    for number, place in places.items():
        part, sizes = FilePart(opened[place.file], place.begin, place.size), saved.pieces[number].sizes
        sources[number] = (
            bytes_of_only(part, name, sizes, saved.dtype)
            if dtype is None
            else rows_of_only(part, name, (sizes[0], sizes[1]), saved.dtype)
        )
    return TiledRows(
        where,
        kind="torch distributed",
        name=name,
        shape=shape,
        dtype=np.dtype(np.uint8) if dtype is None else dtype,
        boxes=boxes,
        bands=bands,
        sources=sources,
        origin={"places_crc32": zlib.crc32(repr(saved).encode())},
    )


def _plain_place(path: str, name: str, piece: Piece) -> Place:
    place = _place_of(path, name, piece)
    if place.packed:
        raise SourceError(
            f"{_where(path, name)} was packed by {shortened(place.packed)}: expected items as torch.save "
            f"writes them; save it again without _extensions"
        )
    return place
