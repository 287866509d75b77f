"""Keys of stores of several files: the same key in two of them, resumed builds, files without keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore

KEYS: dict[str, list[Any]] = {"text": ["a", "b", "a", "c", "b"], "integer": [5, -7, 5, 9, -7]}
KINDS = pytest.mark.parametrize("kind", KEYS)


@pytest.fixture
def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)


def as_file(folder: Path, matrix: NDArray[Any]) -> Path:
    np.save(folder / "matrix.npy", matrix)
    return folder / "matrix.npy"


def stores(folder: Path, matrix: NDArray[Any], **keys: list[Any] | None) -> list[Path]:
    """A store of as many rows as there are keys for each name, one after the other; of two without keys."""
    folder.mkdir(exist_ok=True)
    made, row = [], 0
    for name, own in keys.items():
        count = 2 if own is None else len(own)
        qstore.build(matrix[row : row + count], folder / f"{name}.h5", keys=own, duplicates="first")
        made.append(folder / f"{name}.h5")
        row += count
    return made


# build_shards -----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "source",
    [as_file, lambda folder, values: values, lambda folder, values: iter([values[:1], values[1:]])],
    ids=["file", "array", "stream"],
)
def test_the_same_key_in_two_shards_is_refused(
    tmp_path: Path, matrix: NDArray[np.float32], kind: str, source: Callable[[Path, NDArray[Any]], Any]
) -> None:
    keys, place = KEYS[kind], tmp_path / "x"
    with pytest.raises(qstore.SourceError) as caught:
        qstore.build_shards(source(tmp_path, matrix), place, 2, keys=keys)
    named = {f"rows {one} and {other} have the same key, {keys[one]!r}" for one, other in ((0, 2), (1, 4))}
    assert any(text in str(caught.value) for text in named)
    assert not (place / "qstore.json").exists()
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.open(place)
    report = qstore.build_shards(source(tmp_path, matrix), place, 2, keys=keys, duplicates="first")
    assert (report.rows, report.key_kind) == (5, kind)
    with qstore.open(place) as store:
        assert store.rows_of([keys[0], keys[1], keys[3]]).tolist() == [0, 1, 3]
        assert list(store.key_of(slice(None))) == keys
        found = store.verify()
        assert (found.ok, found.keys_ok, found.repeated_rows) == (True, True, 2)


def test_within_one_shard_rows_have_their_numbers_in_the_whole(
    tmp_path: Path, matrix: NDArray[np.float32]
) -> None:
    with pytest.raises(qstore.SourceError, match="rows 3 and 4 have the same key, 'd'"):
        qstore.build_shards(matrix, tmp_path / "x", 3, keys=["a", "b", "c", "d", "d"])
    assert not (tmp_path / "x" / "qstore.json").exists()


def test_shards_that_are_finished_are_not_built_again(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    source = as_file(tmp_path, matrix)
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.build_shards(source, tmp_path / "x", 2, keys=KEYS["text"])
    before = [(path.name, os.stat(path).st_ino) for path in sorted((tmp_path / "x").glob("part-*"))]
    assert len(before) == 3
    report = qstore.build_shards(source, tmp_path / "x", 2, keys=KEYS["text"], duplicates="first")
    assert report.rows_resumed == 5
    after = [(path.name, os.stat(path).st_ino) for path in sorted((tmp_path / "x").glob("part-*"))]
    assert after == before


def stop(done: int, total: int | None) -> None:
    if done >= 5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("other", [["a", "b", "x", "c", "d"], [1, 2, 3, 4, 5], None, False], ids=str)
@pytest.mark.parametrize("interrupted", [False, True])
def test_finished_shards_are_never_kept_with_other_keys(
    tmp_path: Path, matrix: NDArray[np.float32], interrupted: bool, other: Any
) -> None:
    """They have the keys of the call before: an interrupted one insists, one that failed gives way."""
    source = as_file(tmp_path, matrix)
    expected, progress = (KeyboardInterrupt, stop) if interrupted else (qstore.SourceError, None)
    with pytest.raises(expected):
        qstore.build_shards(source, tmp_path / "x", 2, keys=KEYS["text"], progress=progress)
    if interrupted:
        with pytest.raises(
            qstore.ResumeError, match=r"keys have changed since .*part-0000[01]\.h5 was built|keys differ"
        ):
            qstore.build_shards(source, tmp_path / "x", 2, keys=other)
        assert not (tmp_path / "x" / "qstore.json").exists()
    qstore.build_shards(source, tmp_path / "x", 2, keys=other, resume=not interrupted)
    with qstore.open(tmp_path / "x") as store:
        found = None if store.key_kind is None else list(store.key_of(slice(None)))
        assert found == (other or None)
        assert store.verify().ok


def test_keys_come_late_too(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    source = as_file(tmp_path, matrix)
    with pytest.raises(KeyboardInterrupt):
        qstore.build_shards(source, tmp_path / "x", 2, progress=stop)
    with pytest.raises(qstore.ResumeError, match="keys differ"):
        qstore.build_shards(source, tmp_path / "x", 2, keys=list("abcde"))


@pytest.mark.parametrize("form", [list, iter])
@pytest.mark.parametrize("count", [3, 5, 7])
def test_streams_of_unknown_length_take_all_their_rows(
    tmp_path: Path, matrix: NDArray[np.float32], count: int, form: Callable[[list[str]], Any]
) -> None:
    """A source that does not say how long it is has as many keys as rows, or is refused."""
    keys = [f"w{row}" for row in range(count)]
    chunks = iter([matrix[:1], matrix[1:4], matrix[4:]])
    if count == 5:
        qstore.build_shards(chunks, tmp_path / "x", 2, keys=form(keys))
        with qstore.open(tmp_path / "x") as store:
            assert store.key_of(slice(None)) == keys
        return
    with pytest.raises(qstore.SourceError, match=f"there are {count} keys, expected one for each"):
        qstore.build_shards(chunks, tmp_path / "x", 2, keys=form(keys))
    assert not (tmp_path / "x" / "qstore.json").exists()


# publish_shards, append_shards ------------------------------------------------------------------------


@KINDS
def test_publishing_looks_over_all_files(tmp_path: Path, matrix: NDArray[np.float32], kind: str) -> None:
    keys = KEYS[kind]
    stores(tmp_path, matrix, one=keys[:2], two=keys[2:4])
    with pytest.raises(qstore.SourceError, match=f"rows 0 and 2 have the same key, {keys[0]!r}"):
        qstore.publish_shards(tmp_path)
    assert not (tmp_path / "qstore.json").exists()
    qstore.publish_shards(tmp_path, duplicates="first")
    with qstore.open(tmp_path) as store:
        assert store.rows_of([keys[0]]).tolist() == [0]
        assert store.verify().repeated_example == (keys[0], 2, 0)


def test_what_to_do_is_checked_first(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    last: Any = "last"
    for call in (
        lambda: qstore.publish_shards(tmp_path, duplicates=last),
        lambda: qstore.build_shards(matrix, tmp_path / "x", 2, duplicates=last),
        lambda: qstore.concat([tmp_path / "none.h5"], tmp_path / "s.h5", duplicates=last),
        lambda: qstore.build(matrix, tmp_path / "s.h5", duplicates=last),
    ):
        with pytest.raises(ValueError, match="duplicates is 'last', expected"):
            call()
    assert not list(tmp_path.iterdir())


@KINDS
def test_appending_looks_over_all_files(tmp_path: Path, matrix: NDArray[np.float32], kind: str) -> None:
    keys = KEYS[kind]
    stores(tmp_path, matrix, one=keys[:2], two=keys[2:4])
    qstore.publish_shards(tmp_path, ["one.h5"])
    before = (tmp_path / "qstore.json").read_bytes()
    with pytest.raises(qstore.SourceError, match=f"rows 0 and 2 have the same key, {keys[0]!r}"):
        qstore.append_shards(tmp_path, ["two.h5"])
    assert (tmp_path / "qstore.json").read_bytes() == before
    assert len(qstore.append_shards(tmp_path, ["two.h5"], duplicates="first")) == 2


def test_keys_within_one_published_file(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    stores(tmp_path, matrix, one=["a", "b", "a"], two=["c"])
    with pytest.raises(qstore.SourceError, match="rows 0 and 2 have the same key, 'a'"):
        qstore.publish_shards(tmp_path)


@pytest.mark.parametrize("other", [None, [7, 8]], ids=["none", "numbers"])
def test_files_with_other_keys_are_not_published(
    tmp_path: Path, matrix: NDArray[np.float32], other: list[Any] | None
) -> None:
    stores(tmp_path, matrix, one=["a", "b"], two=other)
    with pytest.raises(
        qstore.FormatError,
        match=r"two\.h5 has (no keys|keys of kind .*), expected keys of kind text .*--no-keys",
    ):
        qstore.publish_shards(tmp_path)
    assert not (tmp_path / "qstore.json").exists()
    qstore.publish_shards(tmp_path, keys=False)
    with qstore.open(tmp_path) as store:
        assert (store.key_kind, store.shape) == (None, (4, 3))


def test_appending_other_keys(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    stores(tmp_path, matrix, one=["a", "b"], two=None)
    qstore.publish_shards(tmp_path, ["one.h5"])
    for keys in (None, False):
        with pytest.raises(qstore.FormatError, match=r"two\.h5 has no keys, expected keys of kind text"):
            qstore.append_shards(tmp_path, ["two.h5"], keys=keys)
    qstore.concat([tmp_path, tmp_path / "two.h5"], tmp_path / "joined.h5", keys=False)  # as the error says
    qstore.publish_shards(tmp_path, ["two.h5"], overwrite=True)
    with pytest.raises(
        qstore.FormatError, match=r"one\.h5 has keys of kind text, expected no keys .*keys=False"
    ):
        qstore.append_shards(tmp_path, ["one.h5"])
    qstore.append_shards(tmp_path, ["one.h5"], keys=False)
    with qstore.open(tmp_path) as store:
        assert (store.key_kind, store.shape) == (None, (4, 3))


def test_no_index_is_read_without_keys(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    stores(tmp_path, matrix, one=None, two=None)
    damaged = bytearray((tmp_path / "two.h5").read_bytes())
    damaged[12288] ^= 1
    (tmp_path / "two.h5").write_bytes(damaged)
    assert len(qstore.publish_shards(tmp_path)) == 2


# Opened without a manifest ----------------------------------------------------------------------------


def test_a_list_of_files_is_looked_over_by_verify(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    paths = stores(tmp_path, matrix, one=["a", "b"], two=["c", "a"])
    with qstore.open([*paths]) as store:
        assert store.rows_of(["a", "c"]).tolist() == [0, 2]
        found = store.verify()
        assert (found.ok, found.repeated_rows, found.repeated_example) == (True, 1, ("a", 3, 0))


def test_a_manifest_that_promises_keys_that_are_not_there(
    tmp_path: Path, matrix: NDArray[np.float32]
) -> None:
    import zlib

    stores(tmp_path, matrix, one=["a", "b"], two=None)
    qstore.publish_shards(tmp_path, keys=False)
    text = (tmp_path / "qstore.json").read_bytes().replace(b'"keys": null', b'"keys": "text"')
    at = text.index(b'"checksum": "') + 13
    text = text[:at] + b"0" * 8 + text[at + 8 :]
    (tmp_path / "qstore.json").write_bytes(text[:at] + b"%08x" % zlib.crc32(text) + text[at + 8 :])
    with qstore.open(tmp_path) as store:
        found = store.verify()
        assert (found.ok, found.keys_ok) == (False, False)
        assert "shard two.h5: its keys are of kind None, expected text" in found.problems[0]


# concat -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [None, [7, 8]], ids=["none", "numbers"])
@pytest.mark.parametrize("first", [True, False])
def test_keys_are_never_dropped_in_silence(
    tmp_path: Path, matrix: NDArray[np.float32], other: list[Any] | None, first: bool
) -> None:
    paths = stores(tmp_path, matrix, one=["a", "b"], two=other)[:: 1 if first else -1]
    with pytest.raises(
        qstore.FormatError, match=r"has (no keys|keys of kind .*), expected .*keys=False \(--no-keys\)"
    ):
        qstore.concat([*paths], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    assert qstore.concat([*paths], tmp_path / "out.h5", keys=False).key_kind is None
    with qstore.open(tmp_path / "out.h5") as store:
        assert (store.key_kind, store.shape) == (None, (4, 3))
    report = qstore.concat([*paths], tmp_path / "cut.h5", rows=(0, 2) if first else (2, 4))
    assert report.key_kind == "text"


def test_keys_are_left_out_where_all_have_some(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    paths = stores(tmp_path, matrix, one=["a", "b"], two=["a", "c"])
    qstore.concat([*paths], tmp_path / "bare.h5", keys=False)  # the same key twice is no matter then
    qstore.build(matrix[:4], tmp_path / "built.h5")
    with qstore.open(tmp_path / "bare.h5") as store, qstore.open(tmp_path / "built.h5") as built:
        assert store.content_id == built.content_id


# Several sources of one build -------------------------------------------------------------------------


def test_sources_with_and_without_keys(tmp_path: Path) -> None:
    (tmp_path / "a.vec").write_text("2 3\nthe 1 2 3\nof 4 5 6\n")
    np.save(tmp_path / "b.npy", np.ones((2, 3), np.float32))
    for sources in ([tmp_path / "a.vec", tmp_path / "b.npy"], [tmp_path / "b.npy", tmp_path / "a.vec"]):
        with pytest.raises(
            qstore.SourceError, match=r"input number [12] of 2 has no keys .*--no-keys.*--keys"
        ):
            qstore.build(sources, tmp_path / "s.h5")
        with pytest.raises(qstore.SourceError, match="has no keys for its rows"):
            qstore.plan(sources, tmp_path / "s.h5")
        with pytest.raises(qstore.SourceError, match="has no keys for its rows"):
            qstore.build_shards(sources, tmp_path / "x", 3)
        assert not (tmp_path / "s.h5").exists()
        qstore.build(sources, tmp_path / "s.h5", keys=False)
        with qstore.open(tmp_path / "s.h5") as store:
            with pytest.raises(qstore.SourceError, match="has no keys for its rows"):
                qstore.verify_against(store, sources)
            assert qstore.verify_against(store, sources, keys=False).ok
        qstore.build(sources, tmp_path / "s.h5", keys=list("abcd"), overwrite=True)
        (tmp_path / "s.h5").unlink()
