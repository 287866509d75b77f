"""``store.T`` answers as ``store[:].T`` does."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.arrays import arithmetic, reductions, transposed

ROWS, DIM = 11, 5


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    with open_as(request.param, values, tmp_path_factory.mktemp("turned"), (1, 1, 6)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_BLOCK_BYTES", 8 * DIM * 3)
    monkeypatch.setattr(reductions, "_BLOCK_BYTES", 8 * DIM * 4)
    monkeypatch.setattr(transposed, "_BLOCK_VALUES", 2 * ROWS)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole matrix must not be asked for."""

    def refuse(self: Any, *given: Any) -> Any:
        raise AssertionError("the whole matrix was asked for")

    monkeypatch.setattr(qstore.Store, "__array__", refuse)


def equal(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            equal(one, other)
        return
    assert type(found) is type(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return work()
    except Exception as error:
        return error


def test_what_it_is(store: qstore.Store) -> None:
    turned = store.T
    assert (turned.shape, turned.ndim, turned.size, len(turned)) == ((DIM, ROWS), 2, DIM * ROWS, DIM)
    assert turned.dtype == np.float32
    assert turned.T is store
    assert repr(turned) == f"<{store!r}.T: reads by way of the store; np.asarray(store.T) makes an array>"
    assert {turned: 1}[turned] == 1
    equal(np.asarray(turned), store[:].T)
    equal(np.asarray(turned, "float64"), store.astype("float64")[:].T)
    half = turned.astype("float16")
    assert type(half) is type(turned)
    equal(np.asarray(half), store.astype("float16")[:].T)
    with pytest.raises(ValueError, match="an array without a copy is impossible"):
        np.array(turned, copy=False)


# Reading --------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "row": 2,
    "last row": np.int64(-1),
    "rows": slice(1, 4),
    "rows backwards": slice(None, None, -2),
    "value": (2, 3),
    "column": (slice(None), 0),
    "block": (slice(1, 3), slice(2, 9)),
    "list": [3, 0, 3],
    "array": np.array([3, 0]),
    "grid": np.array([[3, 0, 1], [2, 2, 2]]),
    "mask": np.arange(DIM) % 2 == 0,
    "columns": (slice(None), [7, 1]),
    "grid of columns": (slice(1, 3), np.array([[7, 1, 0], [2, 2, 2]])),
    "mask of columns": (slice(None), np.arange(ROWS) > 6),
    "pairs": ([0, 4], [7, 1]),
    "product": (np.array([[0], [4]]), np.array([7, 1, 2])),
    "row and columns": (1, [7, 1]),
    "all": ...,
    "all and a column": (..., 3),
    "a row and all": (3, ...),
    "nothing": (),
    "none": slice(0, 0),
}
OF_THE_WHOLE: dict[str, Any] = {
    "new axis": None,
    "new axis in the middle": (slice(None), None, 3),
    "mask of the whole": np.arange(ROWS * DIM).reshape(DIM, ROWS) % 3 == 0,
    "True": True,
    "three": (..., 1, 2),
}
FAULTY: dict[str, Any] = {
    "beyond": DIM,
    "column beyond": (0, ROWS),
    "long mask": np.ones(ROWS, bool),
    "fraction": 0.5,
    "text": (slice(None), {}),
    "many": (0, 0, 0),
    "ellipses": (..., ...),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.usefixtures("in_parts")
def test_reads_what_numpy_reads(store: qstore.Store, name: str) -> None:
    equal(store.T[KEYS[name]], store[:].T[KEYS[name]])


@pytest.mark.parametrize("name", OF_THE_WHOLE)
def test_other_keys_are_of_the_array(store: qstore.Store, name: str) -> None:
    equal(store.T[OF_THE_WHOLE[name]], store[:].T[OF_THE_WHOLE[name]])


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_keys_are_told_in_the_words_of_numpy(store: qstore.Store, name: str) -> None:
    expected = outcome(lambda: store[:].T[FAULTY[name]])
    with pytest.raises(IndexError) as caught:
        store.T[FAULTY[name]]
    assert type(expected) is IndexError
    if "out of bounds" in str(expected) or "did not match" in str(expected):
        assert str(caught.value) == str(expected)


def test_columns_by_their_keys(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "words.h5", keys=["king", "queen", "pawn"])
    with qstore.open(tmp_path / "words.h5") as store:
        equal(store.T[:, "queen"], store["queen"])
        equal(store.T[:2, ["pawn", "king"]], store[["pawn", "king"]].T[:2])
        with pytest.raises(KeyError, match="rook"):
            store.T[:, "rook"]


@pytest.mark.usefixtures("in_parts")
def test_iteration_and_lists(store: qstore.Store) -> None:
    expected = store[:].T
    rows = list(store.T)
    assert len(rows) == DIM
    equal(np.array(rows), expected)
    assert store.T.tolist() == expected.tolist()
    assert expected[2, 3] in store.T
    assert 1e9 not in store.T


def test_a_view_is_not_changed(store: qstore.Store) -> None:
    before = store[:]
    changed: Any = store.T
    works: list[Any] = [
        lambda: changed.__iadd__(1),
        lambda: np.add(1, 2, out=changed),
        lambda: np.add.at(changed, 0, 1),
        lambda: np.add.reduce(np.ones((2, 2)), out=changed),
        lambda: operator.setitem(changed, 0, 1),
    ]
    for work in works:
        with pytest.raises(TypeError, match=r"a store cannot be changed|does not support item assignment"):
            work()
    equal(store[:], before)


def test_it_is_pickled(store: qstore.Store) -> None:
    again = pickle.loads(pickle.dumps(store.T))
    equal(np.asarray(again), store[:].T)
    again.T.close()


@pytest.mark.parametrize("name", ["reshape", "flatten", "argmax", "copy", "take"])
def test_what_it_has_not_says_the_way(store: qstore.Store, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"a Transposed has no {name}: store\[:\]\.T\.{name} is that"):
        getattr(store.T, name)
    assert hasattr(store[:].T, name)
    with pytest.raises(AttributeError, match=r"a Transposed has no wings$"):
        store.T.wings  # type: ignore[attr-defined]  # noqa: B018


# Operators and sums ---------------------------------------------------------------------------------------

OPERANDS: dict[str, Any] = {
    "2": 2,
    "2.5": 2.5,
    "10**400": 10**400,
    "float64": np.float64(1 / 3),
    "row": np.linspace(0, 1, ROWS),
    "list": [1.5] * ROWS,
    "column": np.linspace(0, 1, DIM, dtype=np.float32)[:, None],
    "matrix": np.arange(ROWS * DIM, dtype=np.int16).reshape(DIM, ROWS),
    "0-d": np.array(3.0),
    "one row": np.ones((1, ROWS), np.float32),
    "cube": np.ones((2, DIM, ROWS)),
    "too wide": np.ones(ROWS + 1),
    "too long": np.ones((DIM + 1, ROWS)),
    "not turned": np.ones((ROWS, DIM)),
    "None": None,
    "text": "queen",
}
BINARY: list[Any] = [
    operator.add,
    operator.sub,
    operator.truediv,
    operator.pow,
    divmod,
    operator.gt,
    operator.eq,
    operator.ne,
    np.hypot,
]


@pytest.mark.parametrize("name", OPERANDS)
def test_with_an_operand_on_either_side(store: qstore.Store, name: str) -> None:
    x, array = OPERANDS[name], store[:].T
    for apply in BINARY:
        for mine, theirs in (((store.T, x), (array, x)), ((x, store.T), (x, array))):
            expected, found = outcome(partial(apply, *theirs)), outcome(partial(apply, *mine))
            if isinstance(expected, Exception):
                assert isinstance(found, type(expected)), (apply, found, expected)
                if "broadcast" in str(expected):
                    assert str(found) == str(expected)
            else:
                equal(found, expected)


@pytest.mark.parametrize(
    "apply", [operator.neg, abs, np.sqrt, np.modf, np.isnan], ids=lambda apply: apply.__name__
)
@pytest.mark.usefixtures("in_parts")
def test_of_itself(store: qstore.Store, apply: Any) -> None:
    with np.errstate(invalid="ignore"):
        equal(apply(store.T), apply(store[:].T))


def test_equality_is_of_values(store: qstore.Store) -> None:
    equal(store.T == store.T, np.ones((DIM, ROWS), bool))
    equal(store.T != store[:].T, np.zeros((DIM, ROWS), bool))
    with pytest.raises(ValueError, match=r"shapes \(11,5\) \(5,11\)"):
        store == store.T  # noqa: B015


def test_into_what_is_given(store: qstore.Store) -> None:
    turned, array = store.T, store[:].T
    out = np.full((DIM, ROWS), 7.0)
    where = np.arange(ROWS * DIM).reshape(DIM, ROWS) % 2 == 0
    assert np.add(turned, 1, out=out, where=where) is out
    equal(out, np.where(where, array + np.float32(1), 7).astype(float))
    cube = np.empty((2, DIM, ROWS))
    assert np.add(turned, 1, out=cube) is cube
    equal(cube, np.stack([array + np.float32(1)] * 2).astype(float))
    rest = np.empty((DIM, ROWS), np.float32)
    found = np.modf(turned, out=(rest, None))  # type: ignore[arg-type]
    assert found[0] is rest
    equal(found, np.modf(array))
    out += turned
    equal(np.add(turned, 1, dtype="f8"), np.add(array, 1, dtype="f8"))
    equal(np.add.accumulate(turned, axis=1), np.add.accumulate(array, axis=1))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2, (0, 1), (-1,)])
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "min", "max"])
@pytest.mark.usefixtures("in_parts")
def test_over_axes(store: qstore.Store, name: str, axis: Any) -> None:
    array = store.astype("float64")[:].T if name in ("sum", "mean", "var", "std") else store[:].T
    for keepdims in (False, True):
        expected = getattr(array, name)(axis=axis, keepdims=keepdims)
        for found in (
            getattr(store.T, name)(axis, keepdims=keepdims),
            getattr(np, name)(store.T, axis=axis, keepdims=keepdims),
        ):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        out = np.empty(expected.shape)
        assert getattr(store.T, name)(axis, keepdims=keepdims, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-12)


