"""Search that leaves a row out for each query, and queries that are no vectors."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import qstore

ROWS, DIM = 12, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("search") / "store.h5"
    values = np.random.default_rng(0).integers(-3, 4, (ROWS, DIM)).astype(np.float32)
    qstore.build(values, path, keys=[f"w{row}" for row in range(ROWS)])
    with qstore.open(path) as opened:
        yield opened


@given(
    exclude=st.lists(st.integers(-ROWS, ROWS - 1), min_size=1, max_size=5),
    k=st.integers(1, ROWS + 2),
    metric=st.sampled_from(["cosine", "dot", "l2"]),
    rows=st.one_of(
        st.none(),
        st.lists(st.integers(0, ROWS - 1), max_size=ROWS),
        st.tuples(st.integers(0, 5), st.integers(5, ROWS)),
    ),
)
def test_as_all_found_without_the_row(
    store: qstore.Store, exclude: list[int], k: int, metric: Any, rows: Any
) -> None:
    """The model: everything is found, and the row crossed out."""
    queries = store.astype("float64")[exclude]
    scores, numbers = store.search(queries, k, metric, rows=rows, exclude=exclude)
    all_scores, all_numbers = store.search(queries, ROWS, metric, rows=rows)
    left = [
        [(row, score) for row, score in zip(*one, strict=True) if row != number % ROWS]
        for number, one in zip(
            exclude, zip(all_numbers.tolist(), all_scores.tolist(), strict=True), strict=True
        )
    ]
    width = min(k, min(map(len, left)))
    assert numbers.tolist() == [[row for row, _ in one[:width]] for one in left]
    assert scores.tolist() == [[score for _, score in one[:width]] for one in left]


def test_one_query(store: qstore.Store) -> None:
    scores, numbers = store.search(store["w3"], 3, exclude=3)
    assert numbers.shape == scores.shape == (3,)
    assert 3 not in numbers
    both = store.search(store[[3, 4]], 3, exclude=3)[1]
    assert both.shape == (2, 3)
    assert 3 not in both


@pytest.mark.parametrize(
    ("exclude", "error", "match"),
    [
        ([1, 2], ValueError, r"exclude has shape \(2,\), expected one row for each query, \(1,\)"),
        (ROWS, IndexError, "exclude: index 12 is out of bounds"),
        (-ROWS - 1, IndexError, "exclude: index -13 is out of bounds"),
        ("w3", IndexError, "must be integers"),
        (1.5, IndexError, "must be integers"),
    ],
)
def test_what_cannot_be_left_out(
    store: qstore.Store, exclude: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        store.search(store[3], exclude=exclude)


@pytest.mark.parametrize("queries", ["w3", ["w3", "w4"], ("w3",)])
def test_a_key_is_no_query(store: qstore.Store, queries: Any) -> None:
    with pytest.raises(TypeError, match=r"found the text 'w3'.* give that row, store\['w3'\]"):
        store.search(queries)
