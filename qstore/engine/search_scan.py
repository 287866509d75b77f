"""Which rows may be among the best k of a query: integer scores with a proven bound. The C kernel's oracle.

The score of a row with codes u, c = u - 128 and scale s for a query q is the real number

    dot     s Σ c_j q_j
    cosine  Σ c_j q_j / (|c| |q|), and 0 where c, s or q is 0
    l2      Σ (s c_j - q_j)² = s² |c|² - 2 s Σ c_j q_j + |q|²

rounded once to float64; ties go to the lower row number. A scan need not know these numbers: it has to
keep every row that can be among the best.

The bound
---------
Let w = 2^-e with w |q_j| < 1, a_j = w q_j / 2^-13 rounded to an integer, |a_j| <= 2^13, and
r = w q - 2^-13 a, which is exact in float64, as it takes no more bits than q_j does. With the exact integers
I = Σ c_j a_j and N = |c|²,

    w Σ c_j q_j = 2^-13 I + Σ c_j r_j  and  |Σ c_j r_j| <= |c| |r|    (Cauchy and Schwarz).

So the score is, in units of the query (w dot; |w q| cosine; |w q|² - w² l2), within a radius of a centre:

    dot     s 2^-13 I              |s| |c| |r|
    cosine  ±2^-13 I / |c|         |r|                    with the sign of s, which a forged file may have
    l2      σ (2^-12 I - σ N)      2 |σ| |c| |r|          where σ = w s

Float64 evaluates them with at most five roundings each, every one within 2^-53 of |c| (|w q| + |r|) times
|s|, 1 / |c| or 2 |σ|, or in l2 of σ² N. A margin of 1e-12 (|w q| + |r|) on |r| and one of 2^-48 σ² N cover
that ten times over, and `slacks` what underflows. What overflows gives infinities and NaN: NaN is taken as
"may be", and `most` cuts bounds well below infinity, so that none claims more than is known.

The C kernel may score rows by a part of `a` first, with 2^-13 |d| added to |r| for the rest of it, d: fewer
products, and a bound that is still above the score. A row that it does not pass over then is scored in full.

A row is passed over when its upper bound is not above k lower bounds of rows before it: its real score is not
above theirs, so neither is the rounded one, and they win ties. It is forgotten later only when its upper
bound is *below* k lower bounds, of any rows: then the margins keep the real scores apart by 1e-12 of their
size, four thousand times the distance of two float64 numbers, so that rounding cannot make them a tie. Where
a score's size is not that of its parts, `slacks` adds what is missing: scores below 2^-1022, and |q|² in l2,
which can drown the rest.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "Metric", "Quantized", "bounds_of_rows", "quantize_queries", "scan"]

Metric = Literal["cosine", "dot", "l2"]
METRICS: tuple[Metric, ...] = ("dot", "cosine", "l2")
"""In the order of the C kernel's numbers."""

_BITS = 13
_WIDTH = 64
_LARGE = 1e300
_ROWS = 256


class Quantized(NamedTuple):
    """Queries as the scan wants them.

    Attributes
    ----------
    values : ndarray of int16, shape (Q, D rounded up to a multiple of 64)
        The integers a, and zeros.
    bounds : ndarray of float64, shape (4, Q)
        w, the bound of \\|r\\| with its margin, slack, and the largest bound that may be claimed.
    """

    values: NDArray[np.int16]
    bounds: NDArray[np.float64]


