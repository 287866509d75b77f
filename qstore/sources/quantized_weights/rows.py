"""The rows of a recipe: codes and scales as they are, or the numbers that they stand for, slice by slice."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine import kernels
from ...engine.quantization import ZERO_POINT
from ...errors import SourceError
from ..base import Fingerprint, RowSource
from ..checks import check_range, shortened
from ..containers.tensor_file import TensorFile
from ..quantized import QuantizedSource, check_scales
from .numbers import E2M1, decoded, table_of
from .packed import PackedRows
from .recipe import Grid, Packing, Recipe, Vocabulary

__all__ = ["ScaledCodes", "ScaledRows", "VocabularyRows", "is_lossless", "value_type"]

# Values computed at a time: with float32 they stay in the second-level cache.
_PIECE_VALUES = 1 << 16
# Scales up to this size are read once: many tensors of a joined matrix may be open, each with its own.
_KEPT_BYTES = 1 << 16
# Embeddings that tokens share are read once up to this size, and row by row beyond it.
_KEPT_EMBEDDINGS = 32 << 20
_ZERO_ROWS = 1 << 20

_TABLES = {  # of 256 places each, whatever is packed
    "e2m1": np.resize(E2M1, 256),
    "int8 + 128": np.arange(-128, 128).astype(np.float32),
    "int4 + 8": np.resize(np.arange(-8, 8), 256).astype(np.float32),
    "int2 + 2": np.resize(np.arange(-2, 2), 256).astype(np.float32),
    "uint4": np.resize(np.arange(16), 256).astype(np.float32),
}
# Codes that are symmetric around one that becomes 128: the zero point, and the bit that makes it 128.
_SYMMETRIC = {"int8": (0, 128), "uint8": (ZERO_POINT, 0), "int8 + 128": (0, 0)}


class _Parts(RowSource):
    """What the tensors of one family have in common as one source.

    Parameters
    ----------
    file : TensorFile
    recipe : Recipe or Vocabulary
        All tensors that belong to it are opened here, and closed by :meth:`close`.
    """

    def __init__(self, file: TensorFile, recipe: Recipe | Vocabulary) -> None:
        self.name, self.convention = recipe.name, recipe.how
        self.rows, self.dim = recipe.shape
        self._where = f"{file.path}: tensor {shortened(repr(recipe.name))}"
        self._parts: dict[str, RowSource] = {}
        with ExitStack() as on_error:
            for one in recipe.beside:
                self._parts[one] = on_error.enter_context(_opened(file, recipe, one))
            on_error.pop_all()

    def fingerprint(self) -> Fingerprint | None:
        """Those of all tensors of the family, and what is made of them."""
        found = {name: part.fingerprint() or {} for name, part in self._parts.items()}
        stamps = [one.pop("mtime_ns", None) for one in found.values()]
        return {
            "kind": "quantized weight",
            "how": self.convention,
            "shape": [self.rows, self.dim],
            "parts": found,
            **({} if None in stamps else {"mtime_ns": max(stamps, default=0)}),
        }

    def check_unchanged(self) -> None:
        """Compare the files' sizes and times of change with those they were opened with."""
        for part in self._parts.values():
            part.check_unchanged()

    def close(self) -> None:
        """Give the files back. May be called twice, but not beside a running read."""
        for part in self._parts.values():
            part.close()


def _opened(file: TensorFile, recipe: Recipe | Vocabulary, name: str) -> RowSource:
    """One of the tensors of a recipe, as rows of bytes."""
    part = file.open_bytes(name)
    if isinstance(recipe, Recipe) and name in recipe.layouts:
        return PackedRows(part, recipe.layouts[name])
    return part


