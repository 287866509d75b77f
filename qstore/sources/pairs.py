"""A tuple of codes and scales, in arrays of any kind, told from a tuple of two chunks of rows."""

from __future__ import annotations

import numbers
from typing import Any

from ..engine.arrays import as_array, check_dense, is_tensor
from ..errors import SourceError
from ..system.options import shown
from .quantized import CodesSource
from .torch.memory_tensor import TensorSource

__all__ = ["is_pair", "pair_source"]


def is_pair(obj: Any) -> bool:
    """Whether it is a tuple of a matrix of codes and one scale a row: no two chunks have such shapes."""
    if not (isinstance(obj, tuple) and len(obj) == 2):
        return False
    for part in filter(is_tensor, obj):
        check_dense(part, "the tensor", SourceError)
    codes, scales = (_shape(part) for part in obj)
    if codes is None or scales is None or len(codes) != 2 or len(scales) > 2:
        return False
    # Two matrices could be chunks, but not of different types.
    types = [str(getattr(part, "dtype", "")) for part in obj]
    differ = "int8" in types[0] and "float" in types[1]
    if len(scales) < 2:
        return True
    if scales[1] == 1:
        return codes[1] != 1 or differ
    return differ and codes[0] == scales[0] and codes[1] != scales[1]


def pair_source(codes: Any, scales: Any) -> CodesSource:
    """Source of codes and scales; tensors of torch are read as such, for types that NumPy lacks.

    Raises
    ------
    SourceError
        Codes without a type, one scale for all rows, or what :class:`.CodesSource` refuses.
    """
    if not hasattr(codes, "shape"):
        raise SourceError(
            f"the codes are a {type(codes).__name__}, whose numbers have no type: expected an array of "
            f"uint8, for (code - 128) * scale, or of int8, for code * scale; give numpy.array(codes, 'uint8')"
        )
    if _shape(scales) == ():
        raise SourceError(
            f"the scales are one number, {shown(scales)}: expected one scale a row; codes that share one are "
            f"built alone, with step= (--step), and zero_point=128 (--zero-point 128) where 128 stands for 0"
        )
    return CodesSource(_readable(codes), _readable(scales))


def _readable(array: Any) -> Any:
    if not hasattr(array, "shape"):
        return as_array(array, "the scales", SourceError)
    if not is_tensor(array):
        return array
    return TensorSource(array if array.ndim == 2 else array.reshape(-1, 1))


def _shape(part: Any, most: int = 3) -> tuple[int, ...] | None:
    """Shape of an array, a list, as its first members have it, or a number; None for anything else."""
    if hasattr(part, "shape"):
        return tuple(part.shape)
    if isinstance(part, numbers.Number):
        return ()
    if isinstance(part, (list, tuple)):
        inner = _shape(part[0], most - 1) if part and most > 1 else ()
        return None if inner is None else (len(part), *inner)
    if hasattr(part, "__array__"):  # a column of Arrow
        return as_array(part, "the array", SourceError).shape
    return None
