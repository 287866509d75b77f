"""Time of ``store.stats`` against reading the codes once, and its private memory, measured.

Makes a store (10 GB of codes unless told otherwise) of random codes, then, in turn and in the same cache
state, reads the codes with ``readv`` in pieces of 8 MiB on one thread, and runs ``qstore stats`` on them.
``--cold`` drops the file's pages before each. The file is removed afterwards.

    python tools/checks/stats_time.py [--size 10G] [--dim 768] [--rounds 3] [--cold] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import qstore
from qstore.format.layout import CODES_OFFSET

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from checks.memory import byte_count, private_memory, qstore_command

_PIECE = 8 << 20


def main() -> int:
    """Measure, and print a line a round."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="qstore-stats-", dir=options.folder) as folder:
        path = Path(folder, "store.h5")
        rows = options.size // options.dim
        write_store(path, rows, options.dim)
        print(f"{rows:,} × {options.dim}, {rows * options.dim:,} bytes of codes; {qstore.engine_name()}")
        ratios, peaks = [], []
        for _ in range(options.rounds):
            reading = timed_read(path, rows * options.dim, options.cold)
            seconds, peak = timed_stats(path, options.cold)
            ratios.append(seconds / reading)
            peaks.append(peak)
            print(
                f"read {reading:.2f} s, stats {seconds:.2f} s, ratio {seconds / reading:.2f}, "
                f"private memory {peak / 2**20:.0f} MiB",
                flush=True,
            )
    print(
        f"median ratio {statistics.median(ratios):.2f}, largest private memory {max(peaks) / 2**20:.0f} MiB"
    )
    return 0


def parse_arguments() -> argparse.Namespace:
    """Command line; sizes as 200M or 10G."""
    parser = argparse.ArgumentParser(description="Time of stats against reading the codes once.")
    parser.add_argument(
        "--size", type=byte_count, default=10_000_000_000, help="of the codes (default 10 GB)"
    )
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the file's pages before each reading")
    parser.add_argument("--folder", help="where to work")
    return parser.parse_args()


def write_store(path: Path, rows: int, dim: int) -> None:
    """Normal values, quantized once and written again and again, each time by other scales."""
    block = np.random.default_rng(1).standard_normal((max(1, (64 << 20) // dim), dim), dtype=np.float32)
    codes, scales = qstore.quantize(block)
    with qstore.Writer(path, dim, rows) as writer:
        for number, start in enumerate(range(0, rows, len(codes))):
            writer.append_codes(codes[: rows - start], scales[: rows - start] * (1 + number / 7))


def drop(path: Path) -> None:
    """Forget the pages of the file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed_read(path: Path, size: int, cold: bool) -> float:
    """Seconds for all the codes."""
    if cold:
        drop(path)
    buffer = bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        begun = time.perf_counter()
        for offset in range(CODES_OFFSET, CODES_OFFSET + size, _PIECE):
            os.preadv(file.fileno(), [buffer], offset)
        return time.perf_counter() - begun


def timed_stats(path: Path, cold: bool) -> tuple[float, int]:
    """Seconds and largest private memory of the command."""
    if cold:
        drop(path)
    begun = time.perf_counter()
    process = subprocess.Popen([*qstore_command(), "stats", str(path), "-q"], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, private_memory(process.pid))
        time.sleep(0.005)
    if process.returncode:
        sys.exit(f"qstore stats ended with exit code {process.returncode}")
    return time.perf_counter() - begun, peak


if __name__ == "__main__":
    sys.exit(main())