def quantize_queries(queries: NDArray[np.float64], metric: Metric) -> Quantized:
    """Integers and bounds of finite queries of shape (Q, D)."""
    count, dim = queries.shape
    exponents = np.frexp(np.abs(queries).max(axis=1))[1]
    if metric == "l2":
        exponents = np.maximum(exponents, -400)  # so that its square is a float64
    values = np.zeros((count, -(-dim // _WIDTH) * _WIDTH), np.int16)
    with np.errstate(all="ignore"):
        scaled = np.ldexp(queries, -exponents[:, None])
        rounded = np.rint(np.ldexp(scaled, _BITS))
        values[:, :dim] = rounded
        length = np.sqrt(np.square(scaled).sum(axis=1))
        residual = np.sqrt(np.square(scaled - np.ldexp(rounded, -_BITS)).sum(axis=1))
        errors = 1.0001 * residual + 1e-12 * (length + residual)
        unit = exponents * (2 if metric == "l2" else 1)
        slacks = 1e-300 + np.ldexp(1.0, -1072 - unit)
        if metric == "l2":
            slacks += 2.0**-48 * length * length
            slacks[np.ldexp(length, exponents) > 1e150] = np.inf  # squares overflow: all rows are candidates
        else:
            slacks[(length == 0) | (metric == "cosine")] = 0.0
        most = np.full(count, _LARGE) if metric == "cosine" else np.minimum(_LARGE, np.ldexp(_LARGE, -unit))
        factors = np.ldexp(1.0, -exponents)
    return Quantized(values, np.stack([factors, errors, slacks, most]))


def bounds_of_rows(
    codes: NDArray[np.uint8], scales: NDArray[np.float64], queries: Quantized, metric: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds of the scores of n rows, each of shape (Q, n)."""
    centred = codes.astype(np.float64) - 128.0
    sums = queries.values[:, : codes.shape[1]].astype(np.float64) @ centred.T  # exact integers in any order
    squares = np.einsum("ij,ij->i", centred, centred)
    norm, unit = np.sqrt(squares), 2.0**-_BITS
    factors, errors, slacks, most = (row[:, None] for row in queries.bounds)
    with np.errstate(all="ignore"):
        if METRICS[metric] == "l2":
            scale = scales * factors
            square = scale * squares
            centre = scale * (sums * (2.0 * unit) - square)
            radius = np.abs(scale) * (2.0 * norm * errors) + np.abs(scale * square) * 2.0**-48 + slacks
        elif METRICS[metric] == "dot":
            centre, radius = sums * (scales * unit), np.abs(scales) * norm * errors + slacks
        else:
            centre, radius = (
                sums * np.copysign(unit / norm, scales),
                np.broadcast_to(errors + slacks, sums.shape).copy(),
            )
        nothing = (scales == 0.0) | (squares == 0.0)
        centre[:, nothing] = radius[:, nothing] = 0.0
        upper, lower = np.maximum(centre + radius, -most), np.minimum(centre - radius, most)
    return np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper)


def scan(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    values: NDArray[np.int16],
    bounds: NDArray[np.float64],
    metric: int,
    first_number: int,
    heaps: NDArray[np.float64],
    rows: NDArray[np.int64],
    uppers: NDArray[np.float64],
    found: NDArray[np.int64],
) -> int:
    """Note the rows that may be among the best of each query; rows come in ascending order, call after call.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)
    values, bounds
        As in :class:`Quantized`.
    metric : int
        Place in :data:`METRICS`.
    first_number : int
        What the first row is called in `rows`.
    heaps : ndarray of float64, shape (Q, k)
        The best lower bounds so far, the least of them first; at first minus infinity.
    rows : ndarray of int64, shape (Q, room)
        The first ``found[q]`` of each line are noted rows.
    uppers : ndarray of float64, shape (Q, room)
        Their upper bounds.
    found : ndarray of int64, shape (Q, 1)
        How many are noted; there must be room for 32 more.

    Returns
    -------
    int
        How many rows were done: fewer than all if too many of some query's rows may be among its best for its
        room. Or -1 minus the place of a scale that is not finite; nothing is noted then.
    """
    finite = np.isfinite(scales)
    if not finite.all():
        return -1 - int(finite.argmin())
    queries, step = Quantized(values, bounds), max(1, min(_ROWS, rows.shape[1] // 2))
    for start in range(0, len(codes), step):
        block = slice(start, start + step)
        lower, upper = bounds_of_rows(codes[block], scales[block], queries, metric)
        full = False
        for query in np.flatnonzero((upper > heaps[:, :1]).any(axis=1)):
            places = np.flatnonzero(upper[query] > heaps[query, 0])
            _raise_limit(heaps[query], lower[query, places])
            noted = slice(int(found[query, 0]), int(found[query, 0]) + places.size)
            rows[query, noted], uppers[query, noted] = first_number + start + places, upper[query, places]
            found[query, 0] = noted.stop
            if noted.stop > rows.shape[1] - step:
                _forget_beaten(rows[query], uppers[query], found[query], float(heaps[query, 0]))
                full |= int(found[query, 0]) > rows.shape[1] - step
        if full:
            return int(min(start + step, len(codes)))
    return len(codes)


def _raise_limit(heap: NDArray[np.float64], lower: NDArray[np.float64]) -> None:
    heap[:] = np.sort(np.concatenate([heap, lower]))[-heap.size :]


def _forget_beaten(
    rows: NDArray[np.int64], uppers: NDArray[np.float64], found: NDArray[np.int64], limit: float
) -> None:
    """Those that tie stay."""
    count = int(found[0])
    kept = np.flatnonzero(uppers[:count] >= limit)
    rows[: kept.size], uppers[: kept.size] = rows[kept], uppers[kept]
    found[0] = kept.size
