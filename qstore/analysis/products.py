"""``store @ x``: a product of the stored matrix with vectors, without making the matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..engine import kernels
from ..engine.arguments import as_finite
from ..engine.exact_scores import slice_columns, slice_sums
from ..system.threads import in_parts

__all__ = ["multiply"]

_SLICES = 4
_BLOCK_VALUES = 1 << 18
_COLUMNS_VALUES = 1 << 22


def multiply(codes: NDArray[np.uint8], scales: NDArray[np.float64], x: ArrayLike) -> NDArray[np.float64]:
    """``scales * ((codes - 128) @ x)`` in float64, of shape (N,) or (N, m), for finite x.

    The inner sum is exact but for what x has below 2^-95 of the largest value of its column: 4 slices of 24
    bits, whose sums are integers that float64 holds, added from the lowest up. So neither threads nor the
    order in which BLAS adds can change a bit.
    """
    given, dim = as_finite("x", x, (1, 2)), codes.shape[1]
    if given.shape[0] != dim:
        raise ValueError(f"x has shape {given.shape}, expected ({dim},) or ({dim}, m)")
    columns = given.reshape(dim, -1) if given.size else np.empty((dim, *given.shape[1:]))
    out = np.zeros((len(codes), columns.shape[1]))
    together = max(1, _COLUMNS_VALUES // dim)
    for first in range(0, columns.shape[1], together):
        some = slice(first, first + together)
        _multiply_some(codes, scales, columns[:, some], out[:, some])
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
