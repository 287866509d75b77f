"""What the machine can do at best: the figures to hold all others against."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .rounds import Entrant, each

__all__ = ["BLOCK_BYTES", "copy_entrant", "read_through", "write_through"]

BLOCK_BYTES = 8 << 20

_LARGEST_SOURCE = 512 << 20


def copy_entrant(moved: int, threads: int = 1) -> Entrant:
    """A plain copy that moves as many bytes (read and written together) between arrays in memory."""
    count = max(1, moved // 8)
    source = np.ones(max(count, min(_LARGEST_SOURCE // 4, 64 * count)), np.float32)
    target = np.zeros(count, np.float32)
    places = max(1, len(source) // count)
    executor = ThreadPoolExecutor(threads)

    def copy(number: int) -> None:
        piece = source[number % places * count :][:count]
        if threads == 1:
            np.copyto(target, piece)
            return
        bounds = [count * part // threads for part in range(threads + 1)]
        parts = [slice(*bounds[part : part + 2]) for part in range(threads)]
        list(executor.map(lambda part: np.copyto(target[part], piece[part]), parts))

    return Entrant("limit: plain copy of as many bytes", each(copy), kind="limit", moved=moved)


def read_through(path: Path, count: int | None = None, offset: int = 0) -> int:
    """Read `count` bytes of a file, or all, in large blocks; returns how many there were."""
    buffer, done = mmap.mmap(-1, BLOCK_BYTES), 0
    with open(path, "rb", buffering=0) as file, memoryview(buffer) as view:
        file.seek(offset)
        while count is None or done < count:
            got = file.readinto(view[: BLOCK_BYTES if count is None else min(BLOCK_BYTES, count - done)])
            if not got:
                break
            done += got
    buffer.close()
    return done


def write_through(path: Path, count: int) -> None:
    """Write `count` bytes in large blocks, and to the disk."""
    block = np.random.default_rng(3).bytes(min(BLOCK_BYTES, max(count, 1)))
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < count:
            done += file.write(memoryview(block)[: min(len(block), count - done)])
        os.fsync(file.fileno())
