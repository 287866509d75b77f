"""The scan of a search: bounds that hold, with the same bits on every engine and level."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import LEVELS, NEEDS_EXTENSION, machine_has, native
from hypothesis import given, settings
from numpy.typing import NDArray
from search_problems import ALL_METRICS, oracle, problems, root, run, same

from qstore.analysis import search
from qstore.engine import search_scan
from qstore.engine.search_scan import METRICS, Metric, quantize_queries


def noted(count: int, k: int, room: int) -> tuple[NDArray[Any], ...]:
    heaps = np.full((count, k), -np.inf)
    return heaps, np.zeros((count, room), np.int64), np.zeros((count, room)), np.zeros((count, 1), np.int64)


@NEEDS_EXTENSION
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", [0, 1, 2])
@given(problem=problems(), dim=st.sampled_from([0, 0, 1000, 1024, 1500, 3000]))
@settings(max_examples=60)
def test_bounds_have_the_same_bits_on_every_level(level: str, metric: int, problem: Any, dim: int) -> None:
    if not machine_has(level):
        pytest.skip(f"this machine lacks {level}")
    codes, scales, queries, _ = problem
    if dim:
        generator = np.random.default_rng(dim)
        codes = generator.integers(0, 256, (len(codes), dim)).astype(np.uint8)
        queries = generator.standard_normal((len(queries), dim))
    quantized = quantize_queries(queries, METRICS[metric])
    lower, upper = search_scan.bounds_of_rows(codes, scales, quantized, metric)
    room = noted(len(queries), len(codes), len(codes) + 64)
    before = native.level()
    native.set_level(level)
    done = native.scan(codes, scales, *quantized, metric, 100, *room)
    native.set_level(before)
    assert done == len(codes)
    for query in range(len(queries)):
        count = int(room[3][query, 0])
        places = room[1][query, :count] - 100
        np.testing.assert_array_equal(places, np.flatnonzero(upper[query] > -np.inf))
        np.testing.assert_array_equal(room[2][query, :count].view("u8"), upper[query, places].view("u8"))
        np.testing.assert_array_equal(np.sort(room[0][query]), np.sort(lower[query]))


@NEEDS_EXTENSION
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("metric", [0, 1, 2])
@pytest.mark.parametrize("dim", [3, 64, 100, 1024, 1100])
def test_a_level_passes_over_what_is_below_the_heap(level: str, metric: int, dim: int) -> None:
    """Though it may score by a part of the query first."""
    if not machine_has(level):
        pytest.skip(f"this machine lacks {level}")
    generator = np.random.default_rng(dim)
    codes = generator.integers(0, 256, (701, dim)).astype(np.uint8)
    codes[::3] = codes[0]  # ties with the limit
    scales = np.where(generator.random(701) < 0.5, 1.0, generator.random(701))
    quantized = quantize_queries(generator.standard_normal((6, dim)), METRICS[metric])
    _, upper = search_scan.bounds_of_rows(codes, scales, quantized, metric)
    heaps, rows, uppers, found = noted(6, 1000, 1000)
    limits = np.sort(upper, axis=1)[:, [0, 10, 350, 600, 690, 700]].diagonal()
    heaps[:] = limits[:, None]
    before = native.level()
    native.set_level(level)
    done = native.scan(codes, scales, *quantized, metric, 0, heaps, rows, uppers, found)
    native.set_level(before)
    assert done == 701
    for query in range(6):
        places = np.flatnonzero(upper[query] > limits[query])
        np.testing.assert_array_equal(rows[query, : found[query, 0]], places)
        np.testing.assert_array_equal(uppers[query, : found[query, 0]], upper[query, places])


@given(problem=problems(), metric=st.sampled_from(ALL_METRICS))
@settings(max_examples=150)
def test_bounds_hold(problem: Any, metric: Metric) -> None:
    """In exact numbers, in the units of the query."""
    codes, scales, queries, _ = problem
    quantized = quantize_queries(queries, metric)
    lower, upper = search_scan.bounds_of_rows(codes, scales, quantized, METRICS.index(metric))
    for query in range(len(queries)):
        wanted = [Fraction(value) for value in queries[query].tolist()]
        exponent = int(np.frexp(np.abs(queries[query]).max())[1])
        unit = Fraction(2) ** -(max(exponent, -400) if metric == "l2" else exponent)
        for row in range(len(codes)):
            whole = [int(code) - 128 for code in codes[row]]
            scale = Fraction(float(scales[row]))
            total = unit * sum((x * y for x, y in zip(whole, wanted, strict=True)), Fraction())
            square = sum(x * x for x in whole)
            if metric == "cosine":  # compared by squares
                score = math.copysign(root(total * total / square), total) if square and scale else 0.0
                assert lower[query, row] * (1 - 1e-14) <= score + 1e-15 <= upper[query, row] + 2e-15
                continue
            score_exact = scale * total
            if metric == "l2":
                score_exact = 2 * unit * scale * total - (unit * scale) ** 2 * square
            for bound, sign in ((lower[query, row], 1), (upper[query, row], -1)):
                if math.isfinite(bound):
                    assert sign * Fraction(float(bound)) <= sign * score_exact
                else:
                    assert bound == -sign * math.inf


def test_a_scan_without_room_stops_and_goes_on(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ties everywhere: more candidates than there is room for, settled block by block."""
    monkeypatch.setattr(search, "_SPARE_ROOM", 64)
    settled: list[int] = []
    right = search._Worker.settle

    def settle(*given: Any) -> None:
        settled.append(1)
        right(*given)

    monkeypatch.setattr(search._Worker, "settle", settle)
    generator = np.random.default_rng(8)
    codes = np.full((1500, 16), 200, np.uint8)
    codes[:, 0] = generator.integers(120, 136, 1500)
    query = np.full((2, 16), 1.0)
    query[:, 0] = 2.0**-30
    found = run(codes, np.ones(1500), query, 7, "dot")
    assert len(settled) > 3
    same(found, oracle(codes, np.ones(1500), query[:1].repeat(2, 0), 7, "dot"))


@NEEDS_EXTENSION
def test_the_extension_checks_what_scan_gets() -> None:
    codes, scales = np.zeros((3, 5), np.uint8), np.ones(3)
    queries = quantize_queries(np.ones((2, 5)), "dot")
    good = [codes, scales, *queries, 0, 0, *noted(2, 2, 40)]
    assert native.scan(*good) == 3
    full = np.full((2, 1), 9)
    for place, bad in [
        (0, codes.astype(np.int8)),
        (1, np.ones(2)),
        (2, queries.values[:, :5]),
        (3, queries.bounds[:3]),
        (3, np.asfortranarray(queries.bounds)),
        (4, 3),
        (4, -1),
        (4, 2**70),
        (6, np.empty((2, 0))),
        (6, np.zeros((3, 2))),
        (7, np.zeros((2, 39), np.int64)),
        (7, np.zeros((2, 80), np.int64)[:, ::2]),
        (8, np.zeros((2, 40), np.float32)),
        (9, full),
        (9, -full),
        (9, np.zeros((2, 2), np.int64)),
    ]:
        wrong = [*good[:9], np.zeros((2, 1), np.int64)]
        wrong[place] = bad
        with pytest.raises((TypeError, ValueError, OverflowError)):
            native.scan(*wrong)
    frozen = np.zeros((2, 1), np.int64)
    frozen.flags.writeable = False
    with pytest.raises((TypeError, ValueError)):
        native.scan(*good[:9], frozen)
    with pytest.raises(TypeError, match="10 arguments"):
        native.scan(codes)
