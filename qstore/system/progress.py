"""Progress of long work: rows done, as a bar on stderr or to a callable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .options import shown

__all__ = ["Progress", "rows_progress"]

Progress = bool | Callable[[int, int | None], object] | None
"""True for a bar on stderr, or a callable that gets (rows done, rows in all or None)."""


@contextlib.contextmanager
def rows_progress(progress: Progress, total: int | None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Give a function that takes the number of rows just done; `done` rows were done before."""
    if callable(progress):
        yield _Counter(progress, total, done)
    elif progress is not None and not isinstance(progress, (bool, int)):
        raise TypeError(f"progress is {shown(progress)}, expected True, False or a callable")
    elif not progress:
        yield lambda count: None
    else:
        from tqdm import tqdm  # 20 to 33 ms to import

        with tqdm(total=total, initial=done, unit="row", unit_scale=True, dynamic_ncols=True) as bar:
            yield bar.update


class _Counter:
    def __init__(self, call: Callable[[int, int | None], object], total: int | None, done: int) -> None:
        self._call, self._total, self._done = call, total, done

    def __call__(self, count: int) -> None:
        self._done += count
        self._call(self._done, self._total)
