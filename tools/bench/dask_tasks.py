"""What Dask costs: building a sharded store with 1 and 2 workers, and the overhead of a task.

Builds one matrix of float32, which tasks read from a ``.npy`` file, with ``qstore.build`` in one process and
with ``qstore.dask.build`` on threads and on LocalClusters of 1 and 2 processes of one thread. Then many tiny
shards, by calls one after the other and by tasks: the difference is what a task costs. Every round does all
of them once; medians are printed.

    python tools/bench/dask_tasks.py [--size 512] [--shards 16] [--tasks 200] [--rounds 7] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
from distributed import Client, LocalCluster
from numpy.typing import NDArray

import qstore
import qstore.dask
from qstore.environment import headline

_DIM = 256


def read_rows(path: str, block_info: Any = None) -> NDArray[Any]:
    """One chunk of a ``.npy`` file, in the task that needs it."""
    (first, last), _ = block_info[None]["array-location"]
    rows: NDArray[Any] = np.load(path, mmap_mode="r")[first:last]
    return rows


def lazy_matrix(path: Path, rows: int, chunk: int) -> dask.array.Array:
    """The matrix of a ``.npy`` file in chunks of rows."""
    chunks = dask.array.core.normalize_chunks((chunk, -1), (rows, _DIM), dtype=np.float32)
    meta = np.empty((0, 0), np.float32)
    return dask.array.map_blocks(read_rows, str(path), chunks=chunks, dtype=np.float32, meta=meta)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What Dask costs.")
    parser.add_argument("--size", type=int, default=512, help="MiB of float32 to build from")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=200, help="tiny shards")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; the default temporary folder otherwise")
    options = parser.parse_args()
    print(f"{headline()}, dask {importlib.metadata.version('dask')}")
    with tempfile.TemporaryDirectory(prefix="qstore-dask-", dir=options.folder) as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """All rounds."""
    rows = options.size * (1 << 20) // (4 * _DIM)
    source, out = folder / "matrix.npy", folder / "out"
    np.save(source, np.random.default_rng(0).standard_normal((rows, _DIM), np.float32))
    large = lazy_matrix(source, rows, -(-rows // options.shards))
    small = lazy_matrix(source, 16 * options.tasks, 16)
    with contextlib.ExitStack() as stack:
        schedulers: dict[str, dict[str, Any]] = {
            "dask, 1 thread": {"scheduler": "threads", "num_workers": 1},
            "dask, 2 threads": {"scheduler": "threads", "num_workers": 2},
            "dask, 1 worker process": {"scheduler": start_workers(stack, 1)},
            "dask, 2 worker processes": {"scheduler": start_workers(stack, 2)},
        }
        ways: dict[str, Callable[[], object]] = {
            f"qstore.build, {threads} thread(s)": partial(
                qstore.build, source, out, threads=threads, overwrite=True
            )
            for threads in (1, 2)
        }
        tiny: dict[str, Callable[[], object]] = {"calls": partial(write_all, source, options.tasks, out)}
        for name, scheduler in schedulers.items():
            ways[name] = partial(build_with, scheduler, large, out)
            tiny[name] = partial(build_with, scheduler, small, out)
        show(in_rounds(ways, options.rounds, out), rows, options)
        show_tiny(in_rounds(tiny, options.rounds, out), options.tasks)


def start_workers(stack: contextlib.ExitStack, count: int) -> Client:
    """Client of processes of one thread each."""
    cluster = LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs="ERROR",
    )
    client: Client = stack.enter_context(Client(stack.enter_context(cluster), set_as_default=False))
    return client


def show(seconds: dict[str, float], rows: int, options: argparse.Namespace) -> None:
    """Times of the large builds."""
    print(f"\n{rows:,} x {_DIM} float32, {options.size} MiB, {options.shards} shards")
    for name, median in seconds.items():
        print(f"  {name:<28} {median:6.2f} s  {options.size * 1.048576 / median:7.0f} MB/s of float32")


def show_tiny(seconds: dict[str, float], tasks: int) -> None:
    """Times of a tiny shard; what one worker takes more than calls is the overhead of a task."""
    print(f"\n{tasks} shards of 16 rows, each by a task, or by calls one after the other")
    for name, median in seconds.items():
        more = 1e3 * (median - seconds["calls"]) / tasks
        print(f"  {name:<28} {1e3 * median / tasks:6.2f} ms a shard  {more:+6.2f} ms")


def build_with(scheduler: dict[str, Any], matrix: dask.array.Array, out: Path) -> None:
    """One build on one scheduler."""
    with dask.config.set(**scheduler):
        qstore.dask.build(matrix, out)


def write_all(source: Path, count: int, out: Path) -> None:
    """The same tiny shards without Dask."""
    out.mkdir()
    for number in range(count):
        rows = np.load(source, mmap_mode="r")[16 * number : 16 * number + 16]
        info = [{"array-location": [(16 * number, 0)], "chunk-location": (number, 0)}]
        qstore.dask.building.write_shard(rows, str(out), "calls", "", "float32", "error", block_info=info)
    qstore.publish_shards(out)


def in_rounds(ways: dict[str, Callable[[], object]], rounds: int, out: Path) -> dict[str, float]:
    """Median seconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begun)
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    main()
