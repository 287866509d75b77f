"""rows= means the same everywhere: a range is a slice or (start, stop), single rows are a list or array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.engine.row_ranges import as_range

RANGES: list[Any] = [slice(17, 43), (17, 43), (np.int64(17), np.int32(43)), range(17, 43), slice(-83, 43)]
NO_RANGES: list[Any] = [
    [17, 43],
    [1, 5, 7],
    (1, 5, 7),
    -5,
    5,
    "17:43",
    np.array([17, 43]),
    (1.0, 2.0),
    (1,),
    range(9, 3, -1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ranges")
    np.save(place / "m.npy", np.random.default_rng(3).standard_normal((100, 8)).astype(np.float32))
    qstore.build(place / "m.npy", place / "all.h5")
    return place


@pytest.mark.parametrize("rows", RANGES, ids=repr)
def test_a_range_is_the_same_rows_everywhere(rows: Any, folder: Path, tmp_path: Path) -> None:
    with qstore.open(folder / "all.h5") as store:
        expected = store[17:43]
        qstore.build(folder / "m.npy", tmp_path / "a.h5", rows=rows)
        assert np.array_equal(qstore.open(tmp_path / "a.h5")[:], expected)
        qstore.build_shards(folder / "m.npy", tmp_path / "shards", 10, rows=rows)
        assert np.array_equal(qstore.open(tmp_path / "shards")[:], expected)
        qstore.concat([folder / "all.h5"], tmp_path / "b.h5", rows=rows)
        assert np.array_equal(qstore.open(tmp_path / "b.h5")[:], expected)
        qstore.export(store, tmp_path / "c.npy", rows=rows)
        assert np.array_equal(np.load(tmp_path / "c.npy"), expected)
        assert qstore.verify_against(qstore.open(tmp_path / "a.h5"), folder / "m.npy", rows=rows).ok
        assert qstore.plan(folder / "m.npy", tmp_path / "d.h5", rows=rows).rows == 26
        _, found = store.search(store[0], 100, rows=rows)
        assert sorted(found.tolist()) == list(range(17, 43))


@pytest.mark.parametrize("rows", NO_RANGES, ids=repr)
def test_anything_else_is_a_type_error(rows: Any, folder: Path, tmp_path: Path) -> None:
    for ask in (
        lambda: qstore.build(folder / "m.npy", tmp_path / "a.h5", rows=rows),
        lambda: qstore.build_shards(folder / "m.npy", tmp_path / "shards", 10, rows=rows),
        lambda: qstore.concat([folder / "all.h5"], tmp_path / "b.h5", rows=rows),
        lambda: qstore.export(qstore.open(folder / "all.h5"), tmp_path / "c.npy", rows=rows),
        lambda: qstore.plan(folder / "m.npy", tmp_path / "d.h5", rows=rows),
    ):
        with pytest.raises(TypeError, match=r"expected consecutive rows, as slice\(start, stop\) or a tuple"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_lists_and_arrays_pick_rows_of_a_search(folder: Path) -> None:
    with qstore.open(folder / "all.h5") as store:
        for rows in ([17, 43], np.array([17, 43]), np.isin(np.arange(100), [17, 43])):
            assert sorted(store.search(store[0], rows=rows)[1].tolist()) == [17, 43]
        with pytest.raises(TypeError, match="expected consecutive rows"):
            store.search(store[0], rows=(1, 5, 7))


def test_all_rows() -> None:
    assert as_range(None) == slice(None)
