"""Sums, means, deviations and extremes over axes: float64, the same bits of every kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.arrays import reductions
from qstore.engine import quantization

ROWS, DIM = 101, 7
CUTS = (1, 1, 60)
VALUES = np.random.default_rng(2).standard_normal((ROWS, DIM)) * np.logspace(-9, 9, ROWS)[:, None]

NAMES: list[Any] = ["sum", "mean", "var", "std", "min", "max"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, qstore.Store]]:
    folder = tmp_path_factory.mktemp("summed")
    opened = {kind: open_as(kind, VALUES, folder, CUTS) for kind in KINDS}
    yield opened
    for store in opened.values():
        store.close()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "_BLOCK_BYTES", 8 * DIM * 13)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (1,)])
@pytest.mark.parametrize("name", NAMES)
def test_as_numpy_of_float64(stores: dict[str, qstore.Store], name: str, axis: Any) -> None:
    exact = stores["file"].astype("float64")[:]
    bits = set()
    for store in stores.values():
        for found in (getattr(store, name)(axis), getattr(np, name)(store, axis=axis)):
            assert found.dtype == (np.float32 if name in ("min", "max") else np.float64)
            if name in ("min", "max"):
                np.testing.assert_array_equal(found, getattr(store[:], name)(axis))
            else:
                scale = np.abs(exact).sum(axis) if name == "sum" else np.abs(exact).mean(axis)
                expected = getattr(exact, name)(axis)
                assert found.shape == expected.shape
                assert (np.abs(found - expected) <= 1e-14 * np.maximum(scale, np.abs(expected))).all()
            bits.add(np.asarray(found).tobytes())
        np.testing.assert_array_equal(
            getattr(store, name)(axis, keepdims=True).shape, getattr(exact, name)(axis, keepdims=True).shape
        )
    assert len(bits) == 1


def test_sums_do_not_lose_what_float32_loses(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "ones.h5"
    if not path.exists():
        qstore.build(np.concatenate([np.full((1, 2), 2.0**24), np.ones((1000, 2))]), path)
    with qstore.open(path) as store:
        assert store.sum(axis=0).tolist() == [2.0**24 + 1000] * 2
        assert store[:].sum(axis=0).tolist() != store.sum(axis=0).tolist()
        assert store.astype("float16").max() == np.inf
        assert store.astype("float16").sum(axis=0).tolist() == [2.0**24 + 1000] * 2


def test_options(stores: dict[str, qstore.Store]) -> None:
    store = stores["shards"]
    assert store.mean(0, dtype="float32").dtype == np.float32
    assert np.mean(store, axis=0, dtype=np.float32).dtype == np.float32
    out = np.empty(DIM)
    assert store.sum(0, out=out) is out
    np.testing.assert_array_equal(out, store.sum(0))
    assert np.sum(store, axis=0, out=out) is out
    np.testing.assert_allclose(store.var(0, ddof=1), store.var(0) * ROWS / (ROWS - 1))
    np.testing.assert_allclose(np.std(store, axis=1, ddof=1), store.std(1) * np.sqrt(DIM / (DIM - 1)))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((2,), {}, np.exceptions.AxisError, "axis 2 is out of bounds for array of dimension 2"),
        (((),), {}, ValueError, r"axis is \(\), expected 0, 1 or None"),
        ((0,), {"dtype": int}, ValueError, "dtype is int64, expected a floating type"),
        ((0,), {"out": np.empty(3)}, ValueError, r"out has shape \(3,\), expected \(7,\)"),
        ((0,), {"where": True}, TypeError, r"found where: store\[:\]\.sum\(…\) takes all options"),
        ((0,), {"initial": 1}, TypeError, r"found initial: store\[:\]\.sum"),
    ],
)
def test_faults(
    stores: dict[str, qstore.Store], arguments: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        stores["file"].sum(*arguments, **options)


def test_reductions_of_functions(stores: dict[str, qstore.Store]) -> None:
    exact, array = stores["file"].astype("float64")[:], stores["file"][:]
    for store in stores.values():
        np.testing.assert_allclose(np.add.reduce(store), exact.sum(0), rtol=1e-9)
        np.testing.assert_allclose(np.prod(store[:5] / 1e-9), np.prod(exact[:5] / 1e-9), rtol=1e-5)
        np.testing.assert_allclose(np.prod(store, axis=1), np.prod(exact, axis=1))
        np.testing.assert_array_equal(np.maximum.reduce(store, axis=1), array.max(1))
        np.testing.assert_array_equal(np.fmin.reduce(store, axis=0, keepdims=True), array.min(0)[None])
        assert np.any(store)
        assert np.all(store) == np.all(array)
        np.testing.assert_array_equal(np.any(store, axis=1, keepdims=True), array.any(1, keepdims=True))
        np.testing.assert_array_equal(
            np.add.reduce(store, axis=0, where=array > 0, initial=1), array.sum(0, where=array > 0, initial=1)
        )
        assert np.ptp(array) == np.max(store) - np.min(store)
        np.testing.assert_array_equal(np.argmax(store, axis=1), array.argmax(1))


def test_of_no_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "unsummed.h5"
    if not path.exists():
        qstore.build(np.empty((0, DIM)), path)
    with qstore.open(path) as empty:
        assert empty.sum(0).tolist() == [0] * DIM
        assert (empty.sum(), empty.sum(1).shape) == (0, (0,))
        with pytest.raises(ValueError, match="zero-size array to reduction operation maximum"):
            empty.max(0)
        with pytest.warns(RuntimeWarning):
            assert np.isnan(empty.mean(0)).all()


def test_memory_is_a_block(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(quantization, "_READ_VALUES", 1 << 12)
    values: NDArray[Any] = np.random.default_rng(3).standard_normal((4000, 256))
    for kind in KINDS[:2]:
        with open_as(kind, values, tmp_path_factory.mktemp("wide"), (700, 1400)) as store:
            for name in NAMES:
                for axis in (None, 0, 1):
                    assert peak_of(partial(getattr(store, name), axis)) <= 400 << 10
