"""compare: rows that have no key are matched by number, and are neither added nor removed keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore

VALUES = np.arange(1.0, 13.0).reshape(6, 2)


@pytest.fixture
def compared(tmp_path: Path) -> Any:
    def compare(keys_a: list[Any], keys_b: list[Any], values_b: Any = VALUES) -> qstore.StoreComparison:
        for name, keys, values in (("a.h5", keys_a, VALUES), ("b.h5", keys_b, values_b)):
            qstore.build(values[: len(keys)], tmp_path / name, keys=keys, missing_keys="none", overwrite=True)
        return qstore.compare(tmp_path / "a.h5", tmp_path / "b.h5")

    return compare


def test_equal_stores(compared: Any) -> None:
    keys = ["u", None, "w", "x", None, None]
    found = compared(keys, keys)
    assert (found.equal, found.rows_compared, found.rows_changed) == (True, 6, 0)
    assert found.keys == qstore.KeyChanges(0, 0, 0, (), (), ())


def test_a_row_without_a_key_that_changed(compared: Any) -> None:
    keys = ["u", None, "w", "x", None, None]
    values = VALUES.copy()
    values[4] = [9.0, -7.0]
    found = compared(keys, keys, values)
    assert (found.equal, found.rows_compared, found.rows_changed) == (False, 6, 1)
    assert (found.most_drifted[0].row_a, found.most_drifted[0].key) == (4, None)


def test_a_key_that_came_and_one_that_went(compared: Any) -> None:
    found = compared(["u", None, "w", "x", None, None], ["u", "v", "w", None, None, None])
    assert found.keys == qstore.KeyChanges(1, 1, 0, ("v",), ("x",), ())
    assert (found.equal, found.rows_compared) == (False, 4)


def test_another_number_of_rows(compared: Any) -> None:
    found = compared(["u", "v", None, None], ["u", "v", None, None, None, None])
    assert (found.equal, found.rows_compared) == (False, 4)
    assert found.keys == qstore.KeyChanges(0, 0, 0, (), (), ())
    found = compared(["u", "v", None, None, None, None], ["v", "u", None])
    assert (found.rows_compared, found.keys.moved) == (3, 2)
    assert found.keys == qstore.KeyChanges(0, 0, 2, (), (), ("u", "v"))


def test_pictures_name_rows_without_keys_by_number(tmp_path: Path) -> None:
    from qstore.reports.pictures import gather_facts

    qstore.build(VALUES, tmp_path / "s.h5", keys=["u", "v"], missing_keys="none")
    with qstore.open(tmp_path / "s.h5") as store:
        assert gather_facts(store).labels == ["u", "v", "2", "3", "4", "5"]
