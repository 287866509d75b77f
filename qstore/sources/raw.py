"""Plain values in a file that says nothing about them: the caller gives type and width."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..engine.arguments import as_count
from ..engine.quantization import ELEMENT_TYPES, element_type, marker_dtype
from ..errors import SourceError
from ..system.options import check_path, shown
from .containers.contiguous import ContiguousRows
from .files import RawFile

__all__ = ["RawSource"]


class RawSource(ContiguousRows):
    """Rows of a binary file without a header, or with one to be left out.

    Parameters
    ----------
    path : path-like
    dtype : str or numpy.dtype
        Name of an element type ("float32", "bfloat16", …; little-endian) or a dtype, such as ">f4".
    dim : int
        Number of columns.
    offset : int
        Bytes before the first value.
    rows : int, optional
        By default all up to the end of the file, which must then be that of a row.

    Attributes
    ----------
    path : str
    layout : str or None
        ``DTYPE:DIM:OFFSET``, as :meth:`from_text` takes it; None with `rows`, which it cannot say.

    Raises
    ------
    SourceError
        The file cannot be read, is too short or does not end with a row; or the type is not supported.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "vectors.raw")
    >>> np.arange(6, dtype="<f4").tofile(path)
    >>> with RawSource(path, "float32", dim=3) as source:
    ...     source.rows, source.read(1, 2)
    (2, array([[3., 4., 5.]], dtype=float32))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: str | np.dtype[Any],
        dim: int,
        offset: int = 0,
        rows: int | None = None,
    ) -> None:
        item = _item(dtype)
        check_path(path)
        dim, offset = as_count("dim", dim), as_count("offset", offset, least=0)
        rows = None if rows is None else as_count("rows", rows, least=0)
        self.path = os.fsdecode(path)
        self.layout = f"{dtype}:{dim}:{offset}" if rows is None else None
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(self.path))
            count = _rows_to_the_end(file, dim * item.itemsize, offset) if rows is None else rows
            super().__init__(
                file,
                kind="raw",
                name="",
                offset=offset,
                shape=(count, dim),
                dtype=item,
                header_crc32=0,
                origin={"offset": offset, "item": item.str},
            )
            on_error.pop_all()

    @classmethod
    def from_text(cls, path: str | os.PathLike[str], text: str) -> RawSource:
        """Source of a file described as ``DTYPE:DIM[:OFFSET]``, for example ``float32:768:128``.

        Raises
        ------
        SourceError
        """
        dtype, *numbers = text.split(":")
        if not 1 <= len(numbers) <= 2 or not all(
            number.isdecimal() and len(number) < 19 for number in numbers
        ):
            raise SourceError(f"found {text!r}: expected DTYPE:DIM or DTYPE:DIM:OFFSET, such as float32:768")
        return cls(path, dtype, *map(int, numbers))


def _item(dtype: str | np.dtype[Any]) -> np.dtype[Any]:
    if isinstance(dtype, str) and dtype in ELEMENT_TYPES:
        raw = dtype == "bfloat16" or dtype.startswith("float8")
        return marker_dtype(dtype) if raw else np.dtype(dtype).newbyteorder("<")
    try:
        item = np.dtype(dtype)
    except (TypeError, ValueError):
        item = None
    if item is None or element_type(item) is None:
        raise SourceError(f"dtype is {shown(dtype)}, expected one of {', '.join(ELEMENT_TYPES)}")
    return item


def _rows_to_the_end(file: RawFile, row_bytes: int, offset: int) -> int:
    size = file.size - offset
    if size < 0 or size % row_bytes:
        raise SourceError(
            f"{file.path}: expected whole rows of {row_bytes} bytes from byte {offset} on, found {file.size} "
            f"bytes in all; check type, dim and offset, or give rows="
        )
    return size // row_bytes
