"""Bounds on work instead of on time, of which a busy machine takes any: calls of functions and bytes read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["little_work"]

_CALLS = 10_000_000  # in a few seconds, on a machine that is not busy
_BYTES = 24 << 20  # a line that is longer than one may be is read: 16 MiB


@contextlib.contextmanager
def little_work(calls: int = _CALLS, bytes_read: int = _BYTES) -> Iterator[None]:
    """Fails where this thread makes more calls, of Python's functions and C's, or the process reads more.

    The call that is one too many fails, so that a loop without an end is found, too.
    """
    made = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")
        if made > calls:
            raise AssertionError(f"more than {calls} calls")

    before = _bytes_read()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert made <= calls  # whoever made them may have taken the error for its own
    assert _bytes_read() - before <= bytes_read


def _bytes_read() -> int:
    """By system calls, from files of any kind; what is mapped and paged in does not count."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])
