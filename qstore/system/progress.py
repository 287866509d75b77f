"""Progress of long work: rows done, as a bar on stderr or to a callable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from .options import shown

__all__ = ["Progress", "RowsDone", "rows_progress", "staged_bar"]

Progress = bool | Callable[["RowsDone", int | None], object] | None
"""True for a bar on stderr, or a callable that gets (rows done, rows in all or None)."""

Position = Callable[[], tuple[int, int] | None]
"""Gives how far a file has been read, and its size; None where that cannot be told."""


class RowsDone(int):
    """A number of rows, and the part of the work that is done with them.

    Attributes
    ----------
    fraction : float or None
        0.0 to 1.0: of the rows, or of the bytes of the file where rows cannot be counted before; None where
        neither is known.
    """

    fraction: float | None

    def __new__(cls, rows: int, fraction: float | None) -> RowsDone:
        """So many rows, and the part they are."""
        made = super().__new__(cls, rows)
        made.fraction = fraction
        return made


@contextlib.contextmanager
def rows_progress(
    progress: Progress, total: int | None, done: int = 0, position: Position | None = None
) -> Iterator[Callable[[int], object]]:
    """Give a function that takes the number of rows just done; `done` rows were done before.

    Where the `total` is unknown, `position` may tell how far the work is.
    """
    if callable(progress):
        yield _Counter(progress, total, done, position).add
    elif progress is not None and not isinstance(progress, (bool, int)):
        raise TypeError(f"progress is {shown(progress)}, expected True, False or a callable")
    elif not progress:
        yield lambda count: None
    else:
        from tqdm import tqdm  # 20 to 33 ms to import

        size = None if total is not None or position is None else position()
        if position is None or size is None:
            with tqdm(total=total, initial=done, unit="row", unit_scale=True, dynamic_ncols=True) as bar:
                yield bar.update
        else:
            with tqdm(total=size[1], unit="B", unit_scale=True, dynamic_ncols=True) as bar:
                yield _ByteBar(bar, done, position).add


@contextlib.contextmanager
def staged_bar(shown: bool, total: int) -> Iterator[Callable[[str, float], Progress]]:
    """One bar on stderr for work that goes over the rows several times.

    Give a function that makes the progress of the next stage, of what it is called and its share of the time.
    """
    if not shown:
        yield lambda label, share: None
        return
    from tqdm import tqdm  # 20 to 33 ms to import

    with tqdm(total=total, unit="row", unit_scale=True, dynamic_ncols=True) as bar:

        def stage(label: str, share: float) -> Progress:
            bar.set_description(label)
            begun = bar.n
            return lambda done, _: bar.update(begun + share * done - bar.n)

        yield stage


class _Counter:
    def __init__(
        self,
        call: Callable[[RowsDone, int | None], object],
        total: int | None,
        done: int,
        position: Position | None,
    ) -> None:
        self._call, self._total, self._done, self._position = call, total, done, position

    def add(self, count: int) -> None:
        self._done += count
        self._call(RowsDone(self._done, self._fraction()), self._total)

    def _fraction(self) -> float | None:
        if self._total is not None:
            return self._done / self._total if self._total else 1.0
        place = None if self._position is None else self._position()
        return None if place is None else place[0] / place[1]


class _ByteBar:
    """A bar of bytes, with the rows beside it."""

    def __init__(self, bar: Any, done: int, position: Position) -> None:
        self._bar, self._done, self._position = bar, done, position

    def add(self, count: int) -> None:
        self._done += count
        self._bar.set_postfix_str(f"{self._done:,} rows", refresh=False)
        place = self._position()
        if place is not None:
            self._bar.update(place[0] - self._bar.n)
