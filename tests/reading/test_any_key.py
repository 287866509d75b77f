"""Keys of every form, of every kind of store: NumPy's values, shapes and exceptions, and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.engine import part_kernels, quantization
from qstore.reading import any_key, sharded_store
from qstore.reading.indexing import judged, select

ROWS, DIM = 11, 5
CUTS = (1, 1, 6)


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    with open_as(request.param, values, tmp_path_factory.mktemp("keys"), CUTS) as opened:
        yield opened


def outcome(array: Any, key: Any) -> Any:
    try:
        return array[key]
    except Exception as error:
        return type(error), str(error)


def check(store: qstore.Store, key: Any) -> None:
    expected, found = outcome(store[:], key), outcome(store, key)
    assert type(found) is type(expected), (key, expected, found)
    if isinstance(expected, tuple):
        assert found == expected, key
        return
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), key
    np.testing.assert_array_equal(found, expected)
    if isinstance(found, np.ndarray):
        assert found.flags.writeable
        assert found.flags.c_contiguous


class Number:
    """A row number that is no int."""

    def __repr__(self) -> str:
        return "Number"  # in the names of tests: the same in every process

    def __index__(self) -> int:
        return 3


KEYS = [
    (),
    (None, ...),
    (..., None),
    (..., None, 2),
    (True,),
    (True, False),
    (False, 99),
    (True, slice(None), [1, 2]),
    (slice(None), True, None, [1, 2]),
    (slice(None), [1, 2], None, True),
    (slice(None), [1, 2], ..., True),
    (None, [1, 2], ..., [0, 1]),
    (slice(0, 0), [99]),
    ([[99]], np.empty((1, 0), int)),
    (np.array([[3], [-1]]), np.array([[0, 4]])),
    (np.array([0, 4]), np.array([[3], [-1]])),
    np.ix_([3, -1, 3], [True, False, True, False, True]),
    np.ix_([True] * ROWS, [1]),
    (slice(None, None, -2), slice(None, None, -2)),
    (slice(None), [-1, 0, 0]),
    (slice(None, None, -1), [-1, 0, 0]),
    ([5, -5], slice(None, None, 2)),
    (3, slice(None, None, -1)),
    (3, [0, 0]),
    (3, []),
    (3, ()),
    (3, (1,)),
    (3, True),
    (Number(), Number()),
    Number(),
    [Number(), 4],
    (3, 4, ...),
    (3, ..., 4),
    (3, 4, None),
    np.array([2**64 - 1], np.uint64),
    np.array([2**63], np.uint64),
    (np.array([2**64 - 1], np.uint64), np.array([1], np.uint8)),
    np.ma.masked_array([1, 2], [True, False]),
    np.arange(ROWS * DIM).reshape(ROWS, DIM) % 3 == 0,
    (np.arange(ROWS * DIM).reshape(ROWS, DIM) % 3 == 0, None),
    (np.arange(ROWS * DIM).reshape(ROWS, DIM) == 7, False),
    (np.arange(ROWS * DIM).reshape(ROWS, DIM) % 3 == 0, True, None),
    (np.ones((ROWS, DIM), bool), 0),
    np.ones((ROWS, DIM, 1), bool),
    (slice(1.5), 0),
    (0, "a"),
    ([0, 1], 1.5),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_what_a_key_gives(store: qstore.Store, key: Any) -> None:
    for dtype in ("float32", "float64", "float16"):
        check(store.astype(dtype), key)


def parts() -> st.SearchStrategy[Any]:
    """Anything that may stand in a key, in range or slightly out of it."""
    number = st.integers(-DIM - 1, ROWS)
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (2,), (2, 1), (1, 2), (2, 2)]
    arrays = npst.arrays(np.int16, st.sampled_from(shapes), elements=st.integers(-DIM, DIM - 1))
    mask_shapes: list[tuple[int, ...]] = [(ROWS,), (DIM,), (ROWS, DIM), ()]
    masks = npst.arrays(np.bool_, st.sampled_from(mask_shapes))
    bounds = st.none() | st.integers(-ROWS - 1, ROWS + 1)
    slices = st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, -1, -3]))
    return st.one_of(st.none(), st.just(...), st.booleans(), number, slices, arrays, masks)


@settings(max_examples=600)
@given(key=st.lists(parts(), max_size=5).map(tuple))
def test_any_parts_together(store: qstore.Store, key: Any) -> None:
    check(store, key)


def test_torch_tensors_as_keys(store: qstore.Store) -> None:
    torch = pytest.importorskip("torch")
    for key in (
        torch.tensor([1, -1]),
        torch.tensor(2),
        torch.tensor([2]),
        torch.tensor([True] * ROWS),
        (torch.tensor([1, 2]), torch.tensor([0, 4])),
        (slice(None), torch.tensor([0, 4])),
    ):
        check(store, key)
    with pytest.raises(IndexError, match="must be of integer"):
        store[torch.tensor([1.5])]


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        with open_as(kind, np.ones((ROWS, DIM)), tmp_path / kind, CUTS) as closed:
            pass
        for key in [(), (0, 0), (slice(None), [1]), (slice(0, 0), [1]), ([1, 2], [[1], [2]]), (True, "a")]:
            with pytest.raises(qstore.ClosedError):
                closed[key]


# Memory -----------------------------------------------------------------------------------------------

MANY, WIDE = 2000, 256
PERMUTED = np.random.default_rng(0).permutation(WIDE)
SCATTERED = np.random.default_rng(0).permutation(MANY)
SOME = np.random.default_rng(0).random((MANY, WIDE)) < 0.5

# What an index may need beside the result: a block, and numbers of rows and columns.
SLACK = 320 << 10

HUNGRY: dict[str, Any] = {
    "[()]": (),
    "[...]": ...,
    "[:]": slice(None),
    "[None]": None,
    "[..., None]": (..., None),
    "[:, None, :]": (slice(None), None, slice(None)),
    "[True]": True,
    "[True, None]": (True, None),
    "[True, :, columns]": (True, slice(None), PERMUTED),
    "[::-1]": slice(None, None, -1),
    "[::2]": slice(None, None, 2),
    "[:, ::-1]": (slice(None), slice(None, None, -1)),
    "[:, ::2]": (slice(None), slice(None, None, 2)),
    "[::-1, ::-1]": (slice(None, None, -1), slice(None, None, -1)),
    "[:, 1:]": (slice(None), slice(1, None)),
    "[:, columns]": (slice(None), PERMUTED),
    "[:, columns, None]": (slice(None), PERMUTED, None),
    "[::-1, columns]": (slice(None, None, -1), PERMUTED),
    "[:, mask]": (slice(None), SOME[0]),
    "[:, 3]": (slice(None), 3),
    "[rows]": SCATTERED,
    "[rows in 2-D]": SCATTERED.reshape(2, -1),
    "[rows as int32]": SCATTERED.astype(np.int32),
    "[mask]": SOME[:, 0],
    "[None, rows]": (None, SCATTERED),
    "[rows, None, ::-1]": (SCATTERED, None, slice(None, None, -1)),
    "[rows, 1:]": (SCATTERED, slice(1, None)),
    "[rows, ...]": (SCATTERED, ...),
    "[ix_(rows, columns)]": np.ix_(SCATTERED, PERMUTED),
    "[ix_(mask, mask)]": np.ix_(SOME[:, 0], SOME[0]),
    "[columns turned]": (SCATTERED, PERMUTED[:, None]),
    "[rows, columns] in pairs": (
        np.broadcast_to(SCATTERED[:, None], (MANY, WIDE)).astype(np.uint16),
        np.broadcast_to(PERMUTED, (MANY, WIDE)).astype(np.int8) // 2,
    ),
    "[2-D mask]": SOME,
    "[2-D mask, None]": (SOME, None),
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, qstore.Store]]:
    values = np.random.default_rng(3).standard_normal((MANY, WIDE))
    folder = tmp_path_factory.mktemp("wide")
    stores = {kind: open_as(kind, values, folder, range(400, MANY, 400)) for kind in KINDS[:2]}
    yield stores
    for store in stores.values():
        store.close()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_key, "_BLOCK_CODES", 1 << 14)
    monkeypatch.setattr(any_key, "_BLOCK_VALUES", 1 << 11)
    monkeypatch.setattr(sharded_store, "_COPIED_CODES", 1 << 14)
    monkeypatch.setattr(quantization, "_READ_VALUES", 1 << 12)
    monkeypatch.setattr(part_kernels, "_PIECE_VALUES", 1 << 13)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", HUNGRY)
def test_memory_is_the_result_and_a_block(
    name: str, kind: str, wide: dict[str, qstore.Store], small_blocks: None
) -> None:
    store, key = wide[kind], HUNGRY[name]
    expected = store[:][key]
    np.testing.assert_array_equal(store[key], expected)
    assert peak_of(lambda: store[key]) <= expected.nbytes + SLACK


def test_memory_where_shards_are_read_in_groups(
    wide: dict[str, qstore.Store], small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded_store, "MOST_MAPPED", 2)
    store = wide["shards"]
    np.testing.assert_array_equal(store[SCATTERED], store[:][SCATTERED])
    assert peak_of(lambda: store[SCATTERED]) <= store.nbytes + SLACK


def test_memory_does_not_go_with_the_matrix() -> None:
    """Of 10^15 rows, what a key picks is found without counting them."""
    shape = (10**15, DIM)
    last = any_key.picks_of((10**15 - 1, -1), shape)
    assert last is not None
    assert (list(last.rows), list(last.columns), last.shape) == ([10**15 - 1], [DIM - 1], ())
    some = any_key.picks_of((slice(5, 9, 2), None, 1), shape)
    assert some is not None
    assert (list(some.rows), list(some.columns), some.shape) == ([5, 7], [1], (2, 1))
    assert any_key.picks_of(([10**15], 0), shape) is None
    with pytest.raises(IndexError, match="index 1000000000000000 is out of bounds for axis 0"):
        judged([10**15], shape)


@pytest.mark.parametrize("key", [(), True, None, (..., None), (slice(None), None, ...)])
def test_forms_that_are_read_as_a_slice(
    key: Any, wide: dict[str, qstore.Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it in whatever shape is one read of the whole, as ``store[...]`` is."""
    store, calls = wide["file"], []
    backing = store._mapping
    read_slice = type(backing).read_slice

    def noted(self: Any, rows: slice, columns: slice, dtype: Any) -> Any:
        calls.append((rows, columns))
        return read_slice(self, rows, columns, dtype)

    monkeypatch.setattr(type(backing), "read_slice", noted)
    assert select(key, *store.shape) is None
    assert store[...].size == store[key].size
    assert [(rows.indices(MANY), columns) for rows, columns in calls] == 2 * [((0, MANY, 1), slice(None))]
