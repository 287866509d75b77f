"""Pictures of how cost grows: needs matplotlib."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from .peers import library
from .rounds import Outcome

__all__ = ["CURVES", "plot_all"]

_Curve = tuple[str, str, str]

CURVES: dict[str, _Curve] = {
    "dims": ("dim", "columns (the matrix's size held constant)", "10,000 scattered rows"),
    "matrix rows": ("rows", "rows in the matrix, 128 columns", "10,000 scattered rows"),
    "asked": ("asked", "rows asked for, of 200,000 × 768", "One request"),
    "threads": ("threads", "threads", "100,000 scattered rows of 200,000 × 768"),
}
"""What lies along the x axis of the sweep cases, its label, and the picture's title."""

_OUR_COLORS = ("#0b3c5d", "#1b6ca8", "#3f8fcf", "#74b1e0", "#9fc5e8", "#c3dbf0")
_PEER_COLORS = ("#c0392b", "#e59866", "#7d3c98", "#229954", "#7f8c8d")
_MARKERS = "osD^vPX*"


def plot_all(outcomes: list[Outcome], folder: Path) -> list[Path]:
    """One PNG a curve that was measured; returns the files."""
    library("matplotlib").use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for case, curve in CURVES.items():
        of_case = [outcome for outcome in outcomes if outcome.case == case]
        if case == "threads":
            of_case = _largest_request(of_case)
        if of_case:
            found.append(_plot(of_case, curve, folder / f"bench-{case.replace(' ', '-')}.png"))
    return found


def _largest_request(outcomes: list[Outcome]) -> list[Outcome]:
    """Only the largest request; ours also into an array, as a fresh one costs more than the reading."""
    most = max((outcome.setting["asked"] for outcome in outcomes), default=0)
    largest = [outcome for outcome in outcomes if outcome.setting["asked"] == most]
    fresh = [outcome for outcome in largest if outcome.setting["way"] == "fresh"]
    filled = [outcome for outcome in largest if outcome.setting["way"] != "fresh" and outcome.kind == "ours"]
    return [replace(outcome, name=f"{outcome.name}, out=") for outcome in filled] + fresh


def _plot(outcomes: list[Outcome], curve: _Curve, path: Path) -> Path:
    setting, label, title = curve
    plt = library("matplotlib.pyplot")
    # Narrow, with the names below: a telephone shows it 360 points wide.
    figure, axes = plt.subplots(figsize=(4.9, 5.3), dpi=150, layout="constrained")
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    ours = peers = 0
    for marker, name in zip(itertools.cycle(_MARKERS), names, strict=False):
        points = _least([outcome for outcome in outcomes if outcome.name == name], setting)
        kind = next(o.kind for o in outcomes if o.name == name)
        style: dict[str, Any] = {"marker": marker, "markersize": 4.5, "linewidth": 1.4}
        if kind == "ours":
            style |= {"color": _OUR_COLORS[ours % 6], "linewidth": 2.2}
            ours += 1
        elif kind == "limit":
            style |= {"color": "black", "linestyle": ":", "marker": ""}
        else:
            style |= {"color": _PEER_COLORS[peers % 5]}
            peers += 1
        axes.plot(*zip(*points, strict=True), label=name, **style)
    _dress(axes, sorted({o.setting[setting] for o in outcomes}), label, title)
    figure.legend(fontsize=10, frameon=False, loc="outside lower left")
    figure.savefig(path)
    plt.close(figure)
    return path


def _least(outcomes: list[Outcome], setting: str) -> list[tuple[int, float]]:
    """Milliseconds at each point; of several runs the least.

    The points of a curve are measured one after another, so that a busy minute makes a hump. Noise only adds.
    """
    least: dict[int, float] = {}
    for outcome in outcomes:
        place = outcome.setting[setting]
        least[place] = min(least.get(place, float("inf")), 1e3 * outcome.seconds)
    return sorted(least.items())


def _dress(axes: Any, ticks: list[int], label: str, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    near = any(after < 1.5 * before for before, after in itertools.pairwise(ticks))
    axes.set_xticks(ticks, [_short(tick) for tick in ticks], rotation=45 if near else 0)
    low, high = axes.get_ylim()
    steps = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(library("matplotlib.ticker").LogLocator(subs=steps))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(label)
    axes.set_ylabel("time, ms")
    axes.set_title(f"{title}\nwarm, float32, a fresh array unless it says out=", fontsize=9)
    axes.grid(alpha=0.3)


def _short(number: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size and (number >= 10 * size or number % size == 0):
            return f"{number / size:.3g}{unit}"
    return str(number)
