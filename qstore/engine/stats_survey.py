"""What statistics need of every code, in NumPy: sums and hashes of rows, sums of columns, counts of codes.

This module is the specification of the kernel of that name: every other engine gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .quantization import ZERO_POINT

__all__ = ["survey"]

_LANES = 8
_STRIPE = 64
_START = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0x9E3779B1)
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_PIECE_CODES = 1 << 16


def survey(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: NDArray[np.float64],
    peaks: NDArray[np.int64],
    histogram: NDArray[np.int64],
) -> None:
    """Look at every code once.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)
    rows : ndarray of int64, shape (2, n)
        Filled: the sum of (code - 128)² of each row, and a hash of its codes and its scale (64 bits, not
        cryptographic; equal rows have equal hashes).
    columns : ndarray of float64, shape (2, D)
        Added to, row by row: ``v = scale * (code - 128)`` and ``v * v``, each operation rounded.
    peaks : ndarray of int64, shape (D,)
        Added to: 1 for each row where abs(code - 128) is at least 127, the largest a row has.
    histogram : ndarray of int64, shape (256,)
        Added to: how often each code occurs.
    """
    rows[1] = _hashes(codes, scales).view(np.int64)
    step = max(1, _PIECE_CODES // max(codes.shape[1], 1))
    for start in range(0, len(codes), step):
        piece = codes[start : start + step]
        centred = piece.astype(np.int32) - ZERO_POINT
        rows[0, start : start + step] = np.square(centred).sum(axis=1, dtype=np.int64)
        peaks += np.count_nonzero(np.abs(centred) >= 127, axis=0)
        histogram += np.bincount(piece.reshape(-1), minlength=256)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for row in centred * scales[start : start + step, None]:
                columns[0] += row
                columns[1] += row * row


def _hashes(codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Eight lanes take in a stripe of 64 codes a step; the last stripe, padded with zeros, may be empty."""
    lanes = np.broadcast_to(_START * np.arange(1, _LANES + 1, dtype=np.uint64), (len(codes), _LANES))
    for start in range(0, codes.shape[1] + 1, _STRIPE):
        stripe = codes[:, start : start + _STRIPE]
        words = np.zeros((len(codes), _STRIPE), np.uint8)
        words[:, : stripe.shape[1]] = stripe
        lanes = ((lanes ^ (lanes >> np.uint64(47))) ^ words.view("<u8")) * _STEP
    hashes = np.ascontiguousarray(scales, np.float64).view(np.uint64)
    for lane in lanes.T:
        hashes = (hashes ^ lane) * _MIX
        hashes = hashes ^ (hashes >> np.uint64(32))
    return hashes
