"""Tables with more rows than there are keys: rows without one, built, read, joined and checked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels, key_search
from qstore.format.layout import NO_KEY, KeyPart, Parts, places, shapes
from qstore.keys import packed
from qstore.keys.equal_keys import NO_KEY_HASH

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
TOKENS = [f"t{number}" for number in range(6)]
PADDED = [*TOKENS, None, None]


@pytest.fixture
def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((8, 4)).astype(np.float32)


def keys_of(path: Path) -> list[Any]:
    with qstore.open(path) as store:
        return list(store.key_of(slice(None)))


# Building ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [lambda values: values, lambda values: iter([values[:3], values[3:]]), qstore.quantize],
    ids=["rows", "stream", "codes"],
)
@pytest.mark.parametrize(
    "form",
    [list, iter, lambda keys: [*keys, None, None], np.array],
    ids=["list", "iterator", "padded", "array"],
)
def test_fewer_keys_on_request(
    tmp_path: Path,
    matrix: NDArray[np.float32],
    engine: str,
    source: Callable[[Any], Any],
    form: Callable[[list[str]], Any],
) -> None:
    report = qstore.build(source(matrix), tmp_path / "s.h5", keys=form(TOKENS), missing_keys="none")
    assert (report.rows, report.key_kind, report.unkeyed_rows) == (8, "text", 2)
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)) == PADDED
        assert [store.key_of(row) for row in (5, 6, -1)] == ["t5", None, None]
        assert store.key_of([7, 0]) == [None, "t0"]
        assert store.rows_of([*TOKENS, "t6", "", NO_KEY], default=-1).tolist() == [*range(6), -1, -1, -1]
        assert "t5" in store
        assert NO_KEY not in store
        with pytest.raises(qstore.MissingKeyError):
            store[NO_KEY]
        found = store.verify()
        assert (found.ok, found.keys_ok, found.unkeyed_rows, found.repeated_rows) == (True, True, 2, 0)


@pytest.mark.parametrize("form", [list, iter])
def test_fewer_keys_are_refused_and_both_remedies_work(
    tmp_path: Path, matrix: NDArray[np.float32], form: Callable[[list[str]], Any]
) -> None:
    with pytest.raises(qstore.SourceError) as caught:
        qstore.build(matrix, tmp_path / "s.h5", keys=form(TOKENS))
    assert "there are 6 keys, expected one for each" in str(caught.value)
    assert 'missing_keys="none"' in str(caught.value)
    assert "rows=(0, 6)" in str(caught.value)
    assert not (tmp_path / "s.h5").exists()
    qstore.build(matrix, tmp_path / "s.h5", keys=form(TOKENS), missing_keys="none")
    assert keys_of(tmp_path / "s.h5") == PADDED
    qstore.build(matrix, tmp_path / "s.h5", keys=form(TOKENS), rows=(0, 6), overwrite=True)
    assert keys_of(tmp_path / "s.h5") == TOKENS


def test_as_many_keys_as_rows_are_taken(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    """They count from the first row of the source: of rows 2:6, too, those before 6 are enough."""
    for rows, expected in (((0, 6), TOKENS), ((2, 6), TOKENS[2:])):
        for source in (matrix, iter([matrix])):
            qstore.build(source, tmp_path / "s.h5", keys=TOKENS, rows=rows, overwrite=True)
            assert keys_of(tmp_path / "s.h5") == expected
    for rows in ((0, 5), (2, 8), (1, 7)):
        with pytest.raises(qstore.SourceError, match="there are 6 keys, expected one for each"):
            qstore.build(matrix, tmp_path / "t.h5", keys=TOKENS, rows=rows)
    qstore.build(matrix, tmp_path / "s.h5", keys=TOKENS, rows=(4, 8), missing_keys="none", overwrite=True)
    assert keys_of(tmp_path / "s.h5") == ["t4", "t5", None, None]


@pytest.mark.parametrize("missing_keys", ["error", "none"])
@pytest.mark.parametrize("source", [lambda values: values, lambda values: iter([values])])
@pytest.mark.parametrize("form", [list, iter])
def test_keys_beyond_the_rows_are_named(
    tmp_path: Path,
    matrix: NDArray[np.float32],
    source: Callable[[Any], Any],
    form: Callable[[list[str]], Any],
    missing_keys: Any,
) -> None:
    keys = [f"t{number}" for number in range(15)]
    for count, named in ((9, "'t8'; "), (15, "'t8', 't9', 't10', 't11', 't12', …; ")):
        given = form(keys[:count])
        with pytest.raises(qstore.SourceError) as caught:
            qstore.build(source(matrix), tmp_path / "s.h5", keys=given, missing_keys=missing_keys)
        assert f"there are {count} keys, expected one for each of the source's 8 rows" in str(caught.value)
        assert f"none is left for {named}" in str(caught.value)
        assert "give only the first 8" in str(caught.value)
        assert not (tmp_path / "s.h5").exists()
    qstore.build(source(matrix), tmp_path / "s.h5", keys=form(keys[:8]))


def test_numbers_cannot_be_padded(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    for keys in (np.arange(6), iter(range(6))):
        with pytest.raises(qstore.SourceError, match=r"there are 6 keys.* rows=\(0, 6\)") as caught:
            qstore.build(matrix, tmp_path / "s.h5", keys=keys, missing_keys="none")
        assert "missing_keys" not in str(caught.value)
    with pytest.raises(qstore.SourceError, match=r"row 6 is None, expected a whole number .*str\(number\)"):
        qstore.build(matrix, tmp_path / "s.h5", keys=[*range(6), None, None], missing_keys="none")
    qstore.build(matrix, tmp_path / "s.h5", keys=np.arange(6), rows=(0, 6))
    texts = [str(number) for number in range(6)]
    qstore.build(matrix, tmp_path / "s.h5", keys=texts, missing_keys="none", overwrite=True)


def test_one_row_without_a_key_is_refused_by_number(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    for none in (None, NO_KEY):
        keys = ["a", "b", "c", none, "e", "f", "g", "h"]
        with pytest.raises(qstore.SourceError, match=r"row 3 has no key, .*missing_keys=\"none\""):
            qstore.build(matrix, tmp_path / "t.h5", keys=keys)
        qstore.build(matrix, tmp_path / "s.h5", keys=keys, missing_keys="none", overwrite=True)
        assert keys_of(tmp_path / "s.h5") == ["a", "b", "c", None, "e", "f", "g", "h"]


def test_a_writer_lets_rows_have_none(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    with qstore.Writer(tmp_path / "s.h5", 4, missing_keys="none") as writer:
        writer.append(matrix[:2], keys=[None, "a"])
        writer.append(matrix[2:4], keys=[None, None])
        writer.append_codes(*qstore.quantize(matrix[4:5]), keys=["b"])
    assert writer.unkeyed_rows == 3
    assert keys_of(tmp_path / "s.h5") == [None, "a", None, None, "b"]
    with qstore.Writer(tmp_path / "t.h5", 4) as writer:
        writer.append(matrix[:1], keys=["a"])
        with pytest.raises(qstore.SourceError, match="row 2 has no key"):
            writer.append(matrix[1:3], keys=["b", None])
        writer.abort()
    with pytest.raises(ValueError, match="missing_keys is 'yes'"):
        qstore.Writer(tmp_path / "t.h5", 4, missing_keys="yes")  # type: ignore[arg-type]


def test_duplicates_are_still_found(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    keys = ["a", None, "b", None, "a"]
    with pytest.raises(qstore.SourceError, match="rows 0 and 4 have the same key, 'a'"):
        qstore.build(matrix, tmp_path / "s.h5", keys=keys, missing_keys="none")
    qstore.build(matrix, tmp_path / "s.h5", keys=keys, missing_keys="none", duplicates="first")
    with qstore.open(tmp_path / "s.h5") as store:
        found = store.verify()
        assert (found.unkeyed_rows, found.repeated_rows, found.repeated_example) == (5, 1, ("a", 4, 0))


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.format.layout._BLOCK_CODES", 64 * 4)
    values = np.random.default_rng(2).standard_normal((1000, 4)).astype(np.float32)
    keys = [f"w{row}" for row in range(300)]
    qstore.build(values, tmp_path / "expected.h5", keys=keys, missing_keys="none")

    def stop(done: int, total: int | None) -> None:
        if done > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.build(values, tmp_path / "s.h5", keys=keys, missing_keys="none", progress=stop, threads=1)
    report = qstore.build(values, tmp_path / "s.h5", keys=keys, missing_keys="none")
    assert 500 < report.rows_resumed < 1000
    assert report.unkeyed_rows == 700
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


# Files, commands, all tensors -------------------------------------------------------------------------


def test_vocabularies_with_holes(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    vocabulary = {"model": {"vocab": {"x": 1, "y": 0}}, "added_tokens": [{"id": 5, "content": "<s>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(qstore.SourceError, match=r"3 rows have no key, the first is row 2; missing_keys"):
        qstore.build(matrix, tmp_path / "s.h5", keys=tmp_path / "tokenizer.json")
    qstore.build(matrix, tmp_path / "s.h5", keys=tmp_path / "tokenizer.json", missing_keys="none")
    assert keys_of(tmp_path / "s.h5") == ["y", "x", None, None, None, "<s>", None, None]


def test_a_row_far_away_takes_no_memory(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 10**15}))
    for source in (matrix, iter([matrix])):
        with pytest.raises(qstore.SourceError, match=r"'b' \(row 1000000000000000\); expected rows up to 7;"):
            qstore.build(
                source, tmp_path / "s.h5", keys=tmp_path / "vocab.json", missing_keys="none", resume=False
            )


def test_all_tensors_and_plans(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["a"], file["b"] = np.eye(8), np.ones((8, 2))
    source, out = tmp_path / "source.hdf5", tmp_path / "out"
    for _ in range(2):  # the second time, they are compared and kept
        plans = qstore.plan_all(source, out, keys=TOKENS, missing_keys="none")
        reports = qstore.build_all(source, out, keys=TOKENS, missing_keys="none")
        assert [plan.rows for plan in plans] == [8, 8]
        assert [report.unkeyed_rows for report in reports] == [2, 2]
    assert [report.rows_resumed for report in reports] == [8, 8]
    with pytest.raises(qstore.SourceError, match="there are 6 keys"):
        qstore.plan_all(source, out, keys=TOKENS)
    with pytest.raises(qstore.SourceError, match="there are 6 keys"):
        qstore.plan(np.eye(8), tmp_path / "s.h5", keys=TOKENS)
    qstore.plan(np.eye(8), tmp_path / "s.h5", keys=TOKENS, missing_keys="none")


def test_a_source_is_compared_key_by_key(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.build(matrix, tmp_path / "s.h5", keys=TOKENS, missing_keys="none")
    with qstore.open(tmp_path / "s.h5") as store:
        assert qstore.verify_against(store, matrix, keys=TOKENS, missing_keys="none").ok
        assert qstore.verify_against(store, matrix, keys=PADDED).ok
        found = qstore.verify_against(store, matrix, keys=[*TOKENS, "t6"], missing_keys="none")
        assert (found.differing_rows, found.first_differing_row) == (1, 6)
        with pytest.raises(qstore.SourceError, match="missing_keys"):
            qstore.verify_against(store, matrix, keys=TOKENS)


# Shards, joined stores, exports -----------------------------------------------------------------------


def test_shards_and_joined_stores(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.build(matrix, tmp_path / "one.h5", keys=TOKENS, missing_keys="none")
    for source in (matrix, iter([matrix[:5], matrix[5:]])):
        report = qstore.build_shards(
            source, tmp_path / "x", 3, keys=TOKENS, missing_keys="none", overwrite=True
        )
        assert (report.rows, report.unkeyed_rows) == (8, 2)
        with qstore.open(tmp_path / "x") as store:
            assert store.key_of(slice(None)) == PADDED
            assert store.key_of([7, 1]) == [None, "t1"]
            assert store.rows_of(["t5", NO_KEY], default=-1).tolist() == [5, -1]
            assert store.verify().unkeyed_rows == 2
    qstore.concat([tmp_path / "x"], tmp_path / "joined.h5")
    assert qstore.compare(tmp_path / "one.h5", tmp_path / "joined.h5").equal
    qstore.concat([tmp_path / "x"], tmp_path / "cut.h5", rows=(4, 7))
    assert keys_of(tmp_path / "cut.h5") == ["t4", "t5", None]


def test_exports(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    qstore.build(matrix, tmp_path / "s.h5", keys=TOKENS, missing_keys="none")
    for name in ("s.vec", "s.bin"):
        with pytest.raises(qstore.ExportError, match="row 6 has no key") as caught:
            qstore.export(tmp_path / "s.h5", tmp_path / name)
        assert "export to .parquet" in str(caught.value)
        qstore.export(tmp_path / "s.h5", tmp_path / name, keys=False)
        qstore.export(tmp_path / "s.h5", tmp_path / name, rows=(0, 6), overwrite=True)
        qstore.build(tmp_path / name, tmp_path / "again.h5", overwrite=True)
        assert keys_of(tmp_path / "again.h5") == TOKENS


def test_exports_to_parquet_and_back(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    qstore.build(matrix, tmp_path / "s.h5", keys=TOKENS, missing_keys="none")
    qstore.export(tmp_path / "s.h5", tmp_path / "s.parquet")
    with pytest.raises(qstore.SourceError, match=r"row 6 has no key, .*missing_keys=\"none\""):
        qstore.build(tmp_path / "s.parquet", tmp_path / "again.h5")
    qstore.build(tmp_path / "s.parquet", tmp_path / "again.h5", missing_keys="none")
    assert keys_of(tmp_path / "again.h5") == PADDED


# The file ---------------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_format_page() -> None:
    assert f"`U+FFFF` and `{NO_KEY[1:]}`" in FORMAT_PAGE.read_text()
    raw, offsets = key_search.encoded([NO_KEY])
    found = np.empty(1, np.uint64)
    kernels.key_engine().hash_texts(raw, offsets, found)
    assert found.tolist() == [NO_KEY_HASH]


def test_the_file_is_of_version_1_1(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    """Nothing is new in it: rows without a key have a text that no word has, hashed and sorted as others."""
    qstore.build(matrix, tmp_path / "s.h5", keys=TOKENS, missing_keys="none")
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.format_version == (1, 1)
    parts = Parts(KeyPart("text", sum(map(len, TOKENS)) + 2 * len(NO_KEY.encode())), fidelity=True)
    at = places(shapes(8, 4, parts))["keys/bytes"]
    held = (tmp_path / "s.h5").read_bytes()[at.offset : at.stop]
    assert held.decode() == "".join(TOKENS) + 2 * NO_KEY


def test_only_the_whole_text_means_none() -> None:
    keys = ["a", NO_KEY + "x", "x" + NO_KEY, NO_KEY[1:], None, "", NO_KEY]
    block = packed.packed(keys)
    assert block.unkeyed().tolist() == [False, False, False, False, True, False, True]
    assert block.values() == [*keys[:-1], None]
    assert not packed.packed([1, 2]).unkeyed().any()
    assert block.split(5)[1].unkeyed().tolist() == [False, True]


def test_line_tools_give_the_first_keys(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    """What is said of too many keys: give only the first ones."""
    (tmp_path / "long.txt").write_text("".join(f"t{number}\n" for number in range(20)))
    with pytest.raises(qstore.SourceError, match="give only the first 8"):
        qstore.build(matrix, tmp_path / "s.h5", keys=tmp_path / "long.txt")
    subprocess.run("head -n 8 long.txt > keys.txt", shell=True, cwd=tmp_path, check=True)
    qstore.build(matrix, tmp_path / "s.h5", keys=tmp_path / "keys.txt")
    assert keys_of(tmp_path / "s.h5") == [f"t{number}" for number in range(8)]
