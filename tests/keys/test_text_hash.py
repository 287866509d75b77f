"""The hash of a text: that of the format page, on both engines."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture, native
from hypothesis import given
from keyed_stores import TWINS

from qstore.engine import kernels, key_search

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def hash_of(text: str) -> int:
    """The hash as the format page has it."""
    source = FORMAT_PAGE.read_text().partition("def text_hash")
    namespace: dict[str, Any] = {}
    exec("def text_hash" + source[2].partition("```")[0], namespace)
    result: int = namespace["text_hash"](text)
    return result


@function_fixture
@given(st.lists(st.text(), max_size=40))
def test_the_hash_is_that_of_the_format_page(engine: str, texts: list[str]) -> None:
    raw, offsets = key_search.encoded(texts)
    found = np.empty(len(texts), np.uint64)
    assert kernels.key_engine().hash_texts(raw, offsets, found) == -1
    assert found.tolist() == [hash_of(text) for text in texts]


def test_long_texts_have_the_same_hash_in_both_engines() -> None:
    texts = ["x" * size for size in (0, 1, 7, 1000, 70_000)] + [random.Random(1).randbytes(999).hex()] * 12
    raw, offsets = key_search.encoded(texts)
    found = [np.empty(len(texts), np.uint64) for _ in range(2)]
    for hashes, one in zip(found, (key_search, native or key_search), strict=True):
        assert one.hash_texts(raw, offsets, hashes) == -1
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2], [2, 1], [0, 1, 0], [0, 2, 1 << 62]])
def test_offsets_that_lie_are_not_followed(engine: str, offsets: list[int]) -> None:
    out = np.empty(len(offsets) - 1, np.uint64)
    bad = kernels.key_engine().hash_texts(np.zeros(3, np.uint8), np.array(offsets), out)
    assert bad == len(offsets) - 2


def test_the_twins_have_one_hash() -> None:
    assert [hash_of(text + "!") for text in TWINS] == [hash_of(TWINS[0] + "!")] * 2