def test_reductions_of_functions(store: qstore.Store) -> None:
    array = store[:].T
    np.testing.assert_allclose(np.add.reduce(store.T), store.astype("f8")[:].T.sum(0), rtol=1e-12)
    equal(np.any(store.T > 0, axis=1), np.any(array > 0, axis=1))
    equal(np.all(store.T, axis=0, keepdims=True), np.all(array, axis=0, keepdims=True))
    where = array > 0
    np.testing.assert_allclose(np.add.reduce(store.T, where=where), np.add.reduce(array, where=where))
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
        store.T.sum(2)
    with pytest.raises(TypeError, match="axis is 'rows', expected 0, 1"):
        store.T.sum("rows")


# Products -------------------------------------------------------------------------------------------------


def test_products(store: qstore.Store) -> None:
    queries, weights = np.random.default_rng(1).standard_normal((2, 4, ROWS))
    queries = queries[:, :DIM]
    turned = store.T
    equal(queries @ turned, (store @ queries.T).T)
    equal(queries[0] @ turned, store @ queries[0])
    equal(turned @ weights[0], weights[0] @ store)
    equal(turned @ weights.T, (weights @ store).T)
    equal(np.matmul(turned, weights[0]), weights[0] @ store)
    equal(turned.rmatvec(queries[0]), store @ queries[0])
    np.testing.assert_allclose(store @ turned, store[:] @ store[:].T, atol=1e-5)
    np.testing.assert_allclose(turned @ store, store[:].T @ store[:], atol=1e-5)


