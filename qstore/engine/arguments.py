"""What users hand in, as arrays that the kernels can take: checked once, here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import SourceError
from ..system.options import one_of, shown
from .arrays import as_array, conversion, is_record
from .quantization import ELEMENT_TYPES, ZERO_POINT, element_type, first_out_of_range, to_float64
from .row_ranges import as_range

__all__ = [
    "as_count",
    "as_dtype",
    "as_finite",
    "as_matrix",
    "as_pair",
    "as_quantized",
    "as_row_numbers",
    "as_row_set",
    "as_text",
    "as_weights",
    "check_nonfinite",
    "check_out",
    "lies_well",
    "whole_out",
]

_LARGEST = np.iinfo(np.int64).max


def lies_well(array: NDArray[Any]) -> bool:
    """True if rows are contiguous and in native byte order."""
    return array.dtype.isnative and (array.shape[1] <= 1 or array.strides[1] == array.itemsize)


def check_nonfinite(nonfinite: str) -> bool:
    """True for "zero", False for "error"."""
    return one_of("nonfinite", nonfinite, ("error", "zero")) == "zero"


def as_matrix(x: ArrayLike) -> NDArray[Any]:
    """`x` as a 2-D array that can be quantized, without a copy where it is one already.

    Raises
    ------
    SourceError
        Wrong rank, no columns, or an element type that cannot be quantized.
    """
    values = as_array(x, "x", SourceError)
    if not is_record(str(values.dtype)) and (values.ndim != 2 or values.shape[1] == 0):
        raise SourceError(
            f"expected shape (rows, columns) with at least 1 column, found {values.shape}; "
            f"x.reshape(len(x), -1) makes a matrix of anything that has rows"
        )
    if element_type(values.dtype) is None:
        raise SourceError(
            f"expected one of the element types {', '.join(ELEMENT_TYPES)}, found {values.dtype}; "
            f"{conversion(str(values.dtype), 'x')}"
        )
    return values


def as_quantized(
    codes: ArrayLike, scales: ArrayLike, dim: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Codes and scales that fit together, as arrays of uint8 (zero point 128) and float64.

    Codes of int8 have zero point 0; scales may be a matrix of one column.

    Raises
    ------
    SourceError
        Wrong shape or type, a code outside 0…255, a scale that is negative or not finite.
    """
    given, factors = as_array(codes, "codes", SourceError), as_array(scales, "scales", SourceError)
    if given.ndim != 2 or given.shape[1] == 0 or (dim is not None and given.shape[1] != dim):
        raise SourceError(f"codes have shape {given.shape}, expected (n, {'D' if dim is None else dim})")
    if given.dtype == np.int8:
        given = given.view(np.uint8) ^ np.uint8(ZERO_POINT)  # they differ in their first bit alone
    if given.dtype != np.uint8:
        if given.dtype.kind not in "iu" or (given.size and (given.min() < 0 or given.max() > 255)):
            raise SourceError(
                f"codes have dtype {given.dtype}, expected uint8, int8, or integers from 0 to 255"
            )
        given = given.astype(np.uint8)
    if factors.shape == (len(given), 1):
        factors = factors[:, 0]
    if factors.shape != given.shape[:1] or factors.dtype.kind not in "fiu" or factors.dtype.itemsize > 8:
        raise SourceError(
            f"scales have shape {factors.shape} and dtype {factors.dtype}, "
            f"expected {given.shape[:1]} and float64"
        )
    factors = factors.astype(np.float64, copy=False)
    if not (np.isfinite(factors) & (factors >= 0)).all():
        raise SourceError("scales must be finite and not negative; quantize the values again to make them so")
    return given, factors


