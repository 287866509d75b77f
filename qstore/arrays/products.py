"""``store @ x`` and ``x @ store``: products of the stored matrix, without making the matrix."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..engine import kernels
from ..engine.arguments import as_finite
from ..engine.exact_scores import slice_columns, slice_sums
from ..reading.backing import Backing
from ..reading.parts import coded_rows
from ..system.threads import in_parts
from .arithmetic import answers_itself, as_operand
from .reductions import blocks_of

__all__ = ["matmul", "product", "reverse_product", "rmatmul"]

_SLICES = 4
_BLOCK_VALUES = 1 << 18
_SUMMED_VALUES = 1 << 20
_COLUMNS_VALUES = 1 << 22
_READ_CODES = 8 << 20


def matmul(store: Any, x: Any) -> Any:
    """``store @ x``; see :meth:`.Store.__matmul__`."""
    if isinstance(x, np.ma.MaskedArray) or not answers_itself(x, type(store)):  # whose own @ loses masks
        return product(store._mapping, x)
    if getattr(x, "__array_ufunc__", True) is None:
        return NotImplemented
    if hasattr(x, "tocsr"):  # sparse: SciPy would have the whole matrix in memory
        return np.concatenate([block @ x for _, block in blocks_of(store._mapping, np.dtype(np.float64))])
    return operator.matmul(as_operand(store, x), x)


def rmatmul(store: Any, x: Any) -> Any:
    """``x @ store``; see :meth:`.Store.__rmatmul__`."""
    if answers_itself(x, type(store)) and not isinstance(x, np.ma.MaskedArray):
        return operator.matmul(x, as_operand(store, x))
    return reverse_product(store._mapping, x)


def product(backing: Backing, x: ArrayLike) -> NDArray[np.float64]:
    """``scales * ((codes - 128) @ x)`` in float64, of shape (N,) or (N, m), for finite x.

    The inner sum is exact but for what x has below 2^-95 of the largest value of its column: 4 slices of 24
    bits, whose sums are integers that float64 holds, added from the lowest up. So neither threads nor the
    order in which BLAS adds can change a bit.
    """
    rows, dim = backing.facts.rows, backing.facts.dim
    given = as_finite("x", x, (1, 2))
    if given.shape[0] != dim:
        raise ValueError(f"x has shape {given.shape}, expected ({dim},) or ({dim}, m)")
    columns = given if given.ndim == 2 else given[:, None]
    out = np.zeros((rows, columns.shape[1]))
    together = max(1, _COLUMNS_VALUES // dim)
    for part in backing.parts(0, rows):
        held = out[part.first : part.first + len(part.codes)]
        for first in range(0, columns.shape[1], together):
            some = slice(first, first + together)
            _multiply_some(part.codes, part.scales, columns[:, some], held[:, some])
    return out if given.ndim == 2 else out[:, 0]


def _multiply_some(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    x: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    slices = slice_columns(x, _SLICES)
    step = max(1, _BLOCK_VALUES // max(codes.shape[1], 1))

    def part(start: int, stop: int) -> None:
        centred = np.empty((step, codes.shape[1]))
        for first in range(start, stop, step):
            block = slice(first, min(first + step, stop))
            held = centred[: block.stop - block.start]
            kernels.dequantize_into(codes[block], np.ones(len(held)), held, 1)
            total = out[block]
            for values, exponent in zip(reversed(slices.parts), reversed(slices.exponents), strict=True):
                total += np.ldexp(slice_sums(held, values).astype(np.float64), exponent)
            total *= scales[block, None]

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        in_parts(part, len(codes), codes.size, None)


def reverse_product(backing: Backing, x: ArrayLike) -> NDArray[np.float64]:
    """``(x * scales) @ (codes - 128)`` in float64, of shape (D,) or (m, D), for finite x.

    Sums over a block of rows are as exact as those of :func:`product`; they are added up in order.
    """
    rows, dim = backing.facts.rows, backing.facts.dim
    given = as_finite("x", x, (1, 2))
    if given.shape[-1] != rows:
        raise ValueError(f"x has shape {given.shape}, expected ({rows},) or (m, {rows})")
    weights = given.T if given.ndim == 2 else given[:, None]
    out = np.zeros((dim, weights.shape[1]))
    step = max(1, _SUMMED_VALUES // dim)
    together = step * max(1, _READ_CODES // (step * dim))
    for first in range(0, rows, together):
        codes, scales = coded_rows(backing.parts(first, min(first + together, rows)))
        for start in range(0, len(codes), step):
            block = slice(start, start + step)
            out += _weighted_sums(codes[block], scales[block], weights[first:][block])
    return out.T if given.ndim == 2 else out[:, 0]


def _weighted_sums(
    codes: NDArray[np.uint8], scales: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of shape (D, m)."""
    centred = np.empty(codes.shape)
    kernels.dequantize_into(codes, np.ones(len(codes)), centred, 1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        factors = weights * scales[:, None]
        if not np.isfinite(factors).all():  # too large for float64: infinities, as sums of them are
            return centred.T @ factors
        slices = slice_columns(factors, _SLICES)
        # Of all slices in one product: threads of BLAS wait for each other once.
        sums = slice_sums(centred.T, np.hstack(slices.parts)).astype(np.float64)
        parts = np.split(sums, len(slices.parts), axis=1)
        total = np.zeros((codes.shape[1], weights.shape[1]))
        for part, exponent in zip(reversed(parts), reversed(slices.exponents), strict=True):
            total += np.ldexp(part, exponent)
    return total
