"""store.take by the rules of numpy.take, and numpy.take of a store."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.engine import part_kernels, quantization
from qstore.reading import any_key, taking

ROWS, DIM = 11, 5


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    with open_as(request.param, values, tmp_path_factory.mktemp("taken"), (1, 1, 6)) as opened:
        yield opened


def outcome(take: Any) -> Any:
    try:
        return take()
    except Exception as error:
        return type(error), str(error)


NUMBERS: list[Any] = [3, -1, [], [0], [4, -5, 4], [[1, 2], [3, 0]], [5], [99, -99], np.array([1, 2], "u8")]


@pytest.mark.parametrize("numbers", NUMBERS, ids=repr)
def test_as_numpy_takes(store: qstore.Store, numbers: Any) -> None:
    given = np.asarray(numbers).astype(int)  # as NumPy itself wants them
    for axis, mode, function in product(
        (0, 1, -1, -2, None, 2), ("raise", "wrap", "clip"), (qstore.Store.take, np.take)
    ):
        expected = outcome(partial(np.take, store[:], given, axis=axis, mode=mode))
        found = outcome(partial(function, store, numbers, axis=axis, mode=mode))
        assert type(found) is type(expected)
        if isinstance(expected, tuple):
            assert found == expected
        else:
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(found, expected)


def test_numpy_take_gathers(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy.take must not make the whole matrix, which it does where the method raises TypeError."""

    def refuse(self: Any, *given: Any) -> Any:
        raise AssertionError("the whole matrix was read")

    expected = store[[1, 2, 3]]
    monkeypatch.setattr(type(store), "__array__", refuse)
    monkeypatch.setattr(type(store._mapping), "read_slice", refuse)
    np.testing.assert_array_equal(np.take(store, [1, 2, 3], axis=0), expected)
    np.testing.assert_array_equal(np.take(store, [12, 2, 14], axis=0, mode="wrap"), expected)
    faulty: list[Any] = [["a"], [1.5], [None], [[1], [2, 3]]]
    for wrong in faulty:
        with pytest.raises((IndexError, ValueError)):
            np.take(store, wrong, axis=0)


@pytest.mark.parametrize(("axis", "shape"), [(0, (2, DIM)), (1, (ROWS, 2)), (None, (2,))])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_into_what_is_given(store: qstore.Store, axis: int | None, shape: Any, dtype: str) -> None:
    out = np.empty(shape, dtype)
    assert store.take([4, -1], axis, out=out) is out
    np.testing.assert_array_equal(out, np.take(store.astype(dtype)[:], [4, -1], axis))
    out[...] = 0
    assert np.take(store, [4, -1], axis=axis, out=out, mode="clip") is out
    np.testing.assert_array_equal(out, np.take(store.astype(dtype)[:], [4, -1], axis, mode="clip"))
    with pytest.raises(ValueError, match="out has shape"):
        store.take([4, -1, 0], axis, out=out)


@pytest.mark.parametrize(
    ("numbers", "options", "error", "message"),
    [
        ([1], {"mode": "near"}, ValueError, 'mode is \'near\', expected "raise", "wrap" or "clip"'),
        ([1.5], {"axis": 1}, IndexError, "row numbers must be integers"),
        (np.array([2**64 - 1], "u8"), {}, IndexError, "row number 18446744073709551615 is out of bounds"),
        (np.array([2**64 - 1], "u8"), {"mode": "clip"}, IndexError, "row number 18446744073709551615"),
    ],
)
def test_faults(store: qstore.Store, numbers: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        store.take(numbers, **options)


@pytest.mark.parametrize("mode", ["raise", "wrap", "clip"])
def test_of_nothing(tmp_path_factory: pytest.TempPathFactory, mode: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "no-rows.h5"
    if not path.exists():
        qstore.build(np.empty((0, DIM)), path)
    with qstore.open(path) as empty:
        for axis in (0, None):
            with pytest.raises(IndexError):
                empty.take([0], axis, mode=mode)
            assert empty.take([], axis, mode=mode).shape == np.take(empty[:], np.empty(0, int), axis).shape
        assert empty.take([1, 1], 1, mode=mode).shape == (0, 2)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_memory_is_the_result_and_a_block(
    kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_key, "_BLOCK_CODES", 1 << 14)
    monkeypatch.setattr(any_key, "_BLOCK_VALUES", 1 << 11)
    monkeypatch.setattr(taking, "_BLOCK_VALUES", 1 << 11)
    monkeypatch.setattr(quantization, "_READ_VALUES", 1 << 12)
    monkeypatch.setattr(part_kernels, "_PIECE_VALUES", 1 << 13)
    values: NDArray[Any] = np.random.default_rng(3).standard_normal((2000, 256))
    with open_as(kind, values, tmp_path_factory.mktemp("wide"), (700, 1400)) as store:
        rows, columns = np.random.default_rng(0).permutation(2000), np.random.default_rng(0).permutation(256)
        line = np.random.default_rng(0).integers(-store.size, store.size, 200_000)
        for numbers, axis in ((rows, 0), (columns, 1), (line, None)):
            numbers_bytes = 4 * numbers.nbytes  # they are checked, and counted from 0
            result = store.take(numbers, axis)
            found = peak_of(partial(store.take, numbers, axis))
            assert found <= result.nbytes + numbers_bytes + (320 << 10)
