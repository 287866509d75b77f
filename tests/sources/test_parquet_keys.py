"""The column `key` of Parquet files, of every type: read as keys, or refused with what to do."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.sources import open_source

pyarrow = pytest.importorskip("pyarrow", reason="it writes and reads Parquet")
parquet = pytest.importorskip("pyarrow.parquet", reason="it writes and reads Parquet")

VALUES = np.arange(6, dtype=np.float32).reshape(3, 2)
TEXTS = ["a", "é", "c"]


def vectors() -> Any:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(VALUES.reshape(-1)), 2)


def write(path: Path, key: Any, **options: Any) -> Path:
    parquet.write_table(pyarrow.table({"v": vectors(), "key": key}), path, **options)
    return path


def keys_of(path: Path) -> list[Any] | None:
    with qstore.open(path) as store:
        return None if store.key_kind is None else list(store.key_of(slice(None)))


def texts(kind: Any) -> Any:
    return pyarrow.array(TEXTS).cast(kind)


TEXT_COLUMNS = {
    "string": lambda: pyarrow.array(TEXTS),
    "large_string": lambda: texts(pyarrow.large_string()),
    "string_view": lambda: pyarrow.array(TEXTS, pyarrow.string_view()),
    "dictionary": lambda: pyarrow.array(TEXTS).dictionary_encode(),
    "dictionary of large_string": lambda: texts(pyarrow.large_string()).dictionary_encode(),
    "binary": lambda: texts(pyarrow.binary()),
    "large_binary": lambda: texts(pyarrow.large_binary()),
    "binary_view": lambda: pyarrow.array([text.encode() for text in TEXTS], pyarrow.binary_view()),
    "dictionary of binary": lambda: texts(pyarrow.binary()).dictionary_encode(),
}
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("kind", TEXT_COLUMNS)
@pytest.mark.parametrize("stored", [True, False], ids=["schema", "no schema"])
def test_texts(tmp_path: Path, kind: str, stored: bool) -> None:
    source = write(tmp_path / "x.parquet", TEXT_COLUMNS[kind](), store_schema=stored)
    qstore.build(source, tmp_path / "s.h5")
    assert keys_of(tmp_path / "s.h5") == TEXTS
    with qstore.open(tmp_path / "s.h5") as store:
        assert qstore.verify_against(store, source).ok
    qstore.build(source, tmp_path / "bare.h5", keys=False)
    assert keys_of(tmp_path / "bare.h5") is None


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("kind", INTEGERS)
def test_whole_numbers(tmp_path: Path, kind: str, encoded: bool) -> None:
    column = pyarrow.array([7, 0, 100], getattr(pyarrow, kind)())
    source = write(tmp_path / "x.parquet", column.dictionary_encode() if encoded else column)
    qstore.build(source, tmp_path / "s.h5")
    assert keys_of(tmp_path / "s.h5") == [7, 0, 100]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_categories_of_frames(tmp_path: Path, library: str) -> None:
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    source = tmp_path / "x.parquet"
    if library == "pandas":
        keys = frames.Series(TEXTS, dtype="category")
        frames.DataFrame({"key": keys, "v": list(VALUES)}).to_parquet(source, engine="pyarrow")
        qstore.build(source, tmp_path / "s.h5")
        assert keys_of(tmp_path / "s.h5") == TEXTS
        return
    for number, kind in enumerate((frames.Categorical, frames.Enum(TEXTS), frames.String)):
        column = frames.Series(TEXTS, dtype=kind)
        frames.DataFrame({"key": column, "v": VALUES.tolist()}).write_parquet(source)
        qstore.build(source, tmp_path / f"{number}.h5")
        assert keys_of(tmp_path / f"{number}.h5") == TEXTS


REFUSED: dict[str, tuple[Any, str]] = {
    "double": (lambda: pyarrow.array([1.0, 2.0, 3.0]), "holds double: expected strings or whole numbers"),
    "bool": (lambda: pyarrow.array([True, False, True]), "holds bool"),
    "null": (lambda: pyarrow.array([None] * 3), "holds null"),
    "decimal": (lambda: pyarrow.array([decimal.Decimal(1)] * 3), "holds decimal128"),
    "timestamp": (lambda: pyarrow.array([0, 1, 2], pyarrow.timestamp("ms")), "holds timestamp"),
    "struct": (lambda: pyarrow.array([{"a": 1}] * 3), "holds struct"),
    "fixed_size_binary": (
        lambda: pyarrow.array([b"ab"] * 3, pyarrow.binary(2)),
        "holds fixed_size_binary[2]",
    ),
    "no UTF-8": (lambda: pyarrow.array([b"a", b"\xff", b"c"]), "row 1 is b'\\xff', bytes that are no UTF-8"),
    "no UTF-8 in a dictionary": (
        lambda: pyarrow.array([b"a", b"a", b"\xff"]).dictionary_encode(),
        "row 2 is b'\\xff'",
    ),
    "null numbers": (lambda: pyarrow.array([1, None, 3]), "row 1 is null: expected a key"),
    "large numbers": (lambda: pyarrow.array([1, 2, 2**63], pyarrow.uint64()), "keys of 64 bits with sign"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_and_the_way_out(tmp_path: Path, kind: str) -> None:
    make, words = REFUSED[kind]
    source = write(tmp_path / "x.parquet", make())
    with pytest.raises(qstore.SourceError) as caught:
        qstore.build(source, tmp_path / "s.h5")
    assert words in str(caught.value)
    assert "keys=False (--no-keys)" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    qstore.build(source, tmp_path / "s.h5", keys=False)
    qstore.build(source, tmp_path / "s.h5", keys=TEXTS, overwrite=True)
    with qstore.open(tmp_path / "s.h5") as store:
        assert qstore.verify_against(store, source, keys=TEXTS).ok
        with pytest.raises(qstore.SourceError):
            qstore.verify_against(store, source)


def test_a_type_that_is_none_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    source = write(tmp_path / "x.parquet", pyarrow.array([1.0, 2.0, 3.0]))
    with pytest.raises(qstore.SourceError, match="holds double"):
        qstore.plan(source, tmp_path / "s.h5")
    assert qstore.plan(source, tmp_path / "s.h5", keys=False).rows == 3
    with pytest.raises(qstore.SourceError, match="holds double"):
        qstore.build_shards(source, tmp_path / "x", 2)
    with pytest.raises(qstore.SourceError, match="holds double"):
        qstore.build([source, source], tmp_path / "s.h5")


def test_written_as_strings(tmp_path: Path) -> None:
    """What the errors say of columns that are refused."""
    column = pyarrow.array([1, 2, 2**63], pyarrow.uint64())
    qstore.build(write(tmp_path / "x.parquet", column.cast(pyarrow.string())), tmp_path / "s.h5")
    assert keys_of(tmp_path / "s.h5") == ["1", "2", str(2**63)]


@pytest.mark.parametrize("encoded", [False, True])
def test_null_texts(tmp_path: Path, encoded: bool) -> None:
    column = pyarrow.array(["a", None, "c"])
    source = write(tmp_path / "x.parquet", column.dictionary_encode() if encoded else column)
    with pytest.raises(qstore.SourceError, match=r"row 1 has no key, .*--missing-keys none"):
        qstore.build(source, tmp_path / "s.h5")
    qstore.build(source, tmp_path / "s.h5", missing_keys="none")
    assert keys_of(tmp_path / "s.h5") == ["a", None, "c"]
    with qstore.open(tmp_path / "s.h5") as store:
        assert qstore.verify_against(store, source).ok


def test_two_columns_of_keys(tmp_path: Path) -> None:
    column = pyarrow.array(TEXTS)
    table = pyarrow.Table.from_arrays([vectors(), column, column], names=["v", "key", "key"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(qstore.SourceError, match="2 columns named 'key'"):
        qstore.build(tmp_path / "x.parquet", tmp_path / "s.h5")
    qstore.build(tmp_path / "x.parquet", tmp_path / "s.h5", keys=False)


@pytest.mark.parametrize("kind", ["fixed", "list"])
def test_a_matrix_called_key_is_no_column_of_keys(tmp_path: Path, kind: str) -> None:
    matrix = vectors() if kind == "fixed" else pyarrow.array(VALUES.tolist())
    parquet.write_table(pyarrow.table({"query": vectors(), "key": matrix}), tmp_path / "x.parquet")
    for tensor in ("query", "key"):
        with open_source(tmp_path / "x.parquet", tensor) as source:
            assert not source.keyed
        qstore.build(tmp_path / "x.parquet", tmp_path / f"{tensor}.h5", tensor=tensor)
        assert keys_of(tmp_path / f"{tensor}.h5") is None


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", ["string", "dictionary"])
def test_texts_of_another_name_are_left_out_and_it_is_said(tmp_path: Path, form: str, kind: str) -> None:
    words, path = TEXT_COLUMNS[kind](), tmp_path / f"x.{form}"
    table = pyarrow.table({"word": words, "v": vectors(), "n": pyarrow.array([3, 1, 2])})
    if form == "parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    report = qstore.build(path, tmp_path / "s.h5")
    said = [warning for warning in report.warnings if "left out" in warning]
    assert len(said) == 1
    assert said[0].startswith(
        "column 'word' of texts left out: to name the rows by it, call it 'key', or give it"
    )
    assert qstore.build_shards(path, tmp_path / "shards", 2).warnings[0] == said[0]
    for keys in (False, words):  # as it says, or left out on purpose
        found = qstore.build(path, tmp_path / "s.h5", keys=keys, overwrite=True)
        assert not any("left out" in warning for warning in found.warnings)
    assert keys_of(tmp_path / "s.h5") == TEXTS


def test_with_a_column_of_keys_nothing_is_left_out(tmp_path: Path) -> None:
    table = pyarrow.table({"word": TEXTS, "v": vectors(), "key": TEXTS})
    parquet.write_table(table, tmp_path / "x.parquet")
    report = qstore.build(tmp_path / "x.parquet", tmp_path / "s.h5")
    assert report.key_kind == "text"
    assert not any("left out" in warning for warning in report.warnings)
