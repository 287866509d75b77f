"""A matrix that was cut into rectangles, by rows, by columns or both, each of them a source of its own."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Fingerprint, RowSource
from ..checks import check_range, type_name
from .tensor_file import byte_shape

__all__ = ["Band", "Box", "TiledRows", "bands_of", "byte_boxes"]

# A rectangle that spans the rows of others counts once for each of them: as often as this on average.
_MOST_CROSSINGS = 16
_FREE_CROSSINGS = 4096
# Rows that are put together from several rectangles are read in steps of this size.
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Box:
    """A rectangle of a matrix: its first row and column, and how many of each."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Band:
    """Rows that are all cut at the same columns.

    Attributes
    ----------
    start, stop : int
        Rows of the matrix.
    boxes : tuple of int
        Numbers of the boxes that hold them, from the first column to the last.
    """

    start: int
    stop: int
    boxes: tuple[int, ...]


def bands_of(where: str, shape: tuple[int, int], boxes: Sequence[Box]) -> list[Band]:
    """The rows of a matrix, by the boxes that they lie in.

    Parameters
    ----------
    where : str
        Starts errors.
    shape : tuple of int
    boxes : sequence of Box
        In any order. Those without rows or without columns are passed over.

    Raises
    ------
    SourceError
        A box leaves the matrix, two overlap, or a value lies in none.

    Examples
    --------
    >>> bands_of("it", (5, 2), [Box(3, 0, 2, 2), Box(0, 1, 3, 1), Box(0, 0, 3, 1)])
    [Band(start=0, stop=3, boxes=(2, 1)), Band(start=3, stop=5, boxes=(0,))]
    """
    held = [number for number, box in enumerate(boxes) if box.rows and box.columns]
    for number in held:
        _check_inside(where, shape, boxes[number])
    held.sort(key=lambda number: (boxes[number].row, boxes[number].column))
    cuts = sorted({boxes[number].row for number in held} | {_end(boxes[number]) for number in held})
    if shape[0] and shape[1] and (not cuts or cuts[0] != 0 or cuts[-1] != shape[0]):
        first, last = (cuts[0], cuts[-1]) if cuts else (0, 0)
        raise _hole(where, shape, *((0, first) if first else (last, shape[0])), 0, shape[1])
    bands: list[Band] = []
    open_ones: list[int] = []
    following = crossings = 0
    most = _FREE_CROSSINGS + _MOST_CROSSINGS * len(held)
    for start, stop in pairwise(cuts):
        open_ones = [number for number in open_ones if _end(boxes[number]) > start]
        while following < len(held) and boxes[held[following]].row == start:
            open_ones.append(held[following])
            following += 1
        crossings += len(open_ones)
        if crossings > most:
            raise SourceError(
                f"{where} is cut too finely: expected pieces that lie beside at most {_MOST_CROSSINGS} "
                f"others on average, found more"
            )
        open_ones.sort(key=lambda number: boxes[number].column)
        _check_columns(where, shape, start, stop, [boxes[number] for number in open_ones])
        bands.append(Band(start, stop, tuple(open_ones)))
    return bands


def _end(box: Box) -> int:
    return box.row + box.rows


def _check_inside(where: str, shape: tuple[int, int], box: Box) -> None:
    if _end(box) > shape[0] or box.column + box.columns > shape[1]:
        raise SourceError(
            f"{where} has a piece outside of it: expected rows and columns of {shape}, found rows "
            f"{box.row} to {_end(box)}, columns {box.column} to {box.column + box.columns}"
        )


def _check_columns(where: str, shape: tuple[int, int], start: int, stop: int, boxes: list[Box]) -> None:
    position = 0
    for box in boxes:
        if box.column < position:
            raise SourceError(
                f"{where} has pieces that overlap: expected each value of {shape} in one, found rows "
                f"{start} to {stop}, columns {box.column} to {min(position, box.column + box.columns)} in two"
            )
        if box.column > position:
            raise _hole(where, shape, start, stop, position, box.column)
        position += box.columns
    if position < shape[1]:
        raise _hole(where, shape, start, stop, position, shape[1])


def _hole(where: str, shape: tuple[int, int], start: int, stop: int, left: int, right: int) -> SourceError:
    return SourceError(
        f"{where} has pieces that leave a hole: expected each value of {shape} in one, found rows {start} to "
        f"{stop}, columns {left} to {right} in none; get all files again"
    )


