"""From values to codes and scales: rounded row by row, or whole numbers taken for codes as they are."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError, SourceError
from ..system.options import shown
from . import kernels
from .nonfinite import NonFiniteValues, nonfinite_values
from .quantization import ZERO_POINT, to_float64

__all__ = ["Coding"]

_MOST = 255
# Values coded in one go: their float64 forms stay in the second-level cache.
_PIECE_VALUES = 1 << 15


@dataclass(frozen=True)
class Coding:
    """How rows become codes and scales.

    Parameters
    ----------
    step : float, optional
        The values are whole numbers that fit 8 bits: they are stored as they are, with this scale in each
        row, and read as ``(value - zero_point) * step``. By default rows are quantized.
    zero_point : int
        The whole number that stands for 0: values may be ``zero_point - 128`` to ``zero_point + 127``.

    Raises
    ------
    ValueError
        `step` is not a finite number above 0, `zero_point` is not from -128 to 255 or has no `step`.
    TypeError
        `step` is no number, or `zero_point` no whole one.
    """

    step: float | None = None
    zero_point: int = 0

    def __post_init__(self) -> None:
        # Plain numbers, whatever kind was given: they go into journals.
        try:
            object.__setattr__(self, "zero_point", operator.index(self.zero_point))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"zero_point is {shown(self.zero_point)}, expected a whole number from -128 to 255"
            ) from None
        if self.step is None:
            if self.zero_point:
                raise ValueError(
                    f"zero_point is {shown(self.zero_point)}, but there is no step: give step, too"
                )
            return
        try:
            step = float(self.step)
        except OverflowError:
            step = math.inf
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"step is {shown(self.step)}, expected a finite number above 0") from None
        object.__setattr__(self, "step", step)
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step is {self.step}, expected a finite number above 0")
        if not -ZERO_POINT <= self.zero_point <= _MOST:
            raise ValueError(
                f"zero_point is {shown(self.zero_point)}, expected a whole number from -128 to 255"
            )

    @property
    def rounds(self) -> bool:
        """Whether rows are quantized."""
        return self.step is None

    def parameters(self) -> dict[str, Any]:
        """What an interrupted build must share."""
        return {} if self.rounds else {"step": self.step, "zero_point": self.zero_point}

    def encode(
        self,
        values: NDArray[Any],
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
        nonfinite: Literal["error", "zero"] = "error",
        row: int = 0,
    ) -> NonFiniteValues:
        """Fill `codes` and `scales`; return what was replaced by 0.

        Parameters
        ----------
        values : ndarray, shape (n, D)
            Of any element type, byte order and strides.
        codes : ndarray of uint8, shape (n, D)
        scales : ndarray of float64, shape (n,)
        nonfinite : {"error", "zero"}
            What to do about NaN and infinities.
        row : int
            Number of the first row, for messages.

        Raises
        ------
        NonFiniteError
        SourceError
            A value cannot be stored as it is.
        """
        fill = kernels.quantize_into if self.rounds else self._store_as_they_are
        try:
            fill(values, codes, scales, "error", row)
        except NonFiniteError:
            if nonfinite == "error":
                raise
            fill(values, codes, scales, "zero", row)
            return nonfinite_values(values, row)
        return NonFiniteValues()

    def _store_as_they_are(
        self,
        values: NDArray[Any],
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
        nonfinite: Literal["error", "zero"],
        row: int,
    ) -> None:
        scales[:] = self.step
        step = max(1, _PIECE_VALUES // values.shape[1])
        for start in range(0, len(values), step):
            piece = to_float64(values[start : start + step])
            odd = ~np.isfinite(piece)
            if odd.any():
                if nonfinite == "error":
                    at, column = (int(place[0]) for place in np.nonzero(odd))
                    raise NonFiniteError(float(piece[at, column]), row + start + at, column)
                piece[odd] = self.zero_point
            given = piece + float(ZERO_POINT - self.zero_point)
            bad = (given != np.rint(given)) | (given < 0) | (given > _MOST)
            if bad.any():
                at, column = (int(place[0]) for place in np.nonzero(bad))
                raise self._does_not_fit(piece, at, column, row + start)
            codes[start : start + step] = given

    def _does_not_fit(self, values: NDArray[np.float64], at: int, column: int, first_row: int) -> SourceError:
        least = self.zero_point - ZERO_POINT
        remedy = ""
        for other, kind in ((ZERO_POINT, "uint8"), (0, "int8")):
            fitting = (values >= other - ZERO_POINT) & (values <= other - ZERO_POINT + _MOST)
            if (fitting & (values == np.rint(values))).all():
                remedy = (
                    f"zero_point={other} (--zero-point {other}) takes the numbers of {kind} without loss, "
                    f"read as (number - {other}) * step; or "
                )
                break
        return SourceError(
            f"row {first_row + at}, column {column} holds {values[at, column]:g}: with a step and zero point "
            f"{self.zero_point} only whole numbers from {least} to {least + _MOST} can be stored as they "
            f"are; {remedy}leave the step out (step=None, no --step) to have rows rounded"
        )
