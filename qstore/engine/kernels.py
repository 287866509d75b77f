"""One place that picks the engine, the C extension or NumPy, and checks what users hand in.

The engine is chosen once, at import: C if the extension loads, else NumPy. ``QSTORE_NO_EXTENSION=1``
forces NumPy; ``QSTORE_REQUIRE_EXTENSION=1`` makes a missing extension an :class:`ImportError`. Both
engines give the same bits. What NumPy computes is imported where C does not, but for the arithmetic of rows.

All functions may be called from any thread. Those that read may run at the same time; an output array
belongs to one call.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..errors import NonFiniteError
from ..system.threads import SPLIT_VALUES, in_parts, thread_count
from . import quantization
from .arguments import as_dtype, as_matrix, as_pair, as_quantized, check_nonfinite, check_out, lies_well
from .narrowing import tell_infinite
from .quantization import OUTPUT_TYPES, element_type

if TYPE_CHECKING:
    from .search_scan import Quantized

__all__ = [
    "as_matrix",
    "as_quantized",
    "check_rows",
    "crc32",
    "dequantize",
    "dequantize_into",
    "engine_name",
    "extension",
    "fresh",
    "gather",
    "import_extension",
    "key_engine",
    "look_up",
    "pool",
    "quantize",
    "quantize_into",
    "row_errors",
    "scan",
    "survey",
    "table",
]

Codes = NDArray[np.uint8]
Scales = NDArray[np.float64]
RowScales = NDArray[np.float64] | quantization.PackedScales
NonFinite = Literal["error", "zero"]
PoolMode = Literal["sum", "mean"]

# Input that C cannot take as it lies (foreign byte order, scattered columns) is copied in pieces of about
# this many values, so that a memory map larger than RAM is never copied whole.
_COPY_VALUES = 1 << 16

_LARGE_OUTPUT = 32 << 20


def import_extension() -> Any:
    """The extension, whatever engine is in use.

    Raises
    ------
    ImportError
        Why it does not load, and what to do.
    """
    if "t" in getattr(sys, "abiflags", ""):
        # An extension of the stable ABI does not load there, and none of ours was tried without the lock.
        raise ImportError(
            "this Python is free-threaded, and qstore._native needs the global interpreter lock: run qstore "
            "with the usual build of Python"
        )
    try:
        return importlib.import_module("qstore._native")
    except ImportError as error:
        raise ImportError(
            f"{error}: install a C compiler and run `pip install --force-reinstall --no-binary qstore qstore`"
        ) from error


def _load_extension() -> Any:
    if os.environ.get("QSTORE_NO_EXTENSION") == "1":
        return None
    try:
        return import_extension()
    except ImportError as error:
        if os.environ.get("QSTORE_REQUIRE_EXTENSION") != "1":
            return None
        raise ImportError(
            f"QSTORE_REQUIRE_EXTENSION=1, but qstore._native does not load: {error}, or unset the variable"
        ) from error


_native = _load_extension()
_engine: Any = _native or quantization


def engine_name() -> str:
    """Name of the engine in use.

    Returns
    -------
    str
        ``"C (avx512)"``, ``"C (avx2)"``, ``"C (baseline)"`` or ``"NumPy"``.
    """
    return f"C ({_native.level()})" if _native else "NumPy"


def extension() -> Any:
    """The C extension; None where NumPy computes."""
    return _native


def fresh(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array for an output, not initialized. A large one may get the memory of one that was dropped.

    The C library gives blocks of 32 MiB and more back at once, and the operating system zeroes the pages of
    the next one. The extension keeps up to 256 MiB of such memory, for the operating system to take back when
    it needs it.
    """
    array = np.empty(shape, dtype)
    size = array.nbytes
    if size < _LARGE_OUTPUT or not _native:
        return array
    del array  # its pages were never touched
    return np.ndarray(shape, dtype, _native.Room(size))


def crc32(data: Any) -> int:
    """CRC-32 (zlib's) of a C-contiguous buffer, by whoever is faster on this machine."""
    if _native and _native.crc32_is_fast():
        found: int = _native.crc32(data)
        return found
    return zlib.crc32(data)


