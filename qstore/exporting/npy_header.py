"""The header of .npy files, for all that write them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

__all__ = ["npy_header"]


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands in front of the values of an array in C order."""
    header = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
