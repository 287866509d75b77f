"""Values of the codes and scales that checkpoints hold, in float32 where that is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODE_TYPES", "E2M1", "FLOAT8_TYPES", "SCALE_TYPES", "ZERO_TYPES", "decoded", "table_of"]

_LAYOUTS = {  # mantissa bits, bias
    "float8_e4m3fn": (3, 7),
    "float8_e5m2": (2, 15),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2fnuz": (2, 16),
}

FLOAT8_TYPES = tuple(_LAYOUTS)
"""Floats of 8 bits with a sign and a mantissa."""

CODE_TYPES = ("int8", "uint8", *FLOAT8_TYPES)
"""What codes of 8 bits are."""

SCALE_TYPES = ("float32", "bfloat16", "float16", "float64", "float8_e8m0fnu")
"""What scales of 8-bit codes are. E8M0 (OCP Microscaling Formats 1.0) means 2^(byte - 127)."""

ZERO_TYPES = ("int8", "uint8", "int16", "int32", "int64")
"""What zero points are where they are no floats."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Value of each code of a float of 4 bits (OCP Microscaling Formats 1.0)."""


def _float8(name: str) -> NDArray[np.float32]:
    mantissa_bits, bias = _LAYOUTS[name]
    code = np.arange(128)
    exponent, fraction = code >> mantissa_bits, (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    negative = -values
    if name.endswith("fnuz"):  # no infinities, one zero, and NaN in the place of the other one
        negative[0] = np.nan
    elif name == "float8_e4m3fn":
        values[127] = negative[127] = np.nan
    else:
        values[124], negative[124] = np.inf, -np.inf
        values[125:] = negative[125:] = np.nan
    return np.concatenate([values, negative]).astype(np.float32)


def _e8m0() -> NDArray[np.float32]:
    values = np.ldexp(np.ones(256), np.arange(256) - 127)
    values[255] = np.nan
    return values.astype(np.float32)


_TABLES = {
    "uint8": np.arange(256, dtype=np.float32),
    "int8": np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32),
    "float8_e8m0fnu": _e8m0(),
    **{name: _float8(name) for name in FLOAT8_TYPES},
}


def table_of(dtype: str) -> NDArray[np.float32]:
    """Value of each of the 256 codes of a type of 8 bits.

    Examples
    --------
    >>> table_of("float8_e4m3fn")[[0x38, 0x7E]], table_of("float8_e8m0fnu")[[127, 129]]
    (array([  1., 448.], dtype=float32), array([1., 4.], dtype=float32))
    """
    return _TABLES[dtype]


def decoded(raw: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Numbers of a type in NumPy's words, given as rows of bytes: float32, or float64 where that is wider.

    Integers of more than 16 bits become float64.
    """
    if dtype in _TABLES:
        return _TABLES[dtype][raw]
    if dtype == "bfloat16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    items = raw.view(np.dtype(dtype).newbyteorder("<"))
    wide = items.dtype.itemsize > 4 or (items.dtype.kind in "iu" and items.dtype.itemsize > 2)
    with np.errstate(invalid="ignore"):  # casting a signaling NaN
        return items.astype(np.float64 if wide else np.float32)
