"""store[key] is dequantized_matrix[key]: values, shape, dtype and exceptions are NumPy's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from three_kinds import KINDS, open_as

import qstore
from qstore.reading import indexing

ROWS, DIM = 13, 7


# Where a store of several files is cut: some are empty, one has a single row.
CUTS = (0, 0, 1, 5, 5, 12, ROWS, ROWS)


@pytest.fixture(scope="module", params=["file", "shards"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    folder: Path = tmp_path_factory.mktemp("indexing")
    values = np.random.default_rng(1).standard_normal((ROWS, DIM))
    qstore.build(values, folder / "store.h5")
    paths = [folder / f"part-{number}.h5" for number in range(len(CUTS) - 1)]
    for path, start, stop in zip(paths, CUTS, CUTS[1:], strict=False):
        qstore.build(values[start:stop], path)
    with qstore.open(folder / "store.h5" if request.param == "file" else paths) as opened:
        yield opened


def reference(store: qstore.Store) -> NDArray[Any]:
    """The matrix by the formula, not by the code under test."""
    codes = np.concatenate([np.empty((0, DIM), np.uint8), *(part.codes for part in store.parts())])
    scales = np.concatenate([np.empty(0), *(part.scales for part in store.parts())])
    values: NDArray[Any] = (codes.astype(np.float64) - 128) * scales[:, None]
    return values.astype(store.dtype)


def outcome(array: Any, key: Any) -> Any:
    try:
        return array[key]
    except Exception as error:
        return error


def check(store: qstore.Store, key: Any) -> None:
    expected, found = outcome(reference(store), key), outcome(store, key)
    if isinstance(expected, Exception):
        assert type(found) is type(expected), (key, expected, found)
        return
    assert not isinstance(found, Exception), (key, found)
    assert type(found) is type(expected), (key, type(found))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape, key
    np.testing.assert_array_equal(found, expected)
    if isinstance(found, np.ndarray):
        assert found.flags.writeable
        assert found.flags.c_contiguous or found.base is None


COMMON_KEYS = [
    0,
    -1,
    ROWS - 1,
    ROWS,
    -ROWS - 1,
    2**70,
    -(2**70),
    [2**70],
    np.int8(3),
    np.uint64(3),
    True,
    False,
    np.True_,
    np.array(True),
    np.array(2),
    np.array(99),
    slice(None),
    slice(2, 9),
    slice(9, 2),
    slice(None, None, -1),
    slice(-3, 99, 2),
    slice(0, 5, 0),
    slice(np.int64(1), np.int32(4)),
    slice(1.0, 4),
    slice("a", None),
    [],
    [[]],
    [0],
    [5, 3, 3, -1],
    [5, ROWS],
    [-ROWS - 1],
    [[1, 2], [3, 4]],
    [[1, 2], [3]],
    [1.0],
    [None],
    ["a"],
    [True] * ROWS,
    [False] * ROWS,
    [True] * (ROWS - 1),
    (1, 2, 3),
    (0, 0),
    (0, -1),
    (0, DIM),
    (ROWS, 0),
    (),
    ...,
    None,
    (None, 0),
    (0, None),
    (..., 0),
    (0, ...),
    (..., ...),
    (slice(None), 0),
    (slice(None), slice(2, 5)),
    (slice(None), slice(5, 2)),
    (slice(None), slice(None, None, -1)),
    (slice(None), slice(0, 99)),
    ([1, 2], slice(2, 5)),
    ([1, 99], slice(2, 5)),
    ([1, 2], slice(3, 3)),
    (3, slice(2, 5)),
    ([1, 2], [3, 4]),
    ([1, 2], [3, 4, 5]),
    ([[1], [2]], [3, 4]),
    ([1, 2], 3),
    (3, [1, 2]),
    (slice(None), [True] * DIM),
    ([True] * ROWS, [1]),
    ([True] * ROWS, slice(1, 3)),
    "queen",
    1.5,
    1j,
    NotImplemented,
    {1: 2},
    np.ones((ROWS, DIM), bool),
    np.zeros((ROWS, DIM), bool),
    np.ones((ROWS, DIM + 1), bool),
    np.arange(ROWS, dtype=np.uint64),
    np.array([2**63], dtype=np.uint64),
    np.array([1, 2], dtype=">i4"),
    np.array([1, 2], dtype=np.float32),
    np.array([1, 2], dtype=object),
    np.zeros((0, 3), int),
    np.array([], dtype=float),
    range(3),
    bytearray(b"ab"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("key", COMMON_KEYS, ids=repr)
def test_common_keys(store: qstore.Store, key: Any, dtype: str) -> None:
    check(store.astype(dtype), key)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_past_64_bits(engine: str, kind: str, tmp_path: Path) -> None:
    """NumPy's own words for them differ from one version and one size to the next."""
    values = np.random.default_rng(1).standard_normal((ROWS, DIM))
    with open_as(kind, values, tmp_path, [4, 9]) as store:
        for number in (2**62, 2**63, 2**70, -(2**63) - 1, -(2**70)):
            for key in (number, (number, slice(None)), (number, 0), (..., number, 0), (number, -number)):
                with pytest.raises(IndexError) as caught:
                    store[key]
                assert str(caught.value) == f"index {number} is out of bounds for axis 0 with size {ROWS}"
            with pytest.raises(
                IndexError, match=f"index {number} is out of bounds for axis 1 with size {DIM}"
            ):
                store[3, number]
        with pytest.raises(IndexError, match=f"index {2**64 - 1} is out of bounds"):
            store[np.uint64(2**64 - 1)]


