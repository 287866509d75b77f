"""Files with other keys, opened as one: rows by number; by key an error that says which file has which."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.rows_of(["a"]),
        lambda store: store.keys(),
        lambda store: store.get("a"),
        lambda store: store["a"],
        lambda store: store.key_of(0),
        lambda store: "a" in store,
    ],
)
def test_files_with_keys_of_different_kinds(tmp_path: Path, ask: Callable[[Any], object]) -> None:
    for name, keys in (("text", ["a", "b"]), ("int", [1, 2]), ("plain", None)):
        qstore.build(np.eye(2), tmp_path / f"{name}.h5", keys=keys)
    paths = [tmp_path / f"{name}.h5" for name in ("text", "int", "plain")]
    with qstore.open(paths) as store:
        assert np.array_equal(store[:], np.tile(np.eye(2), (3, 1)))
        for one in (store, pickle.loads(pickle.dumps(store))):
            said = (
                r"different kinds.*text\.h5 has keys of kind text.*int\.h5 has keys of kind integer"
                r".*plain\.h5 has no keys"
            )
            with pytest.raises(IndexError, match=said):
                ask(one)
