"""Work split over threads: executors that are made when first needed and forgotten in forked children."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeVar, cast

from ..errors import SettingError
from .options import whole_number

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "SPLIT_VALUES",
    "THREADS_VARIABLE",
    "in_background",
    "in_order",
    "in_parts",
    "is_in_background",
    "processors",
    "read_ahead",
    "thread_count",
]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A request that reads fewer codes than this stays on the caller's thread: handing a part to another one
# costs 30 to 100 us, and this many codes take about 250 us in C.
SPLIT_VALUES = 1 << 21

THREADS_VARIABLE = "QSTORE_THREADS"
"""Environment variable: how many threads work where nothing else is said."""

# What waits for a disk or a network, not for a processor: some requests side by side.
_BACKGROUND_THREADS = 4

_executor: ThreadPoolExecutor | None = None
_background: ThreadPoolExecutor | None = None
_executor_lock = threading.Lock()
_thread = threading.local()


def _forget_executors() -> None:
    """In a forked child: the threads stayed with the parent, and the lock may have been held by one."""
    global _executor, _background, _executor_lock
    _executor, _background, _executor_lock = None, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_executors)


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """How many threads are to work: those that were asked for, or `QSTORE_THREADS`, or one a processor.

    Raises
    ------
    ValueError
        Not a whole number, or fewer than one were asked for.
    SettingError
        The environment variable is no such number.
    """
    if threads is not None:
        return whole_number("threads", threads)
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return processors()
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text)):
        raise SettingError(f"{THREADS_VARIABLE} is {text!r:.80}, expected a number of threads, 1 to 99999")
    return int(text)


def _threads() -> ThreadPoolExecutor:
    global _executor
    with _executor_lock:
        if _executor is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms: only for those who need it

            _executor = ThreadPoolExecutor(processors(), thread_name_prefix="qstore-kernels")
        return _executor


def in_background(task: Callable[[], _Result]) -> Future[_Result]:
    """Call ``task()`` on one of a few threads that are there for reading ahead; the first come first.

    It may split its work by :func:`in_parts`, whose threads are others.
    """
    global _background
    with _executor_lock:
        if _background is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms: only for those who need it

            _background = ThreadPoolExecutor(
                _BACKGROUND_THREADS, "qstore-ahead", initializer=setattr, initargs=(_thread, "ahead", True)
            )
        return _background.submit(task)


def is_in_background() -> bool:
    """Whether this thread is one of :func:`in_background`."""
    return getattr(_thread, "ahead", False)


def in_parts(task: Callable[[int, int], object], count: int, values: int, threads: int | None) -> None:
    """Call ``task(start, stop)`` over parts of ``range(count)`` that together read `values` codes.

    The first part runs on the caller's thread. Of several errors the one of the first part is raised,
    after all have ended.
    """
    if threads is not None:
        threads = whole_number("threads", threads)
    wanted = 1 if values < SPLIT_VALUES else thread_count(threads)
    parts = min(wanted, count, values // max(SPLIT_VALUES // 2, 1))
    if parts <= 1:
        task(0, count)
        return
    bounds = [count * part // parts for part in range(parts + 1)]
    waiting = [_threads().submit(task, *bounds[part : part + 2]) for part in range(1, parts)]
    try:
        task(*bounds[:2])
    finally:
        errors = [future.exception() for future in waiting]
    for error in errors:
        if error is not None:
            raise error


def in_order(
    task: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None
) -> Generator[_Result, None, None]:
    """Yield ``task(item)`` of each item, in the order of the items, with as many threads (None: processors).

    Items are taken on the caller's thread, two a thread ahead of what is yielded; where taking one raises,
    the results of those before it come first. If this ends early, no task is under way any more.
    """
    count = thread_count(threads)
    if count == 1:
        yield from map(task, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # 5 ms: only for those who need it

    running: deque[Future[_Result]] = deque()
    failure: Exception | None = None
    with ThreadPoolExecutor(count, thread_name_prefix="qstore-scan") as pool:
        try:
            left = iter(items)
            while True:
                try:
                    item = next(left)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                running.append(pool.submit(task, item))
                if len(running) >= 2 * count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in running:
                future.cancel()


def read_ahead(items: Iterable[_Item], most: int = 2) -> Generator[_Item, None, None]:
    """Yield the items, which a thread of its own takes, up to `most` ahead of what is yielded.

    If this ends early, no item is being taken any more.
    """
    from concurrent.futures import ThreadPoolExecutor  # 5 ms: only for those who need it

    left, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="qstore-read") as pool:
        running = deque(pool.submit(next, left, end) for _ in range(most))
        try:
            while (item := running.popleft().result()) is not end:
                running.append(pool.submit(next, left, end))
                yield cast(_Item, item)
        finally:
            for future in running:
                future.cancel()
