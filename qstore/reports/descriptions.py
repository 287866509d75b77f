"""Pictures in words: what each shows of this store, for those who do not see it, and how to read it."""

from __future__ import annotations

import numpy as np

from ..engine.distribution import Distribution
from .panels import Facts, relative_percentiles, share_of_rows
from .wording import number

__all__ = ["caption", "description"]

_CAPTIONS = {
    "norms": "How long the rows are.",
    "scales": "One step of the codes of a row: its largest magnitude by 127, where rows are rounded.",
    "codes": "Peaks at both ends: where rows are rounded, the largest value of each gets the last code.",
    "columns": "A column that towers over the others sets the scale of many rows: the others get coarser.",
    "errors": "{sample}. On the line errors are those of rounding to even steps; below it are rows of few "
    "different values, or of values that are smaller than a step.",
    "error-cdf": "What share of the rows has at most an error. The curve shows {sample}, {lines}.",
    "pca": "{sample} in the two directions in which they differ most.",
}


def caption(kind: str, facts: Facts) -> str:
    """How to read a picture, and how many rows are in it."""
    shown = len(facts.labels) if kind == "pca" or facts.errors is None else len(facts.errors.rows)
    sample = share_of_rows(shown, facts.stats.rows)
    if shown < facts.stats.rows:
        sample += ", evenly spaced"
    lines = "the lines are those of all rows" if facts.fidelity is not None else "as do the lines"
    text = _CAPTIONS[kind].format(sample=sample, lines=lines)
    return text[0].upper() + text[1:]


def description(kind: str, facts: Facts) -> str:
    """What a picture shows, in a sentence with its main figures."""
    return {
        "norms": _norms,
        "scales": _scales,
        "codes": _codes,
        "columns": _columns,
        "errors": _errors,
        "error-cdf": _error_cdf,
        "pca": _pca,
    }[kind](facts)


def _norms(facts: Facts) -> str:
    return f"Histogram of the norms of the rows: {_spread(facts.stats.norms)}"


def _scales(facts: Facts) -> str:
    return f"Histogram of the scales: {_spread(facts.stats.scales)}"


def _spread(found: Distribution) -> str:
    if not found.count:
        return "there are no rows."
    low, middle, high = (number(found.percentiles[percentile]) for percentile in ("1", "50", "99"))
    return f"half of them up to {middle}, 98 % of them from {low} to {high}."


def _codes(facts: Facts) -> str:
    used = int(np.count_nonzero(facts.stats.code_counts))
    return f"Histogram of the codes: {used} of 256 are in use."


def _columns(facts: Facts) -> str:
    if not facts.stats.rows:
        return "Size of the columns: there are no rows."
    sizes = np.sqrt(facts.stats.column_energies / facts.stats.rows)
    outliers = ", ".join(map(str, facts.stats.outliers.columns)) or "none"
    return (
        f"Root mean square of each of {sizes.size:,} columns: from {number(sizes.min())} to "
        f"{number(sizes.max())}. Outlier columns: {outliers}."
    )


def _errors(facts: Facts) -> str:
    if facts.errors is None or not (facts.errors.expected > 0).any():
        return "Root mean square error of rows: there are no errors."
    held = facts.errors.expected > 0
    ratios = facts.errors.rms[held] / facts.errors.expected[held]
    shown = share_of_rows(int(held.sum()), facts.stats.rows)
    return (
        f"Root mean square error of {shown}, each a point, over scale / √12, which theory expects: from "
        f"{ratios.min():.2f} to {ratios.max():.2f} times that, {np.median(ratios):.2f} in the middle."
    )


def _error_cdf(facts: Facts) -> str:
    found = relative_percentiles(facts)
    shown = ", ".join(
        f"{percentile} % of the rows at most {number(value)} %" for percentile, value in found.items()
    )
    return f"Share of the rows with at most a relative error: {shown or 'there are no errors'}."


def _pca(facts: Facts) -> str:
    first, second = facts.shares
    return (
        f"{len(facts.labels):,} rows as points in their two main directions, which hold {first:.0%} and "
        f"{second:.0%} of the variance; the outermost are labelled."
    )
