"""Rows of one tensor of a torch checkpoint: plain ones, strided ones, and codes with their scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.quantization import ZERO_POINT, marker_dtype
from ...errors import SourceError
from ..base import Fingerprint, RowSource
from ..checks import check_range, shortened
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from ..numpy.npy import FortranRows
from ..quantized import QuantizedSource, check_scales
from .types import Tensor

__all__ = ["TorchCodes", "conversion", "is_by_row", "item_dtype", "rows_of"]

Rows = Callable[[Tensor, np.dtype[Any]], RowSource]
"""Gives the rows of a tensor of the same file."""

# Rows that lie apart are read together with what is between them, as far as that goes into this.
_SPAN_BYTES = 1 << 20

# Quantized types whose codes can be taken as they are: the zero point, and the bit that makes it 128.
_CODES = {"quint8": (ZERO_POINT, 0), "qint8": (0, 128)}


def item_dtype(name: str) -> np.dtype[Any]:
    """Dtype of the items of an element type as they lie in the file."""
    raw = name == "bfloat16" or name.startswith("float8")
    return marker_dtype(name) if raw else np.dtype(name).newbyteorder("<")


def conversion(name: str, do: str = "save") -> str:
    """How torch makes numbers that can be quantized of a tensor of this type, and what to do with them."""
    if name.startswith("complex"):
        return f"{do} its parts in its place: tensor.real.contiguous() and tensor.imag.contiguous()"
    if name.startswith("q"):
        return f"{do} tensor.dequantize() in its place"
    if name == "float4_e2m1fn_x2":
        return f"{do} its values as torch.float32 in its place"
    return f"{do} tensor.float() in its place"


def rows_of(
    file: RawFile, where: str, tensor: Tensor, *, dtype: np.dtype[Any], name: str, begin: int, **identity: Any
) -> RowSource:
    """Source of the rows of a 2-D view.

    Parameters
    ----------
    file : RawFile
    where : str
        Starts the error.
    tensor : Tensor
    dtype : numpy.dtype
    name : str
    begin : int
        Position of the storage in the file.
    **identity
        For :class:`ContiguousRows`.

    Raises
    ------
    SourceError
        Neither its rows nor its columns are contiguous.
    """
    layout: dict[str, Any] = {
        "kind": "torch",
        "name": name,
        "offset": begin + tensor.offset * dtype.itemsize,
        "shape": tensor.shape,
        "dtype": dtype,
        **identity,
    }
    found = _laid_out(file, where, tensor, layout)
    return NegatedRows(found) if tensor.negated else found


def _laid_out(file: RawFile, where: str, tensor: Tensor, layout: dict[str, Any]) -> ContiguousRows:
    rows, dim = tensor.shape
    by_row, by_column = tensor.strides
    # The stride of a dimension of length 1 can be anything.
    in_rows = dim == 1 or by_column == 1
    if rows == 0 or (in_rows and (rows == 1 or by_row == dim)):
        return ContiguousRows(file, **layout)
    if in_rows and by_row > dim:
        return StridedRows(file, by_row, **layout)
    if (rows == 1 or by_row == 1) and by_column == rows:
        return FortranRows(file, **layout)
    raise SourceError(
        f"{where} has strides {tensor.strides} for shape {tensor.shape}: expected contiguous rows; "
        f"save tensor.contiguous() instead"
    )


class StridedRows(ContiguousRows):
    """Rows at equal distances, as those of a few columns of a wider matrix.

    Parameters
    ----------
    file : RawFile
    stride : int
        Items from one row to the next; more than the row has.
    **layout
        As for :class:`ContiguousRows`.
    """

    def __init__(self, file: RawFile, stride: int, **layout: Any) -> None:
        super().__init__(file, **layout)
        self._stride = stride

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        size = self._item.itemsize
        values = np.empty((stop - start, self.dim), self._item)
        step = max(1, _SPAN_BYTES // (self._stride * size))
        for first in range(start, stop, step):
            count = min(step, stop - first)
            span = (count - 1) * self._stride + self.dim
            flat = self._file.read_array(self._offset + first * self._stride * size, (span,), self._item)
            strides = (self._stride * size, size)
            apart = np.lib.stride_tricks.as_strided(flat, (count, self.dim), strides, writeable=False)
            values[first - start : first - start + count] = apart
        return values

    def fingerprint(self) -> Fingerprint:
        """That of any matrix in a file, and the distance."""
        return {**super().fingerprint(), "stride": self._stride}


class NegatedRows(RowSource):
    """Rows of floats that lie in the file with the other sign.

    Parameters
    ----------
    rows : RowSource
        Closed with this one.
    """

    def __init__(self, rows: RowSource) -> None:
        self.name, self.dtype, self.rows, self.dim = rows.name, rows.dtype, rows.rows, rows.dim
        self._rows = rows

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`RowSource.read`."""
        values: NDArray[Any] = np.negative(self._rows.read(start, stop))
        return values

    def fingerprint(self) -> Fingerprint | None:
        """That of the rows as they lie, and the sign."""
        return {**(self._rows.fingerprint() or {}), "negated": True}

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._rows.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._rows.close()


