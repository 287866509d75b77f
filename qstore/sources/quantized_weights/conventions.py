"""The conventions: each function knows one, and gives its recipe for a tensor or says why it does not fit.

None: the names are not those of this convention. :class:`.grids.Misfit`: they are, but something is missing
or does not fit. What each library writes, and the versions it was checked with, stands in docs/quantized.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import TensorInfo
from ..checks import shortened
from ..containers.tensor_file import TensorFile
from .family import Family
from .grids import Misfit, block_of
from .numbers import CODE_TYPES, FLOAT8_TYPES, SCALE_TYPES, ZERO_TYPES
from .recipe import Grid, Layout, Recipe, Vocabulary

__all__ = ["CONVENTIONS", "Found", "refusal", "scaled_by_hand"]

Found = Recipe | Vocabulary | None

_LARGEST_MATRIX = 1 << 62


# Codes of 8 bits ------------------------------------------------------------------------------------------


def scaled_bytes(family: Family) -> Found:
    """Codes of 8 bits with one scale for all, a row, a group of columns or a block."""
    info, name = family.info, family.name
    if info.dtype not in CODE_TYPES or len(info.shape) != 2:
        return None
    scales = family.present(_scale_names(family))
    if not scales:
        return None
    if len(scales) > 1:
        raise Misfit(f"both {' and '.join(one.name for one in scales)} could be its scales")
    (scale,) = scales
    zero = family.one_of(_zero_names(family))
    if info.dtype == "uint8" and zero is None:
        if scale.dtype.startswith("float8"):
            return None  # two floats of 4 bits in each byte
        raise Misfit("codes of uint8 need a zero point, and there is none")
    if info.dtype == "int8" and scale.dtype == "float8_e8m0fnu":
        return None  # the same
    if zero is not None and info.dtype in FLOAT8_TYPES:
        raise Misfit(f"{name} holds floats, which have no zero point, but there is {zero.name}")
    return _bytes_recipe(family, scale, zero, _logical(family))


def scaled_by_hand(family: Family, scale_name: str) -> Recipe:
    """Numbers of 8 bits scaled by the tensor of this name; zero points by the usual names.

    Raises
    ------
    Misfit
    """
    info, scale = family.info, family.file.info(scale_name)
    if info.dtype not in CODE_TYPES or len(info.shape) != 2:
        raise Misfit(
            f"it is {info.dtype} of shape {info.shape}: expected a matrix of {', '.join(CODE_TYPES)}"
        )
    zero = None if info.dtype in FLOAT8_TYPES else family.one_of(_zero_names(family))
    return _bytes_recipe(family, scale, zero, family.name)


def _scale_names(family: Family) -> list[str]:
    if family.leaf == "_weight_qdata":
        return [family.sibling("_weight_scale")]  # torchao
    if family.leaf == "_data":
        return [family.sibling("_scale")]  # optimum-quanto
    names = [f"{family.name}_scale", f"{family.name}_scale_inv"]
    if family.leaf == "weight":
        names += [family.sibling(leaf) for leaf in ("scale", "scales", "SCB")]
    if family.table is not None:
        names.append(f"{family.table}.weight_scale" if family.table else "weight_scale")
    return names


def _zero_names(family: Family) -> list[str]:
    if family.leaf == "_weight_qdata":
        return [family.sibling("_weight_zero_point")]
    names = [f"{family.name}_zero_point"]
    return [*names, family.sibling("zero_point")] if family.leaf == "weight" else names


def _bytes_recipe(family: Family, scale: TensorInfo, zero: TensorInfo | None, name: str) -> Recipe:
    info = family.info
    shape = (info.shape[0], info.shape[1])
    grid = _scale_grid(family, scale, shape)
    of_row_maximum = scale.name == family.sibling("SCB")
    if of_row_maximum and (grid.block != (1, shape[1]) or info.dtype != "int8"):
        raise Misfit(f"{scale.name} has shape {scale.shape}: expected the largest value of each row of int8")
    if (
        family.table is not None
        and scale.name == f"{family.table}.weight_scale"
        and scale.shape not in ((), (1,))
    ):
        raise Misfit(f"{scale.name} has shape {scale.shape}: expected one number for all parts of the table")
    zeros = None if zero is None else _zero_grid(zero, grid)
    used = [info, scale, *([] if zero is None else [zero])]
    word = info.dtype if zero is None else f"({info.dtype} - {_leaf(zero)})"
    how = f"{word} * {_leaf(scale)}{' / 127' if of_row_maximum else ''}{_blocks(grid, shape)}"
    return Recipe(
        name=name,
        shape=shape,
        codes=info,
        numbers=info.dtype,
        how=how,
        scale=grid,
        zero=zeros,
        divisor=127 if of_row_maximum else 1,
        beside=_beside(family, used, "weight_format", "weight_shape"),
    )


def _scale_grid(family: Family, scale: TensorInfo, shape: tuple[int, int]) -> Grid:
    dtype = scale.dtype
    if dtype == "uint8" and family.info.dtype in FLOAT8_TYPES:
        dtype = "float8_e8m0fnu"  # MXFP8 of compressed-tensors and of MLX
    if dtype not in SCALE_TYPES:
        raise Misfit(f"{scale.name} holds {scale.dtype}: expected scales of {', '.join(SCALE_TYPES)}")
    return Grid(scale, block_of(scale, shape, family.config.blocks()), dtype)


def _zero_grid(zero: TensorInfo, scale: Grid) -> Grid:
    if zero.dtype not in ZERO_TYPES:
        raise Misfit(f"{zero.name} holds {zero.dtype}: expected zero points of {', '.join(ZERO_TYPES)}")
    if [size for size in zero.shape if size != 1] != [size for size in scale.tensor.shape if size != 1]:
        raise Misfit(f"{zero.name} has shape {zero.shape}: expected that of its scales, {scale.tensor.shape}")
    return Grid(zero, scale.block, zero.dtype)


# compressed-tensors, packed ---------------------------------------------------------------------------------


def packed_integers(family: Family) -> Found:
    """Integers of 4 or 8 bits in int32, the middle added, by compressed-tensors."""
    info = family.info
    if family.leaf != "weight_packed" or info.dtype != "int32":
        return None
    scale = family.one_of([family.sibling("weight_scale")])
    told = family.one_of([family.sibling("weight_shape")])
    if scale is None or told is None or len(info.shape) != 2:
        raise Misfit("packed integers need weight_scale and weight_shape, and a matrix of int32")
    if told.dtype not in ("int64", "int32") or told.shape != (2,):
        raise Misfit(f"{told.name} is {told.dtype} of shape {told.shape}: expected 2 numbers of int64")
    rows, columns = _numbers(family.file, told)
    if rows != info.shape[0] or not 0 < columns <= 8 * max(info.shape[1], 1):
        raise Misfit(
            f"{told.name} says {rows} × {columns}, which {info.name} of shape {info.shape} cannot hold"
        )
    bits = _packed_bits(family, columns)
    shape = (rows, columns)
    grid = _scale_grid(family, scale, shape)
    if grid.block[0] not in (1, max(rows, 1)):
        raise Misfit(
            f"{scale.name} has shape {scale.shape}: expected one scale for all, a row, or a group of columns"
        )
    zero = family.one_of([family.sibling("weight_zero_point")])
    return Recipe(
        name=family.sibling("weight"),
        shape=shape,
        codes=info,
        numbers="int8 + 128" if bits == 8 else "int4 + 8",
        how=f"int{bits} in weight_packed{'' if zero is None else ' - weight_zero_point'} * weight_scale"
        f"{_blocks(grid, shape)}",
        packing="bytes" if bits == 8 else "low half first",
        scale=grid,
        zero=None if zero is None else _packed_zeros(zero, grid, shape, bits),
        beside=_beside(family, [info, scale, told, *([] if zero is None else [zero])]),
    )


def _packed_bits(family: Family, columns: int) -> int:
    words = family.info.shape[1]
    fitting = {bits for bits in range(1, 9) if -(-columns * bits // 32) == words}
    said = family.config.bits() & fitting
    found = (
        said
        if len(said) == 1
        else fitting & {4, 8}
        if fitting <= {1, 2, 3, 4, 8} or len(fitting) == 1
        else fitting
    )
    if len(found) != 1 or not found <= {4, 8}:
        raise Misfit(
            f"{columns} columns in {words} words of 32 bits are "
            f"{' or '.join(map(str, sorted(fitting))) or 'no number of'} bits each: expected 4 or 8, and "
            f"config.json to say which where it could be both"
        )
    return found.pop()


def _packed_zeros(zero: TensorInfo, scale: Grid, shape: tuple[int, int], bits: int) -> Grid:
    words = -(-shape[0] * bits // 32)
    groups = -(-shape[1] // scale.block[1])
    if zero.dtype != "int32" or zero.shape != (words, groups) or scale.block[0] != 1:
        raise Misfit(
            f"{zero.name} is {zero.dtype} of shape {zero.shape}: expected int32 of shape "
            f"({words}, {groups}), packed along the rows"
        )
    return Grid(zero, scale.block, "int32", packed=bits)


def packed_floats(family: Family) -> Found:
    """Floats of 4 bits with scales of groups: MXFP4 and NVFP4 of compressed-tensors, torchao, ModelOpt."""
    info, leaf = family.info, family.leaf
    if leaf not in ("weight_packed", "_weight_qdata", "weight"):
        return None
    if info.dtype not in ("uint8", "float4_e2m1fn", "float4_e2m1fn_x2") or len(info.shape) != 2:
        return None
    scale = family.one_of([family.sibling("_weight_scale" if leaf == "_weight_qdata" else "weight_scale")])
    if leaf == "weight" and (scale is None or scale.dtype != "float8_e4m3fn"):
        return None
    if leaf == "_weight_qdata" and info.dtype == "uint8" and not _is_torchao_float4(family):
        return None
    if scale is None:
        raise Misfit("packed floats of 4 bits need weight_scale")
    factors = family.present(
        [family.sibling(one) for one in ("weight_global_scale", "weight_scale_2", "_weight_per_tensor_scale")]
    )
    if len(factors) > 1:
        raise Misfit(f"both {' and '.join(one.name for one in factors)} could be its global scale")
    factor = factors[0] if factors else None
    columns = info.shape[1] if info.dtype == "float4_e2m1fn" else 2 * info.shape[1]
    shape = (info.shape[0], columns)
    if columns % 2:
        raise Misfit(f"{info.name} has {columns} columns of 4 bits, which do not fill bytes")
    group = 16 if scale.dtype == "float8_e4m3fn" else 32
    if scale.dtype not in ("float8_e4m3fn", "float8_e8m0fnu", "uint8"):
        raise Misfit(
            f"{scale.name} holds {scale.dtype}: expected float8_e4m3fn, or E8M0 as float8_e8m0fnu or uint8"
        )
    if scale.shape != (shape[0], columns // group) or columns % group:
        raise Misfit(
            f"{scale.name} has shape {scale.shape}: expected ({shape[0]}, {columns}/{group}), "
            f"one for {group} columns"
        )
    if leaf == "_weight_qdata":
        _check_not_swizzled(family)
    if factor is not None and (factor.dtype != "float32" or factor.shape not in ((), (1,)) or group == 32):
        raise Misfit(
            f"{factor.name} is {factor.dtype} of shape {factor.shape}: expected one float32, for NVFP4"
        )
    if factor is None and group == 16 and leaf != "_weight_qdata":
        raise Misfit("NVFP4 needs weight_global_scale (compressed-tensors) or weight_scale_2 (ModelOpt)")
    divides = factor is not None and _leaf(factor) == "weight_global_scale"
    by = "" if factor is None else f" {'/' if divides else '*'} {_leaf(factor)}"
    return Recipe(
        name=_logical(family),
        shape=shape,
        codes=info,
        numbers="e2m1",
        how=f"float4_e2m1fn * {_leaf(scale)}{by} ({'NVFP4' if group == 16 else 'MXFP4'})",
        packing="low half first",
        scale=Grid(scale, (1, group), scale.dtype if group == 16 else "float8_e8m0fnu"),
        factor=factor,
        divides=divides,
        beside=_beside(family, [info, scale, *factors], "weight_shape"),
    )


def _torchao(family: Family) -> dict[str, Any]:
    """What torchao's own metadata says of the tensor."""
    try:
        told = json.loads(family.file.metadata_beside(family.name).get(family.sibling("weight"), ""))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _is_torchao_float4(family: Family) -> bool:
    return _torchao(family).get("_type") in ("NVFP4Tensor", "MXTensor")


