"""Throw mutated files at qstore: no crash, no hang, nothing silently wrong, no error but qstore's own.

    python tools/fuzz mutate [--files 100000] [--seed 1] [--workers 2]   most with right checksums
    python tools/fuzz atheris [--target open] [--seconds 120]     guided by coverage (pip install atheris)

Files that fail are kept in --found, with the reason beside them. Exits 1 where there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.hdf5_seal import seal

from fuzz.mutations import Mutator
from fuzz.targets import SOURCES, Judge, check_source, source_seeds, store_seeds, with_right_length

__all__ = ["Report", "main", "mutate"]

OUTCOMES = ("refused", "whole", "found by verify", "wrong", "other error")
_PLANTED = 7
_CLOCK, _CASE, _COUNTS = 0, 1, 2


@dataclass
class Report:
    """Counts of a run: outcome, sealed or not, to number of files."""

    sealed: Counter[str] = field(default_factory=Counter)
    unsealed: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    hangs: int = 0
    seconds: float = 0

    @property
    def files(self) -> int:
        """Files tried."""
        return self.sealed.total() + self.unsealed.total() + self.crashes + self.hangs

    @property
    def ok(self) -> bool:
        """Nothing crashed, hung, was silently wrong, or raised anything but qstore's own errors."""
        bad = sum(
            counts[name] for counts in (self.sealed, self.unsealed) for name in ("wrong", "other error")
        )
        return not (bad or self.crashes or self.hangs)

    def __str__(self) -> str:
        lines = [f"{self.files:,} files in {self.seconds:.0f} s, {self.sealed.total():,} of them re-sealed"]
        lines += [f"{name:>16}: {self.sealed[name]:>8,} {self.unsealed[name]:>8,}" for name in OUTCOMES]
        lines.insert(1, f"{'':>16}  {'sealed':>8} {'not':>8}")
        return "\n".join([*lines, f"{'crashes':>16}: {self.crashes:>8,}", f"{'hangs':>16}: {self.hangs:>8,}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and print what came of it."""
    options = parse_arguments(arguments)
    if options.mode == "worker":
        work(options)
        return 0
    if options.mode == "target":
        run_atheris(options.target, options.seconds, options.found)
        return 0
    options.found.mkdir(parents=True, exist_ok=True)
    if options.mode == "atheris":
        return atheris(options)
    report = mutate(options.files, options.seed, options.workers, options.limit, options.found, options.plant)
    print(f"seed {options.seed}, qstore {qstore.__version__}, engine {qstore.engine_name()}\n{report}")
    return 0 if report.ok else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "mode", choices=["mutate", "atheris", "worker", "target"], help="worker, target: internal"
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=1.0, help="seconds a file may take")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--target", choices=["open", *SOURCES], help="atheris: only this one")
    parser.add_argument("--seconds", type=int, default=120, help="atheris: for each target")
    parser.add_argument(
        "--plant", choices=["crash", "hang", "wrong", "other error"], help="show that it is seen"
    )
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--board", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# Mutated stores ---------------------------------------------------------------------------------------


def mutate(
    files: int, seed: int, workers: int, limit: float, found: Path, plant: str | None = None
) -> Report:
    """Open `files` mutated stores in `workers` processes, none for longer than `limit` seconds."""
    report, begun = Report(), time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, contextlib.ExitStack() as stack:
        step = -(-files // workers)
        running = [
            _Worker(
                range(first, min(files, first + step)), seed, limit, found, plant, Path(folder, f"{first}")
            )
            for first in range(0, files, step)
        ]
        for worker in running:
            stack.callback(worker.stop)
        while sum(worker.watch() for worker in running):  # all of them, not just the first that is busy
            time.sleep(0.02)
        for worker in running:
            worker.add_to(report)
    report.seconds = time.monotonic() - begun
    return report


def _board(path: Path) -> NDArray[np.int64]:
    """What a worker and its parent share: when the file at hand was begun, its number, and the counts."""
    shape = (_COUNTS + 2 * len(OUTCOMES),)
    if not path.exists():
        path.write_bytes(bytes(8 * shape[0]))
    return np.memmap(path, np.int64, "r+", shape=shape)


def _environment() -> dict[str, str]:
    # Where PYTHONSAFEPATH is set, the folder of a script is not searched for its modules.
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


class _Worker:
    """A process that opens files, started again behind the file that ended it."""

    def __init__(
        self, cases: range, seed: int, limit: float, found: Path, plant: str | None, board: Path
    ) -> None:
        self._cases, self._seed, self._limit, self._found, self._plant = cases, seed, limit, found, plant
        self._board_path, self._board = board, _board(board)
        self.crashes = self.hangs = 0
        self._start(cases.start)

    def _start(self, first: int) -> None:
        self._board[_CLOCK], self._board[_CASE] = 0, first
        options = [f"--seed={self._seed}", f"--first={first}", f"--files={self._cases.stop}"]
        options += [f"--found={self._found}", f"--board={self._board_path}"]
        options += [f"--plant={self._plant}"] if self._plant else []
        command = [sys.executable, "-W", "error", __file__, "worker", *options]
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(command, env=_environment())

    def watch(self) -> bool:
        """Whether there is more to do; notices crashes and hangs."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code == 0:
            self._process = None
            return False
        begun, case = int(self._board[_CLOCK]), int(self._board[_CASE])
        if code is not None and code > 0:
            raise RuntimeError(f"a worker could not run: exit status {code}, its words are above")
        if code is not None:
            self.crashes += 1
            self._ended(case, f"killed by signal {-code}")
        elif begun and time.monotonic_ns() - begun > self._limit * 1e9:
            self._process.kill()
            self._process.wait()
            self.hangs += 1
            self._ended(case, f"took longer than {self._limit} s")
        return self._process is not None

    def _ended(self, case: int, reason: str) -> None:
        keep(
            self._found,
            f"seed{self._seed}-{case}",
            Mutator(*store_seeds(), self._seed).mutated(case).content,
            reason,
        )
        self._process = None
        if case + 1 < self._cases.stop:
            self._start(case + 1)

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def add_to(self, report: Report) -> None:
        """Add this worker's counts."""
        counts = self._board[_COUNTS:].reshape(2, -1).tolist()
        report.unsealed.update(dict(zip(OUTCOMES, counts[0], strict=True)))
        report.sealed.update(dict(zip(OUTCOMES, counts[1], strict=True)))
        report.crashes += self.crashes
        report.hangs += self.hangs


def keep(found: Path, name: str, content: bytes, reason: str) -> None:
    """Save a file that failed, with the reason beside it."""
    found.mkdir(parents=True, exist_ok=True)
    (found / f"{name}.h5").write_bytes(content)
    (found / f"{name}.txt").write_text(reason)


def work(options: argparse.Namespace) -> None:
    """Open one file after the other: what a worker process does."""
    good, malformed = store_seeds()
    mutator, judge, board = Mutator(good, malformed, options.seed), Judge(good), _board(options.board)
    for case in range(options.first, options.files):
        made = mutator.mutated(case)
        board[_CASE] = case
        board[_CLOCK] = time.monotonic_ns()
        try:
            outcome = (
                planted(options.plant) if options.plant and case == _PLANTED else judge.outcome(made.content)
            )
        except Exception as error:
            outcome = "wrong" if isinstance(error, AssertionError) else "other error"
            keep(options.found, f"seed{options.seed}-{case}", made.content, traceback.format_exc())
        board[_CLOCK] = 0
        board[_COUNTS + made.sealed * len(OUTCOMES) + OUTCOMES.index(outcome)] += 1


def planted(what: str) -> str:
    """Do what must never happen, to show that it is noticed."""
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(3600)
    if what == "wrong":
        raise AssertionError("planted")
    raise OverflowError("planted")


# Coverage-guided --------------------------------------------------------------------------------------


def atheris(options: argparse.Namespace) -> int:
    """Run every target in a process of its own, for some seconds each."""
    try:
        importlib.import_module("atheris")
    except ImportError:
        print(
            'atheris is missing: pip install atheris (or use "mutate", which needs nothing)', file=sys.stderr
        )
        return 2
    failed = []
    for target in [options.target] if options.target else ["open", *SOURCES]:
        command = [sys.executable, __file__, "target", "--target", target, "--seconds", str(options.seconds)]
        command += ["--found", str(options.found)]
        run = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        summary = [
            line
            for line in run.stderr.splitlines()
            if "DONE" in line or "stat::number" in line or "Done" in line
        ]
        print(f"{target}: {'ok' if run.returncode == 0 else 'FAILED'} {' '.join(summary)}", flush=True)
        if run.returncode:
            failed.append(target)
            print(run.stdout[-2000:] + run.stderr[-4000:])
    return 1 if failed else 0


def run_atheris(target: str, seconds: int, found: Path) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    library: Any = importlib.import_module("atheris")
    found.mkdir(parents=True, exist_ok=True)
    library.instrument_all()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        check, seeds, options = _target(target, Path(folder), library)
        for number, content in enumerate(seeds):
            Path(corpus, f"{number}").write_bytes(content)
        limits = [f"-max_total_time={seconds}", "-timeout=2", "-rss_limit_mb=2048", "-max_len=65536"]
        library.Setup(
            [sys.argv[0], *limits, f"-artifact_prefix={found}/{target}-", str(corpus)], check, **options
        )
        library.Fuzz()


def _target(target: str, folder: Path, library: Any) -> tuple[Any, list[bytes], dict[str, Any]]:
    """What is called with each file, files to start from, and options of the engine."""
    if target == "open":
        good, malformed = store_seeds()
        judge = Judge(good)

        def sealed(data: bytes, largest: int, seed: int) -> bytes:
            content = bytearray(library.Mutate(data, largest))
            return bytes(seal(content)) if seed % 4 else bytes(content)

        return judge.outcome, good + malformed, {"custom_mutator": sealed}
    path, seeds = source_seeds(target, folder)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        check_source(path)

    def measured(data: bytes, largest: int, seed: int) -> bytes:
        content = bytes(library.Mutate(data, largest))
        return with_right_length(content) if seed % 4 else content

    return check, seeds, {"custom_mutator": measured} if target in ("safetensors", "quantized") else {}


if __name__ == "__main__":
    sys.exit(main())
