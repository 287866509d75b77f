"""The next pieces of a scan are read while the last one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

What = TypeVar("What")
Piece = TypeVar("Piece")

_AHEAD = 3
"""Pieces under way: with one, a connection waits as long as it reads where answers take 20 ms."""


def read_ahead(load: Callable[[What], Piece], wanted: Iterable[What]) -> Iterator[Piece]:
    """Yield ``load(what)`` for each `what`, in order, with the next ones being loaded on threads meanwhile.

    The threads end with the iterator, also where that is given up half way.
    """
    coming: deque[Future[Piece]] = deque()
    threads = ThreadPoolExecutor(_AHEAD, thread_name_prefix="qstore-read-ahead")
    try:
        for what in wanted:
            coming.append(threads.submit(load, what))
            if len(coming) > _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
