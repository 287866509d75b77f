"""How the values of a matrix are computed from the tensors of a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..base import TensorInfo

__all__ = ["Grid", "Layout", "Packing", "Recipe", "Vocabulary"]

Packing = Literal["bytes", "low half first"]
"""How codes lie in bytes: one in each, or two of 4 bits, the lower half before the upper one."""


@dataclass(frozen=True)
class Grid:
    """Numbers of which each holds for one block of the matrix.

    Attributes
    ----------
    tensor : TensorInfo
    block : tuple of int
        Rows and columns of a block; the last ones may be cut off by the edge of the matrix.
    dtype : str
        What the numbers are, where that is another type than the tensor's: uint8 that is E8M0.
    packed : int
        Bits of each where they are packed along the rows into int32, with the middle added; else 0.
    """

    tensor: TensorInfo
    block: tuple[int, int]
    dtype: str = ""
    packed: int = 0


@dataclass(frozen=True)
class Layout:
    """How the items of a tensor lie where they are no rows of whole bytes, or other rows than its shape says.

    Attributes
    ----------
    rows, columns : int
        What it is read as: items of `bits`, or bytes where that is 8.
    row_bits : int
        From the begin of one row to that of the next.
    bits : int
        Of an item: less than 8 where they are packed, from the lowest bits of the first byte on.
    signed : bool
        Packed items are numbers in two's complement.
    """

    rows: int
    columns: int
    row_bits: int
    bits: int = 8
    signed: bool = False


@dataclass(frozen=True)
class Recipe:
    """value = (number of the code - zero point) * scale (* or / the factor) + bias, each step in float32.

    Attributes
    ----------
    name : str
        What the matrix is called.
    shape : tuple of int
    codes : TensorInfo
    numbers : str
        What a code means: a type of 8 bits; "int8 + 128", "int4 + 8", "int2 + 2" and "uint4" of packed
        integers; "e2m1".
    packing : {"bytes", "low half first"}
    scale : Grid
    zero, bias : Grid or None
    factor : TensorInfo or None
        A number for the whole matrix: each scale is first multiplied with it, or divided by it.
    divides : bool
        It is divided by.
    divisor : int
        What scales are divided by in float64: 127 where they are the largest value of a row.
    beside : mapping of str to TensorInfo
        All tensors that belong to it, the codes too, by name.
    layouts : mapping of str to Layout
        Of those that do not lie as their shapes say.
    how : str
        The rule in words, in ASCII, for people and for the journal.
    """

    name: str
    shape: tuple[int, int]
    codes: TensorInfo
    numbers: str
    how: str
    scale: Grid
    packing: Packing = "bytes"
    zero: Grid | None = None
    bias: Grid | None = None
    factor: TensorInfo | None = None
    divides: bool = False
    divisor: int = 1
    beside: Mapping[str, TensorInfo] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    @property
    def scaled_by_row(self) -> bool:
        """Whether there is one scale for all, or one a row, and nothing is added."""
        if self.bias is not None or self.factor is not None:
            return False
        rows, columns = self.scale.block
        return columns >= self.shape[1] and (rows == 1 or rows >= self.shape[0])


@dataclass(frozen=True)
class Vocabulary:
    """value = row ``mapping[i]`` of the embeddings * ``weights[i]``, as Model2Vec keeps clustered tokens.

    Attributes
    ----------
    name : str
    shape : tuple of int
    embeddings : TensorInfo
    mapping, weights : TensorInfo or None
    how : str
    beside : mapping of str to TensorInfo
    """

    name: str
    shape: tuple[int, int]
    embeddings: TensorInfo
    mapping: TensorInfo | None
    weights: TensorInfo | None
    how: str
    beside: Mapping[str, TensorInfo] = field(default_factory=dict)
