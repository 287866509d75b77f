"""Rows that are read before they are needed, on threads of their own; what is under way is bounded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..system.threads import in_background, is_in_background

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Ahead"]

_Result = TypeVar("_Result")


class Ahead:
    """What is read ahead of time for one store: the bytes that are under way are bounded.

    Any number of threads may use it; a forked child begins with nothing under way.

    Parameters
    ----------
    most : int
        Bytes that may be under way; one task may pass it, alone.
    row_bytes : int
        What reading one row brings.
    """

    def __init__(self, most: int, row_bytes: int) -> None:
        self.most = most
        self.row_bytes = row_bytes
        self._flight = _Flight()

    def _here(self) -> _Flight:
        """What is under way in this process."""
        if self._flight.process != os.getpid():
            self._flight = _Flight()
        return self._flight

    def submit(self, size: int, task: Callable[[], _Result]) -> Future[_Result]:
        """Have a task done that brings so many bytes; waits until there is room for them.

        A task that is submitted by another one, or by what is called when that is done, never waits: it
        would hold the thread that makes room.
        """
        flight = self._here()
        with flight.changed:
            if not is_in_background():
                flight.changed.wait_for(lambda: not flight.size or flight.size + size <= self.most)
            flight.size += size
        return flight.begin(size, task)

    def offer(self, rows: int, task: Callable[[int], object]) -> int:
        """Have a task done for as many of so many rows as there is room for; how many these are."""
        flight = self._here()
        with flight.changed:
            fitting = min(rows, max(0, self.most - flight.size) // self.row_bytes)
            flight.size += fitting * self.row_bytes
        if fitting:
            flight.begin(fitting * self.row_bytes, partial(task, fitting))
        return fitting


class _Flight:
    """The bytes that are under way in one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.changed = threading.Condition()
        self.size = 0

    def begin(self, size: int, task: Callable[[], _Result]) -> Future[_Result]:
        try:
            future = in_background(task)
        except BaseException:  # the interpreter is ending
            self._end(size)
            raise
        future.add_done_callback(lambda _: self._end(size))
        return future

    def _end(self, size: int) -> None:
        with self.changed:
            self.size -= size
            self.changed.notify_all()
