"""Tensors of torch in memory: any device, types that NumPy lacks, and quantized ones.

torch is never imported here: who hands in a tensor has done so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.arrays import as_array, check_dense
from ...engine.quantization import ZERO_POINT
from ...errors import SourceError
from ..base import Fingerprint, RowSource, Source
from ..checks import check_matrix, check_range
from ..quantized import CodesSource
from .tensor_rows import conversion

__all__ = ["TensorSource", "tensor_source"]

_CODES = {"quint8": ZERO_POINT, "qint8": 0}


def tensor_source(tensor: Any) -> Source:
    """Source of a tensor; of its codes and scales where it is quantized with a scale for each row.

    Raises
    ------
    SourceError
        No matrix of a supported type; sparse, nested or without values; quantized in another way than row
        by row around 128 (quint8) or 0 (qint8).
    """
    if tensor.is_quantized:
        return _codes_source(tensor)
    check_dense(tensor, "the tensor", SourceError)
    return TensorSource(tensor)


class TensorSource(RowSource):
    """Rows of a tensor; those of another device are fetched range by range.

    Parameters
    ----------
    tensor : torch.Tensor, shape (N, D)
        Never changed. Gradients do not matter.

    Raises
    ------
    SourceError
        Not a matrix of a supported type.
    """

    def __init__(self, tensor: Any) -> None:
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        check_matrix("the tensor", tuple(tensor.shape), self.dtype, conversion(self.dtype, "give"))
        self.rows, self.dim = tensor.shape
        self._tensor = tensor.detach()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, a view where the tensor is in the processor's memory."""
        check_range("the tensor", start, stop, self.rows)
        return as_array(self._tensor[start:stop], f"the tensor, rows {start}:{stop},", SourceError)

    def fingerprint(self) -> Fingerprint:
        """Type and shape: what values a tensor holds cannot be told without reading them all."""
        return {"kind": "array", "dtype": self.dtype, "shape": [self.rows, self.dim]}


def _codes_source(tensor: Any) -> CodesSource:
    scheme, dtype = str(tensor.qscheme()), str(tensor.dtype).removeprefix("torch.")
    by_row = scheme in ("torch.per_channel_affine", "torch.per_channel_symmetric")
    if not by_row or tensor.q_per_channel_axis() != 0 or tensor.ndim != 2 or dtype not in _CODES:
        raise SourceError(
            f"the tensor is quantized to {dtype} as {scheme}: expected quint8 or qint8, 2-D, "
            f"torch.per_channel_affine along axis 0; build from its values, tensor.dequantize()"
        )
    zero_points = tensor.q_per_channel_zero_points().cpu().numpy()
    off = zero_points != _CODES[dtype]
    if off.any():
        row = int(off.argmax())
        raise SourceError(
            f"the tensor has zero point {zero_points[row]} in row {row}: expected {_CODES[dtype]} in every "
            f"row; build from its values, tensor.dequantize()"
        )
    codes = tensor.int_repr().cpu().numpy().view(np.uint8)
    # Codes around 0 differ from those around 128 in their first bit alone.
    codes = codes if dtype == "quint8" else codes ^ np.uint8(0x80)
    return CodesSource(codes, tensor.q_per_channel_scales().cpu().numpy())