def key_engine() -> Any:
    """What hashes and finds keys: the C extension, or :mod:`.key_search`."""
    if _native:
        return _native
    from . import key_search

    return key_search


# Inside: arguments are trusted (the extension checks them all the same) -----------------------------


def _run_quantize(values: NDArray[Any], codes: Codes, scales: Scales, zero: bool) -> int:
    if not _native:
        return quantization.quantize(values, codes, scales, zero)
    result: int = _native.quantize(*_named(values), codes, scales, zero)
    return result


def _named(values: NDArray[Any]) -> tuple[NDArray[Any], str | None]:
    """Values as the extension takes them, and the name of their element type."""
    name = element_type(values.dtype)
    if name == "bfloat16":
        values = values.view(np.uint16)
    elif values.itemsize == 1 and name is not None and name.startswith("float8"):
        values = values.view(np.uint8)
    return values, name


def _lying_well(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """All rows, as they are or copied in pieces."""
    rows, dim = values.shape
    step = max(rows, 1) if lies_well(values) else max(1, _COPY_VALUES // max(dim, 1))
    for start in range(0, rows, step):
        piece = slice(start, start + step)
        block = values if step >= rows else values[piece]
        if step < rows or not lies_well(block):
            block = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
        yield piece, block


def quantize_into(
    values: NDArray[Any], codes: Codes, scales: Scales, nonfinite: NonFinite = "error", first_row: int = 0
) -> None:
    """Quantize rows into `codes` and `scales`, on the calling thread.

    Parameters
    ----------
    values : ndarray, shape (n, D)
        Of any element type, byte order and strides.
    codes : ndarray of uint8, shape (n, D)
        Filled. Rows contiguous.
    scales : ndarray of float64, shape (n,)
        Filled.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities.
    first_row : int
        Number of the first row, for the error message.

    Raises
    ------
    NonFiniteError
        With the row (plus `first_row`) and column of the first such value. The outputs are undefined then.
    """
    zero = check_nonfinite(nonfinite)
    for piece, block in _lying_well(values):
        bad = _run_quantize(block, codes[piece], scales[piece], zero)
        if bad >= 0:
            row, column = divmod(bad, values.shape[1])
            value = float(quantization.to_float64(block[row : row + 1])[0, column])
            raise NonFiniteError(value, first_row + piece.start + row, column)


def row_errors(values: NDArray[Any], codes: Codes, scales: Scales) -> NDArray[np.float64]:
    """Errors of rows, and more, on the calling thread: as :func:`qstore.engine.row_errors.row_errors`."""
    from . import row_errors as specified

    if not (_native and lies_well(codes)):
        return specified.row_errors(values, codes, scales)
    figures = np.empty((len(codes), specified.ROW_FIGURES))
    for piece, block in _lying_well(values):
        _native.row_errors(*_named(block), codes[piece], scales[piece], figures[piece])
    return figures


def dequantize_into(codes: Codes, scales: Scales, out: NDArray[Any], threads: int | None = None) -> None:
    """Fill `out`, of float32, float64 or float16 and the shape of `codes`, with the values of all rows."""

    engine = _engine if lies_well(codes) else quantization

    def part(start: int, stop: int) -> None:
        engine.dequantize(codes[start:stop], scales[start:stop], out[start:stop])

    in_parts(part, len(codes), codes.size, threads)


def _raise_out_of_bounds(row: int, total: int) -> NoReturn:
    raise IndexError(f"index {row} is out of bounds for axis 0 with size {total}")


def _gather(codes: Codes, scales: RowScales, rows: NDArray[np.int64], out: NDArray[Any]) -> int:
    try:
        bad: int = _engine.gather(codes, scales, rows, out)
    except ValueError:  # asked afterwards: it costs as much as a row
        if lies_well(codes):
            raise
        bad = quantization.gather(codes, scales, rows, out)
    return bad


def gather(
    codes: Codes, scales: RowScales, rows: NDArray[np.int64], out: NDArray[Any], threads: int | None = None
) -> None:
    """Fill `out` with the values of the rows numbered `rows`.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, D)
    scales : ndarray of float64, shape (N,), or PackedScales
    rows : ndarray of int64, shape (m,)
        In any order, with repeats; negative numbers count from the end.
    out : ndarray of float32, float64 or float16, shape (m, D)
        Rows contiguous.
    threads : int, optional
        For large requests; by default as many as there are processors.

    Raises
    ------
    IndexError
        A number is out of range; nothing is written then.
    """
    threads = threads if threads is None else thread_count(threads)
    if out.size < SPLIT_VALUES or threads == 1:
        bad = _gather(codes, scales, rows, out)
        if bad >= 0:
            _raise_out_of_bounds(int(rows[bad]), len(codes))
    else:
        check_rows(codes, scales, rows)
        in_parts(lambda a, b: _gather(codes, scales, rows[a:b], out[a:b]), rows.size, out.size, threads)


def check_rows(codes: Codes, scales: RowScales, rows: NDArray[np.int64]) -> None:
    """Raise the `IndexError` of :func:`gather` without reading anything."""
    # Without columns, that is all it does.
    bad = _gather(codes[:, :0], scales, rows, np.empty((rows.size, 0), np.float32))
    if bad >= 0:
        _raise_out_of_bounds(int(rows[bad]), len(codes))


def table(codes: Codes, scales: RowScales) -> quantization.Table:
    """A table that single rows are read from with the least around it: ``table.row(number, out)``.

    Rows of `codes`, of shape (N, D), are contiguous.
    """
    made: quantization.Table = _engine.Table(codes, scales)
    return made


def pool(
    codes: Codes,
    scales: RowScales,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    weights: NDArray[Any] | None,
    mode: PoolMode,
    out: NDArray[Any],
    threads: int | None = None,
) -> None:
    """Fill `out` with sums or means of bags of rows, without materializing the rows.

    Parameters
    ----------
    codes, scales, rows
        As for :func:`gather`.
    offsets : ndarray of int64, shape (bags,)
        Where in `rows` each bag starts; the last one ends with `rows`. The first must be 0.
    weights : ndarray of float32 or float64, shape (m,), or None
        Factors of the rows.
    mode : {"sum", "mean"}
        A mean divides by the number of rows, whatever their weights.
    out : ndarray of float32 or float64, shape (bags, D)
    threads : int, optional
        For large requests; by default as many as there are processors.

    Raises
    ------
    IndexError
        A row number is out of range; nothing is written then.
    ValueError
        Bad offsets, or an unknown mode.
    """
    engine = _engine if lies_well(codes) else quantization
    values = rows.size * codes.shape[1]
    threads = threads if threads is None else thread_count(threads)
    if threads == 1 or (threads is None and values < SPLIT_VALUES):
        bad = engine.pool(codes, scales, rows, offsets, weights, mode, out)
        if bad >= 0:
            _raise_out_of_bounds(int(rows[bad]), len(codes))
        return

    def part(start: int, stop: int) -> None:
        first = int(offsets[start]) if start else 0
        last = int(offsets[stop]) if stop < len(offsets) else rows.size
        bag_weights = None if weights is None else weights[first:last]
        bags = offsets[start:stop] - first
        bad = engine.pool(codes, scales, rows[first:last], bags, bag_weights, mode, out[start:stop])
        if bad >= 0:
            _raise_out_of_bounds(int(rows[first + bad]), len(codes))

    if values >= SPLIT_VALUES:  # what the parts say would depend on the split
        quantization.bag_lengths(offsets, rows.size)
        check_rows(codes, scales, rows)
    in_parts(part, len(offsets), values, threads)


def look_up(
    codes: Codes, table: NDArray[np.float32], factors: NDArray[np.float32], width: int, out: NDArray[Any]
) -> None:
    """Floats of a table, scaled by groups of columns: as :func:`.code_tables.look_up`."""
    engine = _native
    if not (_native and lies_well(codes)):
        from . import code_tables as engine
    engine.look_up(codes, table, factors, width, out)


def survey(
    codes: Codes,
    scales: Scales,
    rows: NDArray[np.int64],
    columns: NDArray[np.float64],
    peaks: NDArray[np.int64],
    histogram: NDArray[np.int64],
) -> None:
    """Sums and hashes of rows, sums of columns, counts of codes: as :func:`.stats_survey.survey`."""
    engine = _native
    if not (_native and lies_well(codes)):
        from . import stats_survey as engine
    engine.survey(codes, scales, rows, columns, peaks, histogram)


def scan(
    codes: Codes,
    scales: Scales,
    queries: Quantized,
    metric: int,
    first_number: int,
    noted: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
) -> int:
    """Note the rows that may be among the best of each query: :func:`qstore.engine.search_scan.scan`.

    `noted` are its heaps, rows, uppers and found.
    """
    engine = _native
    if not (_native and lies_well(codes)):
        from . import search_scan as engine
    done: int = engine.scan(codes, scales, *queries, metric, first_number, *noted)
    return done


# Public: arguments are checked ----------------------------------------------------------------------


def quantize(
    x: ArrayLike, out: tuple[Codes, Scales] | None = None, *, nonfinite: NonFinite = "error"
) -> tuple[Codes, Scales]:
    """Quantize a matrix to 8 bits a value and one scale a row.

    Row-wise symmetric, after Botha et al. 2017 (arXiv:1708.00214): the scale is ``max(abs(row)) / 127`` and
    a code ``floor(value / scale + 128 + 0.5)``, all in float64. Large matrices are split over all processors.

    Parameters
    ----------
    x : array_like, shape (n, D)
        float16, bfloat16, float8, float32, float64 or integers.
    out : tuple of ndarray, optional
        Codes (uint8, shape (n, D)) and scales (float64, shape (n,)) to fill.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities: stop, or take them as 0 (``numpy.isfinite(x)`` tells which).

    Returns
    -------
    codes : ndarray of uint8, shape (n, D)
        From 1 to 255; 128 stands for 0.
    scales : ndarray of float64, shape (n,)
        0 for a row of zeros.

    Raises
    ------
    SourceError
        Wrong rank, no columns, or an element type that cannot be quantized.
    NonFiniteError
        A value is NaN or infinite: says in which row and column.

    Examples
    --------
    >>> codes, scales = quantize([[20000, 3000, 1000, 1000], [1999999, 20000, 1999999, 1999999]])
    >>> codes
    array([[255, 147, 134, 134],
           [255, 129, 255, 255]], dtype=uint8)
    >>> dequantize(codes, scales)
    array([[2.0000000e+04, 2.9921260e+03, 9.4488190e+02, 9.4488190e+02],
           [1.9999990e+06, 1.5748023e+04, 1.9999990e+06, 1.9999990e+06]],
          dtype=float32)
    """
    values = as_matrix(x)
    if out is None:
        codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
    else:
        codes, scales = as_pair("out", out)
        check_out(codes, "out[0]", values.shape, ("uint8",))
        check_out(scales, "out[1]", values.shape[:1], ("float64",))

    def part(start: int, stop: int) -> None:
        quantize_into(values[start:stop], codes[start:stop], scales[start:stop], nonfinite, start)

    in_parts(part, len(values), values.size, None)
    return codes, scales


def dequantize(
    codes: ArrayLike, scales: ArrayLike, dtype: DTypeLike = "float32", out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Values of quantized rows: ``(codes - 128) * scales`` in float64, rounded once to `dtype`.

    Parameters
    ----------
    codes : array_like of uint8, shape (n, D)
        Any of 0 to 255; or of int8, whose zero point is 0.
    scales : array_like of float64, shape (n,) or (n, 1)
    dtype : {"float32", "float64", "float16"}
        Not looked at with `out`.
    out : ndarray, shape (n, D), optional
        Filled and returned.

    Returns
    -------
    ndarray, shape (n, D)

    Raises
    ------
    SourceError
        Codes and scales do not fit together.
    ValueError
        `dtype`, or shape or type of `out`, is none of these.

    Examples
    --------
    >>> dequantize([[255, 128, 1]], [0.5], dtype="float64")
    array([[ 63.5,   0. , -63.5]])
    """
    given, factors = as_quantized(codes, scales)
    if out is None:
        out = np.empty(given.shape, as_dtype(dtype, OUTPUT_TYPES))
    else:
        check_out(out, "out", given.shape, OUTPUT_TYPES)
    dequantize_into(given, factors, out)
    if out.itemsize == 2:
        tell_infinite(out)
    return out
