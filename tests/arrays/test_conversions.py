"""What libraries and Python get of a store: tensors, lists, types, rows, and errors with the way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from three_kinds import KINDS, open_as

import qstore

ROWS, DIM = 60, 5


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    with open_as(request.param, values, tmp_path_factory.mktemp("converted"), (1, 1, 6)) as opened:
        yield opened


@pytest.fixture
def at_once(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> qstore.Store:
    """The store, which must not be asked for rows one by one."""

    def refuse(self: Any, *given: Any) -> Any:
        raise AssertionError("a row was asked for")

    for name in ("__getitem__", "__iter__", "__len__"):
        monkeypatch.setattr(type(store), name, refuse)
    return store


def whole(store: qstore.Store) -> Any:
    return store._mapping.read_slice(slice(None), slice(None), store.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_torch_takes_it_at_once(at_once: qstore.Store, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    read = at_once.astype(dtype)
    expected = torch.from_numpy(whole(read))
    for make in (torch.as_tensor, torch.tensor, torch.asarray, torch.from_dlpack):
        found = make(read)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    assert torch.equal(torch.as_tensor(read, dtype=torch.float64), expected.double())
    found += 1  # its own memory
    assert torch.equal(torch.as_tensor(read), expected)


def test_torch_cosines_as_sentence_transformers_has_them(at_once: qstore.Store) -> None:
    """Its ``cos_sim`` makes tensors of both sides by ``torch.tensor``, and normalizes them."""
    torch = pytest.importorskip("torch")

    def cos_sim(a: Any, b: Any) -> Any:
        a, b = (x if isinstance(x, torch.Tensor) else torch.tensor(x) for x in (a, b))
        a, b = (torch.nn.functional.normalize(x, p=2, dim=1) for x in (a, b))
        return torch.mm(a, b.transpose(0, 1))

    found = cos_sim(at_once, at_once)
    assert found.shape == (ROWS, ROWS)
    torch.testing.assert_close(found.diagonal(), torch.ones(ROWS))


def test_numpy_takes_it_by_dlpack(at_once: qstore.Store) -> None:
    for options in ({}, {"copy": True}, {"device": "cpu"}):
        np.testing.assert_array_equal(np.from_dlpack(at_once, **options), whole(at_once))
    assert at_once.__dlpack_device__() == np.empty(0).__dlpack_device__()
    for asked in ({}, {"max_version": (1, 0)}, {"max_version": (1, 1), "dl_device": (1, 0), "copy": True}):
        assert "dltensor" in repr(at_once.__dlpack__(**asked))


def test_dlpack_refuses_before_it_reads(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *given: Any) -> Any:
        raise AssertionError("the matrix was read")

    monkeypatch.setattr(type(store._mapping), "read_slice", refuse)
    with pytest.raises(BufferError, match="a tensor without a copy is impossible"):
        store.__dlpack__(copy=False)
    with pytest.raises(BufferError, match="a tensor without a copy is impossible"):
        np.from_dlpack(store, copy=False)
    with pytest.raises(RuntimeError, match="stream"):
        store.__dlpack__(stream=1)
    with pytest.raises((BufferError, ValueError), match="device"):
        store.__dlpack__(dl_device=(2, 0))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "complex64", ">f4", "longdouble", object]
)
def test_arrays_of_any_type(store: qstore.Store, dtype: Any) -> None:
    wanted = np.dtype(dtype)
    expected = store.astype(wanted)[:] if wanted.name in ("float64", "float16") else store[:].astype(wanted)
    for found in (np.asarray(store, dtype), np.array(store, dtype), store.__array__(wanted)):
        assert found.dtype == wanted
        np.testing.assert_array_equal(found, expected)


def test_astype_reads_from_the_codes(store: qstore.Store) -> None:
    """However many there are on the way: no value is rounded twice."""
    chain = store.astype("float16").astype("float32", copy=False).astype(np.float64, copy=True)
    assert type(chain) is qstore.Store
    np.testing.assert_array_equal(chain[:], store.astype("float64")[:])
    with pytest.raises(ValueError, match=r'np\.asarray\(store, "int8"\) makes an array of other types'):
        store.astype("int8")


def test_astype_gives_a_plain_store(store: qstore.Store) -> None:
    """Whatever class the store is of: a class of one's own may need more than a store has."""

    class Named(qstore.Store):
        pass

    named = Named(store._mapping, store.dtype)
    assert type(named.astype("float64")) is qstore.Store
    half = named.astype("float16")
    assert isinstance(half, qstore.Store)
    assert not isinstance(half, Named)
    assert type(half.astype("float32")) is qstore.Store


def test_lists_rows_and_lengths(store: qstore.Store) -> None:
    assert store.tolist() == store[:].tolist()
    assert len(store) == len(list(store)) == ROWS
    np.testing.assert_array_equal(np.array(list(store)), store[:])
    assert bool(store)
    with pytest.raises(TypeError, match="`in` looks for a text key"):
        assert 0.5 in store


@pytest.mark.parametrize("name", ["reshape", "flatten", "argmax", "cumsum", "copy", "flat", "dot", "sort"])
def test_what_a_store_has_not_says_the_way(store: qstore.Store, name: str) -> None:
    assert not hasattr(store, name)
    with pytest.raises(AttributeError, match=rf"a Store has no {name}: store\[:\]\.{name} is that of"):
        getattr(store, name)
    assert hasattr(store[:], name)
    with pytest.raises(AttributeError, match=r"a Store has no wings$"):
        store.wings  # type: ignore[attr-defined]  # noqa: B018


def test_errors_of_properties_are_their_own(store: qstore.Store) -> None:
    if store.path.startswith("/") and len(store.shards) == 1:
        assert store.codes.shape == (ROWS, DIM)
    else:
        with pytest.raises(qstore.NoViewError, match="do not lie in one piece"):
            store.codes  # noqa: B018


def test_other_functions_of_numpy_take_the_array(store: qstore.Store) -> None:
    array = store[:]
    np.testing.assert_array_equal(np.argsort(store, axis=1), np.argsort(array, axis=1))
    np.testing.assert_array_equal(np.linalg.norm(store, axis=1), np.linalg.norm(array, axis=1))
    np.testing.assert_array_equal(np.transpose(store), array.T)
    np.testing.assert_array_equal(np.reshape(store, (DIM, ROWS)), array.reshape(DIM, ROWS))
    np.testing.assert_array_equal(np.concatenate([store, store]), np.concatenate([array, array]))
    np.testing.assert_allclose(np.dot(np.ones(ROWS), store), np.dot(np.ones(ROWS), array), rtol=1e-5)
    assert np.array_equal(store, array)
    assert np.allclose(store, array)


def test_reading_a_row_imports_nothing_of_it(tmp_path: Path) -> None:
    qstore.build(np.ones((8, 2)), tmp_path / "x.h5")
    script = (
        "import sys, qstore; qstore.open(sys.argv[1])[7]; print([m for m in sys.modules if 'qstore' in m])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.h5")], capture_output=True, text=True, check=True
    )
    assert "'qstore.store'" in run.stdout
    assert "'qstore.arrays.methods'" in run.stdout
    for name in (
        "arithmetic",
        "products",
        "reductions",
        "any_key",
        "taking",
        "rows_by_key",
        "analysis",
        "progress",
    ):
        assert f".{name}'" not in run.stdout
