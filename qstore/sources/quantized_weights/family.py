"""What lies beside a tensor, by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..base import TensorInfo
from ..containers.tensor_file import TensorFile
from .config import Config

__all__ = ["Family", "Neighbours"]

# What libraries call things that belong to codes.
_TELLING = re.compile(
    r"scale|zero|^scb$|\.scb$|absmax|quant_map|quant_state|codebook|g_idx|^biases$|^weight_(shape|format)$|"
    r"^q_(perm|invperm|groups|group_map)$|^(suh|svh|trellis)$",
    re.IGNORECASE,
)
# Scales of activations, of a model's logits, and those of SmoothQuant say nothing about what a weight is.
_OTHERS = re.compile(
    r"(^|[._])(act|input|output|activation|k|v|q|kv|prob|logit|logits|smooth)_", re.IGNORECASE
)
_OWNER = re.compile(r"(?P<owner>.+?)[._](scale|zero|scb|absmax|quant)", re.IGNORECASE)
# A hostile file could hold so many that looking at all of them for each tensor would take hours.
_MOST_TELLING = 64
# Weights of one table that is cut into numbered tensors.
_NUMBERED = re.compile(r"(?P<table>.*)\.shard_\d+")
# What tells that weights of a checkpoint are quantized.
_OF_SCALED_WEIGHTS = (
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_packed",
    ".SCB",
    "._weight_qdata",
    ".weight._scale",
    ".qweight",
)


class Neighbours:
    """The names of a file, by what comes before their last dot."""

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self._leaves: dict[str, list[str]] = {}
        self._telling: dict[str, _Telling] = {}
        self.holds_scales = False
        for name in file.names:
            self._leaves.setdefault(name.rpartition(".")[0], []).append(name)
            self.holds_scales = self.holds_scales or name.endswith(_OF_SCALED_WEIGHTS)

    @functools.cached_property
    def config(self) -> Config:
        """What config.json says; it is looked for where something asks."""
        return Config.beside(self.file.path)

    def family(self, name: str) -> Family:
        """What lies beside one tensor."""
        return Family(self, name)

    def telling(self, parent: str) -> _Telling:
        """Names under `parent` that tell of quantization."""
        if parent not in self._telling:
            found = _Telling([], {})
            for name in self._leaves.get(parent, ()):
                leaf = name.rpartition(".")[2]
                if _TELLING.search(leaf) and not _OTHERS.search(leaf):
                    owner = _OWNER.match(leaf)
                    whose = leaf if owner is None else owner["owner"]
                    whose = f"{parent}.{whose}" if parent else whose
                    named = whose != name and whose in self.file.names
                    one = found.of.setdefault(whose, []) if named else found.of_any
                    if len(one) < _MOST_TELLING:
                        one.append(name)
            self._telling[parent] = found
        return self._telling[parent]


class _Telling(NamedTuple):
    """Names that tell of quantization."""

    of_any: list[str]
    """Those that could belong to any tensor beside them."""
    of: dict[str, list[str]]
    """Those that are named after one tensor, by its name."""


class Family:
    """One tensor, and what can be asked for beside it.

    Attributes
    ----------
    name : str
    parent, leaf : str
        What comes before its last dot, and behind it.
    info : TensorInfo
    """

    def __init__(self, neighbours: Neighbours, name: str) -> None:
        self.neighbours, self.file, self.name = neighbours, neighbours.file, name
        self.parent, _, self.leaf = name.rpartition(".")
        self.info = self.file.info(name)

    @property
    def config(self) -> Config:
        """That of the checkpoint."""
        return self.neighbours.config

    def sibling(self, leaf: str) -> str:
        """Name of another leaf under the same parent."""
        return f"{self.parent}.{leaf}" if self.parent else leaf

    @property
    def table(self) -> str | None:
        """Name of the table that this is a numbered part of; None where it is none."""
        found = _NUMBERED.fullmatch(self.parent) if self.leaf == "weight" else None
        return None if found is None else found["table"]

    def has(self, name: str) -> bool:
        """Whether the file holds a tensor of this name."""
        return name in self.file.names

    def present(self, names: Iterable[str]) -> list[TensorInfo]:
        """Those of `names` that are there."""
        return [self.file.info(name) for name in names if self.has(name)]

    def one_of(self, names: Iterable[str]) -> TensorInfo | None:
        """The first of `names` that is there."""
        return next((self.file.info(name) for name in names if self.has(name)), None)

    def companions(self) -> Mapping[str, TensorInfo]:
        """What lies beside it and tells of quantization, by name."""
        return {name: self.file.info(name) for name in self._telling()}

    def _telling(self) -> Iterator[str]:
        beside = self.neighbours.telling(self.parent)
        below = self.neighbours.telling(self.name)
        yield from (name for name in beside.of_any if name != self.name)
        yield from beside.of.get(self.name, ())
        yield from below.of_any
        for names in below.of.values():
            yield from names
        if self.table is not None:
            yield from self.neighbours.telling(self.table).of_any

    @property
    def is_companion(self) -> bool:
        """Whether its own name says that it belongs to others."""
        return _TELLING.search(self.leaf) is not None
