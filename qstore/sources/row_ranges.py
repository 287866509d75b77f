"""Which rows of a source are wanted: consecutive ones, out of a known number or of a stream."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

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
    """First row, and the row behind the last (None: to the end of a stream)."""
    wanted = _as_slice(rows)
    if wanted.step not in (None, 1):
        raise SourceError(f"rows has step {shown(wanted.step)}, expected consecutive rows A:B")
    if total is not None:
        first, last, _ = wanted.indices(total)
        if wanted.stop is not None and wanted.stop > total:
            raise SourceError(f"rows ends at {shown(wanted.stop)}, but the source has {total} rows")
        return first, max(first, last)
    first, last = wanted.start or 0, wanted.stop
    if first < 0 or (last is not None and last < first):
        raise SourceError(f"rows {first}:{last} cannot be taken from a source of unknown length")
    return first, last


def _as_slice(rows: Any) -> slice:
    """The rows as a slice of whole numbers; TypeError for anything else than a slice or a pair."""
    if rows is None:
        return slice(None)
    pair = rows if isinstance(rows, (tuple, list)) and len(rows) == 2 else (rows,)
    bounds = (rows.start, rows.stop, rows.step) if isinstance(rows, slice) else pair
    try:
        whole = [None if bound is None else operator.index(bound) for bound in bounds]
    except (TypeError, ValueError, RuntimeError):
        whole = []
    if len(whole) < 2:
        raise TypeError(f"rows is {shown(rows)}, expected a slice or a pair (start, stop) of whole numbers")
    return slice(*whole)
