"""Quantized tables of a graph: which nodes make values of them, with which scales and zero points.

DequantizeLinear of a table, or of the rows that a Gather takes from it: https://onnx.ai/onnx/operators/.
GatherBlockQuantized: docs/ContribOperators.md of ONNX Runtime. Whatever else takes a quantized table leaves
open what its numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..base import TensorInfo
from ..checks import shortened
from ..quantized_weights.grids import Misfit
from ..quantized_weights.numbers import FLOAT8_TYPES, SCALE_TYPES
from ..quantized_weights.recipe import Grid, Layout, Recipe
from .graph import BITS, Initializer, Model, Node

__all__ = ["Tables"]

_INTEGERS = ("int8", "uint8", "int4", "uint4", "int2", "uint2")
_CODES = (*_INTEGERS, *FLOAT8_TYPES, "float4_e2m1fn")
# What DequantizeLinear takes besides.
_WIDE_CODES = ("int16", "uint16", "int32")
_OURS = ("", "com.microsoft")
_PASSING = ("Gather", "GatherND", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_OF_CODES = (
    "ConvInteger",
    "DequantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
)


@dataclass(frozen=True)
class _Numbers:
    """Scales or zero points: a tensor, the block that each is for, and how they lie."""

    name: str
    block: tuple[int, int]
    layout: Layout | None = None


class Tables:
    """What the nodes of a model say of its tensors.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model) -> None:
        self._tensors = model.initializers
        self._takers: dict[str, list[Node]] = {}
        self._makers: dict[str, Node] = {}
        for node in model.nodes:
            for name in dict.fromkeys(node.inputs):
                self._takers.setdefault(name, []).append(node)
            for name in node.outputs:
                self._makers[name] = node

    def recipe(self, name: str) -> Recipe | None:
        """How the values of a tensor are computed; None: they are what it holds.

        Raises
        ------
        Misfit
            It is given to a node that takes quantized values, and not by a way that leaves just one meaning.
        """
        table = self._tensors[name]
        if len(table.shape) != 2 or table.dtype not in (*_CODES, *_WIDE_CODES):
            return None
        found: list[Recipe] = []
        for node in self._takers.get(name, ()):
            found += self._of_node(table, node)
        for other in found[1:]:
            if other != found[0]:
                raise Misfit(f"the model scales it in several ways: {found[0].how}, and {other.how}")
        return found[0] if found else None

    def _of_node(self, table: Initializer, node: Node) -> Iterator[Recipe]:
        """What one node that takes the table makes of it."""
        if node.kind == "DequantizeLinear" and node.domain in _OURS and node.input(0) == table.name:
            yield self._dequantized(table, node)
        elif node.kind == "GatherBlockQuantized" and node.input(0) == table.name:
            yield self._gathered_blocks(table, node)
        elif _gathers_rows(node) and node.input(0) == table.name:
            for value in node.outputs:
                for taker in self._takers.get(value, ()):
                    if taker.kind == "DequantizeLinear" and taker.domain in _OURS and taker.input(0) == value:
                        yield self._dequantized(table, taker, node)
                    else:
                        self._check_plain(table, value, taker)
        else:
            self._check_plain(table, table.name, node)

    def _check_plain(self, table: Initializer, value: str, node: Node) -> None:
        """Refuse where numbers, passed on as they are, come to a node that takes codes or is not known."""
        waiting, seen = [(value, node)], set()
        while waiting:
            value, one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if one.domain or one.kind in _OF_CODES:
                is_input = one.kind == "DequantizeLinear" and one.input(0) == value
                if table.dtype in _CODES or is_input:
                    raise Misfit(
                        f"the model gives it to {shortened(one.title)} in a way that leaves open which "
                        f"scales are whose"
                    )
            elif one.kind in _PASSING and one.input(0) == value:
                waiting += [(name, taker) for name in one.outputs for taker in self._takers.get(name, ())]

    # DequantizeLinear ---------------------------------------------------------------------------------------

    def _dequantized(self, table: Initializer, node: Node, gather: Node | None = None) -> Recipe:
        """Of a table, or of the rows that `gather` takes from it."""
        rows, columns = table.shape
        given = node.input(1)
        scale, by_row = self._taken(given, gather)
        zero, zero_by_row = self._taken(node.input(2), gather) if node.input(2) else (None, by_row)
        if by_row != zero_by_row:
            raise Misfit("its scales and its zero points are not taken by the same indices")
        axis, block = node.numbers.get("axis", 1), node.numbers.get("block_size", 0)
        if gather is not None:
            axis = self._axis_of_gathered(table, scale, axis, block, by_row)
        if not -2 <= axis <= 1:
            raise Misfit(f"DequantizeLinear has axis {axis}: expected -2 to 1 for {table.shape}")
        numbers = _numbers(scale, (rows, columns), axis % 2, block)
        if by_row and scale.shape[:1] != [rows]:
            raise Misfit(
                f"{_quoted(scale)} has shape {tuple(scale.shape)}: expected a scale for each of {rows} rows"
            )
        return self._made(table, numbers, zero, "DequantizeLinear")

    def _taken(self, name: str, gather: Node | None) -> tuple[Initializer, bool]:
        """A tensor of scales or zero points, and whether it is taken by row with the indices of `gather`."""
        if name in self._tensors:
            return self._tensors[name], False
        maker = self._makers.get(name)
        if (
            gather is not None
            and maker is not None
            and _gathers_rows(maker)
            and maker.input(1) == gather.input(1)
            and maker.input(0) in self._tensors
        ):
            return self._tensors[maker.input(0)], True
        raise Misfit(
            f"its scales or zero points, {shortened(repr(name))}, are no tensor of the model's graph"
        )

    @staticmethod
    def _axis_of_gathered(table: Initializer, scale: Initializer, axis: int, block: int, by_row: bool) -> int:
        """The axis in the table; how many dimensions rows have behind a Gather depends on its indices."""
        if not scale.shape or scale.shape == [1]:
            return 1
        if by_row and not block and len(scale.shape) == 1 and axis in (0, -2):
            return 0
        if by_row and block and scale.shape[1:] != table.shape[1:]:
            return 1  # of two dimensions that differ, only this one can be the one of the blocks
        if not by_row and not block and axis == -1:
            return 1
        raise Misfit(f"DequantizeLinear has axis {axis} behind Gather, which leaves open what it goes along")

    # GatherBlockQuantized -----------------------------------------------------------------------------------

    def _gathered_blocks(self, table: Initializer, node: Node) -> Recipe:
        kind = table.dtype
        bits = node.numbers.get("bits", 4) if kind == "uint8" else BITS[kind]
        if kind not in ("uint8", "int4", "uint4", "float4_e2m1fn", *FLOAT8_TYPES) or bits not in (2, 4, 8):
            raise Misfit(f"GatherBlockQuantized takes {kind} of {bits} bits: expected a type that it knows")
        packed = kind == "uint8" and bits < 8
        stored = table.shape[1]
        shape = (table.shape[0], stored * 8 // bits if packed else stored)
        axis, block = node.numbers.get("quantize_axis", 1), node.numbers.get("block_size", 128)
        if node.numbers.get("gather_axis", 0) not in (0, -2) or not -2 <= axis <= 1:
            raise Misfit("GatherBlockQuantized goes along other axes: expected rows to be gathered")
        if packed and axis % 2 != 1:
            raise Misfit("GatherBlockQuantized has packed bytes along the rows: expected columns")
        floats = kind in FLOAT8_TYPES or kind == "float4_e2m1fn"
        if block < 1:
            if block or not floats:
                raise Misfit(f"GatherBlockQuantized has blocks of {block} {kind}: expected a length")
            block = max(shape[axis % 2], 1)
        scale, _ = self._taken(node.input(2), None)
        numbers = _numbers(scale, shape, axis % 2, block, broadcast=floats)
        layout = Layout(shape[0], shape[1], 8 * stored, bits) if packed else None
        zero = self._taken(node.input(3), None)[0] if node.input(3) else None
        return self._made(
            table, numbers, zero, "GatherBlockQuantized", shape, layout, bits if kind == "uint8" else 0
        )

    # both ---------------------------------------------------------------------------------------------------

    def _made(
        self,
        table: Initializer,
        scales: _Numbers,
        zero: Initializer | None,
        operator: str,
        shape: tuple[int, int] | None = None,
        layout: Layout | None = None,
        bits: int = 0,
    ) -> Recipe:
        """`layout` and `bits` are those of packed bytes."""
        kind = table.dtype
        if kind not in _CODES:
            raise Misfit(f"{operator} takes {kind}: expected 8 bits or less")
        shape = shape or (table.shape[0], table.shape[1])
        scale = self._tensors[scales.name]
        if scale.dtype not in SCALE_TYPES:
            raise Misfit(f"{_quoted(scale)} holds {scale.dtype}: expected scales of {', '.join(SCALE_TYPES)}")
        layouts: dict[str, Layout] = {} if scales.layout is None else {scale.name: scales.layout}
        layout = layout or _layout(kind, shape)
        if layout is not None:
            layouts[table.name] = layout
        zeros = None
        if zero is not None:
            zeros, zero_layout = _zeros(zero, scale, scales, kind, 8 if bits in (0, 8) else bits, shape)
            if zero_layout is not None:
                layouts[zero.name] = zero_layout
        numbers, word = _meaning(kind, zero, operator, bits)
        used = [table, scale, *([] if zero is None else [zero])]
        if len({one.name for one in used}) != len(used):
            raise Misfit(f"{operator} takes one tensor for two things")
        return Recipe(
            name=table.name,
            shape=shape,
            codes=_info(table),
            numbers=numbers,
            how=f"{word} * {scale.name}{_in_words(scales.block, shape)} ({operator})",
            scale=Grid(_info(scale), scales.block, scale.dtype),
            zero=zeros,
            beside={one.name: _info(one) for one in used},
            layouts=layouts,
        )


def _gathers_rows(node: Node) -> bool:
    """Whether it takes whole rows of a matrix, or numbers of a vector."""
    return (node.kind, node.domain, node.numbers.get("axis", 0)) == ("Gather", "", 0)


def _numbers(
    scale: Initializer, shape: tuple[int, int], axis: int, block: int, broadcast: bool = False
) -> _Numbers:
    """The block that each scale is for: `block` 0 is one for all, or one for each place of an axis."""
    rows, columns = shape
    found = tuple(scale.shape)
    if block < 0:
        raise Misfit(f"its blocks are {block} long: expected a length")
    if not block:
        if found in ((), (1,)):
            return _Numbers(scale.name, (max(rows, 1), columns))
        if found == (shape[axis],):
            if axis == 0:
                return _Numbers(scale.name, (1, columns))
            return _Numbers(scale.name, (max(rows, 1), 1), _along_columns(scale))
        raise Misfit(
            f"{_quoted(scale)} has shape {found}: expected one number, or ({shape[axis]},) for axis {axis}"
        )
    counts = [rows, columns]
    counts[axis] = -(-shape[axis] // block)
    sizes = [1, 1]
    sizes[axis] = block
    for other in (0, 1):
        if broadcast and len(found) == 2 and other != axis and found[other] == 1:
            counts[other], sizes[other] = 1, max(shape[other], 1)
    if found != tuple(counts):
        raise Misfit(
            f"{_quoted(scale)} has shape {found}: expected ({counts[0]}, {counts[1]}), for blocks of {block} "
            f"along axis {axis}"
        )
    return _Numbers(scale.name, (sizes[0], sizes[1]))


def _along_columns(one: Initializer) -> Layout:
    size = one.shape[0] * BITS.get(one.dtype, 8) // 8
    return Layout(1, size, 8 * size)


def _layout(kind: str, shape: tuple[int, int]) -> Layout | None:
    """Of a tensor whose type has less than 8 bits: rows may share bytes."""
    bits = BITS[kind]
    if bits == 8:
        return None
    return Layout(shape[0], shape[1], bits * shape[1], bits, kind.startswith("int"))


def _zeros(
    zero: Initializer, scale: Initializer, scales: _Numbers, kind: str, bits: int, shape: tuple[int, int]
) -> tuple[Grid | None, Layout | None]:
    """Zero points, one for each scale; `bits` of packed bytes."""
    if zero.dtype != kind:
        raise Misfit(f"{_quoted(zero)} holds {zero.dtype}: expected {kind}, as its codes")
    expected = list(scale.shape)
    if bits < 8:
        expected[1] = -(-expected[1] * bits // 8)
    if zero.shape != expected and not _length(zero) == _length(scale) == 1:
        raise Misfit(
            f"{_quoted(zero)} has shape {tuple(zero.shape)}: expected {tuple(expected)}, as its scales"
        )
    if kind not in _INTEGERS:
        raise Misfit(f"its codes are floats, which have no zero point, but there is {_quoted(zero)}")
    layout = None
    if bits < 8:
        layout = Layout(scale.shape[0], scale.shape[1], 8 * zero.shape[1], bits)
    elif scales.layout is not None or BITS[kind] < 8:
        rows, columns = (scale.shape[0], scale.shape[1]) if len(scale.shape) == 2 else (1, _length(scale))
        if len(scale.shape) == 1 and scales.layout is None:
            rows, columns = columns, 1
        layout = _layout(kind, (rows, columns)) or Layout(rows, columns, 8 * columns)
    return Grid(_info(zero), scales.block, "int8" if kind.startswith("int") else "uint8"), layout


def _length(one: Initializer) -> int:
    return math.prod(one.shape)


def _meaning(kind: str, zero: Initializer | None, operator: str, bits: int) -> tuple[str, str]:
    """What codes are by the names of a recipe, and in words."""
    if kind == "float4_e2m1fn":
        return "e2m1", kind
    if kind in FLOAT8_TYPES:
        return kind, kind
    if zero is not None:
        return "int8" if kind.startswith("int") else "uint8", f"({_word(kind, bits)} - {zero.name})"
    if operator == "GatherBlockQuantized" and kind == "uint8":
        return {8: "int8 + 128", 4: "int4 + 8", 2: "int2 + 2"}[bits], f"(uint{bits} - {1 << (bits - 1)})"
    return "int8" if kind.startswith("int") else "uint8", kind


def _word(kind: str, bits: int) -> str:
    return f"uint{bits}" if kind == "uint8" and bits else kind


def _in_words(block: tuple[int, int], shape: tuple[int, int]) -> str:
    rows, columns = block
    if columns >= shape[1]:
        return " of its row" if rows == 1 else "" if rows >= shape[0] else f" of {rows} rows"
    return " of its column" if columns == 1 and rows >= shape[0] else f" of {rows} x {columns}"


def _info(one: Initializer) -> TensorInfo:
    return TensorInfo(one.name, tuple(one.shape), one.dtype)


def _quoted(one: Initializer) -> str:
    return shortened(repr(one.name))
