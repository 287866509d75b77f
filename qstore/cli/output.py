"""Where data goes: stdout, or a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ..system.durable_files import atomic_output, output_errors

__all__ = ["open_output"]


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[Callable[[bytes], object]]:
    """Give a function that writes bytes to `path`, or to stdout if None.

    A regular file appears under its name, or replaces the one there, when the block ends well. Devices
    and pipes are written to as they are: ``-o /dev/null`` must not replace the device.
    """
    if path is None:
        yield _stdout().write
        return
    from pathlib import Path  # 3 ms that reading rows to stdout does not need

    target = Path(os.path.realpath(path))
    with output_errors(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory; name a file in it")
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file.write
        else:
            with atomic_output(target) as file:
                yield file.write


def _stdout() -> BinaryIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed; give -o FILE")
    sys.stdout.flush()
    return sys.stdout.buffer
