"""Sums and extremes over the rows, the columns or all of a store, with a block of rows in memory.

Sums, and what is made of them, are of the float64 values and in float64. Blocks are the same however many
files there are, and are added up in order, so the bits are the same, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.narrowing import tell_infinite
from ..reading.backing import Backing
from ..system.options import flag, shown

__all__ = ["BY_BLOCKS", "blocks_of", "reduce", "reduce_by"]

_BLOCK_BYTES = 4 << 20

BY_BLOCKS = frozenset(
    [np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.logical_and, np.logical_or]
)
"""Functions whose reduction is that of the reductions of blocks."""

_FLOAT64 = np.dtype(np.float64)
_OF_NAME = {"sum": np.add, "min": np.minimum, "max": np.maximum}


def blocks_of(backing: Backing, dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and values of all blocks, in order; one of no rows where there are none."""
    if not backing.facts.rows:
        yield 0, np.empty((0, backing.facts.dim), dtype)
    for first, block in backing.blocks(max(1, _BLOCK_BYTES // (backing.facts.dim * dtype.itemsize)), dtype):
        yield first, tell_infinite(block, stacklevel=8) if dtype.itemsize == 2 else block


def reduce(
    backing: Backing,
    read_as: np.dtype[Any],
    name: str,
    axis: Any,
    *,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    ddof: float = 0,
    **others: Any,
) -> Any:
    """What :meth:`.Store.sum` and its like give.

    Raises
    ------
    TypeError
        Options that a store does not know.
    ValueError
        No such axis, `dtype` is of no floating type, or `out` does not fit.
    """
    if others:
        raise TypeError(
            f"{name} of a store takes axis, dtype, out and keepdims, found {', '.join(others)}: "
            f"store[:].{name}(…) takes all options, with the matrix in memory"
        )
    axes = _axes(axis)
    if not isinstance(ddof, (int, float, np.number)):
        raise TypeError(f"ddof is {shown(ddof)}, expected a number")
    if name in ("min", "max"):
        result = _reduced(backing, _OF_NAME[name], read_as, axes)
    else:
        result = _reduced(backing, np.add, _FLOAT64, axes)
        if name != "sum":
            result = result / _count(backing, axes)
        if name in ("var", "std"):
            result = _squares(backing, result, axes) / max(_count(backing, axes) - ddof, 0)
        if name == "std":
            result = np.sqrt(result)
    return _handed_over(result, axes, dtype, out, keepdims)


def reduce_by(
    ufunc: Any, backing: Backing, read_as: np.dtype[Any], axis: Any, dtype: Any, out: Any, keepdims: bool
) -> Any:
    """What ``ufunc.reduce(store)`` gives, for those of :data:`BY_BLOCKS`."""
    axes = _axes(axis)
    result = _reduced(backing, ufunc, _FLOAT64 if ufunc in (np.add, np.multiply) else read_as, axes)
    return _handed_over(result, axes, None if result.dtype == np.bool_ else dtype, out, keepdims)


def _axes(axis: Any) -> tuple[int, ...]:
    if axis is None:
        return 0, 1
    try:
        axes: tuple[int, ...] = np.lib.array_utils.normalize_axis_tuple(axis, 2)
    except (TypeError, OverflowError, NotImplementedError, RuntimeError):
        raise TypeError(f"axis is {shown(axis)}, expected 0, 1, both in a tuple, or None") from None
    if not axes:
        raise ValueError("axis is (), expected 0, 1 or None: store[:] are the values themselves")
    return axes


def _count(backing: Backing, axes: tuple[int, ...]) -> int:
    return int(np.prod([(backing.facts.rows, backing.facts.dim)[axis] for axis in axes]))


def _reduced(backing: Backing, ufunc: Any, dtype: np.dtype[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """Of shape (1, D), (N, 1) or (1, 1)."""
    parts = (ufunc.reduce(block, axis=axes, keepdims=True) for _, block in blocks_of(backing, dtype))
    if 0 not in axes:
        return np.concatenate(list(parts))
    total: NDArray[Any] = next(parts)
    for part in parts:
        total = ufunc(total, part)
    return total


def _squares(backing: Backing, means: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Sums of the squares of what the values are from their means."""
    parts: list[NDArray[np.float64]] = []
    for first, block in blocks_of(backing, _FLOAT64):
        block -= means if 0 in axes else means[first : first + len(block)]
        np.square(block, out=block)
        parts.append(np.add.reduce(block, axis=axes, keepdims=True))
        if 0 in axes:
            parts = [np.add.reduce(parts, axis=0)]
    return np.concatenate(parts)


def _handed_over(result: NDArray[Any], axes: tuple[int, ...], dtype: Any, out: Any, keepdims: bool) -> Any:
    if dtype is not None and np.dtype(dtype).kind != "f":
        raise ValueError(f"dtype is {np.dtype(dtype)}, expected a floating type: store[:] has the values")
    if not flag("keepdims", keepdims):
        result = result.squeeze(axes)
    if dtype is not None:
        result = result.astype(dtype)
    if out is None:
        return result[()]
    if not isinstance(out, np.ndarray) or out.shape != result.shape:
        found = f"has shape {out.shape}" if isinstance(out, np.ndarray) else f"is {shown(out)}, no array"
        raise ValueError(f"out {found}, expected {result.shape}")
    out[...] = result
    return out