class _Numbers:
    """The numbers of a grid, for some rows at a time."""

    def __init__(self, grid: Grid, part: RowSource, shape: tuple[int, int]) -> None:
        self._part, self._rows = part, shape[0]
        self._block, self._dtype = grid.block, grid.dtype or grid.tensor.dtype
        self._packed = grid.packed
        self._kept: NDArray[Any] | None = None
        if not grid.packed and part.rows * part.dim <= _KEPT_BYTES:
            self._kept = decoded(part.read(0, part.rows), self._dtype)

    def of_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Floats of shape (stop - start, groups), or (1, groups) where they hold for all rows."""
        height = self._block[0]
        if self._packed:
            return self._unpacked(start, stop)
        if height >= self._rows > 1 or self._part.rows == 1:
            return self._read(0, 1)
        if height == 1:
            return self._read(start, stop)
        first = start // height
        found = self._read(first, -(-stop // height))
        return found[np.arange(start, stop) // height - first]

    def _read(self, first: int, last: int) -> NDArray[Any]:
        if self._kept is not None:
            return self._kept[first:last]
        return decoded(self._part.read(first, last), self._dtype)

    def _unpacked(self, start: int, stop: int) -> NDArray[np.float32]:
        """Zero points that lie along the rows in words of 32 bits, from the lowest bits on."""
        each = 32 // self._packed
        first = start // each
        words = self._part.read(first, -(-stop // each)).view("<u4")
        rows = np.arange(start, stop) - first * each
        shifts = ((rows % each) * self._packed).astype(np.uint32)
        codes = (words[rows // each] >> shifts[:, None]) & np.uint32((1 << self._packed) - 1)
        return codes.astype(np.float32) - np.float32(1 << (self._packed - 1))


class ScaledRows(_Parts):
    """The numbers of a recipe, in float32 (float64 where a scale is wider). Any threads may read.

    Parameters
    ----------
    file : TensorFile
    recipe : Recipe

    Raises
    ------
    SourceError
        A part cannot be opened.
    """

    def __init__(self, file: TensorFile, recipe: Recipe) -> None:
        super().__init__(file, recipe)
        self._packing: Packing = recipe.packing
        self._codes = self._parts[recipe.codes.name]
        self._table = _TABLES[recipe.numbers] if recipe.numbers in _TABLES else table_of(recipe.numbers)
        self._width = min(recipe.scale.block[1], self.dim)
        try:
            self._scale = self._numbers(recipe.scale)
            self._zero, self._bias = (
                None if grid is None else self._numbers(grid) for grid in (recipe.zero, recipe.bias)
            )
            self._factor = None
            if recipe.factor is not None:
                part = self._parts[recipe.factor.name]
                self._factor = decoded(part.read(0, 1), recipe.factor.dtype)[0, 0]
        except SourceError:
            self.close()
            raise
        self._divides, self._divisor = recipe.divides, recipe.divisor
        self.dtype = value_type(recipe)

    def _numbers(self, grid: Grid) -> _Numbers:
        return _Numbers(grid, self._parts[grid.tensor.name], (self.rows, self.dim))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`.RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        values = np.empty((stop - start, self.dim), self.dtype)
        if start == stop:
            return values
        codes = self._codes.read(start, stop)
        step = max(1, _PIECE_VALUES // self.dim)
        zero, bias = (None if one is None else one.of_rows(start, stop) for one in (self._zero, self._bias))
        scale = self._whole(self._scale.of_rows(start, stop))
        with np.errstate(all="ignore"):
            for first in range(0, stop - start, step):
                piece = slice(first, min(first + step, stop - start))
                here = [one if one is None or len(one) == 1 else one[piece] for one in (zero, bias)]
                factors = scale if len(scale) == 1 else scale[piece]
                self._compute(values[piece], self._unpacked(codes[piece]), factors, *here)
        return values

    def _compute(
        self,
        out: NDArray[Any],
        codes: NDArray[np.uint8],
        scale: NDArray[Any],
        zero: NDArray[Any] | None,
        bias: NDArray[Any] | None,
    ) -> None:
        """Fill `out`: the number of each code, less the zero point, times the scale, and the bias."""
        if zero is None and self.dtype == "float32":
            kernels.look_up(codes, self._table, scale, self._width, out)
        else:
            out[...] = self._table[codes]
            if zero is not None:
                self._apply(np.subtract, out, zero)
            self._apply(np.multiply, out, scale)
        if bias is not None:
            self._apply(np.add, out, bias)

    def _whole(self, scale: NDArray[Any]) -> NDArray[Any]:
        """Scales with what holds for all of them."""
        if self._factor is None and self._divisor == 1:
            return scale
        if self._divisor != 1:
            return scale.astype(np.float64) / self._divisor
        found: NDArray[Any] = scale / self._factor if self._divides else scale * self._factor
        return found

    def _unpacked(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._packing == "bytes":
            return codes[:, : self.dim]
        halves = np.empty((*codes.shape, 2), np.uint8)
        np.bitwise_and(codes, 15, out=halves[..., 0])
        np.right_shift(codes, 4, out=halves[..., 1])
        return halves.reshape(len(codes), -1)[:, : self.dim]

    def _apply(self, apply: np.ufunc, out: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Each number to the columns of its block."""
        groups, width = numbers.shape[1], self._width
        if groups == 1:
            apply(out, numbers, out=out)
        elif groups * width == self.dim:
            blocks = out.reshape(len(out), groups, width)
            apply(blocks, numbers[:, :, None], out=blocks)
        else:  # the last block is cut off by the edge
            apply(out, np.repeat(numbers, width, axis=1)[:, : self.dim], out=out)