def check_out(out: NDArray[Any], name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    """ValueError unless `out` can be filled."""
    plain = isinstance(out, np.ndarray) and not isinstance(out, np.ma.MaskedArray)
    if not plain or out.shape != shape or str(out.dtype) not in dtypes:
        found = f"{out.dtype} {out.shape}" if plain else type(out).__name__
        raise ValueError(f"{name} must be an array of {' or '.join(dtypes)}, shape {shape}; found {found}")
    if not out.flags.writeable or (out.ndim == 2 and not lies_well(out)):
        raise ValueError(
            f"{name} must be writable, with contiguous rows: numpy.empty{shape} makes such a one"
        )


def whole_out(out: Any, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> NDArray[Any]:
    """The memory of `out`, an ndarray or a CPU tensor of torch: one contiguous array that can be filled.

    Raises
    ------
    ValueError
        It does not fit, or cannot be filled in place: a list, a masked or read-only array, or a tensor on a
        device, of bfloat16, or that requires grad.
    """
    memory = _memory_of(out)
    if memory.shape != shape or str(memory.dtype) not in dtypes or not memory.flags.c_contiguous:
        raise ValueError(
            f"out has shape {memory.shape} and dtype {memory.dtype}, expected C-contiguous {shape} "
            f"and one of {', '.join(dtypes)}"
        )
    if not memory.flags.writeable:
        raise ValueError(f"out is read-only, expected what can be filled: numpy.empty({shape}) makes it")
    return memory


def _memory_of(out: Any) -> NDArray[Any]:
    if isinstance(out, np.ma.MaskedArray):
        raise ValueError("out is a masked array, expected a plain one: give its .data")
    if isinstance(out, np.ndarray):
        return out
    try:
        view, again = np.asarray(out), np.asarray(out)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"out cannot be filled in place, expected an array or tensor that can: {error} "
            f"(qstore.torch.take gives other types and devices)"
        ) from None
    if view.size and view.ctypes.data != again.ctypes.data:  # copies, then
        raise ValueError(f"out is a {type(out).__name__}, expected an array or a tensor that can be filled")
    return view


def as_row_numbers(given: ArrayLike, name: str = "rows") -> NDArray[np.int64]:
    """Row numbers of any shape, C-contiguous; errors call them `name`.

    Raises
    ------
    IndexError
        They are not integers, or larger than int64 holds.
    """
    numbers = as_array(given, name, IndexError)
    if numbers.size and numbers.dtype.kind not in "iu":
        texts = numbers.dtype.kind in "UT" or (numbers.dtype.kind == "O" and isinstance(numbers.flat[0], str))
        remedy = "; store.rows_of(keys) gives the row numbers of keys" if texts else ""
        raise IndexError(f"row numbers must be integers, found {numbers.dtype}{remedy}")
    if numbers.size and numbers.dtype == np.uint64 and numbers.max() > _LARGEST:
        raise IndexError(f"row number {numbers.max()} is out of bounds: expected at most {_LARGEST}")
    return np.ascontiguousarray(numbers, dtype=np.int64).reshape(numbers.shape)


def as_row_set(given: ArrayLike | slice | tuple[int, int] | None, total: int) -> range | NDArray[np.int64]:
    """Rows of a matrix of `total` rows, each once and in ascending order.

    Parameters
    ----------
    given : array_like of int or bool, slice, (start, stop) or None
        Row numbers (negative ones count from the end), a mask of shape (total,), a range, or None for all.

    Raises
    ------
    IndexError
        No row numbers, out of range, or a mask of another shape.
    """
    if given is None or isinstance(given, (slice, tuple)):
        picked = range(total)[as_range(given)]
        rising = picked if picked.step > 0 else picked[::-1]
        return rising if rising.step == 1 else np.arange(rising.start, rising.stop, rising.step)
    array = as_array(given, "rows", IndexError)
    if array.dtype == np.bool_:
        if array.shape != (total,):
            raise IndexError(f"the mask has shape {array.shape}, expected {(total,)}")
        return np.flatnonzero(array).astype(np.int64, copy=False)
    numbers = as_row_numbers(array)
    bad = first_out_of_range(numbers.reshape(-1), total)
    if bad >= 0:
        raise IndexError(f"index {numbers.reshape(-1)[bad]} is out of bounds for axis 0 with size {total}")
    return np.unique(np.where(numbers < 0, numbers + total, numbers))


def as_finite(name: str, given: ArrayLike, ndim: tuple[int, ...]) -> NDArray[np.float64]:
    """Finite numbers as float64, of one of these ranks.

    Raises
    ------
    ValueError
        Another rank, another type, or a value that is NaN or infinite: says which.
    """
    array = as_array(given, name)
    if array.ndim not in ndim or element_type(array.dtype) is None:
        wanted = f"{' or '.join(map(str, ndim))} dimensions of real numbers"
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}, expected {wanted}")
    values = to_float64(array)
    if not (finite := np.isfinite(values)).all():
        place = np.unravel_index(int(finite.argmin()), values.shape)
        where = ", ".join(str(int(number)) for number in place)
        raise ValueError(f"{name}[{where}] is {values[place]}, expected finite numbers")
    return values


def as_weights(given: ArrayLike, count: int) -> NDArray[Any]:
    """One weight for each of `count` rows, as float32 if they are, else as float64."""
    weights = as_array(given, "weights")
    if weights.shape != (count,) or element_type(weights.dtype) is None:
        raise ValueError(
            f"weights have shape {weights.shape} and dtype {weights.dtype}, expected {count} numbers"
        )
    return np.ascontiguousarray(weights if weights.dtype == np.float32 else to_float64(weights))


def as_count(name: str, value: int, least: int = 1) -> int:
    """`value` as an int; SourceError unless it is an integer of at least `least`."""
    if not isinstance(value, (int, np.integer)) or not least <= value < _LARGEST:
        raise SourceError(f"{name} is {shown(value)}, expected an integer of at least {least}")
    return int(value)


def as_text(name: str, text: str, limit: int) -> str:
    """`text`; SourceError unless an attribute of `limit` bytes can hold it."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is {shown(text)}, expected text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = limit + 1  # half of a surrogate pair is no text
    if size > limit or "\0" in text:
        raise SourceError(f"{name} must have at most {limit} bytes of UTF-8 and no NUL, found {text[:80]!r}…")
    return text


def as_dtype(
    dtype: Any, allowed: tuple[str, ...], advice: str = "", *, any_order: bool = False
) -> np.dtype[Any]:
    """`dtype`; ValueError unless it is one of `allowed`, in native byte order.

    `any_order` takes others for the native one; `advice` is what the error says at its end, with the type for
    ``{}``.
    """
    wanted: np.dtype[Any] | None
    try:
        wanted = np.dtype(dtype)
    except (TypeError, ValueError):
        wanted = None
    if wanted is not None and any_order:
        wanted = wanted.newbyteorder("=")
    if wanted is None or str(wanted) not in allowed:
        found = shown(dtype) if wanted is None else wanted
        hint = "" if wanted is None else advice.format(wanted)
        raise ValueError(f"dtype is {found}, expected one of {', '.join(allowed)}{hint}")
    return wanted


def as_pair(name: str, pair: Any) -> tuple[Any, Any]:
    """The two members of a tuple or list; TypeError for anything else."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name} is {shown(pair)}, expected a tuple of two arrays: codes and scales")
    return pair[0], pair[1]
