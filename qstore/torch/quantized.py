"""Codes and scales of a store as tensors of torch, plain ones or its quantized type: no second rounding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.arrays import as_array
from ..engine.quantization import ZERO_POINT
from ..errors import MissingExtraError
from ..store import Store, as_store
from ..system.options import shown
from .library import torch

__all__ = ["codes_and_scales", "to_quantized"]

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def codes_and_scales(
    store: Store, rows: Any = None, *, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a store as plain tensors: signed codes, and one scale for each row.

    A value is ``code * scale``: ``(codes.double() * scales[:, None]).float()`` are the float32 values that
    the store gives, bit for bit. A store built from both tensors, as a tuple, has the same codes and scales.

    Parameters
    ----------
    store : Store
    rows : slice, list or array of int, or mask, optional
        NumPy's rules; all rows by default.
    dtype : torch.dtype, optional
        Of the scales: float64 (the default), as they are, or float32, rounded: off by 2⁻²⁴ of
        themselves at most, and by more below 1.2e-38, down to 0.

    Returns
    -------
    codes : torch.Tensor, shape (n, D), dtype torch.int8
        The store's codes less 128: -128 to 127.
    scales : torch.Tensor, shape (n,)

    Raises
    ------
    MissingExtraError
        torch is not installed.
    IndexError
        A row that is not there, or one row alone.
    ValueError
        Another dtype, or a scale that is too large for float32.

    Notes
    -----
    Both are copies, on the processor; ``.to(device)`` sends them. Prefer this to :func:`to_quantized`, whose
    type torch has deprecated.
    """
    wanted = torch.float64 if dtype is None else dtype
    if not isinstance(wanted, torch.dtype) or wanted not in (torch.float64, torch.float32):
        found = dtype if isinstance(dtype, torch.dtype) else shown(dtype)
        raise ValueError(f"dtype is {found}, expected torch.float64 or torch.float32, for the scales")
    store = as_store(store)
    numbers = _numbers(store, rows)
    codes, scales = store.take_codes(numbers)
    if wanted == torch.float32 and (large := np.flatnonzero(scales > _LARGEST_FLOAT32)).size:
        raise ValueError(
            f"row {numbers[large[0]]} has scale {scales[large[0]]}, too large for float32: leave dtype out, "
            f"for scales of float64"
        )
    np.bitwise_xor(codes, np.uint8(ZERO_POINT), out=codes)  # less 128, as int8
    return torch.from_numpy(codes.view(np.int8)), torch.from_numpy(scales).to(wanted)


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
        torch is not installed, or no longer has these tensors.
    IndexError
        A row that is not there, or one row alone.

    Notes
    -----
    torch has deprecated these types in 2.13 and will drop them: :func:`codes_and_scales` gives the same in
    plain tensors. The warning of that is left out here.
    """
    # No public function takes codes: torch.quantize_per_channel rounds values. torch.ao uses this one.
    make = getattr(torch, "_make_per_channel_quantized_tensor", None)
    if make is None:
        raise MissingExtraError(
            f"torch {torch.__version__} has no quantized tensors: qstore.torch.codes_and_scales(store, rows) "
            f"gives the same in plain ones; or install a torch that has them, such as 2.13"
        )
    store = as_store(store)
    codes, scales = store.take_codes(_numbers(store, rows))
    zero_points = torch.full((len(codes),), ZERO_POINT, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, in whatever words
        quantized: torch.Tensor = make(torch.from_numpy(codes), torch.from_numpy(scales), zero_points, 0)
    return quantized


def _numbers(store: Store, rows: Any) -> NDArray[np.int64]:
    """Numbers of the rows that `rows` picks, counted from 0."""
    picked = slice(None) if rows is None else rows
    picked = picked if isinstance(picked, slice) else as_array(picked, "rows", IndexError)
    if not isinstance(picked, slice) and picked.shape == (0,) and not isinstance(rows, np.ndarray):
        picked = picked.astype(np.int64)  # an empty list
    numbers: NDArray[np.int64] = np.arange(len(store))[picked]
    if numbers.ndim != 1:
        raise IndexError(f"rows is {shown(rows)}: expected a slice or a list of rows, such as slice(7, 8)")
    return numbers
