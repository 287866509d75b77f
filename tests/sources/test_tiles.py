"""Matrices in pieces: every way to cut one, and cuts that leave holes, overlap or lie outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from source_contract import matrix_of, same

from qstore.errors import SourceError
from qstore.sources.containers import tiles
from qstore.sources.containers.tiles import Box, TiledRows, bands_of
from qstore.sources.memory.array import ArraySource


@st.composite
def cuttings(draw: st.DrawFn, most: int = 12) -> tuple[tuple[int, int], list[Box]]:
    """A shape and boxes that fill it, cut in two again and again, in any order; some are empty."""
    shape = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    boxes = [Box(0, 0, *shape)]
    for _ in range(draw(st.integers(0, most))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        if draw(st.booleans()):
            at = draw(st.integers(0, box.rows))
            boxes.append(Box(box.row, box.column, at, box.columns))
            boxes.append(Box(box.row + at, box.column, box.rows - at, box.columns))
        else:
            at = draw(st.integers(0, box.columns))
            boxes.append(Box(box.row, box.column, box.rows, at))
            boxes.append(Box(box.row, box.column + at, box.rows, box.columns - at))
    return shape, draw(st.permutations(boxes))


def tiled(values: NDArray[np.float32], boxes: list[Box]) -> TiledRows:
    sources = {
        number: ArraySource(values[box.row : box.row + box.rows, box.column : box.column + box.columns])
        for number, box in enumerate(boxes)
        if box.rows and box.columns
    }
    return TiledRows(
        "it", kind="test", name="w", shape=values.shape, dtype=values.dtype, boxes=boxes,
        bands=bands_of("it", values.shape, boxes), sources=dict(sources), origin={},
    )  # fmt: skip


@given(cuttings(), st.data())
def test_any_cutting_reads_as_the_whole(
    cutting: tuple[tuple[int, int], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = cutting
    values = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    source = tiled(values, boxes)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    found = source.read(start, stop)
    assert (found.dtype, found.shape) == (values.dtype, (stop - start, shape[1]))
    assert np.array_equal(found, values[start:stop])


@given(cuttings(), st.data())
def test_other_cuttings_are_refused(cutting: tuple[tuple[int, int], list[Box]], data: st.DataObject) -> None:
    """A piece that is missing, there twice, or moved: an error that says what is wrong."""
    shape, boxes = cutting
    full = [number for number, box in enumerate(boxes) if box.rows and box.columns]
    if not full:
        return
    number = data.draw(st.sampled_from(full))
    box = boxes[number]
    missing, twice = boxes[:number] + boxes[number + 1 :], [*boxes, box]
    with pytest.raises(SourceError, match=r"it has pieces that leave a hole: expected .* found rows"):
        bands_of("it", shape, missing)
    with pytest.raises(SourceError, match=r"it has pieces that overlap: expected .* found rows"):
        bands_of("it", shape, twice)
    outside = Box(box.row + shape[0], box.column, box.rows, box.columns)
    with pytest.raises(SourceError, match=r"it has a piece outside of it: expected .* found rows"):
        bands_of("it", shape, [*missing, outside])


def test_large_matrices_are_copied_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_STEP_BYTES", 64)
    values = matrix_of("float32")
    boxes = [Box(0, 0, 200, 3), Box(0, 3, 257, 2), Box(200, 0, 57, 3)]
    source = tiled(values, boxes)
    assert same(source.read(3, 250), values[3:250])
    assert same(np.concatenate(list(source.chunks())), values)


def test_the_fingerprint_sees_where_pieces_lie() -> None:
    values = np.zeros((4, 4), np.float32)
    rows = [Box(0, 0, 2, 4), Box(2, 0, 2, 4)]
    columns = [Box(0, 0, 4, 2), Box(0, 2, 4, 2)]
    prints = [tiled(values, boxes).fingerprint() for boxes in (rows, rows, columns, rows[::-1])]
    assert prints[0] == prints[1]
    assert len({one["pieces"] for one in prints}) == 3


def test_cut_too_finely() -> None:
    """High boxes beside low ones: quadratic work, which is bounded."""
    low = [Box(row, 99, 1, 1) for row in range(100)]
    high = [Box(0, column, 100, 1) for column in range(99)]
    with pytest.raises(SourceError, match="it is cut too finely: expected pieces that lie beside at most 16"):
        bands_of("it", (100, 100), low + high)
    assert (
        len(bands_of("it", (100, 30), [Box(row, 0, 1, 1) for row in range(100)] + [Box(0, 1, 100, 29)]))
        == 100
    )