def _check_not_swizzled(family: Family) -> None:
    data = _torchao(family).get("_data")
    if not isinstance(data, dict) or data.get("is_swizzled_scales") is not False:
        raise Misfit("its scales lie in the order of a kernel (swizzled), or nothing says that they do not")


def packed_floats_in_int8(family: Family) -> Found:
    """MXFP4 as DeepSeek and transformers have it: two floats of 4 bits in each int8, scales in E8M0."""
    info = family.info
    if info.dtype != "int8" or family.leaf != "weight" or len(info.shape) != 2:
        return None
    scales = [one for one in family.present(_scale_names(family)) if one.dtype == "float8_e8m0fnu"]
    if not scales:
        return None
    scale, columns = scales[0], 2 * info.shape[1]
    if len(scales) > 1 or columns % 32 or scale.shape != (info.shape[0], columns // 32):
        raise Misfit(
            f"int8 with scales in E8M0 are floats of 4 bits, two in each byte, but {scale.name} has shape "
            f"{scale.shape}: expected ({info.shape[0]}, {columns}/32), one for 32 columns"
        )
    return Recipe(
        name=family.name,
        shape=(info.shape[0], columns),
        codes=info,
        numbers="e2m1",
        how=f"float4_e2m1fn in int8 * {_leaf(scale)} (MXFP4)",
        packing="low half first",
        scale=Grid(scale, (1, 32), scale.dtype),
        beside=_beside(family, [info, scale]),
    )


# MLX --------------------------------------------------------------------------------------------------------


def mlx(family: Family) -> Found:
    """Codes of 2 to 8 bits in uint32 with scales and biases of groups, or MLX's MXFP4, MXFP8 and NVFP4."""
    info = family.info
    if family.leaf != "weight" or info.dtype != "uint32" or len(info.shape) != 2:
        return None
    scale, bias = (family.one_of([family.sibling(leaf)]) for leaf in ("scales", "biases"))
    if scale is None and bias is None:
        return None
    if scale is None or len(scale.shape) != 2 or scale.shape[0] != info.shape[0] or not scale.shape[1]:
        raise Misfit(f"expected scales of shape ({info.shape[0]}, groups)")
    if bias is None:
        return _mlx_float(family, scale)
    if scale.dtype not in ("float32", "float16", "bfloat16") or (bias.dtype, bias.shape) != (
        scale.dtype,
        scale.shape,
    ):
        raise Misfit(
            f"scales are {scale.dtype} {scale.shape} and biases {bias.dtype} {bias.shape}: expected the same "
            f"type, of float32, float16 or bfloat16, and the same shape"
        )
    bits, group = _mlx_layout(family, info.shape[1], scale.shape[1])
    shape = (info.shape[0], info.shape[1] * 32 // bits)
    return Recipe(
        name=family.name,
        shape=shape,
        codes=info,
        numbers="uint4" if bits == 4 else "uint8",
        how=f"uint{bits} * scales + biases, groups of {group} (MLX)",
        packing="low half first" if bits == 4 else "bytes",
        scale=Grid(scale, (1, group), scale.dtype),
        bias=Grid(bias, (1, group), bias.dtype),
        beside=_beside(family, [info, scale, bias]),
        # Whatever the width, codes follow one another through the bytes of a row.
        layouts={} if bits in (4, 8) else {info.name: Layout(shape[0], shape[1], 32 * info.shape[1], bits)},
    )


def _mlx_layout(family: Family, words: int, groups: int) -> tuple[int, int]:
    """Bits and group size."""
    told = family.config.of_module(family.parent)
    fitting = {
        (bits, group)
        for bits in (2, 3, 4, 5, 6, 8)
        for group in (16, 32, 64, 128)
        if words * 32 == groups * group * bits
    }
    if told is not None:
        if told not in fitting:
            raise Misfit(
                f"config.json says {told[0]} bits in groups of {told[1]}, which {words} words and "
                f"{groups} groups a row are not"
            )
        fitting = {told}
    if len(fitting) != 1:
        could = (
            " or ".join(f"{bits} bits in groups of {group}" for bits, group in sorted(fitting))
            or "nothing known"
        )
        raise Misfit(
            f"{words} words and {groups} groups a row could be {could}: expected config.json beside the "
            f'file to say which: {{"quantization": {{"group_size": 64, "bits": 4}}}}'
        )
    return fitting.pop()


def _mlx_float(family: Family, scale: TensorInfo) -> Recipe:
    """Words for each scale tell the mode: 32 * 4, 32 * 8 or 16 * 4 bits."""
    info = family.info
    modes = {4: ("MXFP4", "e2m1", 32), 8: ("MXFP8", "float8_e4m3fn", 32), 2: ("NVFP4", "e2m1", 16)}
    words, rest = divmod(info.shape[1], scale.shape[1])
    if scale.dtype != "uint8" or rest or words not in modes:
        raise Misfit("expected biases of the shape of its scales")
    mode, numbers, group = modes[words]
    return Recipe(
        name=family.name,
        shape=(info.shape[0], scale.shape[1] * group),
        codes=info,
        numbers=numbers,
        how=f"{'float8_e4m3fn' if words == 8 else 'float4_e2m1fn'} * scales ({mode} of MLX)",
        packing="bytes" if words == 8 else "low half first",
        scale=Grid(scale, (1, group), "float8_e4m3fn" if group == 16 else "float8_e8m0fnu"),
        beside=_beside(family, [info, scale]),
    )


# MXFP4 in blocks --------------------------------------------------------------------------------------------


def mxfp4_blocks(family: Family) -> Found:
    """MXFP4 as gpt-oss has it: 16 bytes for each group of 32 columns, and E8M0 scales beside them."""
    info = family.info
    stem = family.name.removesuffix("blocks")
    if (
        stem == family.name
        or stem[-1:] not in ("_", ".")
        or info.dtype != "uint8"
        or info.shape[-1:] != (16,)
    ):
        return None
    scale = family.one_of([f"{stem}scales"])
    if scale is None:
        raise Misfit(f"blocks of MXFP4 need {stem}scales")
    if scale.dtype not in ("uint8", "float8_e8m0fnu") or scale.shape != info.shape[:-1]:
        raise Misfit(
            f"{scale.name} is {scale.dtype} of shape {scale.shape}: expected uint8 of {info.shape[:-1]}"
        )
    if len(info.shape) != 3:
        raise Misfit(f"{info.name} has shape {info.shape}: expected (rows, groups, 16), which is one matrix")
    return Recipe(
        name=stem[:-1],
        shape=(info.shape[0], info.shape[1] * 32),
        codes=info,
        numbers="e2m1",
        how="float4_e2m1fn * 2^(scales - 127) (MXFP4)",
        packing="low half first",
        scale=Grid(scale, (1, 32), "float8_e8m0fnu"),
        beside=_beside(family, [info, scale]),
    )


# Model2Vec --------------------------------------------------------------------------------------------------


def vocabulary(family: Family) -> Found:
    """Tokens that share embeddings, by Model2Vec: each row is one of them times a weight of its own."""
    info = family.info
    if family.name != "embeddings" or len(info.shape) != 2:
        return None
    mapping, weights = family.one_of(["mapping"]), family.one_of(["weights"])
    if mapping is None and weights is None:
        if family.config.says("vocabulary_quantization") is not None:
            raise Misfit("config.json speaks of vocabulary_quantization, but there is no mapping")
        return None
    rows = (mapping or weights or info).shape
    if info.dtype not in ("float32", "float16", "float64", "int8"):
        raise Misfit(f"it holds {info.dtype}: expected float32, float16, float64 or int8")
    if mapping is not None and (mapping.dtype not in ("int32", "int64") or len(rows) != 1):
        raise Misfit(
            f"mapping is {mapping.dtype} of shape {mapping.shape}: expected a number of int32 for each token"
        )
    if weights is not None and (
        weights.dtype not in ("float32", "float64", "float16") or weights.shape != rows
    ):
        raise Misfit(
            f"weights are {weights.dtype} of shape {weights.shape}: expected a float for each token, {rows}"
        )
    if mapping is None and rows != info.shape[:1]:
        raise Misfit(f"weights have shape {rows}: expected one for each row, ({info.shape[0]},)")
    used = [one for one in (info, mapping, weights) if one is not None]
    return Vocabulary(
        name=family.name,
        shape=(rows[0], info.shape[1]),
        embeddings=info,
        mapping=mapping,
        weights=weights,
        how=f"embeddings{'' if mapping is None else '[mapping]'}{'' if weights is None else ' * weights'}"
        f" (Model2Vec)",
        beside={one.name: one for one in used},
    )


CONVENTIONS: tuple[Callable[[Family], Found], ...] = (
    scaled_bytes,
    packed_integers,
    packed_floats,
    packed_floats_in_int8,
    mlx,
    mxfp4_blocks,
    vocabulary,
)
"""All of them. At most one may know a tensor."""


# Those that are known, and not read -------------------------------------------------------------------------


def refusal(family: Family) -> str | None:
    """What a tensor is of a scheme that is known and not read; None: it is of none."""
    leaf = family.leaf
    if leaf in ("qweight", "qzeros") and family.has(family.sibling("qweight")):
        return "GPTQ" if family.has(family.sibling("g_idx")) else "AWQ or GPTQ"
    if leaf == "trellis" or (leaf in ("suh", "svh") and family.has(family.sibling("trellis"))):
        return "EXL3"
    if leaf in ("q_weight", "q_scale", "q_groups") and family.has(family.sibling("q_weight")):
        return "EXL2"
    if leaf == "W_q":
        return "HQQ"
    if family.has(f"{family.name}.absmax"):
        return "bitsandbytes 4-bit (NF4 or FP4)"
    if leaf == "_weight_qdata" and (found := _torchao(family).get("_type")) not in _TORCHAO_READ:
        return f"torchao {shortened(str(found))}"
    return None


_TORCHAO_READ = (None, "Int8Tensor", "Float8Tensor", "IntxUnpackedToInt8Tensor", "MXTensor", "NVFP4Tensor")


def _logical(family: Family) -> str:
    """What the matrix is called in the model."""
    if family.leaf in ("weight_packed", "_weight_qdata"):
        return family.sibling("weight")
    return family.parent if family.leaf == "_data" else family.name


def _leaf(info: TensorInfo) -> str:
    return info.name.rpartition(".")[2]


def _blocks(grid: Grid, shape: tuple[int, int]) -> str:
    """Which numbers a scale is for, in words."""
    rows, columns = grid.block
    if columns >= shape[1]:
        return " of its row" if rows == 1 else "" if rows >= shape[0] else f" of {rows} rows"
    return f" of {rows} x {columns}"


def _beside(family: Family, used: list[TensorInfo], *more: str) -> dict[str, TensorInfo]:
    """All tensors of a family by name: those that are used, and others that say nothing more."""
    found = [*used, *family.present(family.sibling(leaf) for leaf in more)]
    return {one.name: one for one in found}


def _numbers(file: TensorFile, info: TensorInfo) -> list[int]:
    with file.open_bytes(info.name) as source:
        raw = source.read(0, source.rows)
    found: list[int] = np.ascontiguousarray(raw).view(np.dtype(info.dtype).newbyteorder("<")).ravel().tolist()
    return found
