"""A NumPy key of a common form for an (N, D) matrix → rows and columns, with the least Python in the way."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..system.options import shown

__all__ = ["ALL", "Selection", "judged", "select"]

ALL = slice(None)

_FAR = 1 << 62
"""Out of bounds of every matrix, and a number that NumPy takes for an index."""


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

    None for every key that is not of a common form, faulty ones among them: they are for :mod:`.any_key`.
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
    except (ValueError, TypeError, RuntimeError):  # ragged, too deep, or of tensors that give no array
        return None


def judged(key: Any, shape: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the nothing that a faulty key picks, where NumPy lets it pass; else NumPy's own exception.

    Raises
    ------
    IndexError, TypeError, ValueError
        NumPy's own; of numbers past 64 bits, where versions of NumPy differ, what it says of smaller ones.
    """
    parts = key if type(key) is tuple else (key,)
    huge = next((part for part in parts if _is_huge(part)), None)
    if huge is not None:
        near = tuple((_FAR if part > 0 else -_FAR) if _is_huge(part) else part for part in parts)
        try:
            return judged(near if type(key) is tuple else near[0], shape)
        except IndexError as error:
            raise IndexError(str(error).replace(str(_FAR), str(abs(huge)))) from None
    try:
        picked = np.broadcast_to(np.uint8(0), shape)[key]  # the matrix takes no memory
    except (RuntimeError, AttributeError) as error:  # of what the key is made of
        raise IndexError(
            f"found {shown(key)} as an index, expected whole numbers, slices, masks or keys: "
            f"{str(error)[:200]}"
        ) from None
    if picked.size:
        raise IndexError(
            f"found {shown(key)} as an index, expected whole numbers, slices, masks or keys; store[:][key] "
            f"takes more, in memory"
        )
    shape_of_nothing: tuple[int, ...] = picked.shape
    return shape_of_nothing


def _is_huge(part: Any) -> bool:
    return type(part) is int and not -(1 << 63) <= part < 1 << 63
