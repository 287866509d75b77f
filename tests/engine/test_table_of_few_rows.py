"""Table.take: few rows in one call, or nothing at all where anything is unusual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, function_fixture, native
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qstore.engine import kernels, quantization

TOTAL, DIM = 40, 6
OUTPUTS = ("float32", "float64", "float16")


def matrix(total: int, dim: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    random = np.random.default_rng(dim)
    return random.integers(0, 256, (total, dim), np.uint8), random.random(total)


@function_fixture
@given(data=st.data())
def test_the_rows_that_gather_gives(engine: str, data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([1, 7, 48, 160, 300]))
    dtype = data.draw(st.sampled_from(OUTPUTS))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))
    rows = data.draw(
        hnp.arrays(
            data.draw(st.sampled_from(["int64", "int32"])), shape, elements=st.integers(-TOTAL, TOTAL - 1)
        )
    )
    codes, scales = matrix(TOTAL, dim)
    out, expected = np.full((*shape, dim), 7, dtype), np.full((rows.size, dim), 7, dtype)
    spent = kernels.table(codes, scales).take(rows, out)
    if engine == "NumPy":
        assert spent == -1
    else:
        assert spent >= 0
        quantization.gather(codes, scales, rows.reshape(-1).astype(np.int64), expected)
    np.testing.assert_array_equal(out, expected.reshape(out.shape))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


class Derived(np.ndarray):
    """Of a class that may mean anything."""


def rows_of(*numbers: int, dtype: Any = np.int64) -> NDArray[Any]:
    return np.array(numbers, dtype)


def fresh(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return np.full(shape, 7, dtype)


UNUSUAL: dict[str, Callable[[], tuple[Any, Any]]] = {
    "past the end": lambda: (rows_of(0, TOTAL), fresh(2, DIM)),
    "before the start": lambda: (rows_of(0, -TOTAL - 1), fresh(2, DIM)),
    "the largest": lambda: (rows_of(0, 2**63 - 1), fresh(2, DIM)),
    "the smallest": lambda: (rows_of(0, -(2**63)), fresh(2, DIM)),
    "uint64": lambda: (rows_of(0, 1, dtype=np.uint64), fresh(2, DIM)),
    "int16": lambda: (rows_of(0, 1, dtype=np.int16), fresh(2, DIM)),
    "bool": lambda: (rows_of(0, 1, dtype=np.bool_), fresh(2, DIM)),
    "float rows": lambda: (rows_of(0, 1, dtype=np.float64), fresh(2, DIM)),
    "rows in another byte order": lambda: (rows_of(0, 1, dtype=">i8"), fresh(2, DIM)),
    "days": lambda: (rows_of(0, 1).view("m8[D]"), fresh(2, DIM)),
    "objects": lambda: (rows_of(0, 1, dtype=object), fresh(2, DIM)),
    "a list": lambda: ([0, 1], fresh(2, DIM)),
    "a number": lambda: (0, fresh(DIM)),
    "an array of no axes": lambda: (np.array(3), fresh(DIM)),
    "masked rows": lambda: (np.ma.array([0, 1], mask=[False, True]), fresh(2, DIM)),
    "rows of another class": lambda: (rows_of(0, 1).view(Derived), fresh(2, DIM)),
    "every other row": lambda: (rows_of(0, 1, 2, 3)[::2], fresh(2, DIM)),
    "rows in columns": lambda: (np.asfortranarray(np.eye(2, dtype=np.int64)), fresh(2, 2, DIM)),
    "out of another class": lambda: (rows_of(0, 1), fresh(2, DIM).view(Derived)),
    "masked out": lambda: (rows_of(0, 1), np.ma.array(fresh(2, DIM))),
    "a read-only out": lambda: (rows_of(0, 1), read_only(fresh(2, DIM))),
    "out of more rows": lambda: (rows_of(0, 1), fresh(3, DIM)),
    "out of fewer columns": lambda: (rows_of(0, 1), fresh(2, DIM - 1)),
    "out of one axis": lambda: (rows_of(0, 1), fresh(2 * DIM)),
    "out of more axes": lambda: (rows_of(0, 1), fresh(2, DIM, 1)),
    "out of int32": lambda: (rows_of(0, 1), fresh(2, DIM, dtype=np.int32)),
    "out in another byte order": lambda: (rows_of(0, 1), fresh(2, DIM, dtype=">f4")),
    "out in columns": lambda: (rows_of(0, 1), np.asfortranarray(fresh(2, DIM))),
    "some columns of out": lambda: (rows_of(0, 1), fresh(2, 2 * DIM)[:, :DIM]),
    "out turned round": lambda: (rows_of(0, 1), fresh(2, DIM)[::-1]),
    "nothing to fill": lambda: (rows_of(0, 1), None),
    "many rows": lambda: (np.zeros(1024, np.int64), fresh(1024, DIM)),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_nothing_is_done_where_anything_is_unusual(engine: str, case: str) -> None:
    rows, out = UNUSUAL[case]()
    assert kernels.table(*matrix(TOTAL, DIM)).take(rows, out) == -1
    if out is not None:
        assert (out == 7).all()


@NEEDS_EXTENSION
def test_many_values_are_not_few_rows() -> None:
    table = native.Table(*matrix(3, 1 << 17))
    for count, taken in ((2, True), (3, False)):
        assert (table.take(np.arange(count), fresh(count, 1 << 17)) >= 0) == taken


@NEEDS_EXTENSION
def test_rows_and_out_in_the_same_memory() -> None:
    """All numbers are checked and copied before any value is written over them."""
    codes, scales = matrix(TOTAL, DIM)
    expected = np.empty((TOTAL, DIM))
    quantization.gather(codes, scales, np.arange(TOTAL)[::-1].copy(), expected)
    out = np.empty((TOTAL, DIM))
    rows = out.reshape(-1).view(np.int64)[:TOTAL]
    rows[:] = np.arange(TOTAL)[::-1]
    assert native.Table(codes, scales).take(rows, out) >= 0
    np.testing.assert_array_equal(out, expected)


@NEEDS_EXTENSION
def test_its_arguments_are_two_and_let_go_of() -> None:
    table = native.Table(*matrix(TOTAL, DIM))
    for arguments in ((), (rows_of(0),), (rows_of(0), fresh(1, DIM), None)):
        with pytest.raises(TypeError, match="arguments"):
            table.take(*arguments)
    memory = bytearray(4 * DIM)
    out = np.frombuffer(memory, np.float32).reshape(1, DIM)
    assert table.take(rows_of(0), out) >= 0
    assert table.take(rows_of(TOTAL), out) == -1
    del out
    memory.append(0)  # BufferError while a view is held
