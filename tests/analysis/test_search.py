"""Exact search: the same bits as an oracle in rational numbers, on every engine, whatever the data."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import split_from
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from search_problems import ALL_METRICS, Found, check, nearest, oracle, problems, run, same

import qstore
from qstore.analysis import search
from qstore.analysis.search import Part, search_parts
from qstore.cli import main
from qstore.engine import exact_scores
from qstore.engine.search_scan import Metric
from qstore.errors import FormatError

MakeStore = Callable[..., qstore.Store]
TOOLS = Path(__file__).parents[2] / "tools"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(qstore.__file__).parents[1])}
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def random_problem(dim: int, metric: Metric) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Found]:
    """With its answer, which takes seconds."""
    generator = np.random.default_rng(dim)
    codes, scales = qstore.quantize(generator.standard_normal((35 if dim > 300 else 90, dim)))
    queries = generator.standard_normal((2, dim))
    return codes, scales, queries, oracle(codes, scales, queries, 10, metric)


# The definition -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL_METRICS)
@pytest.mark.parametrize("dim", [1, 2, 3, 31, 63, 64, 65, 127, 300, 768, 1023, 1024, 1025, 2100, 4096])
def test_random_data(engine: str, metric: Metric, dim: int) -> None:
    codes, scales, queries, expected = random_problem(dim, metric)
    same(run(codes, scales, queries, 10, metric), expected)


@pytest.mark.parametrize("metric", ALL_METRICS)
@given(problem=problems())
@settings(fixtures, max_examples=40)
def test_adversarial_data(engine: str, metric: Metric, problem: Any) -> None:
    codes, scales, queries, k = problem
    check(codes, scales, queries, k, metric)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_near_ties_beyond_float32(engine: str, metric: Metric) -> None:
    """Scores that differ in the 40th bit only."""
    generator = np.random.default_rng(1)
    codes = np.repeat(generator.integers(1, 256, (1, 48)), 300, axis=0).astype(np.uint8)
    codes[:, 47] = generator.integers(120, 140, 300)
    scales = 1.0 + generator.integers(0, 5, 300) * 2.0**-40
    query = generator.standard_normal((2, 48))
    query[:, 47] = 2.0**-44
    check(codes, scales, query, 20, metric)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_outlier_column_and_shifted_query(engine: str, metric: Metric) -> None:
    generator = np.random.default_rng(2)
    values = generator.standard_normal((200, 96))
    values[:, 5] = 1000 + generator.standard_normal(200)
    codes, scales = qstore.quantize(values)
    queries = np.stack([values[3], generator.standard_normal(96) + 1e6, np.eye(96)[5] * 1e4 + values[7]])
    check(codes, scales, queries, 10, metric)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_ties_go_to_the_lower_row(engine: str, metric: Metric) -> None:
    generator = np.random.default_rng(3)
    codes = np.repeat(generator.integers(0, 256, (1, 32)), 3000, axis=0).astype(np.uint8)
    scores, rows = run(codes, np.ones(3000), generator.standard_normal((2, 32)), 10, metric)
    np.testing.assert_array_equal(rows, [range(10), range(10)])
    assert (scores == scores[:, :1]).all()


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_a_negative_score_that_underflows_is_zero(engine: str, metric: Metric) -> None:
    codes = np.array([[128, 129, 128], [128, 127, 128], [128, 129, 128]], np.uint8)
    scores, rows = run(codes, np.full(3, 0.25), np.array([[0.0, 5e-324, 1e30]]), 3, metric)
    np.testing.assert_array_equal(rows, [[0, 1, 2]])
    assert (scores.view(np.uint64) == 0).all()


def test_a_cosine_just_below_half_of_the_least_float64(engine: str) -> None:
    """2**-1075 but for the other 5e-324: a tie to all of 640 digits."""
    check([[129, 128, 127, 128, 128]], [1.0], [[5e-324, 1.0, 0.0, 1.0, 5e-324]], 1, "cosine")
    scores, _ = run(np.array([[129, 128]], np.uint8), np.ones(1), np.array([[5e-324, 1.0]]), 1, "cosine")
    assert scores == 5e-324


def test_proportional_rows_tie_in_cosine(engine: str) -> None:
    codes = np.tile(np.array([[200, 100, 7]], np.uint8), (50, 1))
    scales = np.random.default_rng(4).random(50) * 1e9
    scores, rows = run(codes, scales, np.array([[1.0, 2.0, -0.3]]), 50, "cosine")
    np.testing.assert_array_equal(rows[0], range(50))
    assert len(set(scores[0].tolist())) == 1


def test_zero_rows_and_zero_queries(engine: str) -> None:
    codes = np.array([[128, 128], [255, 128], [1, 128], [255, 255]], np.uint8)
    scales = np.array([0.0, 1.0, 1.0, 0.0])
    scores, rows = run(codes, scales, np.array([[1.0, 0.0], [0.0, 0.0]]), 4, "cosine")
    np.testing.assert_array_equal(rows, [[1, 0, 3, 2], [0, 1, 2, 3]])
    np.testing.assert_array_equal(scores, [[1, 0, 0, -1], [0, 0, 0, 0]])
    scores, rows = run(codes, scales, np.array([[1.0, 0.0], [0.0, 0.0]]), 4, "l2")
    np.testing.assert_array_equal(rows, [[0, 3, 1, 2], [0, 3, 1, 2]])
    np.testing.assert_array_equal(scores, [[1, 1, 126**2, 128**2], [0, 0, 127**2, 127**2]])


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_equals_brute_force_on_the_float64_matrix(make_store: MakeStore, engine: str, metric: Metric) -> None:
    values = np.random.default_rng(5).standard_normal((2000, 100)).astype(np.float32)
    store = make_store(values)
    queries = np.random.default_rng(6).standard_normal((5, 100))
    matrix = store.astype("float64")[:]
    brute = queries @ matrix.T
    if metric == "l2":
        brute = ((matrix[None] - queries[:, None]) ** 2).sum(axis=2)
    elif metric == "cosine":
        brute /= np.linalg.norm(matrix, axis=1) * np.linalg.norm(queries, axis=1)[:, None]
    order = np.argsort(brute if metric == "l2" else -brute, axis=1, kind="stable")[:, :10]
    scores, rows = store.search(queries, metric=metric)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(scores, np.take_along_axis(brute, order, 1), rtol=1e-12, atol=1e-14)


# Parts, subsets, threads ----------------------------------------------------------------------------


def a_table(rows: int = 3000, dim: int = 24, seed: int = 9) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    return qstore.quantize(np.random.default_rng(seed).standard_normal((rows, dim)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parts_and_threads_change_nothing(engine: str, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    codes, scales = a_table()
    queries = np.random.default_rng(10).standard_normal((9, 24))
    expected = run(codes, scales, queries, 12, "cosine")
    split_from(monkeypatch, 1000)
    monkeypatch.setattr(search, "_ROUND_VALUES", 24 * 400)
    bounds = [0, 1, 700, 700, 2999, 3000]
    parts = [Part(a, codes[a:b], scales[a:b]) for a, b in itertools.pairwise(bounds)]
    same(search_parts(parts, queries, 12, "cosine", range(3000), threads), expected)


def test_many_queries_go_in_groups(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, scales = a_table(500)
    queries = np.random.default_rng(11).standard_normal((23, 24))
    expected = run(codes, scales, queries, 3, "l2")
    monkeypatch.setattr(exact_scores, "_TOGETHER_VALUES", 24 * 5)
    same(run(codes, scales, queries, 3, "l2"), expected)
    monkeypatch.setattr(search, "_MOST_QUERIES", 4)
    same(run(codes, scales, queries, 3, "l2"), expected)


@pytest.mark.parametrize(
    "rows",
    [
        slice(10, 200),
        slice(200, 10, -7),
        slice(None, None, 3),
        slice(5, 5),
        [3, 3, -1, 77],
        np.array([], np.int64),
        np.arange(300) % 5 == 0,
        np.array([[1, 2], [299, 0]], np.uint16),
    ],
    ids=str,
)
def test_subsets(make_store: MakeStore, engine: str, rows: Any) -> None:
    store = make_store(np.random.default_rng(12).standard_normal((300, 20)))
    query = np.random.default_rng(13).standard_normal(20)
    picked = np.unique(np.arange(300)[rows]).tolist()
    expected = oracle(store.codes, store.scales, query[None], 6, "dot", picked)
    scores, numbers = store.search(query, 6, "dot", rows=rows)
    assert scores.shape == numbers.shape == (min(6, len(picked)),)
    same((scores[None], numbers[None]), expected)


def test_strided_codes(engine: str) -> None:
    codes, scales = a_table(400, 50)
    queries = np.random.default_rng(14).standard_normal((2, 25))
    expected = run(np.ascontiguousarray(codes[::-2, ::2]), scales[::-2].copy(), queries, 5, "dot")
    same(run(codes[::-2, ::2], scales[::-2], queries, 5, "dot"), expected)


def test_no_rows_no_queries_and_large_k(make_store: MakeStore, engine: str) -> None:
    empty, three = make_store(np.empty((0, 4)), "empty.h5"), make_store(np.eye(3, 4), "three.h5")
    assert [found.shape for found in empty.search(np.ones(4))] == [(0,), (0,)]
    assert [found.shape for found in empty.search(np.ones((2, 4)))] == [(2, 0), (2, 0)]
    assert [found.shape for found in three.search(np.empty((0, 4)))] == [(0, 3), (0, 3)]
    scores, rows = three.search([1, 2, 3, 4], k=1000, metric="dot")
    np.testing.assert_array_equal(rows, [2, 1, 0])
    assert scores.dtype == np.float64
    assert rows.dtype == np.int64


def test_progress_counts_every_row_of_every_group(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_ROUND_VALUES", 8 * 100)
    monkeypatch.setattr(search, "_MOST_QUERIES", 2)
    store = make_store(np.random.default_rng(15).standard_normal((1000, 8)))
    told: list[tuple[int, int | None]] = []
    store.search(np.ones((3, 8)), progress=lambda done, total: told.append((done, total)), threads=1)
    assert told[-1] == (2000, 2000)
    assert len(told) > 10
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_interrupt_ends_the_search(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_ROUND_VALUES", 8 * 10)
    store = make_store(np.ones((1000, 8)))
    rounds = []

    def interrupt(done: int, total: int | None) -> None:
        rounds.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.search(np.ones(8), progress=interrupt)
    assert len(rounds) == 1


def test_threads_may_search_at_the_same_time(make_store: MakeStore) -> None:
    store = make_store(np.random.default_rng(16).standard_normal((2000, 16)))
    queries = np.random.default_rng(17).standard_normal((8, 16))
    expected = store.search(queries)
    found: list[Found] = []
    searchers = [threading.Thread(target=lambda: found.append(store.search(queries))) for _ in range(6)]
    for searcher in searchers:
        searcher.start()
    for searcher in searchers:
        searcher.join()
    assert len(found) == 6
    for one in found:
        same(one, expected)


# What users hand in ---------------------------------------------------------------------------------


def test_what_fits_no_search_is_named(make_store: MakeStore) -> None:
    store = make_store(np.eye(4))
    wrong: list[tuple[Any, str]] = [
        (((np.ones(3),)), r"shape \(3,\), expected \(4,\) or \(Q, 4\)"),
        ((np.ones((1, 1, 4)),), "expected 1 or 2 dimensions"),
        ((np.array(["a"] * 4),), "real numbers"),
        (([1, 2, np.nan, 4],), r"queries\[2\] is nan"),
        (([[1, 2, 3, 4], [0, -np.inf, 0, 0]],), r"queries\[1, 1\] is -inf"),
        ((np.ones(4), 0), "k is 0"),
        ((np.ones(4), 1.5), "k is 1.5"),
        ((np.ones(4), 1, "angular"), 'metric is \'angular\', expected "dot", "cosine" or "l2"'),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            store.search(*arguments)
    unfit: list[tuple[Any, str]] = [
        ([4], "index 4 is out of bounds"),
        ([True], "mask has shape"),
        ([0.5], "integers"),
    ]
    for rows, message in unfit:
        with pytest.raises(IndexError, match=message):
            store.search(np.ones(4), rows=rows)
    with pytest.raises(ValueError, match="threads is 0"):
        store.search(np.ones(4), threads=0)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scales_that_are_not_finite_are_named(engine: str, scale: float) -> None:
    codes, scales = a_table(100)
    scales[77] = scale
    with pytest.raises(FormatError, match="row 77 has scale"):
        run(codes, scales, np.ones((1, 24)), 5, "dot")


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_negative_scales_are_taken_as_they_are(engine: str, metric: Metric) -> None:
    codes, scales = a_table(60)
    check(
        codes,
        np.where(np.arange(60) % 2, -scales, scales),
        np.random.default_rng(18).random((2, 24)),
        9,
        metric,
    )


# Exact scores and products --------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_slices_add_up(values: list[float]) -> None:
    slices = exact_scores.slice_columns(np.array(values)[:, None])
    for row, value in enumerate(values):
        parts = zip(slices.parts, slices.exponents, strict=True)
        assert (
            sum(Fraction(int(part[row, 0])) * Fraction(2) ** int(power[0]) for part, power in parts) == value
        )
    assert max(abs(part).max() for part in slices.parts) <= 2**24


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 7), (30, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_products(make_store: MakeStore, engine: str, shape: tuple[int, ...], dtype: str) -> None:
    store = make_store(
        np.random.default_rng(19).standard_normal((400, 30)) * np.logspace(-5, 5, 400)[:, None]
    )
    x = (np.random.default_rng(20).standard_normal(shape) * 50).astype(dtype)
    found = store @ x
    assert found.dtype == np.float64
    assert found.shape == (400, *shape[1:])
    for column in range(found.reshape(400, -1).shape[1]):
        values = x.reshape(30, -1)[:, column].tolist()
        for row in (0, 7, 399):
            total = sum(
                (Fraction(v) * (int(c) - 128) for v, c in zip(values, store.codes[row], strict=True)),
                Fraction(),
            )
            expected = float(store.scales[row]) * nearest(total)
            np.testing.assert_allclose(found.reshape(400, -1)[row, column], expected, rtol=3e-16, atol=0)


def test_products_do_not_depend_on_threads(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(np.random.default_rng(21).standard_normal((1000, 30)))
    x = np.random.default_rng(22).standard_normal((30, 3))
    expected = store @ x
    split_from(monkeypatch, 100)
    monkeypatch.setattr("qstore.system.threads.processors", lambda: 7)
    np.testing.assert_array_equal((store @ x).view("u8"), expected.view("u8"))


def test_products_say_what_does_not_fit(make_store: MakeStore) -> None:
    store = make_store(np.eye(4))
    with pytest.raises(ValueError, match=r"x has shape \(3,\), expected \(4,\) or \(4, m\)"):
        store @ np.ones(3)
    with pytest.raises(ValueError, match=r"x\[1, 0\] is nan"):
        store @ np.array([[1.0], [np.nan], [0], [0]])


# The command line -----------------------------------------------------------------------------------
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run_command(*words: Any) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_command


@pytest.fixture
def points(make_store: MakeStore) -> qstore.Store:
    """Rows at 0, 10, 20 … degrees."""
    angle = np.radians(np.arange(0, 90, 10))
    return make_store(np.stack([np.cos(angle), np.sin(angle)], 1))


@pytest.mark.parametrize("keys", [["o", "ten", "twenty"], [5, -7, 9]])
def test_command_takes_and_gives_keys(tmp_path: Path, cli: Cli, keys: list[Any]) -> None:
    path = tmp_path / "keyed.h5"
    qstore.build(np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5]]), path, keys=keys)
    status, out, _ = cli("search", path, "--key", keys[1], "-k", "2")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["1", "1", str(keys[1])],
        ["2", "0", str(keys[0])],
    ]
    _, out, _ = cli("search", path, "--key", keys[2], "--json")
    assert [hit["key"] for hit in json.loads(out)] == [keys[2], keys[1], keys[0]]
    status, _, err = cli("search", path, "--key", 77)
    assert (status, "77" in err) == (2, True)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_shards_give_the_same(tmp_path: Path, metric: Any, no_leaks: None) -> None:
    values = np.random.default_rng(4).standard_normal((500, 24)).astype(np.float32)
    values[100] = values[300] = values[450]  # ties lie in several shards
    qstore.build(values, tmp_path / "whole.h5")
    qstore.build_shards(values, tmp_path / "parts", 130)
    queries, mask = values[[300, 7]], np.arange(500) % 3 != 0
    with qstore.open(tmp_path / "whole.h5") as whole, qstore.open(tmp_path / "parts") as parts:
        for rows in (None, slice(50, 460, 7), mask):
            expected, found = (
                whole.search(queries, 9, metric, rows=rows),
                parts.search(queries, 9, metric, rows=rows),
            )
            np.testing.assert_array_equal(found[1], expected[1])
            np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(parts @ values[:3].T, whole @ values[:3].T)


def test_command_finds_what_the_method_finds(points: qstore.Store, cli: Cli) -> None:
    status, out, err = cli("search", points.path, "--row", "-2", "-k", "3", "--rows", ":8", "--json")
    assert (status, err) == (0, "")
    scores, rows = points.search(points.astype("float64")[-2], 3, rows=slice(8))
    assert json.loads(out) == [
        {"query": 0, "rank": rank + 1, "row": int(rows[rank]), "key": None, "score": float(scores[rank])}
        for rank in range(3)
    ]
    _, out, _ = cli("search", points.path, "--row", "7", "-k", "3", "--threads", "1")
    assert [line.split()[:2] for line in out.splitlines()] == [["1", "7"], ["2", "6"], ["3", "8"]]


def test_command_takes_vectors(points: qstore.Store, cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.array([1.0, 0.0], np.float32))
    np.save(tmp_path / "two.npy", np.array([[1, 0], [0, 1]]))
    _, out, _ = cli("search", points.path, "--vector", tmp_path / "one.npy", "--metric", "l2", "-k", "1")
    assert out.split()[:2] == ["1", "0"]
    _, out, _ = cli("search", points.path, "--vector", tmp_path / "two.npy", "-k", "1")
    assert [line.split()[:3] for line in out.splitlines()] == [["0", "1", "0"], ["1", "1", "8"]]
    assert cli("search", points.path, "--row", "0", "--rows", "3:3")[:2] == (0, "")


def test_command_says_what_is_wrong(points: qstore.Store, cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones(3))
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "many.npz", np.ones(2))
    (tmp_path / "no.npy").write_bytes(b"no")
    wrong: list[tuple[list[Any], int, str]] = [
        (["--row", "9"], 2, "has 9 rows: there is no row 9"),
        (["--vector", tmp_path / "wide.npy"], 2, "expected numbers of shape (2,) or (Q, 2)"),
        (["--vector", tmp_path / "nan.npy"], 2, "must be finite"),
        (["--vector", tmp_path / "text.npy"], 2, "expected numbers"),
        (["--vector", tmp_path / "no.npy"], 2, "is not a .npy file"),
        (["--vector", tmp_path / "none.npy"], 2, "No such file"),
        (["--vector", tmp_path / "many.npz"], 2, "holds several arrays"),
        ([], 2, "one of the arguments --row --key --keys --vector is required"),
        (["--row", "0", "-k", "0"], 2, "at least 1"),
        (["--row", "0", "--metric", "angular"], 2, "invalid choice"),
    ]
    for words, status, message in wrong:
        found, out, err = cli("search", points.path, *words)
        assert (found, out) == (status, ""), (words, err)
        assert message in err
        assert "Traceback" not in err


# The recall tool ------------------------------------------------------------------------------------


def test_recall_tool(tmp_path: Path) -> None:
    values = np.random.default_rng(23).standard_normal((500, 32)).astype(np.float32)
    np.save(tmp_path / "values.npy", values)
    words = [
        sys.executable,
        str(TOOLS / "checks" / "recall.py"),
        str(tmp_path / "values.npy"),
        "--queries",
        "50",
    ]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    store_path = tmp_path / "store.h5"
    qstore.build(values, store_path)
    for found, metric in zip(json.loads(done.stdout), ("cosine", "dot"), strict=True):
        wide = values.astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1) if metric == "cosine" else np.ones(500)
        rows = np.sort(np.random.default_rng(0).permutation(500)[:50])
        scores = wide[rows] @ (wide / lengths[:, None]).T
        scores[np.arange(50), rows] = -np.inf
        with qstore.open(store_path) as store:
            shares = [
                len({*np.argsort(-line)[:10].tolist()} & {*_others(store, wide, int(row), metric)}) / 10
                for line, row in zip(scores, rows, strict=True)
            ]
        assert found["recall"] == pytest.approx(np.mean(shares), abs=1e-12)
        assert found["least"] == min(shares)
        assert found["recall"] > 0.9
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.stdout.startswith("cosine  500 x 32, 50 queries: recall@10 0.9")


def _others(store: qstore.Store, values: NDArray[Any], row: int, metric: Any) -> list[int]:
    best: list[int] = store.search(values[row], 11, metric)[1].tolist()
    return [number for number in best if number != row][:10]
