"""Is the table of an n-gram checkpoint joined right, at any scale? Rows, memory, a killed build, and speed.

Makes a checkpoint with tools/fixtures/ngram_tables.py (deleted afterwards), builds one store of its 128
shards with the installed ``qstore`` command, and watches RssAnon, the private memory, from outside. Then each
row of the store is compared with what the layout says, a second build is killed in the middle and
gone on with, and the two files are compared. With --rounds, times of the build and of a copy of the same
files by ``cp`` and fsync, both from the page cache, in turns, and what processor time they took. Exits 1
where anything is wrong.

    python tools/checks/joined.py [--layout bf16] [--size 2G] [--limit 256M] [--rounds 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import qstore
from qstore.engine import quantization
from qstore.writing.output_paths import journal_path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.ngram_tables import LAYOUTS, PATTERN, Table, byte_count, steps, table_of, write

from checks.memory import measure, qstore_command, sha256


def main() -> int:
    """Make, build, compare, kill, go on, measure."""
    parser = argparse.ArgumentParser(description="The table of an n-gram checkpoint, joined and checked.")
    parser.add_argument("--layout", choices=LAYOUTS, default="bf16")
    parser.add_argument(
        "--size", type=byte_count, default=byte_count("2G"), help="of all weights (default 2G)"
    )
    parser.add_argument("--dim", type=int, default=160, help="columns (default 160)")
    parser.add_argument(
        "--limit", type=byte_count, default=byte_count("256M"), help="of RssAnon (default 256M)"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help="of times, the build's and the copy's (default 0)"
    )
    parser.add_argument("--folder", help="where to work: about twice the size must be free")
    options = parser.parse_args()
    table = table_of(options.layout, options.size, options.dim, 128)
    with tempfile.TemporaryDirectory(prefix="qstore-joined-", dir=options.folder) as name:
        folder = Path(name)
        source, whole, resumed = folder / "checkpoint", folder / "whole.h5", folder / "resumed.h5"
        write(source, table, files=33)
        print(f"{table.shards} x [{table.shard_rows:,}, {table.dim}] {table.layout}", flush=True)
        peak = measure("qstore build --join", build(source, whole))
        wrong = wrong_rows(table, whole)
        print(f"{wrong:,} of {table.rows:,} rows are wrong")
        digest = sha256(whole)
        whole.unlink()
        done = resumed_rows(build(source, resumed), resumed, table.rows)
        print(f"killed, and gone on with: {done:,} rows had been done")
        same = digest == sha256(resumed)
        print(f"the two stores are {'the same, byte for byte' if same else 'DIFFERENT'}")
        print(f"largest private memory {peak / 2**20:.1f} MiB, limit {options.limit / 2**20:.0f} MiB")
        resumed.unlink()
        if options.rounds:
            compare_times(source, folder, options.rounds)
    return 0 if not wrong and same and done and peak <= options.limit else 1


def build(source: Path, store: Path) -> list[str]:
    """The command."""
    return [*qstore_command(), "build", str(source), "--tensor", PATTERN, "--join", "-o", str(store), "-q"]


def wrong_rows(table: Table, path: Path) -> int:
    """Rows whose codes or scale are not those of the definition, or of its values quantized."""
    wrong = 0
    with qstore.open(path) as store:
        if store.shape != (table.rows, table.dim):
            sys.exit(f"the store has shape {store.shape}, expected {(table.rows, table.dim)}")
        for first, last in steps(table.rows):
            values = table.values(first, last)
            codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values), np.float64)
            if table.layout == "int8":  # as they are: nothing is rounded
                scales[:] = np.exp2(table.exponents(first, last)[:, 0])
                codes[:] = values / scales[:, None] + 128
            else:
                quantization.quantize(values, codes, scales, False)
            differs = (store.codes[first:last] != codes).any(axis=1) | (store.scales[first:last] != scales)
            wrong += int(differs.sum())
    return wrong


def resumed_rows(command: list[str], store: Path, rows: int) -> int:
    """Kill a build when about half of its rows are done, go on with it; rows that had been done."""
    journal = journal_path(store)
    process = subprocess.Popen(command)
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size > 8 * rows // 2:  # it holds the scales
            process.kill()
            break
        time.sleep(0.002)
    if process.wait() == 0:
        sys.exit("the build was over before it could be killed: make it larger with --size")
    found = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE)
    resumed: int = json.loads(found.stdout)["rows_resumed"]
    return resumed


def compare_times(source: Path, folder: Path, rounds: int) -> None:
    """Print the medians of both, in turns, of elapsed and of processor time."""
    files = sorted(source.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    copies = folder / "copies"
    copied, built = [], []
    of_copies, of_builds = [], []
    for _ in range(rounds):
        for file in files:  # into the page cache
            subprocess.run(["cat", file], check=True, stdout=subprocess.DEVNULL)
        begun, used = time.perf_counter(), processor_time()
        copies.mkdir()
        subprocess.run(["cp", *files, copies], check=True)
        for copy in copies.iterdir():
            descriptor = os.open(copy, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        copied.append(time.perf_counter() - begun)
        of_copies.append(processor_time() - used)
        shutil.rmtree(copies)
        os.sync()
        begun, used = time.perf_counter(), processor_time()
        subprocess.run(build(source, folder / "timed.h5"), check=True)
        built.append(time.perf_counter() - begun)
        of_builds.append(processor_time() - used)
        (folder / "timed.h5").unlink()
        os.sync()
    for what, seconds, used_by in (
        ("cp and fsync", copied, of_copies),
        ("qstore build --join", built, of_builds),
    ):
        rounded = ", ".join(f"{one:.2f}" for one in seconds)
        speed, work = size / statistics.median(seconds) / 1e6, statistics.median(used_by)
        print(f"{what}: {rounded} s, {speed:,.0f} MB of source a second; {work:.2f} s of processor time")
    print(
        f"the build is {statistics.median(copied) / statistics.median(built):.2f} times as fast as the copy"
    )


def processor_time() -> float:
    """Seconds that the commands run so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    if not os.path.exists("/proc/self/status"):
        sys.exit("RssAnon is read from /proc: Linux only")
    sys.exit(main())
