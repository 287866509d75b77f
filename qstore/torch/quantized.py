"""Rows of a store as quantized tensors of torch: its codes and scales, and no second rounding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..engine.arrays import as_array
from ..engine.quantization import ZERO_POINT
from ..store import Store, as_store
from ..system.options import shown
from .library import torch

__all__ = ["to_quantized"]


def to_quantized(store: Store, rows: Any = None) -> torch.Tensor:
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
    picked = slice(None) if rows is None else rows
    picked = picked if isinstance(picked, slice) else as_array(picked, "rows", IndexError)
    numbers = np.arange(len(as_store(store)))[picked]
    if numbers.ndim != 1:
        raise IndexError(f"rows is {shown(rows)}: expected a slice or a list of rows, such as slice(7, 8)")
    codes, scales = store.take_codes(numbers)
    zero_points = torch.full((len(codes),), ZERO_POINT, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor.*deprecated", UserWarning)
        # No public function takes codes: torch.quantize_per_channel rounds values. torch.ao uses this one.
        quantized: torch.Tensor = torch._make_per_channel_quantized_tensor(
            torch.from_numpy(codes), torch.from_numpy(scales), zero_points, 0
        )
    return quantized
