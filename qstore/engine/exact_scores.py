"""Scores of a few rows exactly: real numbers, rounded once to float64.

A float64 query is cut into slices, integers of 24 bits times a power of two (Ozaki et al. 2012,
doi:10.1007/s11075-011-9478-1). The sum of a slice times codes is an integer that float64 holds exactly, in
whatever order it is added up: BLAS may do it. Python's integers put the few sums of a row together, and
dividing two of them rounds correctly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .search_scan import Metric

__all__ = ["ExactQuery", "Slices", "exact_queries", "exact_scores", "slice_columns", "slice_sums"]

_CHUNK = 1 << 20  # columns whose sums of 7 + 24 bits fit into the 53 of float64
_SQUARED = 1 << 14  # and whose sums of 2 * 24 bits fit into the 63 of int64
_TOGETHER_VALUES = 1 << 13


class Slices(NamedTuple):
    """A matrix as a sum of integer matrices: ``Σ parts[t] * 2.0**exponents[t]``, exponents by column.

    Attributes
    ----------
    parts : list of ndarray of float64, shape (D, m)
        Integers below 2**24.
    exponents : list of ndarray of int32, shape (m,)
    """

    parts: list[NDArray[np.float64]]
    exponents: list[NDArray[np.int32]]


def slice_columns(x: NDArray[np.float64], most: int | None = None) -> Slices:
    """Cut finite columns into slices, from the upper bits down: all of them, or the first `most`."""
    exponent = np.frexp(np.abs(x).max(axis=0))[1]
    parts: list[NDArray[np.float64]] = []
    exponents: list[NDArray[np.int32]] = []
    rest = x
    while len(parts) != most and (rest.any() or not parts):
        exponent = np.maximum(exponent - 24, -1074)
        parts.append(np.trunc(np.ldexp(rest, -exponent)))
        exponents.append(exponent)
        rest = rest - np.ldexp(parts[-1], exponent)  # exact: the upper bits go
    return Slices(parts, exponents)


def slice_sums(centred: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.int64]:
    """Exact ``centred @ part`` of integers, shape (n, m)."""
    total = np.zeros((len(centred), part.shape[1]), np.int64)
    for start in range(0, len(part), _CHUNK):
        total += (centred[:, start : start + _CHUNK] @ part[start : start + _CHUNK]).astype(np.int64)
    return total


class ExactQuery:
    """One query as an integer vector times ``2**exponent``: a column of slices."""

    def __init__(self, slices: Slices, column: int) -> None:
        self._parts = np.stack([part[:, column] for part in slices.parts], axis=1)
        exponents = [int(exponent[column]) for exponent in slices.exponents]
        self.exponent = exponents[-1]
        self._shifts = [exponent - self.exponent for exponent in exponents]

    def sums(self, centred: NDArray[np.float64]) -> list[int]:
        """Of each row times the vector."""
        sums = slice_sums(centred, self._parts).tolist()
        return [sum(value << shift for value, shift in zip(row, self._shifts, strict=True)) for row in sums]

    @functools.cached_property
    def square(self) -> int:
        """Of the length of the vector."""
        total, integers = 0, self._parts.astype(np.int64)
        for start in range(0, len(integers), _SQUARED):
            some = integers[start : start + _SQUARED]
            for row, shift in zip((some.T @ some).tolist(), self._shifts, strict=True):
                total += sum(value << (shift + more) for value, more in zip(row, self._shifts, strict=True))
        return total


def exact_queries(queries: NDArray[np.float64], wanted: list[int]) -> Iterator[ExactQuery]:
    """Those of some finite queries of shape (Q, D), by their numbers, made a few at a time."""
    together = max(1, _TOGETHER_VALUES // queries.shape[1])
    for first in range(0, len(wanted), together):
        slices = slice_columns(queries[wanted[first : first + together]].T)
        for column in range(slices.parts[0].shape[1]):
            yield ExactQuery(slices, column)


def _rounded(value: int, exponent: int) -> float:
    """value * 2**exponent as the nearest float64: Python divides integers with one rounding."""
    try:
        # No -0.0 where a negative score underflows: it would not look like the tie it is.
        return (float(value << exponent) if exponent >= 0 else value / (1 << -exponent)) + 0.0
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _integer(x: float) -> tuple[int, int]:
    """x = integer * 2**exponent."""
    fraction, exponent = math.frexp(x)
    return int(math.ldexp(fraction, 53)), exponent - 53


def _dot(query: ExactQuery, total: int, square: int, scale: float) -> float:
    factor, exponent = _integer(scale)
    return _rounded(factor * total, exponent + query.exponent)


def _l2(query: ExactQuery, total: int, square: int, scale: float) -> float:
    factor, exponent = _integer(scale)
    terms = (
        (factor * factor * square, 2 * exponent),
        (-2 * factor * total, exponent + query.exponent),
        (query.square, 2 * query.exponent),
    )
    lowest = min(power for _, power in terms)
    return _rounded(sum(value << (power - lowest) for value, power in terms), lowest)


def _cosine(query: ExactQuery, total: int, square: int, scale: float) -> float:
    if total == 0 or scale == 0.0:
        return 0.0
    # The root of a fraction with 56 bits and more, and whether that is all of it: no number that float64
    # would round to even lies between such a root and the next one.
    top, bottom = total * total, square * query.square
    shift = 114 + bottom.bit_length() - top.bit_length()
    shift += shift % 2
    quotient, rest = divmod(top << shift, bottom)
    root = math.isqrt(quotient)
    twice = 2 * root + (rest > 0 or root * root < quotient)
    return _rounded(twice if (total > 0) == (scale > 0) else -twice, -shift // 2 - 1)


_SCORES: dict[str, Callable[[ExactQuery, int, int, float], float]] = {
    "dot": _dot,
    "cosine": _cosine,
    "l2": _l2,
}


def exact_scores(
    codes: NDArray[np.uint8], scales: NDArray[np.float64], query: ExactQuery, metric: Metric
) -> NDArray[np.float64]:
    """Scores of n rows for one finite query, as :mod:`qstore.engine.search_scan` defines them.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)
        Finite.
    query : ExactQuery
    metric : {"cosine", "dot", "l2"}

    Returns
    -------
    ndarray of float64, shape (n,)
        Infinite where the score overflows.
    """
    centred = codes.astype(np.float64)
    centred -= 128.0
    squares = np.einsum("ij,ij->i", centred, centred).astype(np.int64).tolist()
    rows = zip(query.sums(centred), squares, scales.tolist(), strict=True)
    return np.array([_SCORES[metric](query, *row) for row in rows], np.float64).reshape(len(codes))