class ScaledCodes(_Parts, QuantizedSource):
    """Codes of 8 bits around a zero point, and their scales, as they are. Any threads may read.

    Parameters
    ----------
    file : TensorFile
    recipe : Recipe
        One that :func:`is_lossless` is true of.

    Raises
    ------
    SourceError
        A part cannot be opened.
    """

    def __init__(self, file: TensorFile, recipe: Recipe) -> None:
        super().__init__(file, recipe)
        self._codes = self._parts[recipe.codes.name]
        self._flip = np.uint8(_SYMMETRIC[recipe.numbers][1])
        self._scale = _Numbers(recipe.scale, self._parts[recipe.scale.tensor.name], recipe.shape)
        self._divisor = recipe.divisor

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales of the rows `start` to `stop`; errors as :meth:`.CodesSource.read_codes`."""
        check_range(self._where, start, stop, self.rows)
        if start == stop:
            return np.empty((0, self.dim), np.uint8), np.empty(0)
        codes = self._codes.read(start, stop)[:, : self.dim]
        if self._flip:
            codes = codes ^ self._flip
        scales = self._scale.of_rows(start, stop)[:, 0].astype(np.float64)
        if self._divisor != 1:
            scales /= self._divisor
        check_scales(self._where, scales, start)
        return codes, (scales if len(scales) == len(codes) else np.full(len(codes), scales[0]))


def is_lossless(file: TensorFile, recipe: Recipe) -> bool:
    """Whether codes and scales can be taken as they are: 8 bits, one scale a row, zero points in the middle.

    Zero points are read to the end where there are any: libraries write them for symmetric schemes, too.
    """
    if recipe.numbers not in _SYMMETRIC or not recipe.scaled_by_row:
        return False
    if recipe.zero is None:
        return recipe.numbers != "uint8"
    middle = _SYMMETRIC[recipe.numbers][0]
    if recipe.zero.packed:
        return False
    with _opened(file, recipe, recipe.zero.tensor.name) as part:
        for start in range(0, part.rows, _ZERO_ROWS):
            found = decoded(part.read(start, min(start + _ZERO_ROWS, part.rows)), recipe.zero.dtype)
            if (found != middle).any():
                return False
    return True


def value_type(recipe: Recipe | Vocabulary) -> str:
    """Type of the values that a recipe gives."""
    if isinstance(recipe, Vocabulary):
        return "float64" if any(one.dtype == "float64" for one in recipe.beside.values()) else "float32"
    grids = (recipe.scale, recipe.zero, recipe.bias)
    types = [grid.dtype or grid.tensor.dtype for grid in grids if grid is not None and not grid.packed]
    wide = recipe.divisor != 1 or any(one in ("float64", "int32", "int64") for one in types)
    return "float64" if wide else "float32"


class VocabularyRows(_Parts):
    """The rows of tokens that share embeddings. Any threads may read.

    Parameters
    ----------
    file : TensorFile
    recipe : Vocabulary

    Raises
    ------
    SourceError
        A part cannot be opened; when it is read, a token that has no embedding.
    """

    def __init__(self, file: TensorFile, recipe: Vocabulary) -> None:
        super().__init__(file, recipe)
        self._types = {one.name: one.dtype for one in recipe.beside.values()}
        self._embeddings = self._parts[recipe.embeddings.name]
        self._mapping = None if recipe.mapping is None else self._parts[recipe.mapping.name]
        self._weights = None if recipe.weights is None else self._parts[recipe.weights.name]
        self.dtype = value_type(recipe)
        self._kept: NDArray[Any] | None = None
        if self._mapping is not None and self._embeddings.rows * self._embeddings.dim <= _KEPT_EMBEDDINGS:
            try:
                self._kept = self._read_embeddings(0, self._embeddings.rows)
            except SourceError:
                self.close()
                raise

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` as a fresh array; see :meth:`.RowSource.read`."""
        check_range(self._where, start, stop, self.rows)
        if start == stop:
            return np.empty((0, self.dim), self.dtype)
        values = self._unweighted(start, stop).astype(self.dtype)
        if self._weights is not None:
            weights = decoded(self._weights.read(start, stop), self._types["weights"])
            with np.errstate(all="ignore"):
                values *= weights
        return values

    def _unweighted(self, start: int, stop: int) -> NDArray[Any]:
        if self._mapping is None:
            return self._read_embeddings(start, stop)
        rows = self._mapping.read(start, stop).view(np.dtype(self._types["mapping"]).newbyteorder("<"))[:, 0]
        bad = (rows < 0) | (rows >= self._embeddings.rows)
        if bad.any():
            token = int(bad.argmax())
            raise SourceError(
                f"{self._where}: token {start + token} has embedding {rows[token]}: expected 0 to "
                f"{self._embeddings.rows - 1}; get the file again"
            )
        if self._kept is not None:
            found: NDArray[Any] = self._kept[rows]
            return found
        wanted, places = np.unique(rows, return_inverse=True)
        return np.concatenate([self._read_embeddings(row, row + 1) for row in wanted.tolist()])[places]

    def _read_embeddings(self, start: int, stop: int) -> NDArray[Any]:
        return decoded(self._embeddings.read(start, stop), self._types["embeddings"])
