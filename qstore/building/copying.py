"""Codes and scales copied to their place in another file, block by block, and their checksums with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..format import layout
from ..format.checksums import crc32, joined_crc32
from ..format.layout import Extent
from ..reading.local_store import LocalStore
from ..system import durable_files

__all__ = ["Copied", "Span", "block_spans", "copy_span"]


class Copied(NamedTuple):
    """Rows that were copied, all within one block of the output."""

    rows: int
    codes_crc: int
    scales_crc: int


@dataclass(frozen=True)
class Span:
    """The rows of one block of a shard that are wanted.

    Attributes
    ----------
    shard : int
        Which one.
    block : int
        Number of its checksum block.
    first, last : int
        Its rows `first` to before `last`.
    target : int
        Number of the first of them in the output.
    """

    shard: int
    block: int
    first: int
    last: int
    target: int

    def pieces(self, rows: int, block_rows: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (first row, last row, wanted) of pieces of the block, cut where the output's blocks are."""
        start, stop = self.block * block_rows, min(rows, (self.block + 1) * block_rows)
        cut = self.first + (-self.target) % block_rows
        bounds = sorted(
            {start, stop, self.first, self.last, *([cut] if self.first < cut < self.last else [])}
        )
        for one, after in pairwise(bounds):
            yield one, after, self.first <= one < self.last


def block_spans(shard: int, first: int, last: int, target: int, block_rows: int) -> Iterator[Span]:
    """The rows `first` to before `last` of a shard, a span for each of its blocks."""
    while first < last:
        block = first // block_rows
        stop = min(last, (block + 1) * block_rows)
        yield Span(shard, block, first, stop, target)
        target += stop - first
        first = stop


def copy_span(file: LocalStore, span: Span, fd: int, places: dict[str, Extent]) -> list[Copied]:
    """Copy a span to `fd`, whose datasets lie at `places`.

    Each byte of the block is read once: the checksums of its parts give those of the output and, joined, have
    to be what the shard says of the block.

    Raises
    ------
    FormatError
        The block does not agree with its checksums. What was written is worthless then.
    """
    rows, dim = file.facts.rows, file.facts.dim
    codes, scales = file.view("codes"), file.view("scales")
    whole, copied, row = (0, 0), [], span.target
    for first, last, wanted in span.pieces(rows, layout.block_rows(dim)):
        found = crc32(codes[first:last]), crc32(scales[first:last])
        sizes = (last - first) * dim, (last - first) * 8
        whole = joined_crc32(whole[0], found[0], sizes[0]), joined_crc32(whole[1], found[1], sizes[1])
        if wanted:
            _write(fd, codes[first:last], places["codes"].offset + row * dim)
            _write(fd, scales[first:last], places["scales"].offset + row * 8)
            copied.append(Copied(last - first, *found))
            row += last - first
    if whole != tuple(file.view("checksums")[span.block].tolist()):
        raise FormatError(
            f"{file.path}: block {span.block} differs from its checksum; restore the file "
            f"(qstore verify names all broken blocks)"
        )
    return copied


def _write(fd: int, array: NDArray[np.generic], offset: int) -> None:
    durable_files.write_all(fd, array.data, offset)
