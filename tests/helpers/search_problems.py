"""Searches with their answers by the definition, in rational numbers; and data that is hard to search."""

from __future__ import annotations

import functools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from qstore.analysis.search import Part, search_parts
from qstore.engine.search_scan import Metric

__all__ = ["ALL_METRICS", "Found", "check", "nearest", "oracle", "problems", "root", "run", "same"]

Found = tuple[NDArray[np.float64], NDArray[np.int64]]
ALL_METRICS: list[Metric] = ["cosine", "dot", "l2"]


def nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def root(square: Fraction) -> float:
    """Rounded correctly: a first guess, put right by exact comparison with the middles beside it."""
    with localcontext() as context:
        context.prec = 30
        guess = float((Decimal(square.numerator) / Decimal(square.denominator)).sqrt())
    for neighbour in (math.nextafter(guess, 0.0), math.nextafter(guess, math.inf)):
        beyond = square - ((Fraction(guess) + Fraction(neighbour)) / 2) ** 2
        even = int(np.float64(neighbour).view(np.uint64)) % 2 == 0
        if beyond * (1 if neighbour > guess else -1) > 0 or (beyond == 0 and even):
            return neighbour
    return guess


def oracle_score(codes: list[int], scale: float, query: list[float], metric: Metric) -> float:
    """By the definition, in rational numbers: whole ones over one denominator, as all are powers of two."""
    ratios = [value.as_integer_ratio() for value in (scale, *query)]
    unit = max(below for _, below in ratios)
    factor, *wanted = (above * (unit // below) for above, below in ratios)
    centered = [code - 128 for code in codes]
    if metric == "l2":
        squares = ((factor * x - y) ** 2 for x, y in zip(centered, wanted, strict=True))
        return nearest(Fraction(sum(squares), unit**2))
    total = sum(x * y for x, y in zip(centered, wanted, strict=True))
    dot = Fraction(factor * total, unit**2)
    if metric == "dot" or not dot:
        return nearest(dot) + 0.0
    # The scale cancels, and Decimal divides faster by smaller numbers.
    lengths = sum(x * x for x in centered) * sum(y * y for y in wanted)
    # A negative one that underflows is 0.0, as everywhere: not a -0.0.
    return math.copysign(root(Fraction(total * total, lengths)), 1 if dot > 0 else -1) + 0.0


def oracle(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    queries: NDArray[np.float64],
    k: int,
    metric: Metric,
    rows: list[int] | None = None,
) -> Found:
    numbers = list(range(len(codes))) if rows is None else rows
    scores, found = [], []
    for query in queries.tolist():
        known = {row: oracle_score(codes[row].tolist(), float(scales[row]), query, metric) for row in numbers}
        order = sorted(numbers, key=lambda row: (known[row] if metric == "l2" else -known[row], row))[:k]
        scores.append([known[row] for row in order])
        found.append(order)
    shape = len(queries), min(k, len(numbers))
    return np.array(scores, np.float64).reshape(shape), np.array(found, np.int64).reshape(shape)


def same(found: Found, expected: Found) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0].view(np.uint64), expected[0].view(np.uint64))


def run(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    queries: NDArray[np.float64],
    k: int,
    metric: Metric,
    threads: int | None = 1,
) -> Found:
    return search_parts([Part(0, codes, scales)], queries, k, metric, range(len(codes)), threads)


def check(codes: Any, scales: Any, queries: Any, k: int, metric: Metric) -> None:
    codes, scales = np.asarray(codes, np.uint8), np.asarray(scales, np.float64)
    queries = np.asarray(queries, np.float64)
    data = codes.tobytes(), scales.tobytes(), queries.tobytes()
    same(run(codes, scales, queries, k, metric), _answer(*data, codes.shape, k, metric))


@functools.lru_cache(maxsize=2000)
def _answer(
    codes: bytes, scales: bytes, queries: bytes, shape: tuple[int, int], k: int, metric: Metric
) -> Found:
    """The oracle's, once for all engines that are asked the same."""
    return oracle(
        np.frombuffer(codes, np.uint8).reshape(shape),
        np.frombuffer(scales, np.float64),
        np.frombuffer(queries, np.float64).reshape(-1, shape[1]),
        k,
        metric,
    )


SCALES = [
    0.0,
    -0.0,
    5e-324,
    1e-310,
    2.3e-308,
    1e-200,
    1e-20,
    1.0,
    1.0 + 2**-52,
    3.0,
    1e20,
    1e160,
    1e300,
    1.7e308,
]
VALUES = [
    0.0,
    1.0,
    -1.0,
    0.5,
    3.0,
    1e-5,
    5e-324,
    1e-310,
    1e-160,
    1e-30,
    1e30,
    1e155,
    1e300,
    1.7e308,
    -1.7e308,
]


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64], int]:
    """Few different rows, many times; extreme scales; queries of extreme or ordinary values."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, dim = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 3, 5, 17, 64, 65, 130]))
    lowest, highest = draw(st.sampled_from([(0, 256), (127, 130), (0, 2), (254, 256), (128, 129)]))
    codes = generator.integers(lowest, highest, (rows, dim)).astype(np.uint8)
    codes = codes[generator.integers(0, draw(st.integers(1, rows)), rows)]
    near_one = 1.0 + generator.integers(-3, 4, rows) * 2.0**-52
    scales = generator.choice(np.array(draw(st.lists(st.sampled_from(SCALES), min_size=1, max_size=3))), rows)
    if draw(st.booleans()):
        scales = near_one
    count = draw(st.integers(1, 3))
    queries = generator.choice(
        np.array(draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))), (count, dim)
    )
    if draw(st.booleans()):
        queries = generator.standard_normal((count, dim)) * draw(
            st.sampled_from([1.0, 1e-8, 1e-300, 1e8, 1e150])
        )
    if draw(st.booleans()):
        queries[0] = (codes[0].astype(float) - 128) * min(scales[0], 1e300)
    return codes, scales, queries, draw(st.sampled_from([1, 2, 5, 39, 100]))
