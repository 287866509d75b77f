"""Rows of a store as tensors: of any floating type, on any device, every value rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.arguments import as_row_numbers
from ..store import Store, as_store
from ..system.options import shown
from .library import torch

__all__ = ["check_device", "check_dtype", "dequantize", "rounded_once", "take", "take_on_device", "take_rows"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# bfloat16 is made in pieces of about this many values, so that the float32 ones stay in the cache.
_PIECE_VALUES = 1 << 15

# A device makes values in pieces of this many: 64 MiB for each of the few float64 arrays it needs.
_DEVICE_VALUES = 1 << 23


def take(
    store: Store,
    rows: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Read rows in any order as a tensor; as :meth:`Store.take`, with torch's types and devices.

    For another device than the processor codes and scales travel, a quarter of the bytes of float32, each
    row once however often it is asked for; the device makes values of them. Every value is
    ``(code - 128) * scale`` in float64 rounded once to `dtype`, on every device.

    Parameters
    ----------
    store : Store
    rows : array_like or tensor of int
        Any shape; repeats and negative numbers are fine.
    dtype : torch.dtype, optional
        float32 (the default), float16, bfloat16 or float64.
    device : torch.device or str, optional
        The processor by default.

    Returns
    -------
    torch.Tensor, shape ``rows.shape + (D,)``

    Raises
    ------
    MissingExtraError
        torch is not installed.
    IndexError
        A row is out of range, or not an integer.
    ValueError
        Another dtype.

    Notes
    -----
    Buffers for a CUDA device are pinned and copied without waiting. A device without float64 (Apple's mps)
    gets values made on the processor. Any number of threads may call this for one store. What is too large
    for float16 is infinite in it: reading such values gives a RuntimeWarning on the processor, and none on
    another device.
    """
    wanted = check_dtype(torch.float32 if dtype is None else dtype)
    return take_rows(as_store(store), as_row_numbers(rows), wanted, check_device(device))


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype`; ValueError unless values can be had in it."""
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES:
        found = dtype if isinstance(dtype, torch.dtype) else shown(dtype)
        raise ValueError(f"dtype is {found}, expected one of {', '.join(map(str, _DTYPES))}")
    return dtype


def check_device(device: torch.device | str | None) -> torch.device:
    """`device`, the processor by default; ValueError unless torch knows it."""
    try:
        return torch.device("cpu" if device is None else device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"device is {shown(device)}, expected one of torch's: {str(error)[:200]}") from None


def take_rows(
    store: Store, rows: NDArray[np.int64], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """What :func:`take` does, of checked arguments."""
    store = store._as_it_is()
    if device.type == "cpu":
        return _take_on_processor(store, rows, dtype)
    if device.type == "mps":
        return _take_on_processor(store, rows, dtype).to(device)
    return take_on_device(store, rows, dtype, device)


def _take_on_processor(store: Store, rows: NDArray[np.int64], dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty((*rows.shape, store.shape[1]), dtype=dtype)
    if dtype == torch.bfloat16:
        _fill_bfloat16(store, rows.reshape(-1), out.reshape(rows.size, store.shape[1]))
    else:
        store.take(rows, out=out.numpy())
    return out


def _fill_bfloat16(store: Store, rows: NDArray[np.int64], out: torch.Tensor) -> None:
    """Through float32, which is wrong only where that is a tie between two bfloat16, one value in 65,536.

    There the float32 is moved to the side on which the float64 value lies. Five times as fast as
    :func:`rounded_once` of float64 rows.
    """
    step = max(1, _PIECE_VALUES // store.shape[1])
    scratch = np.empty((min(step, rows.size), store.shape[1]), np.float32)
    for start in range(0, rows.size, step):
        piece = rows[start : start + step]
        near = store.take(piece, out=scratch[: piece.size])
        ties = (near.view(np.uint32) & 0xFFFF) == 0x8000
        if ties.any():
            lines = np.flatnonzero(ties.any(axis=1))
            exact = store.astype("float64").take(piece[lines])
            near[lines] = _untied(near[lines], ties[lines], exact)
        out[start : start + step] = torch.from_numpy(near)


def _untied(
    near: NDArray[np.float32], ties: NDArray[np.bool_], exact: NDArray[np.float64]
) -> NDArray[np.float32]:
    """`near` with the ties moved by one in the last place toward the exact values."""
    outward = np.sign(np.abs(exact) - np.abs(near.astype(np.float64))).astype(np.int32)
    outward[~ties] = 0
    moved: NDArray[np.float32] = (near.view(np.int32) + outward).view(np.float32)
    return moved


def take_on_device(
    store: Store, rows: NDArray[np.int64], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Send codes and scales of each row once, and dequantize there."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    pinned = device.type == "cuda"
    codes = torch.empty((distinct.size, store.shape[1]), dtype=torch.uint8, pin_memory=pinned)
    scales = torch.empty(distinct.size, dtype=torch.float64, pin_memory=pinned)
    store.take_codes(distinct, out=(codes.numpy(), scales.numpy()))
    values = dequantize(codes.to(device, non_blocking=pinned), scales.to(device, non_blocking=pinned), dtype)
    where = torch.from_numpy(inverse.reshape(-1)).to(device)
    return values.index_select(0, where).reshape(*rows.shape, store.shape[1])


def dequantize(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``(codes - 128) * scales`` in float64, rounded once to `dtype`, where the tensors are.

    Parameters
    ----------
    codes : tensor of uint8, shape (n, D)
    scales : tensor of float64, shape (n,)
    dtype : torch.dtype
    """
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    step = max(1, _DEVICE_VALUES // codes.shape[1])
    for start in range(0, len(codes), step):
        piece = slice(start, start + step)
        out[piece] = rounded_once(codes[piece].double().sub_(128).mul_(scales[piece, None]), dtype)
    return out


def rounded_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 values rounded to `dtype`, where torch rounds to float32 on the way to 16 bits.

    That way is right if the float32 was rounded to odd: toward zero, and its last bit set where anything
    was lost. 24 bits then decide as the 53 would (Boldo & Melquiond 2008, "Emulation of a FMA and correctly
    rounded sums", doi:10.1109/TC.2007.70819).
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return values.to(dtype)
    single = values.float()
    back = single.double()
    bits = single.view(torch.int32)
    bits -= (back.abs() > values.abs()).int()
    bits |= (back != values).int()
    return single.to(dtype)
