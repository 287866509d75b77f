"""What deserves a look, in words: at the build, which has seen the source, and later from a store alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..engine.outliers import OutlierColumns, SampledRows
from ..engine.quantization import ZERO_POINT
from ..format.fidelity import Fidelity
from ..writing.findings import Findings

__all__ = ["build_warnings", "store_warnings"]

_SHOWN_COLUMNS = 8
# A scale times 127 is exact to half a unit in the last place, and a sum of squares of such errors is no more.
_NOTHING_LOST = 1e-15
_COARSE_SHARE = 0.01
# Of a row that is quantized well, one value in a hundred reads as 0.
_NEARLY_ALL = 0.75
# Whole numbers up to 255 have errors of 1 / (127 * 255) or more where they are rounded at all.
_ROUNDED = 1e-6
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def build_warnings(found: Findings) -> tuple[str, ...]:
    """What a build has to say of its source and of what became of it."""
    outliers = found.outliers()
    return (
        *_of_outliers(outliers, lossless=_lost_nothing(found, outliers)),
        *_of_coarse_rows(found),
        *_of_whole_numbers(found),
        *_of_large_values(found.largest_scale),
    )


def store_warnings(
    outliers: OutlierColumns, sample: SampledRows, largest_scale: float, fidelity: Fidelity | None
) -> tuple[str, ...]:
    """What a store shows, with what its build measured if that is known."""
    lossless = fidelity is not None and fidelity.relative_error_max <= _NOTHING_LOST
    of_columns = tuple(_of_outliers(outliers, lossless))
    of_rows = () if lossless or of_columns else tuple(_of_empty_rows(sample))
    return (*of_columns, *of_rows, *_of_large_values(largest_scale))


def _lost_nothing(found: Findings, outliers: OutlierColumns) -> bool:
    """Whether what reads as 0 in the other columns is 0 in the source, as far as it was measured."""
    others_are_zeros = outliers.zeroed_share > 0.95 and found.zeroed < 0.05 * found.measured
    return found.measured > 0 and (found.relative_error <= _NOTHING_LOST or others_are_zeros)


def _of_outliers(found: OutlierColumns, lossless: bool) -> Iterator[str]:
    if not found.worth_a_warning or lossless:
        return
    more = ", …" if len(found.columns) > _SHOWN_COLUMNS else ""
    columns = ", ".join(map(str, found.columns[:_SHOWN_COLUMNS])) + more
    zeroed = (
        f"in {found.zeroed_share:.1%} of the rows all other columns read as 0, and unless they are 0 in the "
        f"source, what they hold there is lost; "
    )
    yield (
        f"columns {columns} set the scale of many rows: {zeroed if found.zeroed_share else ''}without them "
        f"the steps of all other columns would be at least {found.step_factor:.1f} times finer (keep them "
        f"apart in full precision, or divide them by a constant before building)"
    )


def _of_coarse_rows(found: Findings) -> Iterator[str]:
    if found.coarse and found.coarse >= _COARSE_SHARE * found.measured:
        yield (
            f"in {found.coarse:,} of {found.measured:,} measured rows more than a quarter of the values that "
            f"are not 0 read as 0 ({found.zeroed / found.filled:.1%} in all measured rows): the largest "
            f"values of such a row leave no codes for the others"
        )


def _of_empty_rows(sample: SampledRows) -> Iterator[str]:
    """Rows that hold little but zeros as they are read: what the source had there only its build has seen."""
    _, codes, scales = sample.rows()
    read_as_zero = (codes == ZERO_POINT).sum(axis=1)[(scales > 0) & (codes != ZERO_POINT).any(axis=1)]
    share = read_as_zero / codes.shape[1]
    empty = int(np.count_nonzero(share > _NEARLY_ALL))
    if empty and empty >= _COARSE_SHARE * share.size:
        yield (
            f"in {empty:,} of {share.size:,} looked at rows more than {_NEARLY_ALL:.0%} of the values read "
            f"as 0 ({share.mean():.1%} in all of them): unless they are 0 in the source, the largest values "
            f"of such a row leave no codes for the others"
        )


def _of_whole_numbers(found: Findings) -> Iterator[str]:
    if not found.measured or found.max_error < _ROUNDED:
        return
    held = (
        f"the {found.measured:,} measured rows hold whole numbers from {found.least:g} to {found.largest:g}, "
        f"rounded by up to {found.max_error:.2g}"
    )
    if found.least >= -128 and found.largest <= 127:
        yield f"{held}: they fit 8 bits as they are, and step=1 (--step 1) stores them without loss"
    elif found.least >= 0 and found.largest <= 255:
        yield (
            f"{held}: if they are codes with a zero point Z, step=1, zero_point=Z (--step 1 --zero-point Z) "
            f"stores them without loss, to be read as number - Z"
        )


def _of_large_values(largest_scale: float) -> Iterator[str]:
    with np.errstate(over="ignore"):
        largest = np.float64(largest_scale) * 127
    if np.isinf(largest):
        yield "values within a rounding of the largest float64 are read as infinity, in every type"
    if largest > _LARGEST_FLOAT32:
        yield (
            f"values of up to {largest:.3g} are read as infinity in float32, which is the default: read "
            f'store.astype("float64") (--dtype float64)'
        )
