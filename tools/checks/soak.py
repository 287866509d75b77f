"""Concurrency soak: readers at work while builds publish over the same name.

One process builds version after version of a store with ``overwrite=True``; others, with threads in
them, open it, gather rows and verify it. Every value tells which version and which row it belongs to,
so any row read in one open that is not of one whole version is seen. Exits 1 if there was one, or if
anything failed.

    python tools/checks/soak.py [--seconds N] [--processes N] [--threads N] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import qstore

Counts = Counter[str]
_COUNTED = ("opens", "reads", "rows", "verified", "publishes", "overtaken", "torn", "failures")

_DIM = 64
_LEAST_ROWS, _ROWS_MORE = 2000, 97
_SIZES = 23
_ROWS_A_READ = 200
_READS_AN_OPEN = 20


def main() -> int:
    """Let readers and one builder loose for some time, then print what they counted."""
    parser = argparse.ArgumentParser(description="Readers at work while builds publish over the same name.")
    parser.add_argument("--seconds", type=float, default=600, help="(default 600)")
    parser.add_argument("--processes", type=int, default=3, help="that read (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="in each of them (default 2)")
    parser.add_argument("--folder", help="where the store lies")
    parser.add_argument("--json", action="store_true", help="an object instead of words")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qstore-soak-", dir=options.folder) as folder:
        counts = soak(Path(folder, "store.h5"), options.seconds, options.processes, options.threads)
    for name in _COUNTED:
        counts.setdefault(name, 0)
    print(json.dumps(counts) if options.json else words(counts))
    # Nothing read or published proves nothing.
    return (
        1 if counts["torn"] or counts["failures"] or not (counts["reads"] and counts["publishes"] > 1) else 0
    )


def words(counts: Counts) -> str:
    """The counts as a sentence."""
    return (
        f"{counts['opens']:,} opens, {counts['reads']:,} reads of {counts['rows']:,} rows in all, "
        f"{counts['verified']:,} stores verified, {counts['publishes']:,} publishes, "
        f"{counts['overtaken']:,} reads of stores replaced meanwhile, "
        f"{counts['torn']:,} torn reads, {counts['failures']:,} failures"
    )


def rows_of(version: int) -> int:
    """Number of rows of a version: the size changes with each, and comes back."""
    return _LEAST_ROWS + version % _SIZES * _ROWS_MORE


def codes_of(version: int, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Codes that differ from version to version and from row to row; the first of a row is 129."""
    columns = np.arange(_DIM)
    codes = (1 + (rows[:, None] * 7 + columns * 13 + version * 31) % 255).astype(np.uint8)
    codes[:, 0] = 129
    return codes


def scales_of(version: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Version and row as one number: as the first code is 129, it is also the row's first value."""
    return version * 2.0**20 + rows.astype(np.float64) + 1


def publish(path: Path, version: int) -> None:
    """Build a version over what is there."""
    rows = np.arange(rows_of(version))
    with qstore.Writer(path, _DIM, overwrite=True, threads=1) as writer:
        writer.append_codes(codes_of(version, rows), scales_of(version, rows))


def is_of(version: int, rows: NDArray[np.int64], values: NDArray[np.float64]) -> bool:
    """Are these the values of these rows of this version, and of no other?"""
    expected = (codes_of(version, rows).astype(np.float64) - 128) * scales_of(version, rows)[:, None]
    return bool(np.array_equal(values, expected))


def read_once(path: Path, chance: random.Random, counts: Counts) -> None:
    """Open, gather rows several times, sometimes verify."""
    with qstore.open(path) as store:
        counts["opens"] += 1
        exact = store.astype("float64")
        version = int(exact[0, 0]) >> 20
        if len(store) != rows_of(version):
            counts["torn"] += 1
            return
        if chance.random() < 0.05:
            counts["verified"] += 1
            counts["torn"] += not store.verify().ok
        for _ in range(_READS_AN_OPEN):
            rows = np.array([chance.randrange(len(store)) for _ in range(_ROWS_A_READ)])
            counts["reads"] += 1
            counts["rows"] += len(rows)
            counts["torn"] += not is_of(version, rows, exact[rows])
        with qstore.open(path) as now:
            counts["overtaken"] += _READS_AN_OPEN * (now.content_id != store.content_id)


def until(end: float, work: Callable[[Counts], None]) -> Counts:
    """Do something again and again and count what it counts; a failure ends it."""
    counts: Counts = Counter()
    while time.monotonic() < end:
        try:
            work(counts)
        except Exception:
            counts["failures"] += 1
            traceback.print_exc()
            return counts
    return counts


def in_threads(path: Path, end: float, threads: int, results: Queue[Counts]) -> None:
    """Read in several threads; give the sum of their counts back."""
    found: list[Counts] = []

    def read(number: int) -> None:
        chance = random.Random(os.getpid() * 100 + number)
        found.append(until(end, lambda counts: read_once(path, chance, counts)))

    running = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    results.put(sum(found, Counter()))


def soak(path: Path, seconds: float, processes: int, threads: int) -> Counts:
    """Readers in processes of their own, and builds here, until the time is over."""
    publish(path, 1)
    context = multiprocessing.get_context("spawn")
    results: Queue[Counts] = context.Queue()
    end = time.monotonic() + seconds
    readers = [
        context.Process(target=in_threads, args=(path, end, threads, results)) for _ in range(processes)
    ]
    for reader in readers:
        reader.start()
    version = 1

    def build(counts: Counts) -> None:
        nonlocal version
        version += 1
        publish(path, version)
        counts["publishes"] += 1

    total = until(end, build)
    for _ in readers:
        total += results.get(timeout=60)
    for reader in readers:
        reader.join()
        total["failures"] += reader.exitcode != 0
    return total


if __name__ == "__main__":
    sys.exit(main())
