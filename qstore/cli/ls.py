"""``qstore ls``: the tensors of a file."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import qstore

from ..errors import FormatError, IncompleteError, SourceError
from ..system.reported import Reported
from ..system.urls import printable_path
from .arguments import Command, add_json
from .printing import byte_size, print_json, print_table
from .several_stores import stores_at

if TYPE_CHECKING:
    from ..sources import Numbered, TensorInfo

__all__ = ["COMMAND", "Listed"]

_DESCRIPTION = """\
List the tensors of a checkpoint: name, shape, type and size. Any of them that is 2-D can be built from,
but not what is called opaque: objects of other programs, and tensors without plain values.
A weight that is quantized is one line with its scales, and "values" says what is made of them; --as-stored
lists all tensors as they lie in the file.
A qstore store, also one of several shards, is listed as the one matrix it holds, with the type "qstore" and
the size of its files. Tensors that look like one matrix in pieces, their names alike but for a number, are
listed once more, as that matrix: it is built with --tensor 'NAME' --join, where * stands for the number.
Where files of a checkpoint in several are missing, the tensors of the others are listed before the error that
names them. A directory without a checkpoint stands for the stores in it."""

_EXAMPLES = """\
  qstore ls model.safetensors
  qstore ls checkpoint-directory/ --json
  qstore ls https://host/model.safetensors.index.json
  qstore ls tables/"""

_HEADER = ("name", "shape", "dtype", "bytes", "values")
_NUMPY_NAME = re.compile(r"[<>|=]?\w+(\[\w+\])?")
_ODD_SIZES = {
    "bfloat16": 2,
    "quantized": 1,
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1
    ),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Listed(Reported):
    """One line of the list.

    Attributes
    ----------
    path : str
        The file or directory it is in, as it was given.
    name : str
        Empty where the format has no names.
    shape : tuple of int
    dtype : str
        As the file has it: "Q4_0" of GGUF, though it is read as float32.
    bytes : int or None
        Of all its tensors; None where the type has no fixed size.
    convention : str
        How its values are computed of several tensors, in words; empty where they lie in the file.
    members : int
        How many tensors of the list it is, one behind the other; 0: it is one itself.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int | None
    convention: str = ""
    members: int = 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        metavar="SRC",
        nargs="+",
        help="a checkpoint, file or directory, or the URL of one, or a store; or several; or a directory of "
        "stores (*.h5)",
    )
    parser.add_argument(
        "--as-stored", action="store_true", help="all tensors as they are, those of quantized weights too"
    )
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    found: list[Listed] = []
    failure: IncompleteError | None = None
    try:
        for source in arguments.sources:
            found += _found(source, arguments.as_stored)
    except IncompleteError as error:
        found += _with_families(error.tensors, source, error.missing)
        failure = error
    if arguments.json:
        print_json([_told(one) for one in found])
    else:
        several = len({one.path for one in found}) > 1
        told = any(one.convention for one in found)
        rows = [("file", *_HEADER), *((one.path, *_cells(one)) for one in found)]
        print_table([row[0 if several else 1 : None if told else -1] for row in rows])
    if failure is not None:
        raise failure
    return 0


def _told(one: Listed) -> dict[str, Any]:
    found = one.to_dict()
    return {key: value for key, value in found.items() if value or key not in ("convention", "members")}


def _found(path: str, as_stored: bool) -> list[Listed]:
    if (store := _store(path)) is not None:
        return store
    try:
        return _with_families(qstore.list_tensors(path, as_stored=as_stored), path)
    except IncompleteError:
        raise
    except SourceError:
        stores = [one for one in map(_store, stores_at(path)) if one is not None]
        if not stores:
            raise
        return [one for some in stores for one in some]


def _store(path: str) -> list[Listed] | None:
    """The matrix of a store; None if `path` is something else."""
    from ..format.manifest import MANIFEST

    if not os.path.isfile(path) and not os.path.isfile(os.path.join(path, MANIFEST)):
        return None
    try:
        with qstore.open(path) as store:
            size = sum(os.stat(shard.path).st_size for shard in store.shards)
            return [Listed(path, store.tensor, store.shape, "qstore", size)]
    except FormatError:
        if os.path.isdir(path):  # it has a manifest
            raise
        return None


def _with_families(
    tensors: Sequence[TensorInfo], path: str, missing: Sequence[str] | None = ()
) -> list[Listed]:
    """All tensors, and those that are one matrix in pieces once more, unless some of these are missing."""
    from ..sources import numbered_tensors

    path = printable_path(path)
    families = [] if missing is None else numbered_tensors(tensors, missing)
    return [
        *(_listed(tensor, path) for tensor in tensors),
        *(_joined(one, path) for one in families),
    ]


def _joined(family: Numbered, path: str) -> Listed:
    members = [_listed(tensor, path) for tensor in family.members]
    first = members[0]
    shape = sum(one.shape[0] for one in members), first.shape[1]
    sizes = [one.bytes for one in members]
    size = None if None in sizes else sum(one or 0 for one in sizes)
    return Listed(path, family.name, shape, first.dtype, size, first.convention, len(members))


def _listed(tensor: TensorInfo, path: str) -> Listed:
    from ..sources.gguf.types import QUANTIZED_TYPES

    if tensor.parts:
        sizes = [_listed(part, path).bytes for part in tensor.parts]
        size = None if None in sizes else sum(one or 0 for one in sizes)
        return Listed(path, tensor.name, tensor.shape, tensor.parts[0].dtype, size, tensor.convention)
    blocks = {name: (values, size) for name, values, size in QUANTIZED_TYPES.values()}
    word = tensor.stored or tensor.dtype
    values, size = blocks.get(word) or (1, _item_size(word))
    return Listed(
        path,
        tensor.name,
        tensor.shape,
        word,
        None if size is None else math.prod(tensor.shape) // values * size,
    )


def _item_size(dtype: str) -> int | None:
    if dtype in _ODD_SIZES:
        return _ODD_SIZES[dtype]
    if not _NUMPY_NAME.fullmatch(dtype):  # a file can call a type anything, "f4,f4" or "(9,)f4" too
        return None
    try:
        import numpy as np

        return np.dtype(dtype).itemsize or None
    except TypeError:
        return None


def _cells(one: Listed) -> tuple[str, ...]:
    shape = " × ".join(map(str, one.shape)) or "()"
    if one.members:
        shape = f"{shape} ({one.members} tensors, --join)"
    size = "?" if one.bytes is None else byte_size(one.bytes)
    return one.name or "(no name)", shape, one.dtype, size, one.convention


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
