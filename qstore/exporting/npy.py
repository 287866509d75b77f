""".npy, as NumPy maps it."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from .base import Format
from .selection import Selection

__all__ = ["NpyFormat", "npy_header"]


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands in front of the values of an array in C order."""
    header = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


class NpyFormat(Format):
    """A matrix in C order."""

    name = "npy"
    suffixes = (".npy",)

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Header and rows; see :meth:`Format.write`."""
        file.write(npy_header(selection.shape, selection.dtype))
        for _, block in selection.blocks():
            file.write(block.data)
