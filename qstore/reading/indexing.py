"""A NumPy key for an (N, D) matrix → rows and columns, of whole rows where it can be, else value by value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL", "Selection", "elements", "select"]

ALL = slice(None)


class Selection(NamedTuple):
    """What a key picks.

    Attributes
    ----------
    rows : int, slice or ndarray of int64
        As given: numbers may be negative or out of range.
    columns : slice
        With step 1; ``slice(None)`` for all columns.
    """

    rows: int | slice | NDArray[np.int64]
    columns: slice


def select(key: Any, rows: int, dim: int) -> Selection | None:
    """Rows and columns that `key` picks from a matrix of shape (rows, dim).

    None for every key that is not of a common form, faulty ones among them: the caller then lets NumPy
    itself index the arrays, which gives NumPy's values, shapes and exceptions.
    """
    columns = ALL
    if type(key) is tuple:
        if not 1 <= len(key) <= 2 or (key[0] is Ellipsis and key[-1] is Ellipsis and len(key) == 2):
            return None
        picked = _columns(key[1], dim) if len(key) == 2 else ALL
        if picked is None:
            return None
        columns, key = picked, key[0]
    found = _rows(key, rows)
    return None if found is None else Selection(found, columns)


def _columns(key: Any, dim: int) -> slice | None:
    if key is Ellipsis:
        return ALL
    if type(key) is not slice or key.step not in (None, 1) or not _plain(key.start) or not _plain(key.stop):
        return None
    start, stop, _ = key.indices(dim)
    return slice(start, max(start, stop))


def _rows(key: Any, rows: int) -> int | slice | NDArray[np.int64] | None:
    if type(key) is np.ndarray and key.dtype == np.int64 and key.ndim:
        return key  # first, as it is what scattered reads give
    if type(key) is int or isinstance(key, np.integer):
        return int(key)
    if key is Ellipsis:
        return ALL
    if type(key) is slice:
        return key if _plain(key.start) and _plain(key.stop) and _plain(key.step) and key.step != 0 else None
    if type(key) is list:
        key = _array_of(key)
    if type(key) is not np.ndarray:
        return None
    if key.dtype == np.bool_ and key.shape == (rows,):
        return key.nonzero()[0].astype(np.int64, copy=False)
    if key.dtype.kind in "iu" and key.ndim > 0 and key.dtype != np.uint64:
        return key.astype(np.int64, copy=False)
    return None


def _plain(bound: Any) -> bool:
    return bound is None or type(bound) is int or isinstance(bound, np.integer)


def _array_of(key: list[Any]) -> NDArray[Any] | None:
    if not key:
        return np.empty(0, np.int64)
    try:
        return np.asarray(key)
    except ValueError:  # ragged
        return None


def elements(key: Any, rows: int, dim: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each value that `key`, any at all, picks from a matrix of shape (rows, dim).

    Both have the shape of what the key gives, and are NumPy scalars where that is one. For matrices that
    are no array: memory grows with the key and with what it picks, not with the matrix.

    Raises
    ------
    IndexError, TypeError, ValueError
        NumPy's own.
    """
    _ = np.broadcast_to(np.uint8(0), (rows, dim))[key]  # takes no memory, and NumPy judges the key
    numbers, key = _rows_apart(key, rows)
    shape = (len(numbers), dim)
    return np.broadcast_to(numbers[:, None], shape)[key], np.broadcast_to(np.arange(dim), shape)[key]


def _rows_apart(key: Any, rows: int) -> tuple[NDArray[np.int64], Any]:
    """Numbers of the rows a good key is about, and the key that picks the same from only these."""
    parts = key if type(key) is tuple else (key,)
    whole = sum(map(_axes, parts)) == 2  # an ellipsis stands for nothing then
    at = next((at for at, part in enumerate(parts) if _axes(part) or (part is ... and not whole)), None)
    part = ... if at is None else parts[at]
    if at is None or part is ... or _axes(part) == 2:
        return np.arange(rows), key
    if type(part) is slice:
        return np.arange(*part.indices(rows)), (*parts[:at], slice(None), *parts[at + 1 :])
    picks = np.asarray(part)
    if picks.dtype == np.bool_ and picks.ndim:
        picks = picks.nonzero()[0]
    alone = not isinstance(part, np.ndarray) and not picks.ndim
    numbers = 0 if alone else np.arange(picks.size).reshape(picks.shape)
    flat = picks.reshape(-1).astype(np.int64)
    return np.where(flat < 0, flat + rows, flat), (*parts[:at], numbers, *parts[at + 1 :])


def _axes(part: Any) -> int:
    """How many axes of the matrix a part of a good key is about."""
    if part is None or part is ...:
        return 0
    if type(part) is slice:
        return 1
    array = np.asarray(part)
    return array.ndim if array.dtype == np.bool_ else 1
