"""NaN and infinities that were replaced by 0: how many, and where the first ones are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..system.reported import Reported
from .quantization import to_float64

__all__ = ["NonFiniteValues", "nonfinite_values"]

_FIRST = 5
# Values looked at in one go: their float64 forms stay in the second-level cache.
_PIECE_VALUES = 1 << 15


@dataclass(frozen=True, repr=False)
class NonFiniteValues(Reported):
    """Values of a source that are NaN or infinite, for which a store has 0.

    Attributes
    ----------
    count : int
    first : tuple of (int, int, str)
        Row, column and value ("nan", "inf" or "-inf") of the first ones, at most 5. Rows are numbered as in
        the store.
    """

    count: int = 0
    first: tuple[tuple[int, int, str], ...] = ()

    def __add__(self, later: NonFiniteValues) -> NonFiniteValues:
        """With those of rows that come later."""
        return NonFiniteValues(self.count + later.count, (self.first + later.first)[:_FIRST])

    def from_row(self, row: int) -> NonFiniteValues:
        """The same where row 0 is row `row` of a larger matrix."""
        return NonFiniteValues(
            self.count, tuple((row + at, column, value) for at, column, value in self.first)
        )

    def encoded(self) -> bytes:
        """As text that journals keep."""
        return json.dumps([self.count, self.first]).encode()

    @classmethod
    def decoded(cls, text: bytes | str) -> NonFiniteValues | None:
        """What :meth:`encoded` gave; None where it did not give this."""
        try:
            count, first = json.loads(text)
            return cls(int(count), tuple((int(row), int(column), str(value)) for row, column, value in first))
        except (ValueError, TypeError):
            return None

    def in_words(self) -> str:
        """Such as "2 values, the first in row 3, column 7 (nan) and row 9, column 0 (inf)"."""
        places = [f"row {row}, column {column} ({value})" for row, column, value in self.first]
        shown = " and ".join([*([", ".join(places[:-1])] if places[1:] else []), *places[-1:]])
        return f"{self.count:,} value{'s' if self.count != 1 else ''}, the first in {shown}"


def nonfinite_values(values: NDArray[Any], row: int = 0) -> NonFiniteValues:
    """Those of a matrix of any element type whose first row is number `row`.

    Examples
    --------
    >>> import numpy as np
    >>> nonfinite_values(np.array([[1.0, np.nan], [-np.inf, 0.0]]), 10).in_words()
    '2 values, the first in row 10, column 1 (nan) and row 11, column 0 (-inf)'
    """
    found = NonFiniteValues()
    step = max(1, _PIECE_VALUES // values.shape[1])
    for start in range(0, len(values), step):
        piece = to_float64(values[start : start + step])
        rows, columns = np.nonzero(~np.isfinite(piece))
        first = [
            (row + start + at, column, str(piece[at, column].item()))
            for at, column in zip(rows[:_FIRST].tolist(), columns[:_FIRST].tolist(), strict=True)
        ]
        found += NonFiniteValues(rows.size, tuple(first))
    return found
