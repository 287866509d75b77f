"""A tuple of codes and scales, in arrays of any kind, told from a tuple of two chunks of rows."""

from __future__ import annotations

from typing import Any

from ..engine.arrays import check_dense, is_tensor
from ..errors import SourceError
from .quantized import CodesSource
from .torch.memory_tensor import TensorSource

__all__ = ["is_pair", "pair_source"]


def is_pair(obj: Any) -> bool:
    """Whether it is a tuple of a matrix of codes and one scale a row: no two chunks have such shapes."""
    if not (isinstance(obj, tuple) and len(obj) == 2):
        return False
    for part in filter(is_tensor, obj):
        check_dense(part, "the tensor", SourceError)
    if not all(hasattr(part, "shape") for part in obj):
        return False
    codes, scales = (tuple(part.shape) for part in obj)
    if len(codes) != 2 or len(scales) not in (1, 2) or scales[1:] not in ((), (1,)):
        return False
    # Two matrices of one column could be chunks, but not of different types.
    types = [str(getattr(part, "dtype", "")) for part in obj]
    return len(scales) == 1 or codes[1] != 1 or ("int8" in types[0] and "float" in types[1])


def pair_source(codes: Any, scales: Any) -> CodesSource:
    """Source of codes and scales; tensors of torch are read as such, for types that NumPy lacks."""
    return CodesSource(_readable(codes), _readable(scales))


def _readable(array: Any) -> Any:
    if not is_tensor(array):
        return array
    return TensorSource(array if array.ndim == 2 else array.reshape(-1, 1))