def byte_boxes(
    where: str,
    shape: tuple[int, ...],
    pieces: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    bits: int,
) -> tuple[tuple[int, int], list[Box]]:
    """The bytes of a tensor of any number of dimensions as a matrix, and its pieces as rectangles of that.

    Parameters
    ----------
    where : str
        Starts errors.
    shape : tuple of int
    pieces : sequence of pairs of tuples
        Where each begins in the tensor, and its shape; of as many dimensions.
    bits : int
        Of an item.

    Returns
    -------
    shape : (int, int)
        :func:`.byte_shape` of the tensor.
    boxes : list of Box
        One a piece: the bytes of a piece follow one another as the rows of its box do.

    Raises
    ------
    SourceError
        A piece is cut behind the second dimension, or inside of a byte.

    Examples
    --------
    >>> byte_boxes("it", (10, 4), [((0, 0), (10, 3)), ((0, 3), (10, 1))], 16)
    ((10, 8), [Box(row=0, column=0, rows=10, columns=6), Box(row=0, column=6, rows=10, columns=2)])
    >>> byte_boxes("it", (5,), [((0,), (3,)), ((3,), (2,))], 32)[1][1]
    Box(row=3, column=0, rows=2, columns=4)
    """
    inner = math.prod(shape[2:]) * bits
    boxes = []
    for offsets, sizes in pieces:
        column, columns = (offsets[1] * inner, sizes[1] * inner) if len(shape) > 1 else (0, inner)
        if sizes[2:] != shape[2:] or column % 8 or columns % 8:
            raise SourceError(
                f"{where} of shape {shape} is cut at {offsets} into a piece of shape {sizes}: expected whole "
                f"bytes, cut in the first two dimensions; save it from one process"
            )
        boxes.append(Box(offsets[0] if shape else 0, column // 8, sizes[0] if shape else 1, columns // 8))
    return byte_shape(shape, math.prod(shape) * bits // 8), boxes


class TiledRows(RowSource):
    """Rows put together from the sources of their pieces.

    `read` may run in any number of threads, and holds the rows it returns and about 1 MiB.

    Parameters
    ----------
    where : str
        Starts errors.
    kind : str
        Name of the format, for the fingerprint.
    name : str
    shape : tuple of int
    dtype : numpy.dtype
        Items of all pieces.
    boxes : sequence of Box
    bands : list of Band
        What :func:`bands_of` gave for these boxes.
    sources : dict
        Number of a box to its rows, for those in `bands`; closed with this one.
    origin : dict
        What else belongs to the fingerprint.
    """

    def __init__(
        self,
        where: str,
        *,
        kind: str,
        name: str,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        boxes: Sequence[Box],
        bands: list[Band],
        sources: dict[int, RowSource],
        origin: Fingerprint,
    ) -> None:
        self.name, self.dtype = name, type_name(dtype)
        self.rows, self.dim = shape
        self._where, self._kind, self._item, self._origin = where, kind, dtype, origin
        self._boxes, self._bands, self._sources = boxes, bands, sources
        self._starts = [band.start for band in bands]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        number = max(0, bisect_right(self._starts, start) - 1)
        if start < stop and stop <= self._bands[number].stop and len(self._bands[number].boxes) == 1:
            return self._piece(self._bands[number].boxes[0], start, stop)
        # Copied as whole numbers: items of one field, which stand for bfloat16, are copied one by one.
        values = np.empty((stop - start, self.dim), f"u{self._item.itemsize}")
        first = start
        while first < stop:
            band = self._bands[number]
            end = min(stop, band.stop)
            for box in band.boxes:
                self._copy(box, first, values[first - start : end - start])
            first, number = end, number + 1
        return values.view(self._item)

    def _piece(self, box: int, start: int, stop: int) -> NDArray[Any]:
        above = self._boxes[box].row
        return self._sources[box].read(start - above, stop - above)

    def _copy(self, box: int, start: int, target: NDArray[Any]) -> None:
        """Fill the columns of one box in the rows from `start` on."""
        left, columns = self._boxes[box].column, self._boxes[box].columns
        step = max(1, _STEP_BYTES // (columns * self._item.itemsize))
        for first in range(0, len(target), step):
            last = min(first + step, len(target))
            found = self._piece(box, start + first, start + last)
            target[first:last, left : left + columns] = found.view(target.dtype)

    def fingerprint(self) -> Fingerprint:
        """What the pieces say, in numbers that are others whenever one of theirs is."""
        found = [self._sources[box].fingerprint() or {} for band in self._bands for box in band.boxes]
        times = [one.pop("mtime_ns", None) for one in found]
        return {
            "kind": self._kind,
            "mtime_ns": int.from_bytes(_digest(times, 8), "little"),
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "pieces": _digest([self._boxes, self._bands, found], 16).hex(),
            **self._origin,
        }

    def check_unchanged(self) -> None:
        """Raise `SourceError` where one of the files has been changed since it was opened."""
        for source in self._sources.values():
            source.check_unchanged()

    def close(self) -> None:
        """Give the files back. May be called twice, but not beside a running read."""
        for source in self._sources.values():
            source.close()


def _digest(values: Any, size: int) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=size).digest()
