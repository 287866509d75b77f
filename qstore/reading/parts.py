"""Consecutive rows that lie in one piece, and several of them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part", "coded_rows"]


class Part(NamedTuple):
    """Consecutive rows that lie in one piece."""

    first: int
    """Number of the first row."""
    codes: NDArray[np.uint8]
    scales: NDArray[np.float64]


def coded_rows(parts: Iterable[Part]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Codes and scales of all parts, one behind the other; not copied where there is one."""
    _, codes, scales = zip(*parts, strict=True)
    if len(codes) == 1:
        return codes[0], scales[0]
    return np.concatenate(codes), np.concatenate(scales)
