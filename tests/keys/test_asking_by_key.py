"""What users ask of a store with keys: rows_of, key_of, in; what is missing, of another kind, or closed."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyed_stores import keyed

import qstore


@pytest.fixture
def words(tmp_path: Path) -> Iterator[qstore.Store]:
    with keyed(tmp_path / "words.h5", ["king", "queen", "", "a\0b", "ß", "𝄞"], dim=4) as store:
        yield store


def test_texts_index_rows(words: qstore.Store) -> None:
    assert np.array_equal(words["queen"], words[1])
    assert np.array_equal(words[["queen", "king", "queen"]], words[[1, 0, 1]])
    assert np.array_equal(words[np.array(["ß", "𝄞"])], words[[4, 5]])
    assert np.array_equal(words["a\0b", 1:3], words[3, 1:3])
    assert np.array_equal(words[["", "king"], :2], words[[2, 0], :2])
    assert np.array_equal(words.astype("float64")["queen"], words.astype("float64")[1])
    assert words[[]].shape == (0, 4)


def test_keys_come_back(words: qstore.Store) -> None:
    assert words.key_kind == "text"
    assert words.key_of(-1) == "𝄞"
    assert words.key_of(np.int8(3)) == "a\0b"
    assert words.key_of(slice(3, 0, -2)) == ["a\0b", "queen"]
    assert words.key_of(slice(4, 2)) == []
    assert words.key_of([5, -6]) == ["𝄞", "king"]
    assert words.key_of(np.empty(0, np.int64)) == []
    for wrong in (6, -7, [0, 6], 1.5, [[0]]):
        with pytest.raises(IndexError):
            words.key_of(wrong)


def test_what_is_missing_is_named(words: qstore.Store) -> None:
    asked = ["king", *(f"no {number}" for number in range(9)), "queen"]
    with pytest.raises(KeyError) as caught:
        words.rows_of(asked)
    assert isinstance(caught.value, qstore.MissingKeyError)
    assert str(caught.value) == (
        "9 of 11 keys are not in the store: 'no 0', 'no 1', 'no 2', 'no 3', 'no 4', …"
    )
    assert (caught.value.count, caught.value.keys[0]) == (9, "no 0")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(qstore.MissingKeyError, match=r"^this key is not in the store: 'pawn'$"):
        words["pawn"]
    with pytest.raises(KeyError, match="1 of 2 keys"):
        words[["king", "pawn"]]


def test_keys_of_another_kind_are_refused(engine: str, words: qstore.Store, tmp_path: Path) -> None:
    strange: list[Any] = [[1], ["king", 1], [b"king"], "king", 7, np.arange(3), [None]]
    for wrong in strange:
        with pytest.raises(TypeError):
            words.rows_of(wrong)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        words.rows_of(["king", "\ud800"])
    with pytest.raises(TypeError, match="`in` looks for a text key"):
        3 in words  # noqa: B015
    with keyed(tmp_path / "ids.h5", [5, 6]) as store:
        strange = [["5"], [5.0], 5, "5", [[5]]]
        for wrong in strange:
            with pytest.raises(TypeError):
                store.rows_of(wrong)
        assert store.rows_of(np.array([6, 5], np.uint8)).tolist() == [1, 0]
        assert store.rows_of([]).tolist() == []
        with pytest.raises(TypeError):
            store["5"]
        with pytest.raises(IndexError):
            store[5]


def test_without_keys(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "store.h5")
    with qstore.open(tmp_path / "store.h5") as store:
        assert (store.key_kind, store.format_version) == (None, (1, 1))
        for ask in (
            lambda: store.rows_of(["a"]),
            lambda: store.key_of(0),
            lambda: store["a"],
            lambda: store[["a", "b"]],
            lambda: "a" in store,
        ):
            with pytest.raises(IndexError, match="have no keys"):
                ask()
        assert store.verify().keys_ok is None


def test_a_closed_store_says_so(no_leaks: None, words: qstore.Store) -> None:
    words.close()
    for ask in (lambda: words.rows_of(["king"]), lambda: words.key_of(0), lambda: "king" in words):
        with pytest.raises(qstore.ClosedError):
            ask()


def test_threads_forks_and_pickles(words: qstore.Store) -> None:
    asked, found = ["queen", "𝄞", "king"] * 50, [1, 5, 0] * 50
    wrong: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: wrong.extend(words.rows_of(asked).tolist() != found for _ in range(200))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 800
    assert not any(wrong)
    child = os.fork()
    if not child:
        os._exit(words.rows_of(asked).tolist() != found)
    assert os.waitpid(child, 0)[1] == 0
    with pickle.loads(pickle.dumps(words)) as other:
        assert other.rows_of(asked).tolist() == found
