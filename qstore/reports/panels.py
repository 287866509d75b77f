"""The pictures of a store, one function each: they draw into axes of matplotlib what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..analysis.stats import StoreStats
from ..engine.distribution import Distribution
from ..format.fidelity import Fidelity
from .row_sample import SampledErrors
from .wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "DARK",
    "KINDS",
    "LIGHT",
    "OF_A_SOURCE",
    "Facts",
    "Theme",
    "draw_panel",
    "relative_percentiles",
    "share_of_rows",
]

# Points, in a panel of 300.
_LARGE, _SMALL = 11, 9.5
_PERCENTILES = ("50", "99")
_LABELS = 30
_LABEL_LENGTH = 16


@dataclass(frozen=True)
class Theme:
    """Colors, as matplotlib takes them."""

    background: str
    ink: str
    faint: str
    main: str
    accent: str


LIGHT = Theme(background="#ffffff", ink="#1f2328", faint="#d0d7de", main="#2f6fb3", accent="#c2571a")
DARK = Theme(background="#16181d", ink="#e6e8eb", faint="#3a3f47", main="#6ea8e6", accent="#f0a35e")


@dataclass(frozen=True, eq=False)
class Facts:
    """What the pictures show.

    Attributes
    ----------
    stats : StoreStats
    errors : SampledErrors or None
        Of some rows; None without a source.
    fidelity : Fidelity or None
        Errors of all rows, where they were measured.
    places : ndarray of float64, shape (m, 2)
        Some rows in their two main directions.
    shares : ndarray of float64, shape (2,)
        Share of their variance in each.
    labels : list of str
        Of these rows: their keys, or their numbers.
    """

    stats: StoreStats
    errors: SampledErrors | None
    fidelity: Fidelity | None
    places: NDArray[np.float64]
    shares: NDArray[np.float64]
    labels: list[str]


def share_of_rows(shown: int, rows: int) -> str:
    """How many of all rows are shown, in words.

    Examples
    --------
    >>> share_of_rows(1500, 30522), share_of_rows(7, 7)
    ('1,500 of 30,522 rows', 'all 7 rows')
    """
    return f"all {rows:,} rows" if shown == rows else f"{shown:,} of {rows:,} rows"


def draw_panel(axes: Axes, kind: str, facts: Facts, theme: Theme) -> None:
    """Draw one of :data:`KINDS`."""
    _dress(axes, theme)
    KINDS[kind](axes, facts, theme)


def _dress(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.ink, which="both", labelsize=_SMALL)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        spine.set_visible(side in ("left", "bottom"))
    axes.grid(color=theme.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def _name(axes: Axes, theme: Theme, title: str, x: str, y: str) -> None:
    axes.set_title(title, color=theme.ink, fontsize=_LARGE, loc="left")
    axes.set_xlabel(x, color=theme.ink, fontsize=_SMALL)
    axes.set_ylabel(y, color=theme.ink, fontsize=_SMALL)


def _logarithmic(axes: Axes, name: str) -> None:
    """Few labels, so that they do not run into each other, whatever the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{name}scale": "log"})
    axis: Axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    low, high = axis.get_view_interval()
    wide = high > 100 * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=6 if wide else 12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _nothing(axes: Axes, theme: Theme, why: str) -> None:
    axes.text(0.5, 0.5, why, color=theme.ink, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _histogram(axes: Axes, theme: Theme, found: Distribution, title: str, x: str) -> None:
    _name(axes, theme, title, x, "rows")
    if not found.counts.sum():
        _nothing(axes, theme, "all rows are zeros" if found.count else "no rows")
        return
    axes.stairs(found.counts, found.edges, fill=True, color=theme.main)
    if found.edges[0] > 0 and found.edges[-1] > 8 * found.edges[0]:
        _logarithmic(axes, "x")
    median = found.percentiles["50"]
    if median > 0:
        axes.axvline(median, color=theme.accent, linewidth=1.4, label=f"median {median:.3g}")
        _legend(axes, theme)


def _legend(axes: Axes, theme: Theme) -> None:
    legend = axes.legend(fontsize=_SMALL, frameon=True, facecolor=theme.background, edgecolor=theme.faint)
    for text in legend.get_texts():
        text.set_color(theme.ink)


def _draw_norms(axes: Axes, facts: Facts, theme: Theme) -> None:
    _histogram(axes, theme, facts.stats.norms, "Norms of the rows", "Euclidean norm")


def _draw_scales(axes: Axes, facts: Facts, theme: Theme) -> None:
    _histogram(axes, theme, facts.stats.scales, "Scales", "scale: the step of a row's codes")


def _draw_codes(axes: Axes, facts: Facts, theme: Theme) -> None:
    counts = facts.stats.code_counts
    used = int(np.count_nonzero(counts))
    _name(axes, theme, f"Use of the codes: {used} of 256", "code − 128", "share of all values, %")
    if not counts.sum():
        _nothing(axes, theme, "no rows")
        return
    axes.stairs(100 * counts / counts.sum(), np.arange(257) - 128.5, fill=True, color=theme.main)
    axes.set_xlim(-130, 130)


def _draw_columns(axes: Axes, facts: Facts, theme: Theme) -> None:
    found = facts.stats
    _name(axes, theme, "Size of the columns", "column", "root mean square")
    if not found.rows:
        _nothing(axes, theme, "no rows")
        return
    sizes = np.sqrt(found.column_energies / found.rows)
    axes.stairs(sizes, np.arange(sizes.size + 1) - 0.5, color=theme.main, fill=True)
    axes.set_xlim(-0.5, sizes.size - 0.5)
    outliers = [*found.outliers.columns]
    if outliers:
        shown = ", ".join(map(str, outliers[:3])) + (", …" if len(outliers) > 3 else "")
        label = f"outliers {shown}:\nsteps of the others {found.outliers.step_factor:.2f} times as wide"
        axes.plot(outliers, sizes[outliers], "o", color=theme.accent, markersize=5, label=label)
        axes.set_ylim(0, 1.4 * float(sizes.max()))  # room for the legend
        _legend(axes, theme)


def _draw_errors(axes: Axes, facts: Facts, theme: Theme) -> None:
    _name(axes, theme, "Error of rows against theory", "scale / √12", "root mean square error")
    errors = facts.errors
    held = None if errors is None else (errors.expected > 0) & (errors.rms > 0) & np.isfinite(errors.rms)
    if errors is None or held is None or not held.any():
        _nothing(axes, theme, "no errors")
        return
    expected, rms = errors.expected[held], errors.rms[held]
    axes.plot(
        expected,
        rms,
        ".",
        color=theme.main,
        markersize=3,
        alpha=0.7,
        label=share_of_rows(len(rms), facts.stats.rows),
    )
    ends = np.array([min(expected.min(), rms.min()), max(expected.max(), rms.max())])
    axes.plot(ends, ends, color=theme.accent, linewidth=1.2, label="as theory has it")
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    _legend(axes, theme)


def _draw_error_cdf(axes: Axes, facts: Facts, theme: Theme) -> None:
    _name(
        axes,
        theme,
        "Relative error of rows",
        "norm of the error / norm of the row, %",
        "share of the rows, %",
    )
    relative = np.empty(0) if facts.errors is None else np.sort(facts.errors.relative)
    relative = 100 * relative[np.isfinite(relative)]
    above = relative > 0
    if not above.any():
        _nothing(axes, theme, "no errors")
        return
    shares = 100 * np.arange(1, relative.size + 1) / relative.size
    shown = share_of_rows(relative.size, facts.stats.rows)
    axes.step(relative[above], shares[above], where="post", color=theme.main, linewidth=1.6, label=shown)
    of_sample = f" of these {shown}" if facts.fidelity is None and relative.size < facts.stats.rows else ""
    for percentile, value in relative_percentiles(facts).items():
        style = "-" if percentile == "50" else "--"
        label = f"{percentile} %{of_sample}: at most {number(value)} %"
        axes.axvline(value, color=theme.accent, linewidth=1.2, linestyle=style, label=label)
    if relative[-1] > 8 * relative[above][0]:
        _logarithmic(axes, "x")
    axes.set_ylim(0, 102)
    _legend(axes, theme)


def relative_percentiles(facts: Facts) -> dict[str, float]:
    """What half of the rows and what 99 % of them stay below, in percent: of all rows where that is known."""
    relative = np.empty(0) if facts.errors is None else facts.errors.relative
    relative = relative[np.isfinite(relative)]
    if not relative.size:
        return {}
    if facts.fidelity is not None:
        found = facts.fidelity.relative_error_percentiles
        return {percentile: 100 * found[percentile] for percentile in _PERCENTILES}
    return {
        percentile: 100 * float(np.percentile(relative, float(percentile), method="inverted_cdf"))
        for percentile in _PERCENTILES
    }


def _draw_pca(axes: Axes, facts: Facts, theme: Theme) -> None:
    first, second = (f"{share:.0%} of the variance" for share in facts.shares)
    shown = share_of_rows(len(facts.labels), facts.stats.rows)
    _name(axes, theme, f"{shown.capitalize()} in their main plane", f"PC 1, {first}", f"PC 2, {second}")
    if not len(facts.places):
        _nothing(axes, theme, "no rows")
        return
    axes.plot(*facts.places.T, ".", color=theme.main, markersize=3, alpha=0.7)
    axes.margins(0.08)
    behind = {"facecolor": theme.background, "edgecolor": "none", "alpha": 0.7, "pad": 0.4}
    for place in _labelled(facts.places, facts.labels):
        text = facts.labels[place]
        shown = text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"
        axes.annotate(
            shown,
            facts.places[place],
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=_SMALL,
            color=theme.ink,
            bbox=behind,
            parse_math=False,
        )


def _labelled(places: NDArray[np.float64], labels: list[str]) -> list[int]:
    """Rows to name: the ones farthest out first, and none whose name would lie over another."""
    low, high = places.min(axis=0), places.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    # In parts of the panel; a character is about 2.3 % of its width, a line a tenth of its height.
    at = (places - low) / spread
    taken: list[tuple[float, float, float]] = []
    chosen: list[int] = []
    for place in np.argsort(-np.abs(at - at.mean(axis=0)).max(axis=1), kind="stable").tolist():
        x, y = at[place].tolist()
        half = 0.0125 * min(len(labels[place]), _LABEL_LENGTH) + 0.015
        inside = half < x + 0.05 and x - 0.05 < 1 - half and labels[place].isprintable()
        free = all(abs(x - other) > half + wide or abs(y - height) > 0.1 for other, height, wide in taken)
        if inside and free:
            taken.append((x, y, half))
            chosen.append(place)
        if len(chosen) == _LABELS:
            break
    return chosen


KINDS: dict[str, Callable[[Axes, Facts, Theme], None]] = {
    "norms": _draw_norms,
    "scales": _draw_scales,
    "codes": _draw_codes,
    "columns": _draw_columns,
    "errors": _draw_errors,
    "error-cdf": _draw_error_cdf,
    "pca": _draw_pca,
}
"""The pictures, in the order they are drawn."""

OF_A_SOURCE = ("errors", "error-cdf")
"""Those that need the source of the store."""
