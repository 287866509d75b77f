"""Keys of every other form: NumPy's values, shapes and exceptions; the result and a block are in memory."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.arrays import as_array, is_tensor
from .backing import Backing
from .indexing import ALL, judged

__all__ = ["Picks", "fill_outer", "picks_of", "read", "read_values"]

Numbers = NDArray[np.int64]
Lines = range | Numbers
"""Rows or columns: of a slice, or of an array, which may have negative numbers."""

_BLOCK_CODES = 1 << 20
"""Codes that are copied at a time."""
_BLOCK_VALUES = 1 << 17
"""Values that are picked one by one at a time, 16 bytes each for where they are."""


class Picks(NamedTuple):
    """What a key picks.

    Attributes
    ----------
    rows, columns : range or ndarray of int64
        Ranges and 1-D arrays mean all pairs of a row and a column; arrays of any other shape, one pair for
        each place of both, broadcast.
    shape : tuple of int
        Of the result, whose values are these in C order.
    pairs : bool
        Whether rows and columns go in pairs.
    turned : bool
        Whether the columns come first in the result.
    mask : ndarray of bool, shape (N, D), or None
        Picks the values in the place of rows and columns.
    """

    rows: Lines
    columns: Lines
    shape: tuple[int, ...]
    pairs: bool = False
    turned: bool = False
    mask: NDArray[np.bool_] | None = None


def read(backing: Backing, key: Any, dtype: np.dtype[Any]) -> Any:
    """What `key`, any at all, picks from the matrix."""
    shape = backing.facts.rows, backing.facts.dim
    if _in_one_row(key):
        with contextlib.suppress(IndexError, TypeError, RuntimeError, OverflowError):  # of another axis there
            picked = backing.read_row(operator.index(key[0]), dtype)[key[1]]
            return picked.copy() if type(key[1]) is slice else picked
    key = tuple(map(_tensors_read, key)) if isinstance(key, tuple) else _tensors_read(key)
    picks = picks_of(key, shape)
    if picks is None or 0 in picks.shape:
        _ = backing.read_slice(slice(0, 0), ALL, dtype)  # no rows, but ClosedError where it is due
        return np.empty(judged(key, shape) if picks is None else picks.shape, dtype)
    if (columns := _joined(picks, backing.facts.dim)) is not None:
        values = _read_lines(backing, picks.rows, columns, dtype).reshape(picks.shape)
    else:
        values = kernels.fresh(picks.shape, dtype)
        _fill(backing, picks, values.reshape(-1))
    scalar = not picks.shape and not (type(key) is tuple and any(part is ... for part in key))
    return values[()] if scalar else values


def _tensors_read(part: Any) -> Any:
    """A part of a key; tensors, and lists of them, as arrays, however they are made."""
    if is_tensor(part):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # a number, as NumPy takes one value
            return operator.index(part)
        return as_array(part, "the index", IndexError)
    if isinstance(part, list) and is_tensor(next(iter(part), None)):
        return as_array(part, "the index", IndexError)
    return part


def _in_one_row(key: Any) -> bool:
    """Whether the key is one of the forms that a row on its own takes, which is faster."""
    if type(key) is not tuple or len(key) != 2 or type(key[1]) not in (int, slice, list, np.ndarray):
        return False
    return type(key[0]) is int or isinstance(key[0], np.integer)


def _fill(backing: Backing, picks: Picks, flat: NDArray[Any]) -> None:
    if picks.mask is not None:
        _fill_masked(backing, picks.mask, flat)
    elif picks.pairs:
        read_values(backing, picks.rows, picks.columns, flat)
    elif picks.turned:
        fill_outer(backing, picks.rows, picks.columns, flat.reshape(len(picks.columns), -1).T)
    else:
        fill_outer(backing, picks.rows, picks.columns, flat.reshape(len(picks.rows), -1))


# What a key means ---------------------------------------------------------------------------------------


def picks_of(key: Any, shape: tuple[int, int]) -> Picks | None:
    """What `key` picks from a matrix of this shape; None where NumPy has to say what is wrong with it."""
    try:
        return _picks_of(_parts(key), shape)
    except (IndexError, TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _parts(key: Any) -> list[Any]:
    """The parts of a key for a matrix, each None, a slice, a whole number or an array.

    An ellipsis has become the slices it stands for; one that stands for none stays, as it keeps arrays apart.
    """
    parts = [_part(part) for part in (key if isinstance(key, tuple) else (key,))]
    missing = 2 - sum(map(_axes, parts))
    at = [at for at, part in enumerate(parts) if part is ...]
    if missing < 0 or len(at) > 1:
        raise IndexError("too many indices")
    if missing:
        place = slice(at[0], at[0] + 1) if at else slice(len(parts), None)
        parts[place] = [slice(None)] * missing
    return parts


def _part(part: Any) -> Any:
    """A part as NumPy takes it: what has an index is a number, all else that is no array becomes one."""
    if part is None or part is ... or isinstance(part, slice):
        return part
    if not isinstance(part, (np.ndarray, bool, np.bool_)):
        try:
            return operator.index(part)
        except TypeError:
            pass
    array = np.asarray(part)
    if (array.size == 0 and not isinstance(part, np.ndarray)) or array.dtype == np.uint64:
        array = array.astype(np.int64)  # huge numbers become negative ones, as with NumPy
    if array.dtype.kind not in "biu":
        raise IndexError("neither integers nor booleans")
    return int(array) if array.ndim == 0 and array.dtype != np.bool_ else array


def _axes(part: Any) -> int:
    """How many axes of the matrix a part is about."""
    if part is None or part is ...:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == np.bool_ else 1


def _picks_of(parts: list[Any], shape: tuple[int, int]) -> Picks:
    """NumPy's rules. Arrays, and numbers beside arrays, are broadcast, and their axes stand where they do.

    Where something is between them, their axes come first.
    """
    lines: list[Any] = []  # a range, a number or an array for each axis
    kept: list[int] = []  # lengths of the axes that slices give, and None
    together: list[tuple[int, ...]] = []
    places: list[int] = []  # of the parts that are broadcast
    mask = before = None
    arrays = any(isinstance(part, np.ndarray) for part in parts)
    for place, part in enumerate(parts):
        if part is ...:
            continue
        if part is None:
            kept.append(1)
        elif isinstance(part, slice):
            lines.append(range(shape[len(lines)])[part])
            kept.append(len(lines[-1]))
        else:
            before = len(kept) if before is None else before
            places.append(place)
            if isinstance(part, np.ndarray) and part.dtype == np.bool_ and part.ndim != 1:
                together.append((int(np.count_nonzero(part)),))
                mask = part if part.ndim else mask
            else:
                lines.append(_checked(part, shape[len(lines)]))
                together.append(np.shape(lines[-1]))
    if mask is not None and mask.shape != shape:
        raise IndexError("a mask of another shape")
    apart = arrays and places[-1] - places[0] >= len(places)
    at = before if arrays and not apart else 0
    broadcast = np.broadcast_shapes(*together) if arrays else ()
    whole = (*kept[:at], *broadcast, *kept[at:])
    if mask is not None:
        return Picks(range(0), range(0), whole, mask=mask)
    return _pairs(lines[0], lines[1], whole, apart)


def _checked(part: Any, total: int) -> Any:
    """A number, or an array of numbers, that are in range; a mask of one axis becomes what it picks."""
    if isinstance(part, int):
        return operator.index(range(total)[part])
    if part.dtype == np.bool_:
        if len(part) != total:
            raise IndexError("a mask of another length")
        return part.nonzero()[0]
    if part.size and not (-total <= int(part.min()) and int(part.max()) < total):
        raise IndexError("out of bounds")
    return part


def _pairs(rows: Any, columns: Any, shape: tuple[int, ...], apart: bool) -> Picks:
    """All pairs where both may go on their own, as in ``numpy.ix_``."""
    if isinstance(rows, range) or isinstance(columns, range):
        turned = apart and isinstance(columns, np.ndarray)
        return Picks(_line(rows), _line(columns), shape, turned=turned)
    ndim = len(list(itertools.dropwhile((1).__eq__, np.shape(columns))))
    if all(length == 1 for length in np.shape(rows)[::-1][:ndim]):
        return Picks(_line(rows), _line(columns), shape)
    return Picks(np.asarray(rows), np.asarray(columns), shape, pairs=True)


def _line(given: Any) -> Lines:
    if isinstance(given, int):
        return range(given, given + 1)
    return given if isinstance(given, range) else given.reshape(-1).astype(np.int64, copy=False)


# Blocks -------------------------------------------------------------------------------------------------


def _joined(picks: Picks, dim: int) -> slice | None:
    """Columns as the slice that backings take, where whole rows of the result can be read so."""
    columns = picks.columns
    if picks.mask is not None or not isinstance(columns, range) or (columns.step != 1 and len(columns) > 1):
        return None
    return ALL if len(columns) == dim else slice(columns[0], columns[0] + len(columns))


def _slice_of(lines: range) -> slice:
    stop = lines[-1] + lines.step
    return slice(lines[0], None if stop < 0 else stop, lines.step)


def _read_lines(backing: Backing, rows: Lines, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(rows, range):
        return backing.read_slice(_slice_of(rows), columns, dtype)
    width = backing.facts.dim if columns is ALL else columns.stop - columns.start
    out = kernels.fresh((len(rows), width), dtype)
    backing.gather(rows, columns, out)
    return out


def fill_outer(backing: Backing, rows: Lines, columns: Lines, out: NDArray[Any]) -> None:
    """Fill `out`, of shape (rows, columns) and any strides, with some columns of some rows, all in range."""
    done = 0
    for codes, scales in _coded(backing, rows):
        picked = _columns_of(codes, columns)
        filled = out[done : done + len(picked)]
        if filled.strides[1] == out.itemsize or filled.shape[1] == 1:
            kernels.dequantize_into(picked, scales, filled)
        else:
            values = np.empty(picked.shape, out.dtype)
            kernels.dequantize_into(picked, scales, values)
            filled[...] = values
        done += len(picked)


def _columns_of(codes: NDArray[np.uint8], columns: Lines) -> NDArray[np.uint8]:
    if isinstance(columns, range):
        return np.ascontiguousarray(codes[:, _slice_of(columns)])
    return np.take(codes, columns, axis=1)


def _coded(backing: Backing, rows: Lines) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Codes and scales of the rows, a block at a time."""
    dim = backing.facts.dim
    step = max(1, _BLOCK_CODES // dim)
    if isinstance(rows, range) and rows.step == 1:
        for part in backing.parts(rows.start, rows.stop):
            for start in range(0, len(part.scales), step):
                yield part.codes[start : start + step], part.scales[start : start + step]
        return
    for start in range(0, len(rows), step):
        numbers = np.asarray(rows[start : start + step], np.int64)
        codes, scales = np.empty((len(numbers), dim), np.uint8), np.empty(len(numbers))
        backing.gather_codes(numbers, codes, scales)
        yield codes, scales


def _fill_masked(backing: Backing, mask: NDArray[np.bool_], out: NDArray[Any]) -> None:
    """Fill `out` with the values where `mask`, of the shape of the matrix, is true."""
    rows = np.flatnonzero(mask.any(axis=1))
    done = row = 0
    for codes, scales in _coded(backing, rows):
        held = mask[rows[row : row + len(codes)]]
        picked = codes[held]
        owners = np.repeat(scales, np.count_nonzero(held, axis=1))
        kernels.dequantize_into(picked[:, None], owners, out[done : done + len(picked), None])
        done, row = done + len(picked), row + len(codes)


def read_values(backing: Backing, rows: Any, columns: Any, out: NDArray[Any]) -> None:
    """Fill `out`, 1-D, with the values of pairs of a row and a column, in range and broadcast, in C order."""
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    total, dim = backing.facts.rows, backing.facts.dim
    all_rows, all_columns = np.broadcast_to(rows, shape).flat, np.broadcast_to(columns, shape).flat
    for start in range(0, len(out), _BLOCK_VALUES):
        some = slice(start, start + _BLOCK_VALUES)
        backing.read_values(_counted(all_rows[some], total), _counted(all_columns[some], dim), out[some])


def _counted(numbers: NDArray[Any], total: int) -> Numbers:
    """Numbers counted from 0, fresh."""
    signed = numbers.astype(np.int64)
    signed[signed < 0] += total
    return signed
