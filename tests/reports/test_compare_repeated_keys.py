"""compare: the rows of a key that stands several times belong together in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qstore
from qstore.format import layout

VALUES = np.arange(1.0, 13.0).reshape(6, 2)


@pytest.fixture
def compared(tmp_path: Path) -> Any:
    def compare(keys_a: list[Any], keys_b: list[Any], values_b: Any = VALUES) -> qstore.StoreComparison:
        for name, keys, values in (("a.h5", keys_a, VALUES), ("b.h5", keys_b, values_b)):
            qstore.build(
                values[: len(keys)],
                tmp_path / name,
                keys=keys,
                missing_keys="none",
                duplicates="first",
                overwrite=True,
            )
        return qstore.compare(tmp_path / "a.h5", tmp_path / "b.h5")

    return compare


@pytest.mark.parametrize(
    "keys", [["x", "y", "x"], ["x", "x", "x", None, "x", None], [7, 7, 8, 7, 8, 9]], ids=str
)
def test_a_store_equals_its_copy(compared: Any, keys: list[Any]) -> None:
    found = compared(keys, keys)
    assert (found.equal, found.rows_compared, found.rows_changed) == (True, len(keys), 0)
    assert found.keys == qstore.KeyChanges(0, 0, 0, (), (), ())


def test_a_store_equals_itself(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "s.h5", keys=["x", "y", "x"], duplicates="first")
    with qstore.open(tmp_path / "s.h5") as store:
        assert qstore.compare(store, store).equal
        assert qstore.compare(store, tmp_path / "s.h5").differences == ()


def test_a_later_row_of_a_key_that_changed(compared: Any) -> None:
    values = VALUES.copy()
    values[2] = [9.0, -7.0]
    found = compared(["x", "y", "x"], ["x", "y", "x"], values)
    assert (found.rows_changed, found.most_drifted[0].row_a, found.most_drifted[0].key) == (1, 2, "x")
    assert found.differences == ("1 of 3 rows changed",)


def test_rows_that_moved_keep_their_order(compared: Any) -> None:
    found = compared(["x", "y", "x", "x"], ["y", "x", "x", "x"], VALUES[[1, 0, 2, 3]])
    assert (found.rows_compared, found.rows_changed) == (4, 0)
    assert found.keys == qstore.KeyChanges(0, 0, 2, (), (), ("x", "y"))


def test_a_key_of_fewer_rows_or_more(compared: Any) -> None:
    found = compared(["x", "y", "x"], ["x", "y", "y", "z"], VALUES)
    assert (found.rows_compared, found.rows_changed, found.equal) == (2, 0, False)
    assert found.keys == qstore.KeyChanges(2, 1, 0, ("y", "z"), ("x",), ())
    assert found.differences == ("3 rows against 4", "keys: 2 added, 1 removed, 0 moved")


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.lists(st.sampled_from("abc"), min_size=1)
)
def test_against_counting(tmp_path_factory: pytest.TempPathFactory, a: list[str], b: list[str]) -> None:
    folder = tmp_path_factory.mktemp("counted")
    for name, keys in (("a.h5", a), ("b.h5", b)):
        values = np.array([[ord(key), keys[:row].count(key)] for row, key in enumerate(keys)], float)
        qstore.build(values, folder / name, keys=keys, duplicates="first")
    found = qstore.compare(folder / "a.h5", folder / "b.h5")
    common = {key: min(a.count(key), b.count(key)) for key in "abc"}
    assert (found.rows_compared, found.rows_changed) == (sum(common.values()), 0)
    assert found.keys is not None
    assert (found.keys.added, found.keys.removed) == (
        len(b) - sum(common.values()),
        len(a) - sum(common.values()),
    )
    assert found.equal == (a == b)


def test_repeats_over_many_blocks(tmp_path: Path) -> None:
    rows = 2 * layout.block_rows(1 << 12) + 5
    keys = [f"k{row % 7}" for row in range(rows)]
    values = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None] + 1, (rows, 1 << 12))
    qstore.build(values, tmp_path / "a.h5", keys=keys, duplicates="first")
    qstore.build(values[1:], tmp_path / "b.h5", keys=keys[1:], duplicates="first")
    assert qstore.compare(tmp_path / "a.h5", tmp_path / "a.h5").equal
    found = qstore.compare(tmp_path / "a.h5", tmp_path / "b.h5")
    # Only rows of k0 have other partners: each the one seven rows further down.
    assert found.keys == qstore.KeyChanges(0, 1, rows - 1, (), ("k0",), ("k0", "k1", "k2", "k3", "k4"))
    assert found.rows_changed == len(range(0, rows - 7, 7))
