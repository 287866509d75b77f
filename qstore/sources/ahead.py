"""What is read from front to back, read and parsed ahead of what is taken from it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, TypeVar

from ..system.threads import in_order, read_ahead, thread_count

__all__ = ["Ahead"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# More wait for the one that reads.
_MOST_THREADS = 4


class Ahead:
    """The readers of one file that may be at work while nobody asks. For one thread."""

    def __init__(self) -> None:
        self._running: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()

    def run(
        self, task: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None, large: bool
    ) -> Iterator[_Result]:
        """Yield ``task(item)`` of each item, in order; an error comes in its place.

        One thread takes the items and others, at most as many as `thread_count` says, do the tasks; all is
        done by the caller's where that is one, or where the file is not large.
        """
        count = min(thread_count(threads), _MOST_THREADS)
        if count == 1 or not large:
            return map(task, items)
        found = _parsed(task, items, count)
        self._running.add(found)
        return found

    def stop(self) -> None:
        """End what is at work, so that the file may be closed."""
        for found in list(self._running):
            found.close()


def _parsed(
    task: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Generator[_Result, None, None]:
    with closing(read_ahead(items)) as taken:
        yield from in_order(task, taken, threads)
