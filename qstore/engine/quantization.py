"""The arithmetic in NumPy: 8 bits a value, one float64 scale a row, zero point 128.

This module is the specification. Every other engine must give the same bits on every input.

Row-wise symmetric quantization with a biased code, as in Botha et al. 2017, "Natural Language
Processing with Small Feed-Forward Networks" (arXiv:1708.00214). All in float64:

    s_i   = max_j |e_ij| / 127
    q_ij  = floor(((e_ij / s_i) + 128) + 0.5), clipped to [1, 255]
    e'_ij = (q_ij - 128) * s_i

and float32 or float16 reads are that float64 value, rounded once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ELEMENT_TYPES",
    "OUTPUT_TYPES",
    "ZERO_POINT",
    "PackedScales",
    "Table",
    "bag_lengths",
    "dequantize",
    "element_type",
    "first_out_of_range",
    "gather",
    "item_size",
    "marker_dtype",
    "pool",
    "quantize",
    "scales_at",
    "to_float64",
]

ZERO_POINT = 128
"""The code of 0.0."""

OUTPUT_TYPES = ("float32", "float64", "float16")
"""Names of the dtypes that rows can be read as."""

_NATIVE_TYPES = ("float16", "float32", "float64")
_INTEGER_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOAT8_LAYOUTS = {
    "float8_e4m3fn": (3, 7, True),
    "float8_e5m2": (2, 15, False),
}  # mantissa bits, bias, finite only

_RAW_TYPES = ("bfloat16", *_FLOAT8_LAYOUTS)

ELEMENT_TYPES = (*_NATIVE_TYPES, *_RAW_TYPES, *_INTEGER_TYPES)
"""Names of the element types that can be quantized."""

# Rows are worked on in pieces of about this many values, so that the float64 intermediates (8 bytes each)
# stay in the second-level cache.
_PIECE_VALUES = 1 << 15
# Reads do so little with each value that what a call costs counts more: 10,000 x 768 codes to float32 took
# 7 ms in pieces of this many, 9 ms in the smaller ones, and 15 ms in one go.
_READ_VALUES = 1 << 18


def marker_dtype(name: str) -> np.dtype[Any]:
    """Dtype of an array whose items are raw ``bfloat16`` or ``float8_*`` values.

    NumPy has no such types. A structured dtype with one unsigned field of that name stands in for
    them, so that arrays, views and memory maps of raw values say what they hold.

    Parameters
    ----------
    name : {"bfloat16", "float8_e4m3fn", "float8_e5m2"}

    Examples
    --------
    >>> import numpy as np
    >>> raw = np.array([0x3F80, 0xC000], dtype="<u2").view(marker_dtype("bfloat16"))
    >>> element_type(raw.dtype), to_float64(raw)
    ('bfloat16', array([ 1., -2.]))
    """
    return np.dtype([(name, "<u2" if name == "bfloat16" else "u1")])


def element_type(dtype: np.dtype[Any]) -> str | None:
    """Name of the element type that a dtype stands for; None if such values cannot be quantized.

    ``bfloat16`` and ``float8_*`` are recognised by name: the dtypes of the ``ml_dtypes`` package and
    those of :func:`marker_dtype` (other structured dtypes are none, whatever their field is called). Plain
    ``uint16`` are integers. Byte order does not matter.
    """
    if dtype.names is not None:
        name = dtype.names[0] if len(dtype.names) == 1 else ""
        return name if name in _RAW_TYPES and dtype == marker_dtype(name) else None
    name = dtype.newbyteorder("=").name
    return name if name in ELEMENT_TYPES else None


def item_size(name: str) -> int:
    """Bytes of one value of an element type.

    Examples
    --------
    >>> item_size("bfloat16"), item_size("float8_e5m2"), item_size("int64")
    (2, 1, 8)
    """
    if name == "bfloat16" or name in _FLOAT8_LAYOUTS:
        return marker_dtype(name).itemsize
    return np.dtype(name).itemsize


def _float8_table(name: str) -> NDArray[np.float64]:
    """Value of each of the 256 codes of a float8 type (OCP 8-bit floating point specification 1.0)."""
    mantissa_bits, bias, finite_only = _FLOAT8_LAYOUTS[name]
    code = np.arange(128)
    exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    if finite_only:
        values[127] = np.nan
    else:
        top = exponent == exponent.max()
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    return np.concatenate([values, -values])


_FLOAT8_TABLES = {name: _float8_table(name) for name in _FLOAT8_LAYOUTS}


def to_float64(values: NDArray[Any]) -> NDArray[np.float64]:
    """Exact float64 form of an array of any supported element type (64-bit integers round to nearest)."""
    name = element_type(values.dtype)
    if name in _FLOAT8_TABLES:
        return _FLOAT8_TABLES[name][values.view(np.uint8)]
    with np.errstate(invalid="ignore"):  # casting a signaling NaN
        if name == "bfloat16":
            return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return values.astype(np.float64)


def _step(dim: int, values: int) -> int:
    return max(1, values // max(dim, 1))


def _pieces(rows: int, dim: int, values: int = _PIECE_VALUES) -> list[slice]:
    step = _step(dim, values)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def quantize(
    values: NDArray[Any], codes: NDArray[np.uint8], scales: NDArray[np.float64], zero_nonfinite: bool
) -> int:
    """Quantize rows into preallocated outputs.

    Parameters
    ----------
    values : ndarray, shape (n, D), any element type
    codes : ndarray of uint8, shape (n, D)
        Filled.
    scales : ndarray of float64, shape (n,)
        Filled.
    zero_nonfinite : bool
        Take NaN and infinities as 0.0 instead of stopping at the first one.

    Returns
    -------
    int
        -1, or the flat index of the first value that is not finite; the outputs are then undefined.
    """
    rows, dim = values.shape
    for piece in _pieces(rows, dim):
        block = to_float64(values[piece])
        largest = np.abs(block).max(axis=1)
        if not np.isfinite(largest).all():
            bad = ~np.isfinite(block)
            if not zero_nonfinite:
                return int(piece.start * dim + bad.argmax())
            block[bad] = 0.0
            largest = np.abs(block).max(axis=1)
        scale = largest / 127.0
        # A scale of 0 means max|row| < about 3.1e-322; dividing by 1 then gives code 128 throughout.
        block /= np.where(scale == 0.0, 1.0, scale)[:, None]
        block += 128.0
        block += 0.5
        np.floor(block, out=block)
        # Only scales below 1e-300, which are rounded coarsely, can lead outside.
        np.clip(block, 1.0, 255.0, out=block)
        codes[piece] = block
        scales[piece] = scale
    return -1


def dequantize(codes: NDArray[np.uint8], scales: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Fill `out` with ``(codes - 128) * scales`` in float64, rounded once to its dtype.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, D)
    scales : ndarray of float64, shape (n,)
    out : ndarray of float64, float32 or float16, shape (n, D)
    """
    rows, dim = codes.shape
    room = _Room(rows, dim)
    for piece in _pieces(rows, dim, _READ_VALUES):
        np.copyto(room.codes[: piece.stop - piece.start], codes[piece])
        room.dequantize(scales[piece], out[piece])


