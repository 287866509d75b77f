"""Keys handed in by other means than a list of texts: sets, nulls of pandas, vocabularies, too few keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_have_no_order(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(qstore.SourceError, match=r"which has no order: expected .* in the order of the rows"):
        qstore.build(np.eye(2), tmp_path / "s.h5", keys=kind(["zebra", "apple"]))
    qstore.build(np.eye(2), tmp_path / "s.h5", keys={"zebra": 0, "apple": 1}.keys())  # these have one
    with qstore.open(tmp_path / "s.h5") as store:
        assert list(store.keys()) == ["zebra", "apple"]


def test_nulls_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for keys in (
        pandas.Series(["a", None, "c"]),
        pandas.Series(["a", None, "c"], dtype="string"),
        pandas.Series(["a", pandas.NaT, "c"], dtype=object),
        pandas.Categorical(["a", None, "c"]),
        ["a", float("nan"), "c"],
    ):
        qstore.build(np.eye(3), tmp_path / "s.h5", keys=keys, missing_keys="none", overwrite=True)
        with qstore.open(tmp_path / "s.h5") as store:
            assert list(store.keys()) == ["a", None, "c"]
        with pytest.raises(qstore.SourceError, match="row 1 has no key"):
            qstore.build(np.eye(3), tmp_path / "t.h5", keys=keys)


def test_keys_beyond_the_last_row_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 3, "zz": 15}))
    with pytest.raises(qstore.SourceError, match=r"beyond the last of the source's 8 rows: 'zz' \(row 15\)"):
        qstore.build(np.ones((8, 2)), tmp_path / "s.h5", keys=tmp_path / "vocab.json", missing_keys="none")


def test_too_few_keys_to_compare_with(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "s.h5", keys=["a", "b"], missing_keys="none")
    with pytest.raises(qstore.SourceError, match=r"there are 2 keys, .*--missing-keys none\) if") as caught:
        qstore.verify_against(tmp_path / "s.h5", np.eye(3), keys=["a", "b"])
    assert "published" not in str(caught.value)
    assert "--rows" not in str(caught.value)
    assert qstore.verify_against(tmp_path / "s.h5", np.eye(3), keys=["a", "b"], missing_keys="none").ok


def test_an_encoding_of_keys_that_are_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.eye(2))
    with pytest.raises(qstore.SourceError, match=r"^the source carries no keys"):
        qstore.build(tmp_path / "m.npy", tmp_path / "s.h5", key_encoding="latin-1")
