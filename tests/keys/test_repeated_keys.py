"""Rows whose key an earlier row has: all of them found, in one file and over many, in pieces of any size."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels, key_search
from qstore.keys import repeats
from qstore.keys.equal_keys import LARGEST, NO_KEY_HASH, value_ranges
from qstore.keys.packed import packed
from qstore.keys.repeats import KeyFile, find_repeats

SIZES = pytest.mark.parametrize("most", [1, 3, 10_000])
function_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def index_of(keys: list[Any]) -> dict[str, NDArray[Any]]:
    """The datasets of /keys for these, as the format page has them."""
    block = packed(keys)
    if block.kind == "integer":
        ids = np.array(keys, np.int64)
        order = np.argsort(ids, kind="stable")
        return {"ids": ids, "sorted": ids[order], "rows": order.astype(np.int64)}
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(block.lengths, out=offsets[1:])
    text = np.frombuffer(bytes(block.data), np.uint8)
    hashes = np.empty(len(keys), np.uint64)
    key_search.hash_texts(text, offsets, hashes)
    order = np.argsort(hashes, kind="stable")
    return {"hashes": hashes[order], "rows": order.astype(np.int64), "offsets": offsets, "bytes": text}


def files_of(parts: list[list[Any]]) -> list[KeyFile]:
    files, first = [], 0
    for number, keys in enumerate(parts):
        files.append(KeyFile(f"{number}.h5", first, len(keys), cache(partial(index_of, keys))))
        first += len(keys)
    return files


def expected_repeats(parts: list[list[Any]]) -> dict[int, tuple[Any, int]]:
    first: dict[Any, int] = {}
    found = {}
    for row, key in enumerate(key for keys in parts for key in keys):
        if key is not None and first.setdefault(key, row) != row:
            found[row] = key, first[key]
    return found


KINDS = [
    st.sampled_from(["a", "b", "", "ab", None, "77kepQFQ8Kl", "!0IC=VloaY"]) | st.text(max_size=2),
    st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1, NO_KEY_HASH - 2**63]),
]


@SIZES
@pytest.mark.parametrize("kind", KINDS, ids=["text", "integer"])
@function_fixture
@given(st.data())
def test_all_are_found(monkeypatch: pytest.MonkeyPatch, most: int, kind: Any, data: st.DataObject) -> None:
    monkeypatch.setattr(repeats, "_MOST_VALUES", most)
    monkeypatch.setattr(repeats, "_BINS", 4)
    monkeypatch.setattr(repeats, "_STEP_ROWS", 2)
    monkeypatch.setattr(repeats, "_MOST_INDICES", 1)
    parts = data.draw(st.lists(st.lists(kind, min_size=1, max_size=8), min_size=1, max_size=5))
    if any(isinstance(key, int) for keys in parts for key in keys):
        files, name = files_of(parts), "integer"
    else:
        files, name = files_of(parts), "text"
    found = list(find_repeats(name, files))  # type: ignore[arg-type]
    assert len({repeat.row for repeat in found}) == len(found)
    assert {repeat.row: (repeat.key, repeat.first) for repeat in found} == expected_repeats(parts)


@pytest.mark.parametrize("kind", ["text", "integer"])
@pytest.mark.parametrize("most", [100, 1 << 21])
def test_many_in_many_files(monkeypatch: pytest.MonkeyPatch, kind: str, most: int) -> None:
    monkeypatch.setattr(repeats, "_MOST_VALUES", most)
    monkeypatch.setattr(repeats, "_BINS", 64)
    numbers = np.random.default_rng(1).integers(0, 4000, 6000).tolist()
    keys: list[Any] = [f"w{number}" for number in numbers] if kind == "text" else numbers
    parts = [keys[at : at + 500] for at in range(0, 6000, 500)]
    found = list(find_repeats(kind, files_of(parts)))  # type: ignore[arg-type]
    assert {repeat.row: (repeat.key, repeat.first) for repeat in found} == expected_repeats(parts)
    assert len(found) == 6000 - len(set(keys))


def test_rows_without_a_key_repeat_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: they are not looked at one by one."""
    monkeypatch.setattr(repeats, "_MOST_VALUES", 10)
    asked: list[int] = []
    monkeypatch.setattr(repeats._Search, "_key_of", lambda self, row: asked.append(row))
    assert not list(find_repeats("text", files_of([[None] * 500, ["a", *[None] * 500]])))
    assert not asked


