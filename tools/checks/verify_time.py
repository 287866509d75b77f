"""Processor time of ``qstore verify --against`` beside that of the build of the same source, measured.

Makes a matrix of random float32 values (1,000,000 rows unless told otherwise), then, in turn, builds a store
from it and verifies that against it. Both files are removed afterwards.

    python tools/checks/verify_time.py [--rows 1000000] [--dim 768] [--rounds 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import qstore

_ROWS = 10_000


def main() -> int:
    """Measure, and print a line a round."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="qstore-verify-", dir=options.folder) as folder:
        source, store = Path(folder, "source.npy"), Path(folder, "store.h5")
        write_source(source, options.rows, options.dim)
        print(f"{options.rows:,} × {options.dim} float32; {qstore.engine_name()}")
        builds, verifications = [], []
        for _ in range(options.rounds):
            builds.append(processor_time("build", source, "-o", store, "--force"))
            verifications.append(processor_time("verify", store, "--against", source))
            print(f"build {builds[-1]:.2f} s, verify {verifications[-1]:.2f} s", flush=True)
    build, verification = statistics.median(builds), statistics.median(verifications)
    print(f"medians: build {build:.2f} s, verify {verification:.2f} s, ratio {verification / build:.2f}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Processor time of verify beside that of build.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work")
    return parser.parse_args()


def write_source(path: Path, rows: int, dim: int) -> None:
    """Normal values."""
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    generator = np.random.default_rng(1)
    for start in range(0, rows, _ROWS):
        block = matrix[start : start + _ROWS]
        generator.standard_normal(block.shape, np.float32, out=block)
    matrix.flush()


def processor_time(*words: str | Path) -> float:
    """Seconds, of the user and of the system, that a quiet qstore command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "qstore", *map(str, words), "-q"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