class _Room:
    """Room for a piece of a read: one a call, as fresh ones cost a third of the time in page faults."""

    def __init__(self, rows: int, dim: int) -> None:
        largest = min(rows, _step(dim, _READ_VALUES))
        self.codes = np.empty((largest, dim), np.uint8)
        self._values = np.empty((largest, dim))

    def dequantize(self, scales: NDArray[np.float64], out: NDArray[Any]) -> None:
        """Fill `out` with the values of as many codes, which are centred in place."""
        codes, values = self.codes[: len(out)], self._values[: len(out)]
        codes ^= ZERO_POINT  # as int8 this is code - 128
        values[...] = codes.view(np.int8)
        with np.errstate(over="ignore", under="ignore"):
            values *= scales[:, None]
            out[...] = values


def first_out_of_range(rows: NDArray[np.int64], total: int) -> int:
    """Position of the first number that is no row of a matrix with `total` rows; -1 if there is none."""
    bad = (rows < -total) | (rows >= total)
    return int(bad.argmax()) if bad.any() else -1


class PackedScales(NamedTuple):
    """Scales of which there are few different ones: the scale of row i is ``values[places[i]]``.

    Attributes
    ----------
    places : ndarray of uint16, shape (N,)
    values : ndarray of float64, shape (65536,)
    """

    places: NDArray[np.uint16]
    values: NDArray[np.float64]


def scales_at(scales: NDArray[np.float64] | PackedScales, rows: Any) -> NDArray[np.float64]:
    """The scales of rows: of numbers or a slice."""
    found: NDArray[np.float64]
    found = scales.values[scales.places[rows]] if isinstance(scales, PackedScales) else scales[rows]
    return found


def gather(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64] | PackedScales,
    rows: NDArray[np.int64],
    out: NDArray[Any],
) -> int:
    """Fill `out` with the dequantized rows numbered `rows`; negative numbers count from the end.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, D)
    scales : ndarray of float64, shape (N,), or PackedScales
    rows : ndarray of int64, shape (m,)
        In any order, with repeats.
    out : ndarray of float64, float32 or float16, shape (m, D)

    Returns
    -------
    int
        -1, or the position in `rows` of the first number out of range; nothing is written then.
    """
    bad = first_out_of_range(rows, len(codes))
    if bad < 0:
        room = _Room(len(rows), codes.shape[1])
        for piece in _pieces(len(rows), codes.shape[1], values=_READ_VALUES):
            held = room.codes[: piece.stop - piece.start]
            if codes.flags.c_contiguous:
                # "wrap" only saves NumPy a copy of the output: all numbers are in range.
                np.take(codes, rows[piece], axis=0, out=held, mode="wrap")
            else:  # of some of the columns it would copy all rows first
                held[...] = codes[rows[piece]]
            room.dequantize(scales_at(scales, rows[piece]), out[piece])
    return bad


