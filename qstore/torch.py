"""Stores and torch: quantized tensors, with the codes and scales of the store and no second rounding.

The other way, from a tensor to a store, needs nothing of this module: :func:`qstore.build` takes tensors.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MissingExtraError
from .quantization import ZERO_POINT
from .store import Store

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["to_quantized"]


def to_quantized(store: Store, rows: Any = None) -> Tensor:
    """Rows of a store as a tensor quantized per channel: quint8, axis 0, zero points 128.

    ``int_repr()`` and ``q_per_channel_scales()`` are the store's codes and scales, copied. A store built
    from the tensor has both again. ``dequantize()`` gives the float32 values that the store gives, bit for
    bit.

    Parameters
    ----------
    store : Store
    rows : slice, list or array of int, or mask, optional
        NumPy's rules; all rows by default.

    Returns
    -------
    torch.Tensor, shape (n, D), dtype torch.quint8

    Raises
    ------
    MissingExtraError
        torch is not installed.
    IndexError
        A row that is not there, or one row alone.

    Notes
    -----
    torch 2.13 calls these types deprecated. The warning of that is left out here: whoever calls this wants
    one.
    """
    torch = _import_torch()
    codes = np.array(store.codes if rows is None else store.codes[rows])
    if codes.ndim != 2:
        raise IndexError(f"rows is {rows!r}: expected a slice or a list of rows, such as slice(7, 8)")
    scales = np.array(store.scales if rows is None else store.scales[rows])
    zero_points = torch.full((len(codes),), ZERO_POINT, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor.*deprecated", UserWarning)
        # No public function takes codes: torch.quantize_per_channel rounds values. torch.ao uses this one.
        quantized: Tensor = torch._make_per_channel_quantized_tensor(
            torch.from_numpy(codes), torch.from_numpy(scales), zero_points, 0
        )
    return quantized


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError('this needs torch: pip install "qstore[torch]"') from error
    return torch
