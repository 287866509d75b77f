"""compare: every figure against the float64 matrices of both stores; rows matched by number and by key."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.format import layout

MakeStore = Callable[..., qstore.Store]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 50 * 48)


def changed_copy(matrix: NDArray[Any]) -> NDArray[Any]:
    changed = matrix.copy()
    generator = np.random.default_rng(1)
    for row in (3, 999, 1700, 2500):
        changed[row] += generator.standard_normal(48) * row / 1000
    changed[5] = 1.0  # it was zeros
    changed[7] = 0.0
    return changed


def test_every_figure(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    a, b = make_store(matrix, "a.h5"), make_store(changed_copy(matrix), "b.h5")
    found = qstore.compare(a, b, k=4)
    x, y = a.astype("float64")[:], b.astype("float64")[:]
    rows = np.array([3, 5, 7, 999, 1700, 2500])
    assert (found.equal, found.rows_compared, found.rows_changed) == (False, 3001, 6)
    with np.errstate(divide="ignore", invalid="ignore"):
        drift = np.linalg.norm(y - x, axis=1) / np.linalg.norm(x, axis=1)
        cosine = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    order = rows[np.argsort(-drift[rows], kind="stable")][:4]
    assert [one.row_a for one in found.most_drifted] == order.tolist()
    assert [one.row_b for one in found.most_drifted] == order.tolist()
    assert found.most_drifted[0].drift == np.inf
    assert np.isnan(found.most_drifted[0].cosine)
    for one in found.most_drifted[1:]:
        assert one.drift == pytest.approx(drift[one.row_a], rel=1e-12)
        expected = 0.0 if one.row_a == 7 else cosine[one.row_a]
        assert one.cosine == pytest.approx(expected, rel=1e-12)
        assert one.key is None
    assert found.drift.count == 6
    assert found.angles.count == 5
    assert found.angles.maximum == pytest.approx(max(1.0, *(1 - cosine[[3, 999, 1700, 2500]])), rel=1e-12)
    assert found.differences == ("6 of 3,001 rows changed",)


def test_equal_stores_and_paths(make_store: MakeStore, matrix: NDArray[np.float32], no_leaks: None) -> None:
    a, b = make_store(matrix, "a.h5"), make_store(matrix, "b.h5", rows=(0, 3001))
    found = qstore.compare(a.path, Path(b.path), threads=1)
    assert (found.equal, found.rows_changed, found.differences, found.most_drifted) == (True, 0, (), ())
    assert np.isnan(found.drift.mean)
    a.close()
    b.close()


def test_threads_change_nothing(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    generator = np.random.default_rng(2)
    a = make_store(matrix, "a.h5")
    b = make_store(matrix + generator.standard_normal(matrix.shape).astype(np.float32), "b.h5")
    one, three = qstore.compare(a, b, threads=1), qstore.compare(a, b, threads=3)
    assert one.drift.mean == three.drift.mean
    assert one.drift.percentiles == three.drift.percentiles
    assert repr(one.most_drifted) == repr(three.most_drifted)  # NaN does not equal itself


def test_other_shapes(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    a = make_store(matrix, "a.h5")
    shorter = qstore.compare(a, make_store(matrix[:2000], "b.h5"))
    assert (shorter.equal, shorter.rows_compared, shorter.rows_changed) == (False, 2000, 0)
    assert shorter.differences == ("3,001 rows against 2,000: the first 2,000 were compared",)
    narrower = qstore.compare(a, make_store(matrix[:, :40], "c.h5"))
    assert (narrower.equal, narrower.rows_compared) == (False, 0)
    assert "48 columns against 40: no rows were compared" in narrower.differences
    empty = make_store(np.zeros((0, 48)), "d.h5")
    assert qstore.compare(empty, empty).equal
    assert not qstore.compare(a, empty).equal


def test_rows_are_matched_by_key(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    keys = [f"word {row}" for row in range(3001)]
    a = make_store(matrix, "a.h5", keys=keys)
    order = np.random.default_rng(3).permutation(3001)[:2900]
    shuffled = changed_copy(matrix)[order]
    b = make_store(shuffled, "b.h5", keys=[*(keys[row] for row in order[:-1]), "new"])
    found = qstore.compare(a, b, k=100)
    assert found.keys is not None
    assert (found.keys.added, found.keys.removed) == (1, 3001 - 2899)
    assert found.keys.added_examples == ("new",)
    gone = sorted(set(range(3001)) - set(order[:-1].tolist()))
    assert found.keys.removed_examples == tuple(keys[row] for row in gone[:5])
    assert found.keys.moved == sum(order[:-1] != np.arange(2899))
    assert found.rows_compared == 2899
    expected = {3, 5, 7, 999, 1700, 2500} & set(order[:-1].tolist())
    assert {one.row_a for one in found.most_drifted} == expected
    for one in found.most_drifted:
        assert one.key == keys[one.row_a]
        assert order[one.row_b] == one.row_a
    assert qstore.compare(a, a).equal


def test_keys_alone_may_differ(make_store: MakeStore) -> None:
    matrix = np.arange(12.0).reshape(4, 3)
    a = make_store(matrix, "a.h5", keys=[1, 2, 3, 4])
    moved = qstore.compare(a, make_store(matrix[[1, 0, 2, 3]], "b.h5", keys=[2, 1, 3, 4]))
    assert (moved.equal, moved.rows_changed) == (False, 0)
    assert moved.keys == qstore.KeyChanges(0, 0, 2, (), (), (1, 2))
    assert moved.differences == ("keys: 0 added, 0 removed, 2 moved",)
    without = qstore.compare(a, make_store(matrix, "c.h5"))
    assert (without.equal, without.rows_compared, without.keys) == (False, 4, None)
    assert without.differences == ("keys: integer against none; rows were matched by number",)
    texts = qstore.compare(a, make_store(matrix, "d.h5", keys=list("wxyz")))
    assert texts.differences == ("keys: integer against text; rows were matched by number",)


def test_keys_of_stores_of_other_widths(make_store: MakeStore) -> None:
    a = make_store(np.ones((3, 2)), "a.h5", keys=list("xyz"))
    b = make_store(np.ones((3, 4)), "b.h5", keys=list("yzw"))
    found = qstore.compare(a, b)
    assert found.rows_compared == 0
    assert found.keys == qstore.KeyChanges(1, 1, 2, ("w",), ("x",), ("y", "z"))


def test_how_many_rows_are_named(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    a, b = make_store(matrix, "a.h5"), make_store(-matrix, "b.h5")
    assert [one.row_a for one in qstore.compare(a, b, k=3).most_drifted] == [0, 1, 2]  # all drift by 2
    assert qstore.compare(a, b, k=0).most_drifted == ()
    with pytest.raises(ValueError, match="k is -1"):
        qstore.compare(a, b, k=-1)


def test_what_is_opened_is_closed_when_something_fails(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(np.ones((2, 2)))
    with pytest.raises(FileNotFoundError):
        qstore.compare(store.path, tmp_path / "missing.h5")
    gc.collect()
    assert store[0].tolist() == [1, 1]
