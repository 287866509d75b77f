"""Tensors of torch in memory: any device, types that NumPy lacks, and quantized ones.

torch is never imported here: who hands in a tensor has done so.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.quantization import ZERO_POINT, marker_dtype
from ...errors import SourceError
from ..base import Fingerprint, RowSource, Source
from ..checks import check_matrix, check_range
from ..memory.array import as_array
from ..quantized import CodesSource

__all__ = ["TensorSource", "is_torch_tensor", "tensor_source"]

_RAW_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
_CODES = {"quint8": ZERO_POINT, "qint8": 0}


def is_torch_tensor(obj: Any) -> bool:
    """Whether it is a `torch.Tensor`, of any class."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, getattr(torch, "Tensor", ()))


def tensor_source(tensor: Any) -> Source:
    """Source of a tensor; of its codes and scales where it is quantized with a scale for each row.

    Raises
    ------
    SourceError
        No matrix of a supported type; quantized in another way than row by row around 128 (quint8) or
        0 (qint8).
    """
    if tensor.is_quantized:
        return _codes_source(tensor)
    if "strided" not in str(tensor.layout):
        raise SourceError(
            f"the tensor is of layout {tensor.layout}: expected torch.strided; give .to_dense()"
        )
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
        check_matrix("the tensor", tuple(tensor.shape), self.dtype)
        self.rows, self.dim = tensor.shape
        self._tensor = tensor.detach()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, a view where the tensor is in the processor's memory."""
        check_range("the tensor", start, stop, self.rows)
        part = self._tensor[start:stop].cpu()
        if self.dtype not in _RAW_BITS:
            return as_array(part, f"the tensor, rows {start}:{stop},")
        raw: NDArray[Any] = (
            part.contiguous().view(getattr(sys.modules["torch"], _RAW_BITS[self.dtype])).numpy()
        )
        return raw.view(marker_dtype(self.dtype))

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
