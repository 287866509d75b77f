"""Operators and NumPy's functions: what they make of ``store[:]``; other libraries answer themselves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.arrays import arithmetic
from qstore.engine import quantization

ROWS, DIM = 11, 5


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    values[3, 2] = 0
    with open_as(request.param, values, tmp_path_factory.mktemp("operands"), (1, 1, 6)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_BLOCK_BYTES", 8 * DIM * 3)


def equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            equal(one, other)
        return
    if isinstance(expected, str):
        assert found == expected
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return work()
    except Exception as error:
        return error


UNARY: list[Any] = [
    operator.neg,
    operator.pos,
    abs,
    operator.invert,
    np.abs,
    np.sqrt,
    np.exp,
    np.modf,
    np.isnan,
]
BINARY: list[Any] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    divmod,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.eq,
    operator.ne,
    operator.and_,
    np.hypot,
    np.logaddexp,
]
OPERANDS: dict[str, Any] = {
    "2": 2,
    "2.5": 2.5,
    "True": True,
    "1j": 1j,
    "10**400": 10**400,
    "float64": np.float64(1 / 3),
    "float16": np.float16(1 / 3),
    "int8": np.int8(3),
    "fraction": Fraction(1, 3),
    "row": np.linspace(0, 1, DIM),
    "list": [1.5] * DIM,
    "column": np.linspace(0, 1, ROWS, dtype=np.float32)[:, None],
    "matrix": np.arange(ROWS * DIM, dtype=np.int16).reshape(ROWS, DIM),
    "nested list": [[1]] * ROWS,
    "0-d": np.array(3.0),
    "one row": np.ones((1, DIM), np.float32),
    "cube": np.ones((2, ROWS, DIM)),
    "too wide": np.ones(DIM + 1),
    "too long": np.ones((ROWS + 1, DIM)),
    "None": None,
    "text": "queen",
    "object": object(),
    "dict": {1: 2},
    "big-endian": np.arange(DIM, dtype=">f4"),
    "memmap": np.arange(DIM, dtype="f4").view(np.memmap),
}


@pytest.mark.parametrize("apply", UNARY, ids=lambda apply: apply.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_of_one_store(store: qstore.Store, apply: Any, dtype: str) -> None:
    expected, found = (
        outcome(lambda: apply(store.astype(dtype)[:])),
        outcome(lambda: apply(store.astype(dtype))),
    )
    if isinstance(expected, Exception):
        assert type(found) is type(expected)
    else:
        equal(found, expected)


@pytest.mark.parametrize("name", OPERANDS)
def test_with_an_operand_on_either_side(store: qstore.Store, name: str) -> None:
    x, array = OPERANDS[name], store[:]
    for apply in BINARY:
        for mine, theirs in (((store, x), (array, x)), ((x, store), (x, array))):
            expected, found = outcome(partial(apply, *theirs)), outcome(partial(apply, *mine))
            if isinstance(expected, Exception):
                assert isinstance(found, type(expected)), (apply, found, expected)
                if "broadcast" in str(expected):
                    assert str(found) == str(expected)
            else:
                equal(found, expected)


def test_two_stores(store: qstore.Store) -> None:
    equal(store - store, np.zeros((ROWS, DIM), np.float32))
    equal(store + store.astype("float64"), store[:] + store.astype("float64")[:])
    equal(np.maximum(store, -store), np.abs(store[:]))


def test_equality_is_of_values(store: qstore.Store) -> None:
    with (
        qstore.open([shard.path for shard in store.shards])
        if len(store.shards) > 1
        else qstore.open(store.path) as again
    ):
        assert again is not store
        equal(store == again, np.ones((ROWS, DIM), bool))
        equal(store != again, np.zeros((ROWS, DIM), bool))
        assert len({store, again}) == 2  # hashes are of the object, as those of tensors
        assert {store: 1}[store] == 1
        with pytest.raises(ValueError, match="ambiguous"):
            bool(store == again)


def test_into_what_is_given(store: qstore.Store) -> None:
    out = np.empty((ROWS, DIM), np.float64)
    assert np.multiply(store, 2, out=out) is out
    equal(out, (store[:] * 2).astype(np.float64))
    where = np.arange(ROWS * DIM).reshape(ROWS, DIM) % 2 == 0
    out[...] = 7
    np.add(store, 1, out=out, where=where)
    np.testing.assert_array_equal(out, np.where(where, store[:] + np.float32(1), 7))
    array = np.ones((ROWS, DIM), np.float32)
    array += store
    equal(array, 1 + store[:])
    whole, rest = np.empty((ROWS, DIM), np.float32), np.empty((ROWS, DIM), np.float32)
    found = np.modf(store, out=(rest, whole))
    assert found[0] is rest
    assert found[1] is whole
    equal(found, np.modf(store[:]))
    with pytest.raises(TypeError, match="Cannot cast ufunc 'add' output"):
        np.add(store, 1, out=np.empty((ROWS, DIM), np.int8))
    with pytest.raises(ValueError, match="non-broadcastable output"):
        np.add(store, 1, out=np.empty(DIM))


def test_other_methods_of_functions(store: qstore.Store) -> None:
    array = store[:]
    equal(np.add.accumulate(store, axis=1), np.add.accumulate(array, axis=1))
    equal(np.multiply.outer(store, [1, 2]), np.multiply.outer(array, [1, 2]))
    equal(np.subtract.reduce(store), np.subtract.reduce(array))
    equal(np.logical_and.reduce(store, axis=1), np.logical_and.reduce(array, axis=1))
    equal(np.add(store, 1, dtype=np.float64), np.add(array, 1, dtype=np.float64))


def test_a_store_is_not_changed(store: qstore.Store) -> None:
    before = store[:]
    changed: Any = store
    works: list[Any] = [
        lambda: changed.__iadd__(1),
        lambda: changed.__imul__(2),
        lambda: np.add(1, 2, out=changed),
        lambda: np.add.at(changed, 0, 1),
    ]
    for work in works:
        with pytest.raises(
            TypeError, match="a store cannot be changed: `array = store \\* 2` makes an array"
        ):
            work()
    with pytest.raises(TypeError, match="does not support item assignment"):
        changed[0] = 1
    assert changed is store
    equal(store[:], before)


def test_of_no_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "nothing.h5"
    if not path.exists():
        qstore.build(np.empty((0, DIM)), path)
    with qstore.open(path) as empty:
        equal(empty * 2, empty[:] * 2)
        equal(empty > 0, empty[:] > 0)
        equal(np.modf(empty), np.modf(empty[:]))


def test_of_one_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "one-row.h5"
    if not path.exists():
        qstore.build(np.ones((1, DIM)), path)
    with qstore.open(path) as one:
        equal(one * np.ones((4, 1), "f4"), one[:] * np.ones((4, 1), "f4"))
        equal(one * np.ones((1, DIM)), one[:] * np.ones((1, DIM)))


HUNGRY: dict[str, Callable[[Any], Any]] = {
    "store * 2": lambda store: store * 2,
    "-store": lambda store: -store,
    "abs(store)": abs,
    "numpy.abs(store)": np.abs,
    "store > 0": lambda store: store > 0,
    "store == store": lambda store: store == store,
    "store - row": lambda store: store - np.ones(256, np.float32),
    "column * store": lambda store: np.ones((2000, 1), np.float32) * store,
    "numpy.asarray(store)": np.asarray,
    "numpy.asarray(store, int)": lambda store: np.asarray(store, np.int8),
    "numpy.asarray(store, '>f4')": lambda store: np.asarray(store, ">f4"),
    "numpy.from_dlpack(store)": np.from_dlpack,
    "numpy.array(store.T)": lambda store: np.asarray(store.T),
}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", HUNGRY)
def test_memory_is_the_result_and_a_block(
    name: str, kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qstore.arrays import methods

    monkeypatch.setattr(arithmetic, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(methods, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(quantization, "_READ_VALUES", 1 << 12)
    values: NDArray[Any] = np.random.default_rng(3).standard_normal((2000, 256))
    with open_as(kind, values, tmp_path_factory.mktemp("wide"), (700, 1400)) as store:
        result = HUNGRY[name](store)
        np.testing.assert_array_equal(result, HUNGRY[name](store[:]))
        assert peak_of(lambda: HUNGRY[name](store)) <= result.nbytes + (320 << 10)


# Operands that answer themselves --------------------------------------------------------------------------


def test_pandas_keeps_its_labels(store: qstore.Store) -> None:
    pandas = pytest.importorskip("pandas")
    array, names = store[:], list("abcde")
    weights = pandas.DataFrame(np.ones((DIM, 2)), index=names, columns=["x", "y"])
    table = pandas.DataFrame(np.ones((ROWS, DIM)), columns=names)
    pandas.testing.assert_frame_equal(store @ weights, array @ weights)
    pandas.testing.assert_frame_equal(store + table, array + table)
    pandas.testing.assert_frame_equal(store > table, array > table)
    pandas.testing.assert_frame_equal(np.hypot(store, table), np.hypot(array, table))
    pandas.testing.assert_frame_equal(table.T @ store, table.T @ array)
    np.testing.assert_allclose(store @ pandas.Series(np.ones(DIM)), array @ np.ones(DIM))


def test_a_table_of_pandas_on_the_left(store: qstore.Store) -> None:
    pandas = pytest.importorskip("pandas")
    array, names = store[:], list("abcde")
    table = pandas.DataFrame(np.full((ROWS, DIM), 2.0), columns=names)
    for apply in BINARY:
        if apply is operator.and_:
            continue
        found, expected = apply(table, store), apply(table, array)
        both = zip(found, expected, strict=True) if apply is divmod else [(found, expected)]
        for one, other in both:
            pandas.testing.assert_frame_equal(one, other)
    assert (table == store).columns.tolist() == names
    with pytest.raises(ValueError, match="Unable to coerce to DataFrame"):
        table[:3] + store


def test_scipy_sparse_matrices(store: qstore.Store) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    array = store.astype("float64")[:]
    for kind in (sparse.csr_array, sparse.csr_matrix, sparse.coo_array):
        x = kind(sparse.random(DIM, 3, density=0.5, rng=np.random.default_rng(1)))
        y = kind(sparse.random(ROWS, DIM, density=0.5, rng=np.random.default_rng(2)))
        found = store @ x
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, array @ x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(y.T @ store, y.T @ array, rtol=1e-6)
        np.testing.assert_allclose(store + y, array + y, rtol=1e-6)
        assert type(store + y) is type(array + y)
        with pytest.raises(ValueError, match=r"mismatch|dimension"):
            store @ y
    y = sparse.csr_array(y)
    np.testing.assert_allclose((store * y).toarray(), (array * y).toarray(), rtol=1e-6)
    np.testing.assert_allclose((y * store).toarray(), (array * y).toarray(), rtol=1e-6)
    with pytest.raises(TypeError, match=r"numpy\.hypot cannot take a store and a csr_array"):
        np.hypot(store, y)


def test_dask_arrays_stay_lazy(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dask_array = pytest.importorskip("dask.array")
    array, x = store[:], np.ones((DIM, 3))
    y = dask_array.ones((ROWS, DIM), chunks=(4, -1))
    monkeypatch.setattr(type(store), "__getitem__", _refusing(type(store).__getitem__))
    lazy = [
        store @ dask_array.asarray(x),
        y.T @ store,
        store + y,
        y - store,
        store > y,
        np.hypot(store, y),
        np.add(y, store),
    ]
    assert all(isinstance(one, dask_array.Array) for one in lazy)
    monkeypatch.undo()
    wanted = [
        array @ x,
        np.ones((DIM, ROWS)) @ array,
        array + 1,
        1 - array,
        array > 1,
        np.hypot(array, 1),
        array + 1,
    ]
    for one, expected in zip(lazy, wanted, strict=True):
        np.testing.assert_allclose(one.compute(scheduler="synchronous"), expected, rtol=1e-6)


def _refusing(getitem: Any) -> Any:
    """Dask asks for nothing but a piece without values, to see what it is like."""

    def refuse(self: Any, key: Any) -> Any:
        found = getitem(self, key)
        assert found.size == 0
        return found

    return refuse


def test_xarray(store: qstore.Store) -> None:
    xarray = pytest.importorskip("xarray")
    labelled = xarray.DataArray(np.full((ROWS, DIM), 2.0), dims=("word", "feature"))
    for found in (labelled * store, store * labelled):
        assert isinstance(found, xarray.DataArray)
        np.testing.assert_array_equal(found.values, store[:] * 2.0)


def test_masked_arrays_keep_their_mask(store: qstore.Store) -> None:
    masked = np.ma.masked_array(np.full(DIM, 2.0), [True, False, False, False, False])
    for found in (masked * store, store * masked, np.multiply(store, masked)):
        assert isinstance(found, np.ma.MaskedArray)
        assert np.ma.getmaskarray(found)[:, 0].all()
        assert not np.ma.getmaskarray(found)[:, 1:].any()
        np.testing.assert_array_equal(found[:, 1:].data, store[:, 1:] * 2.0)


def test_numpy_matrix(store: qstore.Store) -> None:
    matrix = np.ones((DIM, 2)).view(np.matrix)
    np.testing.assert_allclose(store @ matrix, store[:] @ np.ones((DIM, 2)), rtol=1e-6)
    for work in (lambda: store * matrix, lambda: matrix.T * store):
        with pytest.raises(TypeError, match=r"numpy\.matrix gives \* and \*\* another meaning"):
            work()


def test_torch_tensors_become_arrays(store: qstore.Store) -> None:
    torch = pytest.importorskip("torch")
    for found in (store * torch.full((DIM,), 2.0), torch.full((DIM,), 2.0) * store):
        equal(found, store[:] * np.float32(2))
    equal(store @ torch.ones(DIM, 2), store @ np.ones((DIM, 2), np.float32))
    equal(torch.ones(2, ROWS) @ store, np.ones((2, ROWS)) @ store)
