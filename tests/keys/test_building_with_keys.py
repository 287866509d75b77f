"""Building with keys: in every form the same bytes; duplicates, too few or many, and what can be no key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyed_stores import keyed

import qstore
from qstore.keys import index


def contents(path: Path) -> dict[str, bytes]:
    """Files of a folder."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_keys_in_every_form_make_the_same_bytes(tmp_path: Path) -> None:
    keys = [f"w{row}" for row in range(5000)]
    values = np.arange(10_000.0).reshape(-1, 2)
    (tmp_path / "keys.txt").write_text("\n".join(keys) + "\n")
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    forms: list[Any] = [keys, tuple(keys), iter(keys), np.array(keys), np.array(keys, object)]
    forms += [tmp_path / "keys.txt", str(tmp_path / "keys.json"), (key for key in keys)]
    made = set()
    for number, form in enumerate(forms):
        qstore.build(values, tmp_path / f"{number}.h5", keys=form, threads=1 + number % 2)
        made.add((tmp_path / f"{number}.h5").read_bytes())
    for step in (1, 777, 5000):
        with qstore.Writer(tmp_path / f"w{step}.h5", 2, source_dtype="float64") as writer:
            for first in range(0, 5000, step):
                writer.append(values[first : first + step], keys=keys[first : first + step])
        made.add((tmp_path / f"w{step}.h5").read_bytes())
    assert len(made) == 1


def test_numbers_in_every_form_make_the_same_bytes(tmp_path: Path) -> None:
    ids = np.random.default_rng(3).permutation(3000) * 1000
    np.save(tmp_path / "ids.npy", ids)
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    forms: list[Any] = [ids, ids.tolist(), iter(ids.tolist()), ids.astype(np.uint32), ids.astype(">i8")]
    forms += [iter(ids), tmp_path / "ids.npy", tmp_path / "ids.json"]
    made = set()
    for form in forms:
        qstore.build(np.ones((3000, 2)), tmp_path / "store.h5", keys=form, overwrite=True)
        made.add((tmp_path / "store.h5").read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["text", "integer", "skewed"])
@pytest.mark.parametrize("most", [64, 1000])
def test_ranges_of_any_size_make_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, most: int
) -> None:
    numbers = np.random.default_rng(4).permutation(6000)
    keys: Any = {
        "text": [f"w{number}" for number in numbers],
        "integer": numbers * 10**15 - 10**18,
        # All but a few of the numbers lie close together: a range of them is divided again.
        "skewed": np.where(numbers < 5990, numbers, numbers - (1 << 62)),
    }[kind]
    keyed(tmp_path / "expected.h5", keys).close()
    monkeypatch.setattr(index, "MOST_SORTED", most)
    monkeypatch.setattr(index, "_BINS", 16)
    monkeypatch.setattr(index, "_STEP_ROWS", 700)
    monkeypatch.setattr(index, "_STEP_BYTES", 100)
    keyed(tmp_path / "store.h5", keys).close()
    assert (tmp_path / "store.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_duplicates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, kind: str) -> None:
    keys: list[Any] = [f"w{row % 40}" if kind == "text" else row % 40 for row in range(100)]
    with pytest.raises(
        qstore.SourceError, match=r"rows (\d+) and \d+ have the same key, .*--duplicates first"
    ):
        keyed(tmp_path / "store.h5", keys)
    assert contents(tmp_path).keys() == {"store.h5.partial", "store.h5.journal"}
    with keyed(tmp_path / "store.h5", keys, duplicates="first") as store:  # goes on with what is there
        assert store.rows_of(keys).tolist() == [row % 40 for row in range(100)]
        assert list(store.key_of(slice(None))) == keys
        assert store.verify().ok
    assert contents(tmp_path).keys() == {"store.h5"}
    monkeypatch.setattr(index, "MOST_SORTED", 2)  # fewer than there are of one value
    with keyed(tmp_path / "other.h5", keys, duplicates="first"):
        pass
    assert (tmp_path / "other.h5").read_bytes() == (tmp_path / "store.h5").read_bytes()
    with pytest.raises(qstore.SourceError, match="have the same key"):
        keyed(tmp_path / "third.h5", keys)


@pytest.mark.parametrize(
    "source",
    [lambda: np.eye(5), lambda: iter([np.eye(5)[:3], np.eye(5)[3:]]), lambda: qstore.quantize(np.eye(5))],
    ids=["rows", "stream", "codes"],
)
@pytest.mark.parametrize("count", [0, 4, 6])
@pytest.mark.parametrize("form", [list, iter])
def test_fewer_or_more_keys_than_rows(
    tmp_path: Path, source: Callable[[], Any], count: int, form: Callable[[list[str]], Any]
) -> None:
    with pytest.raises(qstore.SourceError, match=f"there are {count} keys, expected .*[35]"):
        qstore.build(source(), tmp_path / "store.h5", keys=form([f"w{row}" for row in range(count)]))
    assert not (tmp_path / "store.h5").exists()


def test_rows_take_their_keys_along(tmp_path: Path) -> None:
    values, keys = np.arange(20.0).reshape(10, 2), [f"w{row}" for row in range(10)]
    for form in (keys, iter(keys)):
        qstore.build(values, tmp_path / "store.h5", keys=form, rows=slice(3, 7), overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            assert store.key_of(slice(None)) == keys[3:7]
            assert np.array_equal(store["w4"], qstore.dequantize(*qstore.quantize(values[4:5]))[0])
    for wrong in (keys[3:7], iter([*keys, "w10"])):
        with pytest.raises(qstore.SourceError, match="expected one for each"):
            qstore.build(values, tmp_path / "other.h5", keys=wrong, rows=slice(3, 7))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["a", 1], "the key of row 1 is 1, expected text"),
        (["a", b"b"], "the key of row 1 is b'b', expected text"),
        (["a", "\ud800"], "half a surrogate pair"),
        ([1, "a"], "the key of row 1 is 'a', expected a whole number"),
        ([1, 1 << 63], "row 1 is 9223372036854775808, expected a whole number of 64 bits"),
        (np.array([1, 1 << 63], np.uint64), "row 1 is 9223372036854775808"),
        (np.array([1.0, 2.0]), "the key of row 0 is 1.0, expected text"),
        (np.array([[1], [2]]), "shape"),
        ({"a": 0, "b": 1}, "keys are of type dict"),
        (b"ab", "keys are of type bytes"),
        (7, "keys are of type int"),
        ([True, False], "the key of row 0 is True"),
    ],
)
def test_what_can_be_no_key(tmp_path: Path, keys: Any, words: str) -> None:
    with pytest.raises(qstore.SourceError, match=words):
        qstore.build(np.eye(2), tmp_path / "store.h5", keys=keys)
    assert not (tmp_path / "store.h5").exists()