def row_keys() -> st.SearchStrategy[Any]:
    """Anything that may pick rows, in range or slightly out of it."""
    number = st.integers(-ROWS - 1, ROWS)
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    arrays = npst.arrays(
        st.sampled_from([np.int8, np.int32, np.int64]), shapes, elements=st.integers(-ROWS - 1, ROWS)
    )
    mask_shapes: list[tuple[int, ...]] = [(ROWS,), (ROWS - 1,), (ROWS, DIM), (), (0,)]
    masks = npst.arrays(np.bool_, st.sampled_from(mask_shapes))
    bounds = st.none() | st.integers(-20, 20)
    slices = st.builds(slice, bounds, bounds, st.none() | st.integers(-3, 3))
    return st.one_of(
        number, number.map(np.int64), st.lists(number, max_size=4), arrays, masks, slices, st.booleans()
    )


def keys() -> st.SearchStrategy[Any]:
    single = st.one_of(row_keys(), st.none(), st.just(...))
    columns = npst.basic_indices((DIM,), allow_newaxis=True) | row_keys()
    return st.one_of(
        single,
        st.tuples(single),
        st.tuples(single, columns),
        st.tuples(single, columns, single),
        npst.basic_indices((ROWS, DIM), allow_newaxis=True),
        npst.integer_array_indices((ROWS, DIM)),
    )


@settings(max_examples=1500)
@given(key=keys())
def test_any_key(store: qstore.Store, key: Any) -> None:
    check(store, key)


@given(key=keys())
def test_keys_of_an_empty_store(tmp_path_factory: pytest.TempPathFactory, key: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "empty.h5"
    if not path.exists():
        qstore.build(np.empty((0, DIM)), path)
    with qstore.open(path) as empty:
        check(empty, key)


def test_what_comes_back_is_fresh(store: qstore.Store) -> None:
    for key in (0, slice(0, 2), [0, 0], (0, 0), ..., (slice(None), slice(None, None, 2))):
        first = store[key]
        expected = np.array(first)
        if isinstance(first, np.ndarray):
            first[...] = -1
        np.testing.assert_array_equal(store[key], expected)


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        (3, slice(None)),
        ((3, ...), slice(None)),
        ((3, slice(1, 99)), slice(1, DIM)),
        (([3], slice(5, 2)), slice(5, 5)),
    ],
)
def test_common_keys_need_no_detour(key: Any, columns: slice) -> None:
    selection = indexing.select(key, ROWS, DIM)
    assert selection is not None
    assert selection.columns == columns
