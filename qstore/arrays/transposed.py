"""``store.T``: the transposed matrix, which reads and computes by way of the store."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine.arguments import as_finite
from ..engine.arrays import as_array
from ..reading.indexing import ALL, judged
from .arithmetic import answers_itself, as_operand, compute, plain_operand, shape_of
from .matrix_methods import MatrixMethods
from .reductions import blocks_of

__all__ = ["Transposed"]

_BLOCK_VALUES = 1 << 20
_OTHER_AXIS = {0: 1, 1: 0, -1: -2, -2: -1}


class Transposed(MatrixMethods):
    """``store.T``: answers as the array ``store[:].T`` does, by way of the store, and keeps nothing.

    Attributes
    ----------
    T : Store
        The store itself.
    shape : tuple of int
        (columns, rows) of the store.
    dtype : dtype
        Of what is read.
    """

    ndim = 2
    _named = "Transposed"
    _whole = "store[:].T"

    def __init__(self, store: Any) -> None:
        self._store = store

    @property
    def T(self) -> Any:
        return self._store

    @property
    def shape(self) -> tuple[int, int]:
        rows, dim = self.T.shape
        return dim, rows

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.T.dtype
        return dtype

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.T!r}.T: reads by way of the store; np.asarray(store.T) makes an array>"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        turned: NDArray[Any] = self.T.__array__(dtype, copy).T
        return turned

    def astype(self, dtype: DTypeLike, copy: bool = True) -> Transposed:
        """That of :meth:`.Store.astype`."""
        return Transposed(self.T.astype(dtype, copy=copy))

    # Reading --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """What `key` picks of ``store[:].T``: columns of the store, then its rows.

        A mask of the whole and new axes make the whole matrix first.
        """
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, ALL, ALL)[: max(len(keys), 2)]
        if len(keys) != 2 or any(map(_needs_all, keys)) or keys[0] is keys[1] is Ellipsis:
            return self.__array__()[key]
        columns, rows = (ALL if one is Ellipsis else one for one in keys)
        try:
            picked = self.T[rows, columns]
        except IndexError:
            judged(key, self.shape)  # in NumPy's words, of these axes
            raise
        if isinstance(columns, slice):
            return np.moveaxis(picked, -1, 0) if np.ndim(picked) else picked
        return np.moveaxis(picked, 0, -1) if isinstance(rows, slice) else picked

    def __iter__(self) -> Iterator[NDArray[Any]]:
        step = max(1, _BLOCK_VALUES // max(self.shape[1], 1))
        for first in range(0, len(self), step):
            yield from self[first : first + step]

    def __contains__(self, value: Any) -> bool:
        return bool(np.any(self == value))

    def tolist(self) -> list[list[float]]:
        """All values as lists of Python's numbers, 32 bytes each."""
        return [row.tolist() for row in self]

    # Operators and products -----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if not any(answers_itself(x, Transposed) for x in inputs):
            if method == "reduce" and isinstance(inputs[0], Transposed) and "where" not in options:
                (out,) = options.pop("out", (None,))
                axis = options.pop("axis", 0)
                return self._over(lambda **given: ufunc.reduce(self.T, **given), axis, out, options)
            outs = options.get("out", ())
            if method == "__call__" and ufunc.signature is None and all(map(_is_turned, outs)):
                inputs = tuple(plain_operand(x, Transposed) for x in inputs)
                if len(shape_of(Transposed, ufunc, inputs)) == 2:
                    return _by_store(ufunc, inputs, outs, options)
        return compute(Transposed, ufunc, method, inputs, options)

    def __matmul__(self, x: Any) -> Any:
        """``store.T @ x`` in float64, block by block, for finite x of shape (N,) or (N, m)."""
        rows = self.shape[1]
        if isinstance(x, np.ma.MaskedArray) or not answers_itself(x, MatrixMethods):
            given = as_finite("x", x, (1, 2))
            _check(x, given.shape[0] == rows, f"({rows},) or ({rows}, m)")
            return (given.T @ self.T).T
        if getattr(x, "__array_ufunc__", True) is None:
            return NotImplemented
        if hasattr(x, "tocsr"):  # sparse: SciPy would have the whole matrix in memory
            _check(x, x.shape[0] == rows, f"({rows},) or ({rows}, m)")
            some, blocks = x.tocsr(), blocks_of(self.T._mapping, np.dtype(np.float64))
            return sum(block.T @ some[first : first + len(block)] for first, block in blocks)
        return operator.matmul(as_operand(self, x), x)

    def __rmatmul__(self, x: Any) -> Any:
        """``x @ store.T`` in float64, block by block, for finite x of shape (D,) or (m, D)."""
        if answers_itself(x, MatrixMethods) and not isinstance(x, np.ma.MaskedArray):
            return operator.matmul(x, as_operand(self, x))
        given = as_finite("x", x, (1, 2))
        _check(x, given.shape[-1] == len(self), f"({len(self)},) or (m, {len(self)})")
        return (self.T @ given.T).T

    # Over axes ------------------------------------------------------------------------------------

    def _reduced(self, name: str, axis: Any, options: dict[str, Any]) -> Any:
        rest = {option: value for option, value in options.items() if option != "out"}
        return self._over(
            lambda axis, **given: self.T._reduced(name, axis, given), axis, options.get("out"), rest
        )

    def _over(self, apply: Callable[..., Any], axis: Any, out: Any, options: dict[str, Any]) -> Any:
        given = {**options, "axis": _turned_axis(axis)}
        if out is None:
            return apply(**given).T
        apply(**given, out=out.T if isinstance(out, np.ndarray) else out)
        return out


def _check(x: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"x has shape {np.shape(x)}, expected {expected}")


def _needs_all(key: Any) -> bool:
    is_mask = getattr(key, "dtype", None) == np.bool_ and key.ndim != 1
    return key is None or isinstance(key, bool) or is_mask


def _is_turned(out: Any) -> bool:
    return out is None or (isinstance(out, np.ndarray) and out.ndim == 2)


def _turned_axis(axis: Any) -> Any:
    if isinstance(axis, tuple):
        return tuple(map(_turned_axis, axis))
    return _OTHER_AXIS.get(int(axis), axis) if isinstance(axis, (int, np.integer)) else axis


def _turned(x: Any) -> Any:
    if isinstance(x, Transposed) or np.ndim(x) == 2:
        return x.T
    return x[:, None] if np.ndim(x) == 1 else x


def _by_store(ufunc: Any, inputs: tuple[Any, ...], outs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What elementwise functions give, of the transposed operands, transposed: rows lie together."""
    rest = dict(options)
    if "where" in rest:
        rest["where"] = _turned(as_array(rest["where"], "where", TypeError))
    if outs:
        rest["out"] = tuple(None if out is None else out.T for out in outs)
    found = ufunc(*map(_turned, inputs), **rest)
    held = found if isinstance(found, tuple) else (found,)
    results = [
        one.T if out is None else out for one, out in zip(held, outs or (None,) * len(held), strict=True)
    ]
    return tuple(results) if isinstance(found, tuple) else results[0]
