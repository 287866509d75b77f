"""Streams of chunks: taken one by one, read once, and each checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import files_open_in, matrix_of, refused, same

from qstore.errors import SourceError
from qstore.sources import open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def test_no_chunks_refused() -> None:
    refused([], "the iterable is empty", "of shape (0, columns)")
    refused(iter(()), "the iterable is empty")


def test_single_rows_refused() -> None:
    refused([np.zeros(3), np.zeros(3)], "chunk 0 (from row 0) is one row of shape (3,)", "np.stack")
    refused([1.0, 2.0], "chunk 0 (from row 0) has shape ()")
    refused([np.zeros((2, 2, 2))], "chunk 0 (from row 0) has shape (2, 2, 2)", "found 3 dimensions")


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (np.zeros((2, 4), np.float32), "has 4 columns: expected 3"),
        (np.zeros(3, np.float32), r"is one row of shape \(3,\)"),
        (np.zeros((2, 3), np.float64), "holds float64: expected float32"),
        (np.zeros((2, 3), np.uint16), "holds uint16: expected float32"),
        (np.zeros((2, 3), object), "holds object: expected float32"),
        ([[1, 2, 3], [4, 5]], "no array of numbers"),
    ],
)
def test_later_chunks_are_checked(later: Any, words: str) -> None:
    first = np.zeros((5, 3), np.float32)
    source = open_source(iter([first, first, later]))
    chunks = source.chunks()
    assert [len(next(chunks)), len(next(chunks))] == [5, 5]
    with pytest.raises(SourceError, match=rf"chunk 2 \(from row 10\).*{words}"):
        next(chunks)
    # Rows that are skipped are checked as well.
    with pytest.raises(SourceError, match="chunk 2"):
        list(open_source([first, first, later]).chunks(12))


def test_byte_order_of_chunks_may_differ() -> None:
    values = matrix_of("float32")
    source = open_source(iter([values, values.astype(">f4")]))
    assert same(np.concatenate(list(source.chunks())), np.concatenate([values, values]))


def test_chunks_that_end_before_the_start() -> None:
    with pytest.raises(SourceError, match="end early: expected more than 9 rows, found 4"):
        list(open_source(iter([np.zeros((4, 2))])).chunks(9))


def test_an_iterator_is_read_once() -> None:
    values = matrix_of("float32")
    once = open_source(iter([values]))
    list(once.chunks())
    with pytest.raises(SourceError, match="has been read already"):
        once.chunks()
    often = open_source([values])
    assert [len(list(often.chunks())) for _ in range(3)] == [1, 1, 1]


def test_errors_of_a_generator_pass_through() -> None:
    def failing() -> Iterator[NDArray[Any]]:
        yield np.zeros((2, 2))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(open_source(failing()).chunks())


def test_only_the_first_chunk_is_taken_early() -> None:
    taken: list[int] = []

    def counting() -> Iterator[NDArray[Any]]:
        for number in range(3):
            taken.append(number)
            yield np.full((2, 2), number)

    source = open_source(counting())
    assert taken == [0]
    assert [int(chunk[0, 0]) for chunk in source.chunks()] == [0, 1, 2]
