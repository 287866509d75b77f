"""What a store and its transposed matrix have in common of an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["MatrixMethods"]


class MatrixMethods(np.lib.mixins.NDArrayOperatorsMixin):
    """What a store and its transposed matrix have in common, made of what each does in its own way."""

    __pandas_priority__ = 5000  # above 4000, a DataFrame's: tables leave `table + store` to the store

    _named = "Store"
    _whole = "store[:]"

    if TYPE_CHECKING:

        @property
        def dtype(self) -> np.dtype[Any]: ...

        @property
        def T(self) -> Any: ...

        def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]: ...

        def __matmul__(self, x: Any) -> Any: ...

        def _reduced(self, name: str, axis: Any, options: dict[str, Any]) -> Any: ...

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy is False:
            raise BufferError(
                "the values of a store are made on reading: a tensor without a copy is impossible"
            )
        asked = {"stream": stream, "max_version": max_version, "dl_device": dl_device}
        given = {name: value for name, value in asked.items() if value is not None}
        _ = np.empty(0, self.dtype).__dlpack__(**given)  # what NumPy refuses, it refuses before the reading
        return self.__array__().__dlpack__(**given)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the processor

    __hash__ = object.__hash__  # == compares values, as with arrays and tensors

    def matvec(self, x: ArrayLike) -> Any:
        """``store @ x``; with :meth:`rmatvec` what ``scipy.sparse.linalg.aslinearoperator`` looks for."""
        return self @ x

    def rmatvec(self, x: ArrayLike) -> Any:
        """``store.T @ x``."""
        return self.T @ x

    # Over axes ------------------------------------------------------------------------------------

    def sum(self, axis: Any = None, **options: Any) -> Any:
        """Sums over the rows (axis 0), the columns (1) or all, of the float64 values, block by block.

        :meth:`mean`, :meth:`var` and :meth:`std` are made of such sums, in float64, too; :meth:`min` and
        :meth:`max` are of :attr:`dtype`.

        Parameters
        ----------
        axis : int or tuple of int, optional
        **options
            ``dtype``, ``out`` and ``keepdims`` as in NumPy, and ``ddof`` for :meth:`var` and :meth:`std`.
        """
        return self._reduced("sum", axis, options)

    def mean(self, axis: Any = None, **options: Any) -> Any:
        """Means; see :meth:`sum`."""
        return self._reduced("mean", axis, options)

    def var(self, axis: Any = None, **options: Any) -> Any:
        """Variances, in two passes; see :meth:`sum`."""
        return self._reduced("var", axis, options)

    def std(self, axis: Any = None, **options: Any) -> Any:
        """Standard deviations, in two passes; see :meth:`sum`."""
        return self._reduced("std", axis, options)

    def min(self, axis: Any = None, **options: Any) -> Any:
        """Smallest values; see :meth:`sum`."""
        return self._reduced("min", axis, options)

    def max(self, axis: Any = None, **options: Any) -> Any:
        """Largest values; see :meth:`sum`."""
        return self._reduced("max", axis, options)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property that raised AttributeError
                return object.__getattribute__(self, name)
            known = hasattr(np.ndarray, name)
            way = f": {self._whole}.{name} is that of the whole matrix in memory" if known else ""
            raise AttributeError(f"a {self._named} has no {name}{way}", name=name, obj=self)
