"""Sources that carry keys: they come along into stores, checks, exports and plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyed_stores import keyed

import qstore


def glove(path: Path, words: list[str]) -> Path:
    path.write_text("".join(f"{word} {row} 1\n" for row, word in enumerate(words)))
    return path


def test_word_vectors_bring_their_keys(tmp_path: Path) -> None:
    one, two = glove(tmp_path / "a.txt", ["the", "of", "é"]), glove(tmp_path / "b.txt", ["and", "to"])
    qstore.build([one, two], tmp_path / "both.h5")
    qstore.build([one, two], tmp_path / "some.h5", rows=slice(1, 4))
    qstore.build(one, tmp_path / "bare.h5", keys=False)
    qstore.build(one, tmp_path / "other.h5", keys=[7, 8, 9])
    found = {}
    for name in ("both", "some", "bare", "other"):
        with qstore.open(tmp_path / f"{name}.h5") as store:
            found[name] = None if store.key_kind is None else list(store.key_of(slice(None)))
    assert found == {
        "both": ["the", "of", "é", "and", "to"],
        "some": ["of", "é", "and"],
        "bare": None,
        "other": [7, 8, 9],
    }
    with pytest.raises(qstore.SourceError, match=r"rows (\d) and \d have the same key, '"):
        qstore.build([one, one], tmp_path / "twice.h5")
    qstore.build([one, one], tmp_path / "twice.h5", duplicates="first")


def test_the_source_tells_whether_keys_are_right(tmp_path: Path) -> None:
    source = glove(tmp_path / "a.txt", ["the", "of", "and"])
    with keyed_from(source, tmp_path / "store.h5") as store:
        assert qstore.verify_against(store, source).ok
        other = glove(tmp_path / "b.txt", ["the", "OF", "and"])
        report = qstore.verify_against(store, other)
        assert (report.ok, report.differing_rows, report.first_differing_row) == (False, 1, 1)
        assert qstore.verify_against(store, other, keys=False).ok
        assert qstore.verify_against(store, other, keys=["the", "of", "and"]).ok
        assert qstore.verify_against(store, other, keys=[1, 2, 3]).differing_rows == 3
        with pytest.raises(qstore.SourceError, match="there are 2 keys"):
            qstore.verify_against(store, other, keys=["the", "of"])
    with keyed_from(source, tmp_path / "bare.h5", keys=False) as store:
        assert qstore.verify_against(store, source).problems == ("the rows of the store have no keys",)
        assert qstore.verify_against(store, source, keys=False).ok


def keyed_from(source: Path, path: Path, **options: Any) -> qstore.Store:
    qstore.build(source, path, **options)
    return qstore.open(path)


@pytest.mark.parametrize("name", ["w.vec", "w.bin", "w.parquet"])
@pytest.mark.parametrize("kind", ["text", "integer"])
def test_exports_take_the_keys_along(tmp_path: Path, name: str, kind: str) -> None:
    if name == "w.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    keys: list[Any] = [f"wörd{row}" if kind == "text" else row * 7 - 3 for row in range(20)]
    with keyed(tmp_path / "store.h5", keys) as store:
        qstore.export(store, tmp_path / name, rows=slice(5, 15))
        qstore.export(store, tmp_path / f"bare-{name}", keys=False)
        qstore.export(store, tmp_path / "values.npy")
    with keyed_from(tmp_path / name, tmp_path / "again.h5") as store:
        expected = keys[5:15] if name == "w.parquet" or kind == "text" else list(map(str, keys[5:15]))
        assert list(store.key_of(slice(None))) == expected
        assert store[:, 0].tolist() == list(range(6, 16))
    with keyed_from(tmp_path / f"bare-{name}", tmp_path / "bare.h5") as store:
        found = None if store.key_kind is None else store.key_of(slice(None))
        assert found == (None if name == "w.parquet" else [str(row) for row in range(20)])


def test_all_tensors_of_a_source(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["a"], file["b"] = np.eye(3), np.ones((3, 2))
    keys = ["x", "y", "z"]
    qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=keys)
    reports = qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=keys)
    assert [(report.rows_resumed, report.key_kind) for report in reports] == [(3, "text")] * 2
    with qstore.open(tmp_path / "out" / "b.h5") as store:
        assert store.rows_of(["z"]).tolist() == [2]
    for other in (["x", "y", "Z"], None, False):
        with pytest.raises(qstore.ExistsError):
            qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=other)


def test_a_plan_counts_keys(tmp_path: Path) -> None:
    assert qstore.plan(np.eye(3), tmp_path / "s.h5", keys=["a", "b", "c"]).file_bytes is None
    with pytest.raises(
        qstore.SourceError, match="there are 2 keys, expected one for each of the source's 3 rows"
    ):
        qstore.plan(np.eye(3), tmp_path / "s.h5", keys=["a", "b"])


@pytest.mark.parametrize("index", [["a", "b", "c"], [5, 6, 7], None])
def test_the_index_of_a_table_is_left_out_and_it_is_said(tmp_path: Path, index: list[Any] | None) -> None:
    pandas = pytest.importorskip("pandas", reason="its tables have an index")
    frame = pandas.DataFrame(np.eye(3, 2, dtype=np.float32), index=index)
    report = qstore.build(frame, tmp_path / "store.h5")
    said = [warning for warning in report.warnings if "left out" in warning]
    assert (report.key_kind, len(said)) == (None, index == ["a", "b", "c"])
    if said:
        assert "give keys=frame.index" in said[0]
        report = qstore.build(frame, tmp_path / "store.h5", keys=frame.index, overwrite=True)
        assert (report.key_kind, [one for one in report.warnings if "left out" in one]) == ("text", [])
        with qstore.open(tmp_path / "store.h5") as store:
            assert store.key_of(slice(None)) == index