def test_the_writer_wants_keys_always_or_never(tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "store.h5", 2) as writer:
        writer.append(np.empty((0, 2)), keys=[])
        writer.append([[1.0, 2.0]], keys=["a"])
        with pytest.raises(qstore.SourceError, match="no keys were given, expected keys of kind text"):
            writer.append([[1.0, 2.0]])
        with pytest.raises(
            qstore.SourceError, match="keys of kind integer were given, expected keys of kind text"
        ):
            writer.append([[1.0, 2.0]], keys=[1])
        with pytest.raises(qstore.SourceError, match="2 keys were given for 1 rows"):
            writer.append([[1.0, 2.0]], keys=["b", "c"])
        with pytest.raises(qstore.NonFiniteError):
            writer.append([[np.nan, 2.0]], keys=["d"])
        writer.append([[3.0, 4.0]], keys=["b"])
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_of(slice(None)) == ["a", "b"]
    with pytest.raises(ValueError, match='expected "error" or "first"'):
        qstore.Writer(tmp_path / "other.h5", 2, duplicates="last")  # type: ignore[arg-type]


def test_codes_take_keys(tmp_path: Path) -> None:
    codes, scales = qstore.quantize(np.eye(3))
    with qstore.Writer(tmp_path / "store.h5", 3) as writer:
        writer.append_codes(codes[:2], scales[:2], keys=[7, 8])
        writer.append_codes(codes[2:], scales[2:], keys=np.array([-1]))
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.rows_of([-1, 7]).tolist() == [2, 0]


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_no_rows(tmp_path: Path, kind: str) -> None:
    keys: Any = [] if kind == "text" else np.empty(0, np.int64)
    qstore.build(np.empty((0, 3), np.float32), tmp_path / "store.h5", keys=keys)
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_kind == kind
        assert store.rows_of(["a"] if kind == "text" else [1], default=-1).tolist() == [-1]
        assert len(store.key_of(slice(None))) == 0
        assert store.verify().ok


def test_the_content_id_tells_keys_apart(tmp_path: Path) -> None:
    ids = set()
    for keys in (None, ["a", "b"], ["b", "a"], ["ab", ""], [1, 2], [2, 1]):
        qstore.build(np.eye(2), tmp_path / "store.h5", keys=keys, overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            ids.add(store.content_id)
    assert len(ids) == 6
