"""Pictures of a store with matplotlib, drawn without a display and without state of its own."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExistsError, MissingExtraError
from ..format.fidelity import Fidelity
from ..store import Store, StorePath, opened
from ..system.durable_files import atomic_output, output_errors
from ..system.options import check_path, flag, shown
from ..system.progress import Progress
from .panels import DARK, KINDS, LIGHT, OF_A_SOURCE, Facts, Theme, draw_panel
from .row_sample import SampledErrors, plane_of, sample_errors, sample_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "KINDS",
    "LIGHT",
    "POINTS",
    "Facts",
    "Theme",
    "available",
    "check_installed",
    "draw",
    "gather_facts",
    "plot",
    "rendered",
]

POINTS = 1500
"""Rows of which the pictures show each."""

# Small, so that letters of 9 points and more are large in it: a telephone shows one panel beside the other.
_PANEL_INCHES = (4.2, 3.1)
_FORMATS = {".png": "png", ".svg": "svg"}


def gather_facts(
    store: Store,
    errors: SampledErrors | None = None,
    fidelity: Fidelity | None = None,
    *,
    threads: int | None = None,
    progress: Progress = None,
) -> Facts:
    """Read what the pictures show: every code once, and a few rows. Errors must have been measured."""
    stats = store.stats(threads=threads, progress=progress)
    numbers = sample_rows(store, POINTS)
    values = store.astype("float64").take(numbers)
    whole = np.isfinite(values).all(axis=1)
    numbers = numbers[whole]
    places, shares = plane_of(values[whole]) if numbers.size else (np.zeros((0, 2)), np.zeros(2))
    keys = store.key_of(numbers) if store.key_kind else numbers
    names = [str(row if key is None else key) for row, key in zip(numbers.tolist(), keys, strict=True)]
    return Facts(stats, errors, fidelity, places, shares, names)


def plot(
    store: Store | StorePath,
    path: str | os.PathLike[str],
    *,
    kind: str | Sequence[str] | None = None,
    source: Any = None,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    rows: slice | tuple[int, int] | None = None,
    dark: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = None,
) -> tuple[str, ...]:
    """Draw a store into a PNG or SVG file. Needs matplotlib: ``pip install "qstore[plot]"``.

    Parameters
    ----------
    store : Store or path-like
    path : path-like
        Ends in ``.png`` or ``.svg``; appears when it is complete.
    kind : str or sequence of str, optional
        Of ``norms``, ``scales``, ``codes``, ``columns``, ``pca`` and, with a source, ``errors`` and
        ``error-cdf``; by default all that can be drawn.
    source, tensor, join, scale, as_stored, rows
        What the store was built from, as for :func:`qstore.build`: to measure errors of 1,500 rows.
    dark : bool
        Light on dark.
    overwrite : bool
        Replace an existing file.
    threads : int, optional
    progress : bool or callable, optional

    Returns
    -------
    tuple of str
        The kinds that were drawn.

    Raises
    ------
    ValueError
        An unknown kind, one that needs a source, or another ending.
    MissingExtraError
        matplotlib is not installed.
    ExistsError, OutputError
        The output exists or cannot be written.
    """
    target = Path(os.path.abspath(path))
    if target.suffix.lower() not in _FORMATS:
        raise ValueError(f"{target.name} must end in one of {', '.join(_FORMATS)}")
    kinds = _chosen(kind, source is not None)
    check_installed()
    check_path(path)
    dark, overwrite = flag("dark", dark), flag("overwrite", overwrite)
    if not overwrite and os.path.lexists(target):
        raise ExistsError(17, f"{target} exists; pass overwrite=True (--force) to replace it", str(target))
    with opened(store) as held:
        errors = None
        if source is not None:
            errors = sample_errors(
                held,
                source,
                tensor=tensor,
                join=join,
                scale=scale,
                as_stored=as_stored,
                rows=rows,
                most=POINTS,
            )
        facts = gather_facts(held, errors, threads=threads, progress=progress)
    picture = rendered(draw(facts, kinds, DARK if dark else LIGHT), _FORMATS[target.suffix.lower()])
    with output_errors(target), atomic_output(target) as file:
        file.write(picture)
    return kinds


def _chosen(kind: str | Sequence[str] | None, has_source: bool) -> tuple[str, ...]:
    wanted = _names(kind)
    for name in wanted:
        if name not in KINDS:
            raise ValueError(f"there is no picture {name!r}: expected one of {', '.join(KINDS)}")
        if name in OF_A_SOURCE and not has_source:
            raise ValueError(
                f"the picture {name!r} needs the source that the store was built from (--against)"
            )
    every = [name for name in KINDS if has_source or name not in OF_A_SOURCE]
    return tuple(wanted or every)


def _names(kind: Any) -> list[str]:
    names = [kind] if isinstance(kind, str) else [] if kind is None else kind
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"kind is {shown(kind)}, expected a name or a list of names, of {', '.join(KINDS)}")
    return list(names)


def check_installed() -> None:
    """Raise `MissingExtraError` where matplotlib is not installed."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingExtraError('pictures need matplotlib: pip install "qstore[plot]"') from error


def available(facts: Facts) -> list[str]:
    """The pictures that these facts are enough for."""
    return [kind for kind in KINDS if facts.errors is not None or kind not in OF_A_SOURCE]


def draw(facts: Facts, kinds: Sequence[str], theme: Theme) -> Figure:
    """A figure with a panel for each of `kinds`, two in a row."""
    from matplotlib.figure import Figure

    columns = min(2, len(kinds))
    lines = -(-len(kinds) // columns)
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * lines)
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.background)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    grid = figure.add_gridspec(lines, columns)
    for place, kind in enumerate(kinds):
        line, column = divmod(place, columns)
        alone = place == len(kinds) - 1 and column == 0
        axes = figure.add_subplot(grid[line, :] if alone else grid[line, column])
        draw_panel(axes, kind, facts, theme)
    return figure


def rendered(figure: Figure, form: str) -> bytes:
    """The figure as PNG or SVG; the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    # Text stays text in SVG; no clock and no random names.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qstore"}):
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=150, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()
