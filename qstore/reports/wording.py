"""Figures about a matrix in words, rows of tables and JSON: for the commands and the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..analysis.stats import StoreStats
    from ..building.verify_against import AgainstReport
    from ..engine.distribution import Distribution
    from ..format.fidelity import Fidelity
    from ..store import Store

__all__ = [
    "distribution_table",
    "fidelity_facts",
    "keys_of_rows",
    "number",
    "row_name",
    "stats_distributions",
    "stats_facts",
    "taken_for_zero",
    "what_agrees",
    "worst_rows",
]

_WORST = 5
_NO_KEYS: Mapping[int, str | int] = MappingProxyType({})
_PERCENTILES = ("1", "50", "99")
_COLUMNS = 8


def number(value: float) -> str:
    """A measured number, short.

    Examples
    --------
    >>> number(0.0071323), number(1234567.0), number(0.0)
    ('0.007132', '1.235e+06', '0')
    """
    return f"{value:.4g}"


def distribution_table(measured: dict[str, Distribution]) -> Iterator[tuple[str, ...]]:
    """Rows of a table: a line each."""
    yield "", "least", *(f"{p} %" for p in _PERCENTILES), "largest", "mean"
    for name, found in measured.items():
        percentiles = (found.percentiles[p] for p in _PERCENTILES)
        yield name, *map(number, (found.minimum, *percentiles, found.maximum, found.mean))


def what_agrees(found: AgainstReport) -> str:
    """What was compared, of each row."""
    return "every code, scale and key" if found.keys_compared else "every code and scale"


def taken_for_zero(found: AgainstReport) -> str:
    """What has to be said besides, where the source holds NaN or infinities."""
    if not found.nonfinite.count:
        return ""
    return f"; NaN and infinities were compared as 0: {found.nonfinite.in_words()}"


def keys_of_rows(store: Store, rows: Iterable[int]) -> dict[int, str | int]:
    """Keys of a few rows; nothing where rows have none."""
    numbers = [*rows]
    if store.key_kind is None or not numbers:
        return {}
    return dict(zip(numbers, list(store.key_of(numbers)), strict=True))


def row_name(row: int, keys: Mapping[int, str | int]) -> str:
    """Number of a row, and its key where it has one.

    Examples
    --------
    >>> row_name(17, {17: "queen"}), row_name(17, {17: 7919}), row_name(17, {})
    ('17 "queen"', '17 (key 7919)', '17')
    """
    if row not in keys:
        return str(row)
    key = keys[row]
    return f"{row} {json.dumps(key, ensure_ascii=False)}" if isinstance(key, str) else f"{row} (key {key})"


def worst_rows(found: Fidelity) -> list[tuple[int, float]]:
    """The rows that :func:`fidelity_facts` names."""
    return list(found.worst_rows[:_WORST])


def fidelity_facts(found: Fidelity, keys: Mapping[int, str | int] = _NO_KEYS) -> list[tuple[str, object]]:
    """Errors in a few lines; `keys` of :func:`worst_rows` stand beside them."""
    if found.rows == found.zero_rows:
        return [("error", "none: all of these rows are zeros")]
    worst = (f"{row_name(row, keys)}, {error:.3%}" for row, error in worst_rows(found))
    return [
        (
            "error",
            f"root mean square {number(found.rms_error)}, "
            f"{number(found.expected_rms_error)} expected (scale / √12), largest {number(found.max_error)}",
        ),
        (
            "error of a row",
            f"mean {found.relative_error_mean:.3%} of its norm, "
            f"of 99 % of the rows at most {found.relative_error_percentiles['99']:.3%}, "
            f"largest {found.relative_error_max:.3%}{_zeros_aside(found.zero_rows)}",
        ),
        ("cosine", f"mean {found.cosine_mean:.7f}, least {found.cosine_min:.7f}"),
        ("signal to noise", f"{found.snr_db:.1f} dB"),
        ("worst rows", "; ".join(worst) or "none"),
    ]


def _zeros_aside(rows: int) -> str:
    return f" ({rows:,} rows of zeros aside)" if rows else ""


def stats_facts(found: StoreStats, keys: Mapping[int, str | int] = _NO_KEYS) -> Iterator[tuple[str, object]]:
    """A store in a few lines; `keys` of the rows in its examples of repeated ones stand beside them."""
    yield "shape", f"{found.rows:,} × {found.dim:,}"
    yield "rows of zeros", f"{found.zero_rows:,}"
    yield "repeated rows", _repeated(found, keys)
    used = int((found.code_counts > 0).sum())
    yield "codes in use", f"{used} of 256"
    if found.rows:
        yield "codes that stand for 0", f"{found.code_counts[128] / found.code_counts.sum():.1%}"
    if found.rows:
        yield "column means", f"{number(found.column_means.min())} to {number(found.column_means.max())}"
        deviations = found.column_variances**0.5
        yield "column deviations", f"{number(deviations.min())} to {number(deviations.max())}"
    yield "outlier columns", _outliers(found)


def _repeated(found: StoreStats, keys: Mapping[int, str | int]) -> str:
    about = "" if found.duplicates.share_looked_at == 1 else "about "
    pairs = [
        (row_name(first, keys), row_name(second, keys)) for first, second, _ in found.duplicates.examples
    ]
    shown = [f"row {second} as {first}" for first, second in pairs]
    return f"{about}{found.duplicates.rows:,}" + (f" ({', '.join(shown)})" if shown else "")


def _outliers(found: StoreStats) -> str:
    if not found.outliers.columns:
        return "none"
    pairs = list(zip(found.outliers.columns, found.outliers.peak_shares, strict=True))
    shown = ", ".join(f"{column} (largest in {share:.1%} of the rows)" for column, share in pairs[:_COLUMNS])
    more = f" and {len(pairs) - _COLUMNS:,} more" if len(pairs) > _COLUMNS else ""
    return f"{shown}{more}; steps of the others {found.outliers.step_factor:.2f} times as wide, at least"


def stats_distributions(found: StoreStats) -> dict[str, Distribution]:
    """What :func:`distribution_table` shows of a store."""
    return {"norm": found.norms, "scale": found.scales, "error / values, expected": found.relative_steps}
