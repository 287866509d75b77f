"""What users hand in as arrays of NumPy: one function for all of it, which loses nothing without a word."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .quantization import marker_dtype

__all__ = ["as_array", "check_dense", "conversion", "is_record", "is_tensor", "untyped"]

# What array libraries raise when values cannot be had: files gone, types NumPy lacks, devices that failed.
_TROUBLE = (OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError)
_MOST_SAID = 200

# Types that NumPy lacks, and torch's of the same size that it has.
_RAW_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}

# Items that lost their type on the way through a file, by their bytes: what they mostly were.
_UNTYPED = re.compile(r"[|<>=]?V(\d+)")
_WERE = {"1": "float8_e4m3fn", "2": "bfloat16"}


def as_array(given: Any, name: str, error: type[Exception] = ValueError) -> NDArray[Any]:
    """`given` as an array, without a copy where it is one already.

    A tensor of torch may need gradients, lie on any device, and be of types that NumPy lacks: bfloat16 and
    float8 become arrays of :func:`.marker_dtype`. So may the members of a list of tensors.

    Parameters
    ----------
    given : array_like
    name : str
        What it is called in an error.
    error : type
        What is raised.

    Raises
    ------
    error
        Its values cannot be had, or only without something that belongs to them: masked arrays, sparse,
        nested and quantized ones, tensors without values.

    Examples
    --------
    >>> as_array([[1, 2], [3, 4]], "x").shape
    (2, 2)
    >>> as_array(np.ma.array([1, 2], mask=[False, True]), "x")
    Traceback (most recent call last):
        ...
    ValueError: x is a masked array: expected plain values; say what masked ones are: .filled(0)
    """
    if type(given) is np.ndarray:
        return given
    if isinstance(given, np.ma.MaskedArray):
        raise error(f"{name} is a masked array: expected plain values; say what masked ones are: .filled(0)")
    if isinstance(given, (list, tuple)):
        given = _joined(given, name, error)
    check_dense(given, name, error)
    try:
        return _array_of_tensor(given) if is_tensor(given) else np.asarray(given)
    except _TROUBLE as reason:
        raise error(
            f"{name} is no array of numbers but {_kind(given)}: {str(reason)[:_MOST_SAID]}; expected what "
            f"numpy.asarray takes"
        ) from reason


def is_tensor(given: Any) -> bool:
    """Whether it is a `torch.Tensor`, of any class. Who hands one in has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(given, getattr(torch, "Tensor", ()))


def check_dense(given: Any, name: str, error: type[Exception] = ValueError) -> None:
    """Refuse what has its values in another form than one after the other, or has none.

    Raises
    ------
    error
    """
    if is_tensor(given):
        found = _not_dense(given)
    elif hasattr(given, "nnz") and hasattr(given, "toarray"):
        found = "sparse", ".toarray()"
    elif hasattr(given, "nnz") and hasattr(given, "todense"):
        found = "sparse", ".todense()"
    else:
        found = None
    if found is not None:
        kind, remedy = found
        raise error(f"{name} is {kind}: expected plain values; give {remedy}")


def _not_dense(tensor: Any) -> tuple[str, str] | None:
    """What keeps a tensor from being an array, and what to give instead."""
    if tensor.is_nested:
        return "a nested tensor", ".to_padded_tensor(0.0)"
    if "strided" not in str(tensor.layout):
        return f"a tensor of layout {tensor.layout}", ".to_dense()"
    if tensor.is_quantized:
        return "a quantized tensor", ".dequantize()"
    if tensor.is_meta:
        return "a tensor without values, on the meta device", "it after its values are loaded"
    return None


def _array_of_tensor(tensor: Any) -> NDArray[Any]:
    held = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(held.dtype).removeprefix("torch.")
    if name not in _RAW_BITS:
        plain: NDArray[Any] = held.numpy()
        return plain
    bits: NDArray[Any] = held.contiguous().view(getattr(sys.modules["torch"], _RAW_BITS[name])).numpy()
    return bits.view(marker_dtype(name))


def _joined(given: Any, name: str, error: type[Exception]) -> Any:
    """A list as it is, or as one array where NumPy would lose something, or fail, at one of its members."""
    kinds = set(map(type, given))
    if not any(issubclass(kind, np.ma.MaskedArray) for kind in kinds) and not any(map(is_tensor, given[:1])):
        return given
    arrays = [as_array(one, f"{name}[{number}]", error) for number, one in enumerate(given)]
    if len({(one.shape, one.dtype) for one in arrays}) == 1:
        return np.stack(arrays)
    shapes = sorted({f"{one.shape} of {one.dtype}" for one in arrays})[:4]
    raise error(f"{name} is a list of arrays: expected one shape and type, found {', '.join(shapes)}")


def _kind(given: Any) -> str:
    kind = type(given)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def untyped(type_name: str) -> str | None:
    """What items without a type, as NumPy saves and loads those of ml_dtypes, most likely were."""
    size = _UNTYPED.fullmatch(type_name)
    return _WERE.get(size[1]) if size else None


def is_record(type_name: str) -> bool:
    """Whether items have fields: a matrix can then be made of a single dimension of them."""
    return type_name.startswith(("[", "{"))


def conversion(type_name: str, values: str = "values") -> str:
    """How to make numbers that can be quantized of an array of another type, and lose nothing of them.

    Parameters
    ----------
    type_name : str
        Its dtype, in NumPy's words.
    values : str
        What to call the array.

    Examples
    --------
    >>> conversion("bool")
    "convert it first: values.astype('float32')"
    >>> conversion("|V2", "x")
    'give x.view(ml_dtypes.bfloat16) if its items are of that type'
    """
    if were := untyped(type_name):
        return f"give {values}.view(ml_dtypes.{were}) if its items are of that type"
    if _UNTYPED.fullmatch(type_name):
        return "its items have no type: save them as numbers, such as float32"
    if type_name.startswith("complex"):
        return f"give its parts, a store of each: {values}.real and {values}.imag"
    if is_record(type_name):
        return f"give a matrix of its fields: numpy.lib.recfunctions.structured_to_unstructured({values})"
    return f"convert it first: {values}.astype('float32')"
