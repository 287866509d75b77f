"""What remote reads cost: requests, bytes and time over HTTP on loopback.

The server runs in a process of its own. Times of competitors are taken in turn, in rounds; the medians and
the median of the rounds' ratios are printed. Loopback has no latency to speak of, so `--latency` makes the
server wait before each answer.

    python tools/bench/remote_reads.py
    python tools/bench/remote_reads.py --latency 20 --rows 200000 --dim 768
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import mmap
import multiprocessing
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

import qstore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from range_server import serving

_ASKED = 1000
_SCAN_RANGE = 4 << 20


def serve(path: str, latency: float, pipe: Connection) -> None:
    """Serve one file until the pipe closes; answer each message with the counts since the last one."""
    with serving() as server, open(path, "rb") as file:
        server.latency, name = latency, Path(path).name
        server.objects[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pipe.send(server.url(name))
        while pipe.recv():
            pipe.send((server.requests, server.body_bytes, server.header_bytes))
            server.reset()


class Remote:
    """The server, and what it counted."""

    def __init__(self, path: Path, latency: float) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(str(path), latency, theirs))
        self._process.start()
        self.url: str = self._pipe.recv()

    def counts(self) -> tuple[list[str], int, int]:
        """Ranges, body bytes and header bytes since the last call."""
        self._pipe.send(True)
        found: tuple[list[str], int, int] = self._pipe.recv()
        return found

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self._process.join()


def plain(url: str, ranges: list[str]) -> None:
    """The same ranges by plain requests, 64 side by side, without any check."""

    async def work(session: aiohttp.ClientSession, waiting: Any) -> None:
        for one in waiting:
            async with session.get(url, headers={"Range": one}) as response:
                await response.read()

    async def all_of_them() -> None:
        async with aiohttp.ClientSession() as session:
            waiting = iter(ranges)
            await asyncio.gather(*(work(session, waiting) for _ in range(64)))

    asyncio.run(all_of_them())


def download(url: str, rows: NDArray[np.int64] | slice, folder: Path) -> None:
    """The whole file, opened as a local one."""
    copy = folder / "copy.h5"
    with urllib.request.urlopen(url) as response, copy.open("wb") as file:
        while piece := response.read(1 << 20):
            file.write(piece)
    with qstore.open(copy) as store:
        _ = store[rows]


def remotely(url: str, rows: NDArray[np.int64] | slice, **options: Any) -> None:
    """Open, read, close."""
    with qstore.open(url, **options) as store:
        _ = store[rows]


def walk(url: str) -> None:
    """All blocks."""
    with qstore.open(url, cache_bytes=0) as store:
        for _ in store.blocks():
            pass


def contest(entrants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, and ratios to the first, taken in turn; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for number, (name, run) in itertools.product(range(rounds + 1), entrants.items()):
        begun = time.perf_counter()
        run()
        if number:
            times[name].append(time.perf_counter() - begun)
    first = next(iter(times.values()))
    found = {f"{name}, s": statistics.median(taken) for name, taken in times.items()}
    for name, taken in list(times.items())[1:]:
        found[f"first / {name}"] = statistics.median(a / b for a, b in zip(first, taken, strict=True))
    return found


def costs(remote: Remote, rows: int, dim: int) -> dict[str, Any]:
    """Requests and bytes of opening, of one row, and of scattered rows."""
    chosen = np.random.default_rng(1).choice(rows, _ASKED, replace=False)
    found: dict[str, Any] = {}
    for resident in (False, True):
        remote.counts()
        store = qstore.open(remote.url, resident_scales=resident)
        sums = {"open": remote.counts()}
        _ = store[rows // 2]
        sums["one row"] = remote.counts()
        store.take(chosen)
        sums[f"{_ASKED} rows"] = remote.counts()
        store.close()
        for name, (ranges, body, headers) in sums.items():
            key = f"{name}, resident scales" if resident else name
            found[key] = {"requests": len(ranges), "body bytes": body, "header bytes": headers}
            if name == f"{_ASKED} rows":
                found[key]["of rows and scales"] = body / (_ASKED * (dim + 8))
                found[key]["allowed"] = int(1.5 * _ASKED * (dim + 8)) + (64 << 10)
                found[key]["ranges"] = ranges
    return found


def measure(path: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, against one server."""
    remote = Remote(path, options.latency / 1000)
    url, rounds = remote.url, options.rounds
    chosen = np.random.default_rng(1).choice(options.rows, _ASKED, replace=False)
    try:
        found = costs(remote, options.rows, options.dim)
        scattered = found[f"{_ASKED} rows"].pop("ranges")
        del found[f"{_ASKED} rows, resident scales"]["ranges"]
        size = path.stat().st_size
        whole = [f"bytes={at}-{min(at + _SCAN_RANGE, size) - 1}" for at in range(0, size, _SCAN_RANGE)]
        found["open + 1000 rows"] = contest(
            {
                "qstore": lambda: remotely(url, chosen),
                "qstore, resident scales": lambda: remotely(url, chosen, resident_scales=True),
                "the same ranges, plain": lambda: plain(url, scattered),
                "download, then qstore": lambda: download(url, chosen, folder),
            },
            rounds,
        )
        found["open + all blocks"] = contest(
            {
                "qstore": lambda: walk(url),
                "all bytes in ranges, plain": lambda: plain(url, whole),
                "download, then qstore": lambda: download(url, slice(0, 1), folder),
            },
            rounds,
        )
    finally:
        remote.stop()
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--latency", type=float, default=0, help="milliseconds before each answer")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.h5"
        random = np.random.default_rng(0)
        with qstore.Writer(path, dim=options.dim, rows=options.rows) as writer:
            for first in range(0, options.rows, 10_000):
                count = min(10_000, options.rows - first)
                writer.append(random.standard_normal((count, options.dim), np.float32))
        print(json.dumps(measure(path, Path(name), options), indent=2))


if __name__ == "__main__":
    main()
