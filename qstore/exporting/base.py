"""What a format of exported files is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import BinaryIO

from ..engine.quantization import OUTPUT_TYPES
from .selection import Selection

__all__ = ["Format"]


class Format(ABC):
    """One format.

    Attributes
    ----------
    name : str
        As ``format=`` and ``--format`` take it.
    suffixes : tuple of str
        Ends of file names, in lower case.
    dtypes : tuple of str
        Types of values that it can hold.
    has_keys : bool
        Whether it has a place for the rows' keys.
    """

    name: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...] = OUTPUT_TYPES
    has_keys: bool = False

    @abstractmethod
    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Write everything, from front to back, one block in memory at a time."""

    def least_size(self, selection: Selection) -> int:
        """Bytes that the file takes at least: space for them is reserved before anything is written."""
        return selection.nbytes
