"""Building a store from a large checkpoint, beside copying it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import qstore
from qstore.engine import quantization

from . import engines, pagecache
from .limits import BLOCK_BYTES, read_through, write_through
from .options import Options
from .peers import write_safetensors_header
from .rounds import Contest, Entrant, WrongResult, each
from .scene import check_same, normal_values

__all__ = ["build", "build_cold"]

_POOL_ROWS = 1 << 16
_CHECKED_ROWS = 500


class _Source:
    """A checkpoint of one matrix: a pool of normal rows over and over, each time with another factor."""

    def __init__(self, folder: Path, size: int, dim: int, ending: str) -> None:
        self.rows, self.dim = max(64, size // (4 * dim)), dim
        self.path, self.folder = folder / f"source{ending}", folder
        self._pool = normal_values(min(_POOL_ROWS, self.rows), dim)
        with open(self.path, "wb") as file:
            self._write_header(file, ending)
            for number in range(-(-self.rows // len(self._pool))):
                left = self.rows - number * len(self._pool)
                (self._pool[:left] * np.float32(1 + number)).tofile(file)

    def _write_header(self, file: Any, ending: str) -> None:
        if ending == ".safetensors":
            write_safetensors_header(file, self.rows, self.dim)
            return
        about = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dim)}
        np.lib.format.write_array_header_1_0(file, about)

    def check(self, path: Path) -> None:
        """Compare some rows of a store with the specification."""
        rows = np.unique(np.linspace(0, self.rows - 1, _CHECKED_ROWS).astype(np.int64))
        number, place = np.divmod(rows, len(self._pool))
        values = self._pool[place] * (1 + number).astype(np.float32)[:, None]
        codes, scales = np.empty(values.shape, np.uint8), np.empty(len(rows))
        quantization.quantize(values, codes, scales, False)
        with qstore.open(path) as store:
            if store.shape != (self.rows, self.dim):
                raise WrongResult(f"shape {store.shape}, expected {(self.rows, self.dim)}")
            check_same(store.codes[rows], codes)
            check_same(store.scales[rows], scales)

    def warm(self) -> None:
        """Everything into the page cache."""
        read_through(self.path)

    def cool(self) -> None:
        """Everything out of it."""
        pagecache.drop(self.path)


def build(options: Options) -> Iterator[Contest]:
    """From a .npy file in the page cache, on one thread and more."""
    yield from _contests(options, ".npy", ("cached",))


def build_cold(options: Options) -> Iterator[Contest]:
    """From a .npy file on the disk only, and from .safetensors in both states."""
    yield from _contests(options, ".npy", ("cold",))
    yield from _contests(options, ".safetensors", ("cached", "cold"))


def _contests(options: Options, ending: str, states: tuple[str, ...]) -> Iterator[Contest]:
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        source = _Source(Path(folder), options.build_bytes, options.dim, ending)
        for state in states:
            yield _contest(source, options, state, ending)


def _contest(source: _Source, options: Options, state: str, ending: str) -> Contest:
    prepare = partial(_prepare, source, state)
    entrants = [
        Entrant(
            f"{engines.label(level)}, threads={threads}",
            each(partial(_build, source, threads)),
            kind="ours",
            check=source.check,
            before=partial(_prepare, source, state, level),
            single=True,
            moved=5 * source.rows * source.dim,
        )
        for level in options.levels
        for threads in sorted({1, 2, *options.threads})
    ]
    entrants += [
        Entrant(
            "cp --reflink=never, fsync",
            each(partial(_copy, source)),
            check=partial(_check_copy, source),
            before=prepare,
            single=True,
            moved=8 * source.rows * source.dim,
        ),
        Entrant(
            "limit: readv of the source",
            each(lambda _: read_through(source.path)),
            kind="limit",
            before=prepare,
            single=True,
            moved=4 * source.rows * source.dim,
        ),
        Entrant(
            "limit: write of as many bytes as the store, fsync",
            each(lambda number: write_through(source.folder / f"written-{number}", source.rows * source.dim)),
            kind="limit",
            before=prepare,
            single=True,
            moved=source.rows * source.dim,
        ),
    ]
    setting = {"rows": source.rows, "dim": source.dim, "source": ending, "state": state}
    return Contest("build", setting, entrants)


def _prepare(source: _Source, state: str, level: str | None = None) -> None:
    # What others have written must not be written back on this entrant's time.
    os.sync()
    source.warm() if state == "cached" else source.cool()
    # Last, so that memory is at hand for the page cache: a virtual machine may return what has been free for
    # two seconds to its host, and to get it back took ten times as long as to write to it.
    for path in source.folder.iterdir():
        if path != source.path:
            path.unlink()
    if level:
        engines.use(level)


def _build(source: _Source, threads: int, number: int) -> Path:
    path = source.folder / f"store-{threads}-{number}.h5"
    qstore.build(source.path, path, threads=threads)
    return path


def _copy(source: _Source, number: int) -> Path:
    path = source.folder / f"copy-{number}"
    subprocess.run(["cp", "--reflink=never", str(source.path), str(path)], check=True)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return path


def _check_copy(source: _Source, path: Path) -> None:
    with open(source.path, "rb") as one, open(path, "rb") as other:
        if one.read(BLOCK_BYTES) != other.read(BLOCK_BYTES) or os.path.getsize(path) != os.path.getsize(
            source.path
        ):
            raise WrongResult("the copy differs")
