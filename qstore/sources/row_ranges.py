"""Which rows of a source are wanted: consecutive ones, out of a known number or of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from ..engine.row_ranges import as_range
from ..errors import SourceError
from ..system.options import shown

__all__ = ["limited", "row_range"]


def limited(chunks: Iterator[NDArray[Any]], rows: int | None) -> Iterator[NDArray[Any]]:
    """The first `rows` rows of a stream of chunks."""
    for chunk in chunks:
        if rows is not None:
            chunk = chunk[:rows]
            rows -= len(chunk)
        yield chunk
        if rows == 0:
            return


def row_range(rows: slice | tuple[int, int] | None, total: int | None) -> tuple[int, int | None]:
    """First row, and the row behind the last (None: to the end of a stream).

    Raises
    ------
    TypeError
        `rows` is no range, as :func:`.engine.row_ranges.as_range` takes them.
    SourceError
        It has a step, or leaves the source.
    """
    wanted = as_range(rows)
    if wanted.step not in (None, 1):
        raise SourceError(f"rows has step {shown(wanted.step)}, expected consecutive rows A:B")
    if total is not None:
        first, last, _ = wanted.indices(total)
        if wanted.stop is not None and wanted.stop > total:
            raise SourceError(f"rows ends at {shown(wanted.stop)}, but the source has {total:,} rows")
        return first, max(first, last)
    first, last = wanted.start or 0, wanted.stop
    if first < 0 or (last is not None and last < first):
        raise SourceError(f"rows {first}:{last} cannot be taken from a source of unknown length")
    return first, last
