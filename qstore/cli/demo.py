"""``qstore demo``: build, read and verify a made-up matrix, and show what it costs."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import qstore

from ..errors import OutputError
from ..system.reported import Reported
from .arguments import Command, add_json, at_least
from .printing import byte_size, print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..store import Store

__all__ = ["COMMAND", "DemoReport"]

_DESCRIPTION = """\
Make a matrix that looks like embeddings, build a store from it, read it, verify it: with the commands you
would type, each shown before its output. The files go when it ends, unless --keep says where to keep them."""

_EXAMPLES = """\
  qstore demo
  qstore demo --rows 20000 --dim 768 --keep demo-files"""

_CENTERS = 1000
_CHUNK_ROWS = 10_000
_READ_ROWS = 10_000
_ROUNDS = 15


@dataclass(frozen=True, repr=False)
class DemoReport(Reported):
    """What was measured.

    Attributes
    ----------
    rows, dim : int
    float32_bytes, file_bytes : int
        Size of the matrix and of the store.
    ratio : float
        The first by the second.
    max_abs_error, rms_error : float
        Of the values read from the store (float64).
    rms_error_ratio : float
        RMS error by what theory says for rounding to steps of s: s/√12 in each row.
    build_seconds : float
    read_rows : int
        Rows of one scattered read, in random order.
    read_seconds, npy_read_seconds : float
        Median time of one such read from the store, and from the .npy file mapped into memory, over rounds in
        which both take turns.
    """

    rows: int
    dim: int
    float32_bytes: int
    file_bytes: int
    ratio: float
    max_abs_error: float
    rms_error: float
    rms_error_ratio: float
    build_seconds: float
    read_rows: int
    read_seconds: float
    npy_read_seconds: float


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", metavar="N", type=at_least(1), default=100_000, help="default: 100000")
    parser.add_argument("--dim", metavar="D", type=at_least(1), default=384, help="columns; default: 384")
    parser.add_argument("--keep", metavar="DIR", help="make the files in DIR and leave them there")
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    try:
        with _folder(arguments.keep) as folder:
            matrix, store = folder / "embeddings.npy", folder / "embeddings.h5"
            with _silence() if arguments.json else contextlib.nullcontext():
                print_line(f"a matrix of {arguments.rows:,} × {arguments.dim:,} float32 values: {matrix}")
                _make_matrix(matrix, arguments.rows, arguments.dim)
                status, build_seconds = _run_commands(matrix, store)
            if status == 0:
                _show(_measure(matrix, store, build_seconds), arguments)
            return status
    except KeyboardInterrupt:
        left = f"what was made is in {arguments.keep}" if arguments.keep else "nothing is left behind"
        raise KeyboardInterrupt(left) from None


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is None:
        import tempfile  # random and what it needs take 6 ms, and other commands do without

        with tempfile.TemporaryDirectory(prefix="qstore-demo-") as name:
            yield Path(name)
        return
    folder = Path(keep)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise OutputError(17, f"{keep} is not empty; name a new directory", keep)
    yield folder


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # With a .buffer, as commands that write bytes need one.
    with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _make_matrix(path: Path, rows: int, dim: int) -> None:
    """Rows around common centers, of different lengths, always the same ones."""
    import numpy as np

    random = np.random.default_rng(1708)
    centers = random.standard_normal((_CENTERS, dim), dtype=np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, rows, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, rows - first)
            block = random.standard_normal((count, dim), dtype=np.float32)
            block += centers[random.integers(_CENTERS, size=count)]
            block *= random.uniform(0.02, 0.06, size=(count, 1)).astype(np.float32)
            file.write(block.astype("<f4", copy=False).data)


def _run_commands(matrix: Path, store: Path) -> tuple[int, float]:
    """Exit status of the first command that failed, or 0; and the time of the first one, the build."""
    from .parser import run_command  # the parser imports this module

    build_seconds = 0.0
    for words in (
        ["build", str(matrix), "-o", str(store)],
        ["info", str(store)],
        ["get", str(store), "0", "-1", "--columns", ":6"],
        ["verify", str(store)],
        ["verify", str(store), "--against", str(matrix)],
    ):
        print_line(f"\n$ {shlex.join(['qstore', *words])}")
        begun = time.perf_counter()
        status = run_command(words)
        build_seconds = build_seconds or time.perf_counter() - begun
        if status:
            return status, build_seconds
    return 0, build_seconds


def _measure(matrix_path: Path, store_path: Path, build_seconds: float) -> DemoReport:
    import numpy as np

    matrix = np.load(matrix_path, mmap_mode="r")
    with qstore.open(store_path) as store:
        largest, rms, theory = _errors(matrix, store)
        random = np.random.default_rng(1708)
        picks = [random.integers(len(store), size=_READ_ROWS) for _ in range(1 + _ROUNDS)]
        ours, theirs = _median_seconds((store.take, matrix.__getitem__), picks)
        return DemoReport(
            rows=store.shape[0],
            dim=store.shape[1],
            float32_bytes=store.nbytes,
            file_bytes=os.stat(store_path).st_size,
            ratio=store.nbytes / os.stat(store_path).st_size,
            max_abs_error=largest,
            rms_error=rms,
            rms_error_ratio=rms / theory,
            build_seconds=build_seconds,
            read_rows=_READ_ROWS,
            read_seconds=ours,
            npy_read_seconds=theirs,
        )


def _errors(matrix: NDArray[np.float32], store: Store) -> tuple[float, float, float]:
    """Largest error, RMS error, and the RMS error that theory expects."""
    import numpy as np

    largest = total = 0.0
    for first, block in store.astype("float64").blocks():
        block -= matrix[first : first + len(block)]
        largest = max(largest, float(np.abs(block).max()))
        total += float(np.vdot(block, block))
    return largest, (total / store.size) ** 0.5, float(np.mean(np.square(store.scales)) / 12) ** 0.5


def _median_seconds(
    readers: Sequence[Callable[[NDArray[np.int64]], NDArray[np.float32]]], picks: list[NDArray[np.int64]]
) -> list[float]:
    """Median time of each reader: they take turns, so that a slow moment is everybody's.

    The first round is not counted: it maps pages and makes memory for the output.
    """
    import numpy as np

    def seconds(read: Callable[[NDArray[np.int64]], NDArray[np.float32]], rows: NDArray[np.int64]) -> float:
        begun = time.perf_counter()
        read(rows)
        return time.perf_counter() - begun

    rounds = [[seconds(read, rows) for read in readers] for rows in picks]
    return [float(middle) for middle in np.median(rounds[1:], axis=0)]


def _show(report: DemoReport, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(report.to_dict())
        return
    speed = report.npy_read_seconds / report.read_seconds
    print("\nIn short:\n")
    print_table(
        [
            ("", "float32 .npy", "store", ""),
            (
                "size",
                byte_size(report.float32_bytes),
                byte_size(report.file_bytes),
                f"{report.ratio:.2f} times smaller",
            ),
            (
                f"{report.read_rows:,} scattered rows, from memory",
                f"{report.npy_read_seconds * 1e3:.1f} ms",
                f"{report.read_seconds * 1e3:.1f} ms",
                f"{speed:.2f} times as fast",
            ),
        ]
    )
    print()
    print_facts(
        [
            ("largest error", f"{report.max_abs_error:.3g}"),
            ("RMS error", f"{report.rms_error:.3g}, {report.rms_error_ratio:.3f} of the theoretical s/√12"),
            ("build", f"{report.build_seconds:.2f} s, {report.rows / report.build_seconds:,.0f} rows/s"),
        ]
    )
    if arguments.keep:
        print_line(f"\nThe files are in {arguments.keep}.")


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
