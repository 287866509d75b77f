"""Private memory of a build, measured: is it flat however large the source?

Makes a .npy file (float32, deterministic, 8 GB unless told otherwise), builds a store of it with the
installed ``qstore`` command (number of rows known) and again through ``qstore.Writer`` fed with chunks
(number of rows unknown), and watches RssAnon, the private memory, of both from outside. Exits 1 where
one takes more than the limit or where the two files differ. All files are removed afterwards.

    python tools/checks/memory.py [--size 8G] [--dim 768] [--limit 256M] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import qstore

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_BLOCK_BYTES = 64 << 20
_SAMPLE_SECONDS = 0.005
_CHUNK_ROWS = 5000


def main() -> int:
    """Measure both ways and print a line for each."""
    options = parse_arguments()
    if options.write_chunks:
        write_chunks(*options.write_chunks)
        return 0
    rows = options.size // (4 * options.dim)
    with tempfile.TemporaryDirectory(prefix="qstore-memory-", dir=options.folder) as folder:
        check_space(Path(folder), rows, options.dim)
        source = Path(folder, "source.npy")
        write_source(source, rows, options.dim)
        size = source.stat().st_size
        print(f"source: {rows:,} x {options.dim} float32, {size:,} bytes; engine {qstore.engine_name()}")
        known, unknown = Path(folder, "known.h5"), Path(folder, "unknown.h5")
        peaks = [
            measure("rows known (qstore build)", [*qstore_command(), "build", str(source), "-o", str(known)]),
            measure(
                "rows unknown (Writer)",
                [sys.executable, __file__, "--write-chunks", str(source), str(unknown)],
            ),
        ]
        same = sha256(known) == sha256(unknown)
    print(f"the two stores are {'the same, byte for byte' if same else 'DIFFERENT'}")
    print(f"largest private memory {max(peaks) / 2**20:.1f} MiB, limit {options.limit / 2**20:.0f} MiB")
    return 0 if same and max(peaks) <= options.limit else 1


def parse_arguments() -> argparse.Namespace:
    """Command line; sizes as 200M or 8G."""
    parser = argparse.ArgumentParser(description="Private memory of a build, measured.")
    parser.add_argument(
        "--size", type=byte_count, default=byte_count("8G"), help="of the source (default 8G)"
    )
    parser.add_argument("--dim", type=int, default=768, help="columns (default 768)")
    parser.add_argument(
        "--limit", type=byte_count, default=byte_count("256M"), help="of RssAnon (default 256M)"
    )
    parser.add_argument("--folder", help="where to work: about 1.8 times the size must be free")
    parser.add_argument("--write-chunks", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def byte_count(text: str) -> int:
    """Bytes that ``8G``, ``200M`` or ``1000`` stand for."""
    unit = _UNITS.get(text[-1:].upper())
    return int(float(text[:-1]) * unit) if unit else int(text)


def qstore_command() -> list[str]:
    """The installed command of this interpreter's environment."""
    beside = Path(sys.executable).with_name("qstore")
    found = str(beside) if beside.exists() else shutil.which("qstore")
    if found is None:
        sys.exit("there is no qstore command: pip install . first")
    return [found]


def check_space(folder: Path, rows: int, dim: int) -> None:
    """Stop where the source, two stores and a journal would not fit."""
    needed = rows * (4 * dim + 2 * (dim + 8) + 8) + (64 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(f"{folder} has {free:,} bytes free, {needed:,} are needed: use --folder")


def write_source(path: Path, rows: int, dim: int) -> None:
    """Write the .npy: one random block again and again, each time by another factor."""
    block_rows = max(1, _BLOCK_BYTES // (4 * dim))
    block = np.random.default_rng(1).standard_normal((block_rows, dim), dtype=np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for number, start in enumerate(range(0, rows, block_rows)):
            factor = np.float32(1 + number / 7)
            file.write((block[: rows - start] * factor).data)


def read_chunks(path: Path) -> Iterator[NDArray[np.float32]]:
    """Rows of the .npy, read (not mapped) a chunk at a time."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        _, dim = np.lib.format.read_array_header_1_0(file)[0]
        while raw := file.read(_CHUNK_ROWS * 4 * dim):
            yield np.frombuffer(raw, "<f4").reshape(-1, dim)


def write_chunks(source: str, out: str) -> None:
    """Build through the Writer, which is not told how many rows will come."""
    chunks = read_chunks(Path(source))
    first = next(chunks)
    with qstore.Writer(out, first.shape[1]) as writer:
        writer.append(first)
        for chunk in chunks:
            writer.append(chunk)


def measure(title: str, command: Sequence[str]) -> int:
    """Run a command; print and return its largest RssAnon in bytes."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, private_memory(process.pid))
        time.sleep(_SAMPLE_SECONDS)
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"{title}: {' '.join(command)} ended with exit code {process.returncode}")
    if not peak:
        sys.exit(f"{title}: not one sample of its memory could be taken")
    print(f"{title}: {seconds:.1f} s, largest RssAnon {peak / 2**20:.1f} MiB", flush=True)
    return peak


def private_memory(pid: int) -> int:
    """RssAnon of a process in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if not os.path.exists("/proc/self/status"):
        sys.exit("RssAnon is read from /proc: Linux only")
    sys.exit(main())
