"""What operators and NumPy's functions make of a store: what they make of ``store[:]``, block by block.

Operands that have their own way (tables of pandas, sparse matrices, masked arrays, lazy arrays …) answer
themselves: they get the matrix as an array in memory, and lazy arrays of Dask get a lazy one.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import kernels
from ..engine.arrays import as_array
from . import reductions

__all__ = ["answers_itself", "as_operand", "compute", "plain_operand", "shape_of"]

_BLOCK_BYTES = 4 << 20

_OPERATORS: dict[Any, Callable[..., Any]] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.power: operator.pow,
    np.matmul: operator.matmul,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
}


def compute(kind: Any, ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What ``store.__array_ufunc__`` returns; `kind` is the class of stores.

    Raises
    ------
    TypeError
        A store would have to be written; or NumPy's own.
    """
    if method == "at" or any(isinstance(out, kind) for out in options.get("out", ())):
        raise TypeError(
            "a store cannot be changed: `array = store * 2` makes an array, and qstore.build a store of it"
        )
    other = next((x for x in inputs if answers_itself(x, kind)), None)
    if other is not None:
        return _by_other(other, kind, ufunc, method, inputs, options)
    inputs = tuple(plain_operand(x, kind) for x in inputs)
    if ufunc is np.matmul and method == "__call__" and not options:
        left, right = inputs
        return left @ right if isinstance(left, kind) else right.__rmatmul__(left)
    if method == "reduce" and ufunc in reductions.BY_BLOCKS and not {"initial", "where"} & options.keys():
        return _reduce(ufunc, inputs[0], **options)
    if method == "__call__" and ufunc.signature is None:
        shape = shape_of(kind, ufunc, inputs)
        held = [out for out in options.get("out", ()) if out is not None]
        if any(isinstance(x, kind) and x.shape == shape for x in inputs) and all(
            isinstance(out, np.ndarray) and out.shape == shape for out in held
        ):
            return _by_blocks(kind, ufunc, inputs, shape, options)
    return getattr(ufunc, method)(*(x[:] if isinstance(x, kind) else x for x in inputs), **options)


def shape_of(kind: Any, ufunc: Any, inputs: tuple[Any, ...]) -> tuple[int, ...]:
    """Shape of the result; NumPy's own exception where there is none."""
    try:
        return np.broadcast_shapes(*map(np.shape, inputs))
    except RuntimeError as error:
        raise ValueError(f"found an operand of too many dimensions, expected at most 2: {error}") from None
    except ValueError:
        nothing = (
            np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, kind) else x for x in inputs
        )
        ufunc(*nothing)  # no memory, no read
        raise


def plain_operand(x: Any, kind: Any) -> Any:
    """An operand as NumPy takes it: numbers keep their kind, as Python's take on the type of the values."""
    if isinstance(x, kind) or not (isinstance(x, (list, tuple)) or hasattr(x, "__array__")):
        return x
    return as_array(x, "the operand", TypeError)


def _reduce(
    ufunc: Any, store: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> Any:
    filled = out[0] if isinstance(out, tuple) else out
    return reductions.reduce_by(ufunc, store._mapping, store.dtype, axis, dtype, filled, keepdims)


def _by_blocks(
    kind: Any, ufunc: Any, inputs: tuple[Any, ...], shape: tuple[int, ...], options: dict[str, Any]
) -> Any:
    """Results of the shape of the store."""
    rest = {name: value for name, value in options.items() if name not in ("out", "where")}
    # Python's operators also compare with what is no number.
    apply = _OPERATORS[ufunc] if ufunc in (np.equal, np.not_equal) and not options else ufunc
    outs: list[Any] = list(options.get("out", (None,) * ufunc.nout))
    step = max(1, _BLOCK_BYTES // (8 * shape[1]))
    for start in range(0, max(shape[0], 1), step):
        piece = slice(start, start + step)
        if "where" in options:
            rest["where"] = _rows(as_array(options["where"], "where", TypeError), piece, shape, kind)
        if "out" in options:
            rest["out"] = tuple(out if out is None else out[piece] for out in outs)
        found = apply(*(_rows(x, piece, shape, kind) for x in inputs), **rest)
        for place, result in enumerate(found if isinstance(found, tuple) else (found,)):
            if outs[place] is None:
                plain = np.empty if result.dtype.hasobject else kernels.fresh
                outs[place] = plain(shape, result.dtype)
            if "out" not in options or options["out"][place] is None:
                outs[place][piece] = result
    return outs[0] if ufunc.nout == 1 else tuple(outs)


def _rows(x: Any, piece: slice, shape: tuple[int, ...], kind: Any) -> Any:
    if isinstance(x, kind):
        return x[piece] if x.shape == shape else x[:]
    return x[piece] if np.ndim(x) == 2 and np.shape(x)[0] == shape[0] else x


# Operands that answer themselves ------------------------------------------------------------------------


def answers_itself(x: Any, kind: Any) -> bool:
    """Whether `x` has its own way with operators that NumPy's arrays leave to it, and is no tensor."""
    if type(x) is np.ndarray or isinstance(x, (np.generic, kind)):
        return False
    if isinstance(x, np.ndarray):
        return bool(x.__array_priority__ > 0)
    if hasattr(type(x), "__array_ufunc__"):
        return True
    return hasattr(type(x), "__array_priority__") and not hasattr(type(x), "__array__")


def as_operand(store: Any, other: Any) -> Any:
    """The store as `other` takes it: lazy for a lazy array of Dask, for all else as an array."""
    if "dask" in sys.modules:
        import dask

        if dask.is_dask_collection(other):
            import dask.array

            meta = np.empty((0, 0), store.dtype)
            return dask.array.from_array(store, chunks=("auto", -1), meta=meta)
    return store[:]


def _by_other(
    other: Any, kind: Any, ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    if isinstance(other, np.matrix) and ufunc in (np.multiply, np.power):
        raise TypeError(
            "numpy.matrix gives * and ** another meaning: np.asarray(x) for values, store @ x for a product"
        )
    simple = method == "__call__" and not options and ufunc in _OPERATORS
    if not simple and not hasattr(type(other), "__array_ufunc__"):
        raise TypeError(
            f"numpy.{ufunc.__name__} cannot take a store and a {type(other).__name__}: "
            f"make an array of the latter first"
        )
    operands = [as_operand(x, other) if isinstance(x, kind) else x for x in inputs]
    if simple:
        return _OPERATORS[ufunc](*operands)
    return getattr(ufunc, method)(*operands, **options)
