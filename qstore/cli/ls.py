"""``qstore ls``: the tensors of a file."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os

import numpy as np

from ..errors import FormatError
from ..format.manifest import MANIFEST
from ..sources import TensorInfo, list_tensors
from ..store import open as open_store
from .arguments import Command, add_json
from .printing import byte_size, print_json, print_table

__all__ = ["COMMAND", "Listed"]

_DESCRIPTION = """\
List the tensors of a checkpoint: name, shape, type and size. Any of them that is 2-D can be built from.
A qstore store, also one of several shards, is listed as the one matrix it holds, with the type "qstore" and
the size of its files."""

_EXAMPLES = """\
  qstore ls model.safetensors
  qstore ls checkpoint-directory/ --json"""

_ODD_SIZES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "quantized": 1}


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of the list.

    Attributes
    ----------
    name : str
        Empty where the format has no names.
    shape : tuple of int
    dtype : str
    bytes : int or None
        None where the type has no fixed size.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int | None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint file or directory, or a store")
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    found = _store(arguments.source) or [_listed(tensor) for tensor in list_tensors(arguments.source)]
    if arguments.json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        print_table([("name", "shape", "dtype", "bytes"), *map(_cells, found)])
    return 0


def _store(path: str) -> list[Listed] | None:
    """The matrix of a store; None if `path` is something else."""
    if not os.path.isfile(path) and not os.path.isfile(os.path.join(path, MANIFEST)):
        return None
    try:
        with open_store(path) as store:
            size = sum(os.stat(shard.path).st_size for shard in store.shards)
            return [Listed(store.tensor, store.shape, "qstore", size)]
    except FormatError:
        if os.path.isdir(path):  # it has a manifest
            raise
        return None


def _listed(tensor: TensorInfo) -> Listed:
    size = _item_size(tensor.dtype)
    count = None if size is None else math.prod(tensor.shape) * size
    return Listed(tensor.name, tensor.shape, tensor.dtype, count)


def _item_size(dtype: str) -> int | None:
    if dtype in _ODD_SIZES:
        return _ODD_SIZES[dtype]
    try:
        return np.dtype(dtype).itemsize or None
    except TypeError:
        return None


def _cells(one: Listed) -> tuple[str, ...]:
    shape = " × ".join(map(str, one.shape)) or "()"
    return (one.name or "(no name)", shape, one.dtype, "?" if one.bytes is None else byte_size(one.bytes))


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
