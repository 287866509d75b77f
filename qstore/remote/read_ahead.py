"""The next piece of a scan is read while the last one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

What = TypeVar("What")
Piece = TypeVar("Piece")


def read_ahead(load: Callable[[What], Piece], wanted: Iterable[What]) -> Iterator[Piece]:
    """Yield ``load(what)`` for each `what`, in order, with one being loaded on a thread meanwhile.

    The thread ends with the iterator, also where that is given up half way.
    """
    coming: Future[Piece] | None = None
    thread = ThreadPoolExecutor(1, thread_name_prefix="qstore-read-ahead")
    try:
        for what in wanted:
            ready, coming = coming, thread.submit(load, what)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
    finally:
        thread.shutdown(cancel_futures=True)
