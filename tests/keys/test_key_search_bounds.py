"""What the search of keys checks itself: arguments, strides, and that it stays inside any index at all."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture, native
from hypothesis import given

from qstore.engine import kernels, key_search


@pytest.mark.skipif(native is None, reason="qstore._native is not installed: NumPy engine only")
def test_the_extension_checks_its_arguments() -> None:
    hashes, rows, offsets = np.zeros(2, np.uint64), np.zeros(2, np.int64), np.zeros(3, np.int64)
    text, out = np.zeros(4, np.uint8), np.zeros(1, np.int64)
    good: tuple[Any, ...] = (hashes, rows, offsets, text, ["a"], out)
    assert native.find_texts(*good) == -1
    wrong: dict[int, list[Any]] = {
        0: [hashes.view(np.int64), hashes[:1], hashes.reshape(1, 2)],
        1: [rows[:1], rows.astype(np.int32), None],
        2: [offsets[:2], offsets.view(np.uint64), np.zeros(4, np.int64)],
        3: [text[::2], text.view(np.int8), text.reshape(2, 2)],
        4: [["a", "b"], [1], 3, [b"a"], []],
        5: [np.zeros(2, np.int64), np.zeros(1, np.uint64), np.frombuffer(bytes(8), np.int64)],
    }
    for at, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError)):
                native.find_texts(*good[:at], value, *good[at + 1 :])
            if at < 4:
                with pytest.raises((TypeError, ValueError)):
                    native.TextFinder(*good[:at], value, *good[at + 1 : 4])
    with pytest.raises(TypeError):
        native.find_texts(*good, 1)
    for arguments in ((), good[:3], good):
        with pytest.raises(TypeError):
            native.TextFinder(*arguments)
    with pytest.raises(TypeError):
        native.TextFinder(*good[:4], kind=1)
    for key in (3, b"a", None, ["a"]):
        with pytest.raises(TypeError):
            native.TextFinder(*good[:4]).find(key)
    with pytest.raises(UnicodeEncodeError):
        native.TextFinder(*good[:4]).find("\ud800")
    with pytest.raises(ValueError, match="items"):
        native.find_ids(rows, rows[:1], rows, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="items"):
        native.hash_texts(text, offsets, np.zeros(1, np.uint64))


def test_strided_arrays_are_read_as_they_lie(engine: str) -> None:
    ordered = np.arange(0, 40, 2, dtype=np.int64)
    rows, out = np.arange(20, dtype=np.int64)[::-1] // 2, np.zeros(8, np.int64)
    assert kernels.key_engine().find_ids(ordered[::2], rows[::2], np.array([0, 4, 5, 36]), out[::2]) == -1
    assert out.tolist() == [9, 0, 8, 0, -1, 0, 0, 0]


@function_fixture
@given(st.data())
def test_any_index_at_all_is_searched_in_bounds(engine: str, data: st.DataObject) -> None:
    """Arrays of any content: the answer is a row, missing or corrupt; the sanitizers watch the rest."""
    size = data.draw(st.integers(0, 30))
    near = st.integers(-3, 40) | st.integers(-(1 << 63), (1 << 63) - 1)
    texts = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=5))
    raw, bounds = key_search.encoded(texts)
    true = np.empty(len(texts), np.uint64)
    key_search.hash_texts(raw, bounds, true)
    any_hash = st.sampled_from(true.tolist()) | st.integers(0, (1 << 64) - 1)
    hashes = np.array(data.draw(st.lists(any_hash, min_size=size, max_size=size)), np.uint64)
    rows = np.array(data.draw(st.lists(near, min_size=size, max_size=size)), np.int64)
    offsets = np.array(data.draw(st.lists(near, min_size=size + 1, max_size=size + 1)), np.int64)
    out = np.full(len(texts), -5, np.int64)
    bad = kernels.key_engine().find_texts(hashes, rows, offsets, raw, texts, out)
    assert -1 <= bad < len(texts)
    alone = kernels.key_engine().TextFinder(hashes, rows, offsets, raw)
    one = np.empty(1, np.int64)
    for text in texts:
        failed = kernels.key_engine().find_texts(hashes, rows, offsets, raw, [text], one)
        assert alone.find(text) == (-2 if failed >= 0 else one[0])
    done = out if bad < 0 else out[:bad]
    assert ((done >= -1) & (done < size)).all()
    out = np.full(size + 1, -5, np.int64)
    bad = kernels.key_engine().find_ids(offsets[:size], rows, offsets, out)
    assert bad < 0 or not 0 <= out[bad] < size or engine == "C"
