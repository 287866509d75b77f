"""``store.closed`` and ``store.replaced()``, for those who serve rows while new versions are published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore


def test_closed(tmp_path: Path) -> None:
    qstore.build(np.eye(6), tmp_path / "a.h5")
    qstore.build_shards(np.eye(6), tmp_path / "shards", 2)
    for path in ("a.h5", "shards"):
        store = qstore.open(tmp_path / path)
        half = store.astype("float16")
        assert (store.closed, half.closed) == (False, False)
        half.close()
        assert (store.closed, half.closed) == (True, True)
        store.close()
        assert store.closed
    with qstore.open(tmp_path / "a.h5") as store:
        held = store.codes[0]
        with pytest.raises(BufferError):
            store.close()
        assert not store.closed
        del held
    assert store.closed


@pytest.mark.parametrize("options", [{}, {"resident_scales": True}])
def test_a_file_that_is_replaced(tmp_path: Path, options: dict[str, Any], no_leaks: None) -> None:
    path = tmp_path / "a.h5"
    qstore.build(np.eye(3), path)
    with qstore.open(path, **options) as store:
        assert not store.replaced()
        qstore.build(np.eye(3), path, overwrite=True)  # the same once more
        assert not store.replaced()
        qstore.build(np.eye(3) * 2, path, overwrite=True)
        assert store.replaced()
        assert store[0].tolist() == [1, 0, 0]
        os.unlink(path)
        with pytest.raises(FileNotFoundError):
            store.replaced()
        path.write_bytes(b"no store")
        with pytest.raises(qstore.FormatError):
            store.replaced()
        assert store[0].tolist() == [1, 0, 0]


def test_shards_that_are_appended(tmp_path: Path) -> None:
    qstore.build_shards(np.eye(6), tmp_path / "shards", 3)
    with qstore.open(tmp_path / "shards") as store:
        assert not store.replaced()
        qstore.build(np.eye(2, 6), tmp_path / "shards" / "more.h5")
        assert not store.replaced()
        qstore.append_shards(tmp_path / "shards", ["more.h5"])
        assert store.replaced()
        assert len(store) == 6


def test_a_closed_store_can_be_asked(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")
    store = qstore.open(tmp_path / "a.h5")
    store.close()
    assert not store.replaced()
