"""Rows by key against a Python dict, on both engines, with many keys and with hashes that collide."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture
from hypothesis import given
from keyed_stores import TWINS, keyed
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels, key_search


@function_fixture
@given(st.lists(st.text(max_size=8), unique=True, max_size=60), st.lists(st.text(max_size=8), max_size=20))
def test_texts_are_found_as_in_a_dict(
    engine: str, tmp_path: Path, keys: list[str], others: list[str]
) -> None:
    expected = {key: row for row, key in enumerate(keys)}
    asked = keys[::-1] + others
    with keyed(tmp_path / "store.h5", keys) if keys else no_rows(tmp_path / "store.h5") as store:
        assert store.rows_of(asked, default=-7).tolist() == [expected.get(key, -7) for key in asked]
        assert store.key_of(slice(None)) == keys
        assert store.key_of(np.arange(len(keys))[::-1]) == keys[::-1]
        assert [key in store for key in asked] == [key in expected for key in asked]
        for key in asked:
            if key in expected:
                np.testing.assert_array_equal(store[key], store[expected[key]])
                np.testing.assert_array_equal(store.get(key), store[expected[key]])
            else:
                assert store.get(key) is None
                with pytest.raises(qstore.MissingKeyError):
                    store[key]
        assert store.verify().ok


def no_rows(path: Path) -> qstore.Store:
    qstore.build(np.empty((0, 2), np.float32), path, keys=[], overwrite=True)
    return qstore.open(path)


@function_fixture
@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), unique=True, min_size=1, max_size=60), st.data())
def test_numbers_are_found_as_in_a_dict(
    engine: str, tmp_path: Path, keys: list[int], data: st.DataObject
) -> None:
    expected = {key: row for row, key in enumerate(keys)}
    near = st.sampled_from(keys).map(lambda key: min(key + 1, (1 << 63) - 1))
    asked = keys[::-1] + data.draw(st.lists(near | st.integers(-(1 << 63), (1 << 63) - 1), max_size=20))
    with keyed(tmp_path / "store.h5", keys) as store:
        assert store.rows_of(asked, default=-7).tolist() == [expected.get(key, -7) for key in asked]
        assert store.key_of(slice(None)).tolist() == keys
        assert store.key_of(0) == keys[0]
        assert store.verify().ok


@pytest.mark.parametrize("kind", ["text", "dense", "skewed"])
def test_a_hundred_thousand_keys(engine: str, tmp_path: Path, kind: str) -> None:
    generator = random.Random(5)
    keys: list[Any] = [f"{generator.getrandbits(40):x}{row}" for row in range(100_000)]
    if kind != "text":
        keys = (
            list(range(100_000))
            if kind == "dense"
            else [int(1.0003**row) * 100_000 + row for row in range(100_000)]
        )
        generator.shuffle(keys)
    with keyed(tmp_path / "store.h5", keys, dim=1) as store:
        asked = generator.sample(range(100_000), 20_000)
        assert store.rows_of([keys[row] for row in asked]).tolist() == asked
        absent = [key + "?" for key in keys[:5000]] if kind == "text" else [-row for row in range(1, 5001)]
        assert (store.rows_of(absent, default=-1) == -1).all()
        assert store.verify().ok


@pytest.mark.parametrize("bits", [0, 3])
def test_forged_collisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bits: int) -> None:
    """With a hash of few bits, nearly all keys share theirs with many: bytes alone tell them apart."""
    whole = key_search.hash_texts

    def weak(text: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint64]) -> int:
        bad = whole(text, offsets, out)
        out &= np.uint64((1 << bits) - 1)
        return bad

    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(key_search, "hash_texts", weak)
    keys = [f"key {row * 7919 % 1000}" for row in range(1000)]
    with keyed(tmp_path / "store.h5", keys) as store:
        assert store.rows_of(keys).tolist() == list(range(1000))
        assert store.rows_of(["key 1000", ""], default=-1).tolist() == [-1, -1]
        assert store.verify().ok
    with pytest.raises(qstore.SourceError, match="rows 3 and 1000 have the same key"):
        keyed(tmp_path / "other.h5", [*keys, keys[3]])


def test_real_collisions(engine: str, tmp_path: Path) -> None:
    keys = [end + tail for tail in ("", "a", "\0", "é") for end in TWINS]
    with keyed(tmp_path / "store.h5", keys) as store:
        assert store.rows_of(keys).tolist() == list(range(len(keys)))
        assert (TWINS[0] + "b") not in store
