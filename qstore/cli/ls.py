"""``qstore ls``: the tensors of a file."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from typing import TYPE_CHECKING

import qstore

from ..errors import FormatError, IncompleteError
from .arguments import Command, add_json
from .printing import byte_size, print_json, print_table

if TYPE_CHECKING:
    from ..sources import TensorInfo

__all__ = ["COMMAND", "Listed"]

_DESCRIPTION = """\
List the tensors of a checkpoint: name, shape, type and size. Any of them that is 2-D can be built from,
but not what is called opaque: objects of other programs, and tensors without plain values.
A weight that is quantized is one line with its scales, and "values" says what is made of them; --as-stored
lists all tensors as they lie in the file.
A qstore store, also one of several shards, is listed as the one matrix it holds, with the type "qstore" and
the size of its files. Where files of a checkpoint in several are missing, the tensors of the others are
listed before the error that names them."""

_EXAMPLES = """\
  qstore ls model.safetensors
  qstore ls checkpoint-directory/ --json"""

_NUMPY_NAME = re.compile(r"[<>|=]?\w+(\[\w+\])?")
_ODD_SIZES = {
    "bfloat16": 2,
    "quantized": 1,
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"), 1
    ),
}


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of the list.

    Attributes
    ----------
    name : str
        Empty where the format has no names.
    shape : tuple of int
    dtype : str
        As the file has it: "Q4_0" of GGUF, though it is read as float32.
    bytes : int or None
        Of all its tensors; None where the type has no fixed size.
    convention : str
        How its values are computed of several tensors, in words; empty where they lie in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int | None
    convention: str = ""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint file or directory, or a store")
    parser.add_argument(
        "--as-stored", action="store_true", help="all tensors as they are, those of quantized weights too"
    )
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    try:
        _print(
            _store(arguments.source)
            or list(map(_listed, qstore.list_tensors(arguments.source, as_stored=arguments.as_stored))),
            arguments,
        )
    except IncompleteError as error:
        _print(list(map(_listed, error.tensors)), arguments)
        raise
    return 0


def _print(found: list[Listed], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(
            [
                {key: value for key, value in dataclasses.asdict(one).items() if value or key != "convention"}
                for one in found
            ]
        )
    else:
        rows = [("name", "shape", "dtype", "bytes", "values"), *map(_cells, found)]
        told = any(one.convention for one in found)
        print_table(rows if told else [row[:-1] for row in rows])


def _store(path: str) -> list[Listed] | None:
    """The matrix of a store; None if `path` is something else."""
    from ..format.manifest import MANIFEST

    if not os.path.isfile(path) and not os.path.isfile(os.path.join(path, MANIFEST)):
        return None
    try:
        with qstore.open(path) as store:
            size = sum(os.stat(shard.path).st_size for shard in store.shards)
            return [Listed(store.tensor, store.shape, "qstore", size)]
    except FormatError:
        if os.path.isdir(path):  # it has a manifest
            raise
        return None


def _listed(tensor: TensorInfo) -> Listed:
    from ..sources.gguf.types import QUANTIZED_TYPES

    if tensor.parts:
        sizes = [_listed(part).bytes for part in tensor.parts]
        size = None if None in sizes else sum(one or 0 for one in sizes)
        return Listed(tensor.name, tensor.shape, tensor.parts[0].dtype, size, tensor.convention)
    blocks = {name: (values, size) for name, values, size in QUANTIZED_TYPES.values()}
    word = tensor.stored or tensor.dtype
    values, size = blocks.get(word) or (1, _item_size(word))
    return Listed(
        tensor.name, tensor.shape, word, None if size is None else math.prod(tensor.shape) // values * size
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
    size = "?" if one.bytes is None else byte_size(one.bytes)
    return one.name or "(no name)", shape, one.dtype, size, one.convention


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
