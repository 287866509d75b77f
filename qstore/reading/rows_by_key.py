"""Rows by name: what users ask of the keys of a store."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..engine.arguments import as_row_numbers
from ..engine.arrays import check_dense, is_tensor
from ..errors import MissingKeyError
from ..keys.given import as_listed
from ..keys.lookup import MISSING, KeyIndex
from ..system.options import shown
from .backing import Backing

__all__ = ["is_named", "key_of", "numbered", "rows_of"]

# So many of the missing keys are named in an error.
_SHOWN = 5


def rows_of(backing: Backing, keys: Any, default: int | None = None) -> NDArray[np.int64]:
    """Row of each key; see :meth:`.Store.rows_of`."""
    index, given = backing.key_index(), as_listed(keys)
    stand_in = None if default is None else _stand_in(default)
    if not isinstance(given, (str, bytes, list, tuple, np.ndarray)) and hasattr(given, "__iter__"):
        given = list(given)
    rows = index.rows_of(given)
    missing = rows == MISSING
    if missing.any():
        if stand_in is None:
            raise _missing(given, missing)
        rows[missing] = stand_in
    return rows


def _stand_in(default: Any) -> int:
    try:
        number = operator.index(default)
    except (TypeError, ValueError, RuntimeError):
        number = 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"default is {shown(default)}, expected a whole number of 64 bits, such as -1")
    return number


def _missing(keys: Any, missing: NDArray[np.bool_]) -> MissingKeyError:
    places = np.flatnonzero(missing)
    values = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    return MissingKeyError(tuple(values[place] for place in places[:_SHOWN]), len(places), len(missing))


def key_of(backing: Backing, row: Any) -> Any:
    """Key of a row, or of several; see :meth:`.Store.key_of`."""
    keys, total = backing.key_index(), backing.facts.rows
    if isinstance(row, slice):
        return _keys_of_range(keys, range(total)[row])
    numbers = _checked(row, total)
    if numbers.ndim > 1:
        raise IndexError(f"rows have shape {numbers.shape}, expected one number, a slice or a 1-D array")
    found = keys.keys_of(numbers.reshape(-1))
    if numbers.ndim:
        return found
    return found[0] if isinstance(found, list) else int(found[0])


def _keys_of_range(keys: KeyIndex, rows: range) -> Any:
    if rows.step == 1:
        return keys.keys_between(rows.start, max(rows.start, rows.stop))
    return keys.keys_of(np.arange(rows.start, rows.stop, rows.step))


def _checked(rows: ArrayLike, total: int) -> NDArray[np.int64]:
    numbers = as_row_numbers(rows)
    bad = (numbers < -total) | (numbers >= total)
    if bad.any():
        raise IndexError(f"index {numbers[bad].flat[0]} is out of bounds for axis 0 with size {total}")
    return np.where(numbers < 0, numbers + total, numbers)


def is_named(key: Any) -> bool:
    """Whether an index picks rows by text keys: one, a list or column of them, or a tuple that begins so."""
    if isinstance(key, tuple):
        return bool(key) and not isinstance(key[0], tuple) and is_named(key[0])
    if isinstance(key, (str, list, np.ndarray)):
        return _is_text(key)
    if is_tensor(key) or not hasattr(key, "__array__"):
        return False
    check_dense(key, "the index", IndexError)
    return _is_text(as_listed(key))


def _is_text(key: Any) -> bool:
    if isinstance(key, np.ndarray) and key.dtype.kind != "O":
        return key.dtype.kind in "UT"
    if isinstance(key, np.ndarray) and key.ndim != 1:
        return False
    return isinstance(key, str) or (len(key) > 0 and isinstance(key[0], str))


def numbered(backing: Backing, key: Any) -> Any:
    """The index with row numbers in the place of keys."""
    if isinstance(key, tuple):
        return (numbered(backing, key[0]), *key[1:])
    if isinstance(key, str):
        return backing.row_of(key)
    return rows_of(backing, key)
