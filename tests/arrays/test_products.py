"""Products from both sides, the transposed matrix, and SciPy's linear operators."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_kinds import KINDS, open_as, peak_of

import qstore
from qstore.arrays import products, reductions

ROWS, DIM = 300, 6
CUTS = (1, 1, 60)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, qstore.Store]]:
    folder = tmp_path_factory.mktemp("multiplied")
    values = np.random.default_rng(2).standard_normal((ROWS, DIM))
    opened = {kind: open_as(kind, values, folder, CUTS) for kind in KINDS}
    yield opened
    for store in opened.values():
        store.close()


def left(m: int | None = None) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.random.default_rng(5).standard_normal(ROWS if m is None else (m, ROWS))
    return found


@pytest.mark.parametrize("m", [None, 0, 1, 3])
def test_from_the_left(
    stores: dict[str, qstore.Store], m: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_SUMMED_VALUES", 16 * DIM)
    monkeypatch.setattr(products, "_READ_CODES", 40 * DIM)
    x = left(m)
    exact = x @ stores["file"].astype("float64")[:]
    bits = set()
    for store in stores.values():
        for found in (x @ store, np.matmul(x, store), store.__rmatmul__(x), (store.T @ x.T).T):
            assert (found.shape, found.dtype) == (exact.shape, np.float64)
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)
            bits.add(np.ascontiguousarray(found).tobytes())
    assert len(bits) == 1


def test_sums_over_a_block_are_exact(stores: dict[str, qstore.Store]) -> None:
    """Where float64 adds up to nothing, or to anything: the weights cancel."""
    store = stores["file"]
    codes, scales = store.take_codes([3, 4, 5])
    x = np.zeros(ROWS)
    x[3:6] = [2.0**60, 1.0, -(2.0**60)]
    weights = [
        Fraction(weight * scale) for weight, scale in zip(x[3:6].tolist(), scales.tolist(), strict=True)
    ]
    for column, found in zip(codes.T.tolist(), (x @ store).tolist(), strict=True):
        exact = sum(weight * (code - 128) for weight, code in zip(weights, column, strict=True))
        assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(1, 2**52)


def test_huge_weights_overflow_as_floats_do(stores: dict[str, qstore.Store]) -> None:
    x = np.full(ROWS, 1e308)
    with np.errstate(all="ignore"):
        found = x @ stores["file"]
    assert not np.isfinite(found).all()


def test_faults(stores: dict[str, qstore.Store]) -> None:
    store = stores["shards"]
    with pytest.raises(ValueError, match=r"x has shape \(3, 6\), expected \(300,\) or \(m, 300\)"):
        np.ones((3, DIM)) @ store
    with pytest.raises(ValueError, match=r"x has shape \(300,\), expected \(6,\) or \(6, m\)"):
        store @ np.ones(ROWS)
    with pytest.raises(ValueError, match=r"x\[1\] is nan, expected finite numbers"):
        np.where(np.arange(ROWS) == 1, np.nan, 1) @ store
    with pytest.raises(ValueError, match="expected 1 or 2 dimensions of real numbers"):
        np.ones((2, 3, ROWS)) @ store
    with pytest.raises(ValueError, match="expected 1 or 2 dimensions of real numbers"):
        store @ 2


def test_two_stores(stores: dict[str, qstore.Store], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "square.h5"
    if not path.exists():
        qstore.build(np.eye(DIM), path)
    with qstore.open(path) as square:
        np.testing.assert_allclose(stores["file"] @ square, stores["file"].astype("float64")[:], rtol=1e-12)
        np.testing.assert_allclose(np.matmul(stores["url"], square), stores["file"] @ square)


def test_linear_operators_of_scipy(stores: dict[str, qstore.Store]) -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    for store in stores.values():
        exact = store.astype("float64")[:]
        operator = linalg.aslinearoperator(store)
        assert operator.shape == (ROWS, DIM)
        assert operator.dtype == store.dtype
        np.testing.assert_array_equal(operator.matvec(np.ones(DIM)), store @ np.ones(DIM))
        np.testing.assert_array_equal(operator.rmatvec(left()), left() @ store)
        np.testing.assert_allclose(operator @ np.eye(DIM), exact)
        np.testing.assert_allclose(operator.H @ np.eye(ROWS), exact.T)
        np.testing.assert_allclose((store @ linalg.aslinearoperator(np.eye(DIM))), exact, rtol=1e-6)


def test_singular_values_of_scipy(stores: dict[str, qstore.Store]) -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    wanted = np.linalg.svd(stores["file"].astype("float64")[:], compute_uv=False)[:3]
    for store in stores.values():
        found = linalg.svds(store.astype("float64"), k=3, return_singular_vectors=False, rng=0)
        np.testing.assert_allclose(np.sort(found)[::-1], wanted, rtol=1e-9)
        left_vectors, found, right = linalg.svds(store, k=3, rng=0)
        np.testing.assert_allclose(np.sort(found)[::-1], wanted, rtol=1e-4)
        np.testing.assert_allclose(store @ right.T, left_vectors * found, atol=1e-3)


def test_memory_is_the_result_and_a_block(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr(products, "_BLOCK_VALUES", 1 << 12)
    monkeypatch.setattr(products, "_SUMMED_VALUES", 1 << 12)
    monkeypatch.setattr(products, "_READ_CODES", 1 << 12)
    monkeypatch.setattr(reductions, "_BLOCK_BYTES", 1 << 15)
    values: NDArray[Any] = np.random.default_rng(3).standard_normal((2000, 256))
    narrow, wide = np.ones((256, 64)), np.ones((4, 2000))
    few = sparse.random(256, 64, density=0.01, format="csr", rng=np.random.default_rng(0))
    for kind in KINDS[:2]:
        with open_as(kind, values, tmp_path_factory.mktemp("wide"), (700, 1400)) as store:
            result = store @ narrow
            assert peak_of(lambda s=store: s @ narrow) <= result.nbytes + (1 << 20)  # type: ignore[misc]
            assert peak_of(lambda s=store: wide @ s) <= 1 << 19  # type: ignore[misc]
            assert peak_of(lambda s=store: s @ few) <= 2 * result.nbytes + (1 << 19)  # type: ignore[misc]