def is_by_row(tensor: Tensor) -> bool:
    """Whether it is quantized to 8 bits with a scale for each row."""
    quantizer = tensor.quantizer
    return (
        quantizer is not None
        and quantizer.scheme in ("per_channel_affine", "per_channel_symmetric")
        and quantizer.axis == 0
        and len(tensor.shape) == 2
        and tensor.shape[1] > 0
        and tensor.dtype in _CODES
    )


class TorchCodes(QuantizedSource):
    """Codes and scales of a tensor that torch has quantized row by row.

    Scales and zero points are read along with the codes, so memory holds just the rows asked for.

    Parameters
    ----------
    where : str
        Starts errors.
    tensor : Tensor
        One that :func:`is_by_row` is true of.
    rows : callable
        Gives the rows of its parts.

    Raises
    ------
    SourceError
        Its scales or zero points are no vectors of one a row.
    """

    def __init__(self, where: str, tensor: Tensor, rows: Rows) -> None:
        self._where = where
        self._zero_point, self._flip = _CODES[tensor.dtype]
        self.rows, self.dim = tensor.shape
        quantizer = tensor.quantizer
        scales = _column(where, "scales", getattr(quantizer, "scales", None), self.rows, "float64", "float32")
        zeros = _column(
            where, "zero points", getattr(quantizer, "zero_points", None), self.rows, "int64", "int32"
        )
        self._codes = rows(tensor, np.dtype(np.uint8))
        self._scales = rows(scales, item_dtype(scales.dtype))
        self._zeros = rows(zeros, item_dtype(zeros.dtype))
        self.name = self._codes.name

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales of the rows `start` to `stop`, fresh arrays.

        Raises
        ------
        SourceError
            A row's zero point is not the middle one, or its scale is negative or not finite.
        """
        check_range(self._where, start, stop, self.rows)
        zeros = self._zeros.read(start, stop)[:, 0]
        off = zeros != self._zero_point
        if off.any():
            row = int(off.argmax())
            raise SourceError(
                f"{self._where}: row {start + row} has zero point {zeros[row]}: "
                f"expected {self._zero_point} in every row; {conversion('quantized')}"
            )
        scales = self._scales.read(start, stop)[:, 0].astype(np.float64)
        check_scales(self._where, scales, start)
        codes = self._codes.read(start, stop)
        return (codes ^ np.uint8(self._flip) if self._flip else codes), scales

    def fingerprint(self) -> Fingerprint | None:
        """That of the codes' place in the file."""
        return {**(self._codes.fingerprint() or {}), "dtype": self.dtype}

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._codes.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        self._codes.close()


def _column(where: str, what: str, found: Any, rows: int, *types: str) -> Tensor:
    """A vector of one value a row, as a matrix of one column."""
    if not isinstance(found, Tensor) or found.shape != (rows,) or found.dtype not in types:
        kind = (
            f"{shortened(str(found.shape))} of {found.dtype}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise SourceError(
            f"{where}: its {what} expected shape ({rows},) of {' or '.join(types)}, found {kind}; "
            f"{conversion('quantized')}"
        )
    return replace(found, shape=(rows, 1), strides=(found.strides[0], 1))