@pytest.mark.parametrize("rows", [[0, 5], [0, -1], [-(2**63), 1]])
def test_rows_that_are_not_there(rows: list[int]) -> None:
    arrays = {**index_of(["a", "a"]), "rows": np.array(rows)}
    with pytest.raises(qstore.FormatError, match=r"x\.h5: the keys are damaged: /keys/rows"):
        list(find_repeats("text", [KeyFile("x.h5", 0, 2, lambda: arrays)]))


def test_keys_of_another_kind_than_promised() -> None:
    arrays = index_of([1, 2])
    with pytest.raises(qstore.FormatError, match=r"x\.h5 has no keys of the kind"):
        list(find_repeats("text", [KeyFile("x.h5", 0, 2, lambda: arrays)]))


@given(
    st.lists(st.integers(0, LARGEST) | st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(2, 9)
)
def test_ranges_hold_all_values_once(values: list[int], most: int, bins: int) -> None:
    def histogram(low: int, high: int, width: int) -> NDArray[np.int64]:
        assert (high - low) // width < bins
        held = [(value - low) // width for value in values if low <= value <= high]
        return np.bincount(np.array(held, np.int64), minlength=bins)

    after = -1
    total = 0
    for low, high, count in value_ranges(0, LARGEST, len(values), histogram, most, bins):
        assert after < low <= high
        assert count == sum(low <= value <= high for value in values)
        assert count <= most or low == high
        after, total = high, total + count
    assert total == len(values)


# Verify -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_verify_counts_what_is_not_found(tmp_path: Path, engine: str, kind: str) -> None:
    numbers = [0, 1, 0, 2, 1, 0]
    keys: list[Any] = [f"w{number}" for number in numbers] if kind == "text" else numbers
    qstore.build(np.ones((6, 2)), tmp_path / "s.h5", keys=keys, duplicates="first")
    with qstore.open(tmp_path / "s.h5") as store:
        found = store.verify()
        assert (found.ok, found.keys_ok, found.repeated_rows, found.unkeyed_rows) == (True, True, 3, 0)
        assert found.repeated_example is not None
        key, row, first = found.repeated_example
        assert (store.key_of(row), store.key_of(first)) == (key, key)
        assert store.rows_of([key]).tolist() == [first] != [row]
    qstore.build(np.ones((6, 2)), tmp_path / "t.h5", keys=list(range(6)))
    with qstore.open(tmp_path / "t.h5") as store:
        found = store.verify()
        assert (found.repeated_rows, found.repeated_example) == (0, None)


def test_verify_does_not_count_in_keys_that_are_damaged(tmp_path: Path) -> None:
    qstore.build(np.ones((3, 2)), tmp_path / "s.h5", keys=["a", "b", "a"], duplicates="first")
    whole = (tmp_path / "s.h5").read_bytes()
    at = whole.index(b"aba")
    (tmp_path / "s.h5").write_bytes(whole[:at] + b"c" + whole[at + 1 :])
    with qstore.open(tmp_path / "s.h5") as store:
        found = store.verify()
        assert (found.ok, found.keys_ok, found.repeated_rows) == (False, False, 0)


def test_behind_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    qstore.build(
        np.ones((4, 2)),
        tmp_path / "s.h5",
        keys=["a", "b", "a", None],
        duplicates="first",
        missing_keys="none",
    )
    fsspec.filesystem("memory").pipe("/repeated.h5", (tmp_path / "s.h5").read_bytes())
    with qstore.open("memory://repeated.h5") as store:
        found = store.verify()
        assert (found.ok, found.repeated_example, found.unkeyed_rows) == (True, ("a", 2, 0), 1)
        assert store.key_of(slice(None)) == ["a", "b", "a", None]
        assert store.rows_of(["a", "b"]).tolist() == [0, 1]


def test_the_engines_agree_on_the_hash() -> None:
    if kernels.extension() is None:
        pytest.skip("no extension")
    assert index_of(["a", None])["hashes"].tolist() == sorted([key_hash("a"), NO_KEY_HASH])


def key_hash(text: str) -> int:
    raw, offsets = key_search.encoded([text])
    found = np.empty(1, np.uint64)
    kernels.key_engine().hash_texts(raw, offsets, found)
    return int(found[0])
