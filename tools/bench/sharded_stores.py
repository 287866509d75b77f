"""Sharded stores beside single files, and concat beside cp: side by side in one run.

    python tools/bench/sharded_stores.py [--rows 200000] [--dim 768] [--many 10000] [--rounds 9]
        [--folder DIR]

Prints one line a comparison: medians of interleaved rounds, and the ratio the requirement is about.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import qstore

OPENED = """\
import os, sys, time
import numpy as np, qstore
qstore.open
begun = time.perf_counter()
store = qstore.open(sys.argv[1])
print(time.perf_counter() - begun, len(os.listdir("/proc/self/fd")))
rows = np.random.default_rng(0).integers(0, len(store), 10_000)
store[rows]
begun = time.perf_counter()
store[rows]
print(time.perf_counter() - begun, len(os.listdir("/proc/self/fd")))
"""


def main() -> int:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--many", type=int, default=10_000, help="shards to open")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to work; a temporary directory by default")
    options = parser.parse_args()
    print(f"qstore {qstore.__version__}, engine {qstore.engine_name()}, {os.cpu_count()} processors")
    folder = Path(tempfile.mkdtemp(prefix="bench-shards-", dir=options.folder))
    try:
        one, hundred = make(folder, options.rows, options.dim)
        gather(one, hundred, options.rounds)
        concat(folder, hundred, options.rounds)
        many(folder / "many", options.many, options.rounds)
    finally:
        shutil.rmtree(folder)
    return 0


def make(folder: Path, rows: int, dim: int) -> tuple[Path, Path]:
    """The same rows in one file and in 100 shards."""
    random = np.random.default_rng(0)
    with qstore.Writer(folder / "one.h5", dim) as writer:
        for _ in range(100):
            writer.append(random.standard_normal((rows // 100, dim)).astype(np.float32))
    (folder / "hundred").mkdir()
    for number in range(100):
        held = slice(number * (rows // 100), (number + 1) * (rows // 100))
        qstore.concat([folder / "one.h5"], folder / "hundred" / f"part-{number}.h5", rows=held)
    qstore.publish_shards(folder / "hundred")
    return folder / "one.h5", folder / "hundred"


def timed(action: Callable[..., object], *arguments: object) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - begun


def show(name: str, pairs: list[tuple[float, float]], words: tuple[str, str]) -> None:
    """One line: both medians in ms, and the second by the first."""
    one, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name}: {words[0]} {one * 1e3:.2f} ms, {words[1]} {other * 1e3:.2f} ms: {other / one:.2f} times")


def gather(one: Path, hundred: Path, rounds: int) -> None:
    """10,000 scattered rows over 100 shards, with and without `out`."""
    with qstore.open(one) as single, qstore.open(hundred) as sharded:
        single.verify(), sharded.verify()
        random = np.random.default_rng(1)
        out = np.empty((10_000, single.shape[1]), np.float32)
        fresh, filled, pooled = [], [], []
        offsets = np.arange(0, 10_000, 20)
        for _ in range(5 * rounds):
            rows = random.integers(0, len(single), 10_000)
            if not np.array_equal(single[rows], sharded[rows]):
                raise SystemExit("the values differ")
            fresh.append((timed(single.__getitem__, rows), timed(sharded.__getitem__, rows)))
            filled.append((timed(single.take, rows, out), timed(sharded.take, rows, out)))
            pooled.append((timed(single.pool, rows, offsets), timed(sharded.pool, rows, offsets)))
        words = "one file", "100 shards"
        show("10,000 scattered rows", fresh, words)
        show("10,000 scattered rows into out", filled, words)
        show("500 bags of 20 rows", pooled, words)


def concat(folder: Path, hundred: Path, rounds: int) -> None:
    """Two files joined, beside `cp` of the two; both synced, to fresh names."""
    parts = [folder / "a.h5", folder / "b.h5"]
    half = len(qstore.open(hundred)) // 2 + 77
    qstore.concat([hundred], parts[0], rows=slice(0, half))
    qstore.concat([hundred], parts[1], rows=slice(half, None))
    copies = [folder / "copy-a", folder / "copy-b"]

    def copy() -> None:
        for part, target in zip(parts, copies, strict=True):
            subprocess.run(["cp", part, target], check=True)
            fd = os.open(target, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    pairs = []
    for _ in range(rounds):
        os.sync()
        copied = timed(copy)
        os.sync()
        joined = timed(lambda: qstore.concat(parts, folder / "joined.h5"))
        pairs.append((joined, copied))
        for path in (*copies, folder / "joined.h5"):
            path.unlink()
    show("speed of concat by that of cp", pairs, ("concat", "cp"))


def many(folder: Path, count: int, rounds: int) -> None:
    """Open of many shards: seconds and descriptors, in a process of its own each time."""
    folder.mkdir()
    qstore.build(np.random.default_rng(0).standard_normal((4, 8)), folder / "part-0.h5")
    for number in range(1, count):
        shutil.copyfile(folder / "part-0.h5", folder / f"part-{number}.h5")
    qstore.publish_shards(folder)
    command = [sys.executable, "-c", OPENED, str(folder)]
    found = []
    for _ in range(rounds):
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([float(word) for word in run.stdout.split()])
    opened, descriptors, read, after = (statistics.median(one) for one in zip(*found, strict=True))
    print(f"open of {count:,} shards: {opened * 1e3:.0f} ms, {descriptors:.0f} descriptors afterwards")
    print(f"10,000 scattered rows of all {count:,}: {read * 1e3:.0f} ms, {after:.0f} descriptors afterwards")
    size = (folder / "qstore.json").stat().st_size
    print(f"manifest of {count:,} shards: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
