"""Keys as users hand them in: lists, arrays, and the columns of other libraries, as a list or an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.arrays import as_array, is_tensor

__all__ = ["BEYOND", "as_listed", "beyond_int64", "is_null"]

BEYOND = "a store holds whole numbers from -2**63 to 2**63 - 1; texts can be of any length: str(number)"


def as_listed(keys: Any) -> Any:
    """A list or an array of the keys of a column of pandas, polars, pyarrow and others; all else as it is.

    Raises
    ------
    TypeError
        It says that it is an array, and gives none.
    """
    if isinstance(keys, np.ma.MaskedArray):
        return keys.tolist() if keys.ndim == 1 else np.asarray(keys)  # None where it is masked
    if isinstance(keys, (str, bytes, list, tuple, np.ndarray)):
        return keys
    if hasattr(keys, "to_pylist"):
        return keys.to_pylist()  # pyarrow: as NumPy arrays, whole numbers beside nulls would be floats
    if is_tensor(keys):
        return as_array(keys, "keys", TypeError)
    if not hasattr(keys, "__array__") and not isinstance(keys, memoryview):
        return keys
    try:
        return np.asarray(keys)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"keys are of type {type(keys).__name__} and give no array ({error}): expected a list or array"
        ) from None


def is_null(key: Any) -> bool:
    """Whether it stands for no key: None, and what pandas has in its place (NaN, ``pd.NA``, ``pd.NaT``)."""
    if key is None or isinstance(key, float):
        return key is None or key != key
    return type(key).__name__ in ("NAType", "NaTType") and type(key).__module__.startswith("pandas.")


def beyond_int64(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of an array of integers of any type are no int64."""
    if ids.dtype.kind == "u" and ids.dtype.itemsize == 8:
        return np.asarray(ids > np.iinfo(np.int64).max)
    return np.zeros(ids.shape, np.bool_)