def test_faults_of_products(store: qstore.Store) -> None:
    with pytest.raises(ValueError, match=r"x has shape \(3, 2\), expected \(11,\) or \(11, m\)"):
        store.T @ np.ones((3, 2))
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\), expected \(5,\) or \(m, 5\)"):
        np.ones((2, 3)) @ store.T
    with pytest.raises(ValueError, match=r"x has shape \(5, 11\), expected \(11,\) or \(11, m\)"):
        store.T @ store.T
    with pytest.raises(ValueError, match=r"x\[4, 1\] is nan, expected finite numbers"):
        store.T @ np.where(np.arange(2 * ROWS).reshape(ROWS, 2) == 9, np.nan, 1)
    with pytest.raises(ValueError, match="expected 1 or 2 dimensions of real numbers"):
        store.T @ 2


# In the hands of libraries --------------------------------------------------------------------------------


def test_scipy(store: qstore.Store) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    array = store.astype("float64")[:].T
    for kind in (sparse.csr_array, sparse.csr_matrix, sparse.coo_array):
        x = kind(sparse.random(ROWS, 3, density=0.5, rng=np.random.default_rng(1)))
        y = kind(sparse.random(DIM, ROWS, density=0.5, rng=np.random.default_rng(2)))
        found = store.T @ x
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, array @ x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(y.T @ store.T, y.T @ array, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(store.T + y, array + y, rtol=1e-6)
        with pytest.raises(ValueError, match=r"x has shape \(5, 11\), expected \(11,\) or \(11, m\)"):
            store.T @ y
    with pytest.raises(TypeError, match=r"numpy\.hypot cannot take a store and a csr_array"):
        np.hypot(store.T, sparse.csr_array(y))
    values = linalg.svds(store.T, k=2)[1]
    np.testing.assert_allclose(np.sort(values), np.linalg.svd(array)[1][1::-1], rtol=1e-5)
    as_operator = linalg.aslinearoperator(store.T)
    np.testing.assert_allclose(as_operator.matvec(np.ones(ROWS)), array.sum(1))
    np.testing.assert_allclose(as_operator.rmatvec(np.ones(DIM)), array.sum(0))


def test_pandas(store: qstore.Store) -> None:
    pandas = pytest.importorskip("pandas")
    array, names = store[:].T, list("abcde")
    weights = pandas.DataFrame(np.ones((ROWS, 2)), columns=["x", "y"])
    table = pandas.DataFrame(np.ones((DIM, ROWS)), index=names)
    pandas.testing.assert_frame_equal(store.T @ weights, array @ weights)
    pandas.testing.assert_frame_equal(store.T + table, array + table)
    pandas.testing.assert_frame_equal(table - store.T, table - array)
    pandas.testing.assert_frame_equal(table == store.T, table == array)
    pandas.testing.assert_frame_equal(pandas.DataFrame(store.T), pandas.DataFrame(array))


def test_dask(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dask_array = pytest.importorskip("dask.array")
    array, y = store[:].T, dask_array.ones((DIM, ROWS), chunks=(2, -1))
    read = type(store).__getitem__

    def refuse(self: Any, key: Any) -> Any:
        found = read(self, key)
        assert found.size == 0
        return found

    monkeypatch.setattr(type(store), "__getitem__", refuse)
    lazy = [store.T @ dask_array.ones((ROWS, 3)), y.T @ store.T, store.T + y, y - store.T]
    assert all(isinstance(one, dask_array.Array) for one in lazy)
    monkeypatch.undo()
    wanted = [array @ np.ones((ROWS, 3)), np.ones((ROWS, DIM)) @ array, array + 1, 1 - array]
    for one, expected in zip(lazy, wanted, strict=True):
        np.testing.assert_allclose(one.compute(scheduler="synchronous"), expected, rtol=1e-6)


def test_torch(store: qstore.Store) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(store[:].T.copy())
    for make in (torch.as_tensor, torch.tensor, torch.from_dlpack):
        assert torch.equal(make(store.T), expected)
    equal(np.from_dlpack(store.T), store[:].T)
    equal(store.T @ torch.ones(ROWS, 2), store.T @ np.ones((ROWS, 2)))
    equal(torch.ones(2, DIM) @ store.T, np.ones((2, DIM)) @ store.T)
    equal(torch.full((ROWS,), 2.0) * store.T, store[:].T * np.float32(2))


def test_masked_arrays_keep_their_mask(store: qstore.Store) -> None:
    masked = np.ma.masked_array(np.full(ROWS, 2.0), np.arange(ROWS) == 0)
    for found in (masked * store.T, store.T * masked):
        assert isinstance(found, np.ma.MaskedArray)
        assert np.ma.getmaskarray(found)[:, 0].all()
        np.testing.assert_array_equal(found[:, 1:].data, store[:].T[:, 1:] * 2.0)


@pytest.mark.usefixtures("in_parts")
def test_a_store_of_it(store: qstore.Store, tmp_path: Path) -> None:
    qstore.build(store.T, tmp_path / "turned.h5")
    qstore.build(store[:].T, tmp_path / "expected.h5")
    with qstore.open(tmp_path / "turned.h5") as found, qstore.open(tmp_path / "expected.h5") as expected:
        equal(found.codes, expected.codes)
        equal(found.scales, expected.scales)


HUNGRY: dict[str, Callable[[Any], Any]] = {
    "* 2": lambda turned: turned * 2,
    "row - ": lambda turned: np.ones(2000, np.float32) - turned,
    "== ": lambda turned: turned == turned,
    "sum": lambda turned: turned.sum(0),
    "[3:5]": lambda turned: turned[3:5],
    "[:, 7]": lambda turned: turned[:, 7],
}


@pytest.mark.parametrize("name", HUNGRY)
def test_memory_is_the_result_and_a_block(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(reductions, "_BLOCK_BYTES", 1 << 16)
    values: NDArray[Any] = np.random.default_rng(3).standard_normal((2000, 256))
    with open_as("file", values, tmp_path, (700, 1400)) as store:
        work = HUNGRY[name]
        result = work(store.T)
        np.testing.assert_allclose(result, work(store[:].T), rtol=1e-3, atol=1e-5)
        extra = result.nbytes if name == "== " else 0  # two stores
        assert peak_of(lambda: work(store.T)) <= result.nbytes + extra + (400 << 10)