class Table:
    """Codes (N, D) and scales (N,) that single rows are read from.

    The C engine holds the buffers of both as long as the table lives, which saves half of the time of a row.
    """

    def __init__(self, codes: NDArray[np.uint8], scales: NDArray[np.float64] | PackedScales) -> None:
        self._codes, self._scales = codes, scales

    def row(self, number: int, out: NDArray[Any]) -> None:
        """Fill `out`, of shape (D,), with one dequantized row; IndexError if there is none of this number."""
        total = len(self._codes)
        if not -total <= number < total:
            raise IndexError(f"index {number} is out of bounds for axis 0 with size {total}")
        place = slice(number % total, number % total + 1)
        dequantize(self._codes[place], scales_at(self._scales, place), out[None])

    def take(self, rows: Any, out: Any) -> int:
        """Fill `out` with few rows, without a word in between: by C, where nothing is unusual.

        Parameters
        ----------
        rows, out : object
            Taken are arrays of NumPy, C-contiguous, and of no class derived from theirs: `rows` of int64 or
            int32, all in range, of one axis or more; `out` of float32, float64 or float16 and of shape
            ``rows.shape + (D,)``. They may share memory.

        Returns
        -------
        int
            Nanoseconds that it took; -1 where nothing was done, as always here: NumPy has no shorter way.
        """
        return -1


def bag_lengths(offsets: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Number of rows in each bag, of `count` rows in all; ValueError if the offsets are impossible."""
    lengths = np.diff(offsets, append=count)
    bad = lengths < 0
    if offsets.size and (bad.any() or offsets[0] != 0):
        raise ValueError(
            f"offsets must start with 0, never fall, and not pass the {count} rows: "
            f"offset number {int(bad.argmax())} is {offsets[bad.argmax()]}"
        )
    return lengths


def _pool_side_by_side(
    codes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    factors: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Add the first row of every bag, then the second, and so on."""
    for step in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > step)
        at = starts[longer] + step
        block = codes[rows[at]].astype(np.float64)
        block -= ZERO_POINT
        block *= factors[at, None]
        sums[longer] += block


def _pool_one_by_one(
    codes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    factors: NDArray[np.float64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Add up bag after bag. ``add.accumulate`` adds in order by definition, which ``add.reduce`` does not."""
    for start, length, total in zip(starts.tolist(), lengths.tolist(), sums, strict=True):
        for piece in _pieces(length, codes.shape[1]):
            at = slice(start + piece.start, start + piece.stop)
            block = np.empty((piece.stop - piece.start + 1, codes.shape[1]))
            block[0] = total
            np.subtract(codes[rows[at]], float(ZERO_POINT), out=block[1:])
            block[1:] *= factors[at, None]
            total[:] = np.add.accumulate(block, axis=0, out=block)[-1]


def pool(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64] | PackedScales,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    weights: NDArray[Any] | None,
    mode: str,
    out: NDArray[Any],
) -> int:
    """Fill `out` with the sums or means of bags of rows ("embedding bag").

    Each column is added up in float64 from 0.0, in the order of the rows: a row adds
    ``(weight * scale) * (code - 128)``, or ``scale * (code - 128)`` without weights. A mean divides the
    sum by the number of rows. An empty bag gives 0. The result is rounded once to the dtype of `out`.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, D)
    scales : ndarray of float64, shape (N,), or PackedScales
    rows : ndarray of int64, shape (m,)
        The rows of all bags, one bag after the other; negative numbers count from the end.
    offsets : ndarray of int64, shape (bags,)
        Where in `rows` each bag starts; the last one ends with `rows`.
    weights : ndarray of float32 or float64, shape (m,), or None
    mode : {"sum", "mean"}
    out : ndarray of float64 or float32, shape (bags, D)

    Returns
    -------
    int
        -1, or the position in `rows` of the first number out of range; nothing is written then.

    Raises
    ------
    ValueError
        The offsets do not start with 0, fall, or pass the end of `rows`; or the mode is unknown.
    """
    if mode not in ("sum", "mean"):
        raise ValueError(f"mode must be 'sum' or 'mean', got {mode!r}")
    lengths = bag_lengths(offsets, len(rows))
    bad = first_out_of_range(rows, len(codes))
    if bad >= 0:
        return bad
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        factors = scales_at(scales, rows)
        if weights is not None:
            factors = weights.astype(np.float64) * factors
        for piece in _pieces(*out.shape):
            sums = np.zeros(out[piece].shape)
            bags = lengths[piece]
            # A Python step costs about 10 us: take the way with fewer of them.
            add = _pool_side_by_side if bags.max(initial=0) < 4 * len(bags) else _pool_one_by_one
            add(codes, rows, factors, offsets[piece], bags, sums)
            if mode == "mean":
                sums /= np.maximum(bags, 1)[:, None]
            out[piece] = sums
    return -1
