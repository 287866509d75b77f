"""The fault suite for writing.

Builds small stores while everything that can go wrong does: the process is killed at each of its system
calls, calls fail, disks fill up, the power goes, journals and unfinished files are damaged, sources
change, writers meet. After each fault the final name must be absent or hold the old file whole, no
build may claim success falsely, an unfinished file may open only if it is complete, and going on must
give the same file byte for byte. Exits 1 where anything else is found.

    python tools/crash [PART …] [--quick] [--seed N] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

# One thread only: the suite forks.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crash import interrupted, power, remains, replay, rivals, space, traced
from crash.scene import small_blocks
from crash.tally import Tally, table

PARTS: dict[str, Callable[[Path, bool, int], Tally]] = {
    "kills": traced.kills,
    "errors": traced.errors,
    "short": space.short_results,
    "full": space.full_disk,
    "limit": space.file_size_limit,
    "power": power.cuts,
    "replay": replay.cuts,
    "failed-sync": replay.failed_syncs,
    "journal": remains.journals,
    "partial": remains.partials,
    "source": remains.sources,
    "rivals": rivals.pairs,
    "interrupted": interrupted.many_kills,
}


def main() -> int:
    """Run the parts asked for and print a line each, then the table."""
    parser = argparse.ArgumentParser(description="The fault suite for writing.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a selection of each kind, in seconds")
    parser.add_argument("--seed", type=int, default=None, help="of what is random (default: the clock)")
    parser.add_argument("--folder", type=Path, help="where to work (default: memory, if there is /dev/shm)")
    parser.add_argument("--json", action="store_true", help="an object a line instead of words")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    if not options.json:
        print(f"seed {seed}", flush=True)
    small_blocks()
    warnings.filterwarnings("ignore", ".* has no file locks", RuntimeWarning)  # flock is made to say so
    logging.getLogger("qstore").setLevel(logging.ERROR)  # builds that begin again say so
    tallies = [run(name, options, seed) for name in options.parts or PARTS]
    if not options.json:
        print("\n" + table(tallies))
    return 1 if any(tally.violations for tally in tallies) else 0


def run(name: str, options: argparse.Namespace, seed: int) -> Tally:
    """Run one part in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="qstore-crash-", dir=options.folder or _memory()))
    begun = time.perf_counter()
    try:
        tally = PARTS[name](folder, options.quick, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - begun
    print(
        json.dumps({"name": name, "seed": seed, **tally.as_dict()})
        if options.json
        else f"{tally.line()} ({seconds:.1f} s)",
        flush=True,
    )
    return tally


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
