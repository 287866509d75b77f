"""What a :class:`~qstore.Store` has of an array beside its rows; docs/handoff.md has the decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..engine.narrowing import tell_infinite
from ..engine.quantization import OUTPUT_TYPES
from ..reading.backing import Backing
from ..reading.indexing import ALL
from .matrix_methods import MatrixMethods

if TYPE_CHECKING:
    from .transposed import Transposed

__all__ = ["ArrayMethods"]

_BLOCK_BYTES = 4 << 20


class ArrayMethods(MatrixMethods):
    """Operators, sums over axes, products, and the protocols by which libraries take arrays.

    Elementwise operators and functions give the array that they give of ``store[:]``; sums and products are
    in float64. All go over the matrix in blocks: the result and a block are in memory.
    """

    _mapping: Backing
    _dtype: np.dtype[Any]

    if TYPE_CHECKING:

        def _as_it_is(self) -> ArrayMethods: ...

    # Conversions ----------------------------------------------------------------------------------

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(
                "the values of a store are made on reading: an array without a copy is impossible"
            )
        wanted = self._dtype if dtype is None else np.dtype(dtype)
        if wanted.isnative and wanted.name in OUTPUT_TYPES:
            return _told(self._mapping.read_slice(ALL, ALL, wanted))
        backing = self._mapping
        array = np.empty(backing.shape, wanted)
        for first, block in backing.blocks(self._step(), self._dtype):
            array[first : first + len(block)] = _told(block)
        return array

    def _step(self) -> int:
        return max(1, _BLOCK_BYTES // (self._mapping.facts.dim * self._dtype.itemsize))

    def tolist(self) -> list[list[float]]:
        """All values as lists of Python's numbers, 32 bytes each."""
        blocks = self._mapping.blocks(self._step(), self._dtype)
        return [row for _, block in blocks for row in _told(block).tolist()]

    # Operators and products -----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        from .arithmetic import compute  # reading rows does without

        operands = tuple(x._as_it_is() if isinstance(x, ArrayMethods) else x for x in inputs)
        return compute(ArrayMethods, ufunc, method, operands, options)

    def __matmul__(self, x: Any) -> Any:
        """``store @ x`` in float64, block by block, for finite x of shape (D,) or (D, m).

        ``scales * ((codes - 128) @ x)``, where the inner sums are exact before they are rounded, but for what
        x has below 2^-95 of the largest value of its column; threads change no bit. Large products are split
        over all processors.
        """
        from .products import matmul  # reading rows does without

        return matmul(self, x)

    def __rmatmul__(self, x: Any) -> Any:
        """``x @ store`` in float64, block by block, for finite x of shape (N,) or (m, N)."""
        from .products import rmatmul  # reading rows does without

        return rmatmul(self, x)

    @property
    def T(self) -> Transposed:
        """The transposed matrix, a view of the store: ``x @ store.T``, ``store.T[3]``. Nothing is read."""
        from .transposed import Transposed  # reading rows does without

        return Transposed(self)

    def _reduced(self, name: str, axis: Any, options: dict[str, Any]) -> Any:
        from .reductions import reduce  # reading rows does without

        return reduce(self._mapping, self._dtype, name, axis, **options)


def _told(values: NDArray[Any]) -> NDArray[Any]:
    """`values`; infinities of float16 are told, as all reads of them do."""
    return tell_infinite(values, stacklevel=4) if values.itemsize == 2 else values
