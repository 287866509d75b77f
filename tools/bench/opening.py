"""What happens before the first row: opening, importing, starting the command; and a store of a terabyte."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import qstore
from qstore.cli.parser import COMMANDS
from qstore.engine import quantization
from qstore.format.composition import compose

from . import engines
from .options import Options
from .peers import library
from .readers import Rows
from .rounds import Contest, Entrant, WrongResult, each
from .scene import Scene, check_same

__all__ = ["huge", "imports", "open_store"]

_SMALL_ROWS, _SMALL_DIM = 1000, 64
_HUGE_DIM = 256
_HUGE_ASKED = 1000
_SMALL_JOBS = (
    "build NPY -o OUT --force -q",
    "ls NPY",
    "info STORE",
    "get STORE 7",
    "search STORE --row 7",
    "verify STORE",
    "stats STORE",
    "compare STORE STORE",
    "env",
)


def open_store(options: Options) -> Iterator[Contest]:
    """Open a small file and close it again. The first open in a process is the one of the check."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), _SMALL_ROWS, _SMALL_DIM)
        check = partial(_check_shape, (scene.rows, scene.dim))
        entrants = [
            Entrant("qstore", each(lambda _: _opened(scene.store_path)), kind="ours", check=check),
            Entrant("np.load(mmap_mode='r')", each(lambda _: np.load(scene.npy32, mmap_mode="r").shape)),
        ]
        entrants += [_open_hdf5(scene)]
        yield Contest("open", {"rows": scene.rows, "dim": scene.dim}, entrants)


def _opened(path: Path) -> tuple[int, int]:
    with qstore.open(path) as store:
        return store.shape


def _open_hdf5(scene: Scene) -> Entrant:
    h5py = library("h5py")

    def read(_: int) -> Any:
        with h5py.File(scene.store_path, "r") as file:
            return file["codes"].shape

    return Entrant("h5py, the same file", each(read), check=partial(_check_shape, (scene.rows, scene.dim)))


def _check_shape(expected: tuple[int, int], found: Any) -> None:
    if found != expected:
        raise WrongResult(f"shape {found}, expected {expected}")


def huge(options: Options) -> Iterator[Contest]:
    """Open a store with a terabyte of codes, nearly all of them a hole, and read rows all over it."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        path, rows = Path(folder, "huge.h5"), options.huge_rows
        numbers, codes, scales = _huge_rows(rows)
        _write_huge(path, rows, numbers, codes, scales)
        expected = np.empty(codes.shape, np.float32)
        quantization.dequantize(codes, scales, expected)
        engines.use(options.levels[0])
        held = qstore.open(path)
        opening = Entrant(
            "qstore, open and close",
            each(lambda _: _opened(path)),
            kind="ours",
            check=partial(_check_shape, (rows, _HUGE_DIM)),
        )
        reading = Entrant(
            "qstore, 1,000 rows",
            each(lambda _: held[numbers]),
            kind="ours",
            check=partial(check_same, expected=expected),
            moved=_HUGE_ASKED * _HUGE_DIM * 5,
        )
        first = Entrant(
            "qstore, 1,000 rows right after opening",
            each(lambda _: qstore.open(path)[numbers]),
            kind="ours",
            check=partial(check_same, expected=expected),
        )
        yield Contest("huge", {"rows": rows, "dim": _HUGE_DIM, "threads": 1}, [opening, reading, first])
        held.close()


def _huge_rows(rows: int) -> tuple[Rows, Any, Any]:
    generator = np.random.default_rng(17)
    # The last row, and those around 2**31 rows and 2**32 codes, are always among them.
    edges = [rows - 1, 0, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, (1 << 32) // _HUGE_DIM]
    numbers = np.concatenate([generator.integers(0, rows, _HUGE_ASKED), np.array(edges) % rows])
    numbers = generator.permutation(np.unique(numbers))
    codes = generator.integers(0, 256, (len(numbers), _HUGE_DIM), np.uint8)
    return numbers, codes, generator.random(len(numbers)) + 0.5


def _write_huge(path: Path, rows: int, numbers: Rows, codes: Any, scales: Any) -> None:
    made = compose(rows, _HUGE_DIM, {"content_id": "0" * 32})
    with open(path, "wb") as file:
        fd = file.fileno()
        os.ftruncate(fd, made.size)
        for offset, data in made.segments:
            os.pwrite(fd, data, offset)
        for number, row, scale in zip(numbers.tolist(), codes, scales, strict=True):
            os.pwrite(fd, row.tobytes(), made.extents["codes"].offset + number * _HUGE_DIM)
            os.pwrite(fd, np.float64(scale).tobytes(), made.extents["scales"].offset + number * 8)


def imports(options: Options) -> Iterator[Contest]:
    """Start of a process: import of qstore beside numpy, and the command."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), _SMALL_ROWS, _SMALL_DIM)
        script = Path(sysconfig.get_path("scripts"), "qstore")
        command = [str(script)] if script.exists() else [sys.executable, "-m", "qstore"]
        programs = {
            "python, nothing": [sys.executable, "-c", "pass"],
            "import numpy": [sys.executable, "-c", "import numpy"],
            "import qstore; qstore.open": [sys.executable, "-c", "import qstore; qstore.open"],
            "import h5py": [sys.executable, "-c", "import h5py"],
            "qstore --help": [*command, "--help"],
            "qstore --version": [*command, "--version"],
            **{f"qstore {name} --help": [*command, name, "--help"] for name in COMMANDS},
            **{f"qstore {job}": [*command, *_words(job, scene)] for job in _SMALL_JOBS},
        }
        entrants = [
            Entrant(
                name,
                each(partial(_run, words)),
                kind="ours" if "qstore" in name else "peer",
                check=_check_process,
                single=True,
            )
            for name, words in programs.items()
        ]
        yield Contest("import", {"rows": scene.rows, "dim": scene.dim}, entrants)


def _words(job: str, scene: Scene) -> list[str]:
    paths = {"STORE": scene.store_path, "NPY": scene.npy32, "OUT": scene.store_path.with_name("out.h5")}
    return [str(paths.get(word, word)) for word in job.split()]


def _run(words: list[str], _: int) -> subprocess.CompletedProcess[bytes]:
    # Somewhere else than in a source tree, so that it is the installed package that is imported.
    return subprocess.run(words, capture_output=True, cwd=tempfile.gettempdir(), check=False)


def _check_process(done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise WrongResult(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')}")
