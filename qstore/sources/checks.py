"""The checks that every source makes, and the words of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.arrays import conversion, is_record
from ..engine.quantization import ELEMENT_TYPES, element_type
from ..errors import SourceError

__all__ = ["check_matrix", "check_range", "is_utf8", "shortened", "type_name"]


def shortened(text: str, limit: int = 200) -> str:
    """`text`, cut to about `limit` characters: names and reasons in hostile files can be megabytes long."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def is_utf8(data: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def type_name(dtype: np.dtype[Any]) -> str:
    """Name of the element type that a dtype stands for, or NumPy's own text for one that has none.

    Examples
    --------
    >>> import numpy as np
    >>> type_name(np.dtype(">f4")), type_name(np.dtype(bool)), type_name(np.dtype([("float32", "u1")]))
    ('float32', 'bool', "[('float32', 'u1')]")
    """
    return element_type(dtype) or str(dtype)


def check_matrix(where: str, shape: Sequence[int], type_name: str, remedy: str | None = None) -> None:
    """Refuse what is not a matrix of at least one column of a supported element type.

    Parameters
    ----------
    where : str
        What is checked; starts the error message.
    shape : sequence of int
    type_name : str
        As :func:`type_name` gives it.
    remedy : str, optional
        What to do about another type; by default what NumPy can do.

    Raises
    ------
    SourceError
    """
    shape = tuple(shape)
    if len(shape) != 2 and not is_record(type_name):
        raise SourceError(
            f"{where} has shape {shape}: expected 2 dimensions (rows, columns), found {len(shape)}; "
            f"reshape it, or choose another tensor"
        )
    if len(shape) == 2 and (shape[0] < 0 or shape[1] < 1):
        raise SourceError(f"{where} has shape {shape}: expected at least 1 column, found {shape[1]}")
    if type_name not in ELEMENT_TYPES:
        raise SourceError(
            f"{where} holds {shortened(type_name)}: expected one of {', '.join(ELEMENT_TYPES)}; "
            f"{remedy or conversion(type_name)}"
        )


def check_range(where: str, start: int, stop: int, rows: int) -> None:
    """Refuse a range of rows that is not inside the source.

    Raises
    ------
    SourceError
    """
    if not 0 <= start <= stop <= rows:
        raise SourceError(
            f"{where} has {rows:,} rows: expected 0 ≤ start ≤ stop ≤ {rows}, found {start}:{stop}"
        )
