"""``store.keys()`` and ``store.get``: the keys of all rows as a sequence, and a row by its key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.reading import stored_keys

KEYS: dict[str, list[Any]] = {
    "text": ["king", "queen", None, "", "a b", "𝄞"],
    "integer": [5, -1, 1 << 62, 0, 7, 2],
}


@pytest.fixture(params=["text", "integer", "shards"])
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[qstore.Store, list[Any]]:
    keys = KEYS["text" if request.param == "shards" else request.param]
    missing: Any = "none" if None in keys else "error"
    values = np.arange(12.0).reshape(6, 2)
    if request.param == "shards":
        qstore.build_shards(values, tmp_path / "shards", 4, keys=keys, missing_keys=missing)
        return qstore.open(tmp_path / "shards"), keys
    qstore.build(values, tmp_path / "store.h5", keys=keys, missing_keys=missing)
    return qstore.open(tmp_path / "store.h5"), keys


def test_a_sequence(keyed: tuple[qstore.Store, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    store, keys = keyed
    found = store.keys()
    assert isinstance(found, Sequence)
    assert len(found) == 6
    for block in (1, 4, 1 << 16):
        monkeypatch.setattr(stored_keys, "_BLOCK", block)
        assert list(found) == keys
        assert list(reversed(found)) == keys[::-1]
    assert [found[row] for row in range(-6, 6)] == keys + keys
    assert list(found[1:4]) == keys[1:4]
    assert list(found[::-2]) == keys[::-2]
    assert list(found[[4, 0]]) == [keys[4], keys[0]]
    assert np.asarray(found).tolist() == keys
    with pytest.raises(IndexError, match="out of bounds"):
        found[6]
    assert f"{store.path}: 6 rows" in repr(found)


def test_membership(keyed: tuple[qstore.Store, list[Any]]) -> None:
    store, keys = keyed
    found = store.keys()
    assert all(key in found for key in keys if key is not None)
    for strange in ("rook", 99, None, 1.0, True, b"king", [keys[0]], np.arange(3)):
        assert strange not in found


def test_get(keyed: tuple[qstore.Store, list[Any]]) -> None:
    store, keys = keyed
    for row, key in enumerate(keys):
        if key is not None:
            np.testing.assert_array_equal(store.get(key), store[row])
    absent = "rook" if store.key_kind == "text" else 99
    assert store.get(absent) is None
    assert store.get(absent, default=3) == 3
    np.testing.assert_array_equal(store.astype("float64").get(keys[0]), store.astype("float64")[0])
    with pytest.raises(TypeError):
        store.get(7 if store.key_kind == "text" else "king")


def test_nothing_is_read_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qstore.build(np.eye(100), tmp_path / "store.h5", keys=range(100))
    monkeypatch.setattr(stored_keys, "_BLOCK", 10)
    asked: list[Any] = []
    with qstore.open(tmp_path / "store.h5") as store:
        kind = type(store.keys()._index)
        between = kind.keys_between

        def noted(index: Any, *ends: int) -> Any:
            asked.append(ends)
            return between(index, *ends)

        monkeypatch.setattr(kind, "keys_between", noted)
        walk = iter(store.keys())
        assert asked == []
        assert [next(walk) for _ in range(11)] == list(range(11))
    assert asked == [(0, 10), (10, 20)]


def test_a_store_without_keys(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "store.h5")
    with qstore.open(tmp_path / "store.h5") as store:
        for ask in (store.keys, lambda: store.get("king"), lambda: store.get(1)):
            with pytest.raises(IndexError, match="have no keys"):
                ask()


def test_no_array_without_a_copy(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "store.h5", keys=[1, 2, 3])
    with qstore.open(tmp_path / "store.h5") as store, pytest.raises(ValueError, match="copy=False"):
        np.array(store.keys(), copy=False)


def test_it_stays_an_array_and_no_mapping(tmp_path: Path) -> None:
    """``keys`` and ``get`` make other libraries think of a dict; ours does not."""
    qstore.build(np.eye(3), tmp_path / "store.h5", keys=["a", "b", "c"])
    with qstore.open(tmp_path / "store.h5") as store:
        qstore.build(store, tmp_path / "again.h5", keys=store.keys())
        with qstore.open(tmp_path / "again.h5") as again:
            np.testing.assert_array_equal(again[:], store[:])
            assert list(again.keys()) == list(store.keys())
