""".npy, as NumPy maps it."""

from __future__ import annotations

from typing import BinaryIO

from .base import Format
from .npy_header import npy_header
from .selection import Selection

__all__ = ["NpyFormat"]


class NpyFormat(Format):
    """A matrix in C order."""

    name = "npy"
    suffixes = (".npy",)

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Header and rows; see :meth:`Format.write`."""
        file.write(npy_header(selection.shape, selection.dtype))
        for _, block in selection.blocks():
            file.write(block.data)
