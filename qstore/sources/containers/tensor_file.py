"""What a file of many tensors gives by name: what each is, its rows, and its bytes as they lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from ..base import RowSource, TensorInfo

__all__ = ["TensorFile", "byte_shape"]


class TensorFile(ABC):
    """A file or checkpoint of tensors by name, whose headers are read; what it opens, the caller closes.

    Attributes
    ----------
    path : str
        Of the file that says which tensors there are.
    names : collection of str
        Of all tensors; asking whether a name is among them is cheap.
    """

    path: str
    names: Collection[str]

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """What a tensor is; raises `SourceError` where its file is missing or malformed."""

    @abstractmethod
    def open(self, name: str) -> RowSource:
        """Source of the rows of a matrix of a supported type, as the numbers that it holds.

        Raises
        ------
        SourceError, TensorError
        """

    @abstractmethod
    def open_bytes(self, name: str) -> RowSource:
        """Source of the bytes of a tensor of any type and shape, of shape :func:`byte_shape`.

        Raises
        ------
        SourceError
            There are none as plain items: it is opaque, or lies in the file in another order.
        """

    def check_complete(self) -> None:
        """Raise `SourceError` where something is missing, so that there may be other matrices than are seen.

        Nothing is missing where all lies in one file.
        """
        return

    def metadata_beside(self, name: str) -> Mapping[str, str]:
        """What the file that holds a tensor says about itself, untrusted; errors as those of :meth:`info`."""
        return {}


def byte_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Rows and columns of the bytes of a tensor: what its first dimension counts is a row.

    Parameters
    ----------
    shape : tuple of int
    size : int
        Bytes of the whole.

    Examples
    --------
    >>> byte_shape((10, 4), 160), byte_shape((10,), 20), byte_shape((), 4), byte_shape((2, 3, 16), 96)
    ((10, 16), (10, 2), (1, 4), (2, 48))
    """
    rows = shape[0] if shape else 1
    return (rows, size // rows) if rows and math.prod(shape) else (rows, 1)
