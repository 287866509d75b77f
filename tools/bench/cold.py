"""Scattered rows of a large file that is not in the page cache."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.engine import quantization
from qstore.format import inspection

from . import engines, pagecache
from .limits import BLOCK_BYTES, read_through
from .options import Options
from .readers import Rows
from .rounds import Contest, Entrant, each
from .scene import check_same

__all__ = ["cold", "cold_few", "cold_sequential"]

_ASKED = 20_000
_FEW = 16
_CHUNK_ROWS = 1 << 14


class _Files:
    """A store of random codes and a raw float32 file of about the same size."""

    def __init__(self, folder: Path, size: int, dim: int) -> None:
        self.dim, self.rows = dim, max(64, size // dim)
        self.store, self.raw = folder / "store.h5", folder / "float32.npy"
        self.raw_rows = max(64, size // (4 * dim))
        generator = np.random.default_rng(11)
        # Blocks of one pool at random places: a disk that looks for equal or simple data finds little.
        self._pool = np.frombuffer(generator.bytes(_CHUNK_ROWS * dim * 2), np.uint8)
        self._starts = generator.integers(0, _CHUNK_ROWS * dim, -(-self.rows // _CHUNK_ROWS))
        with qstore.Writer(self.store, dim=dim, rows=self.rows) as writer:
            for first in range(0, self.rows, _CHUNK_ROWS):
                numbers = np.arange(first, min(first + _CHUNK_ROWS, self.rows))
                writer.append_codes(self._codes(numbers), self._scales(numbers))
        raw = np.lib.format.open_memmap(self.raw, "w+", np.float32, (self.raw_rows, dim))
        for first in range(0, self.raw_rows, _CHUNK_ROWS):
            numbers = np.arange(first, min(first + _CHUNK_ROWS, self.raw_rows))
            raw[first : first + len(numbers)] = self.raw_values(numbers)
        raw.flush()
        del raw
        with open(self.store, "rb") as file:
            self.extents = inspection.inspect_file(file.fileno(), str(self.store)).extents

    def _codes(self, rows: Rows) -> NDArray[np.uint8]:
        first = self._starts[rows // _CHUNK_ROWS] + rows % _CHUNK_ROWS * self.dim
        codes: NDArray[np.uint8] = self._pool[first[:, None] + np.arange(self.dim)]
        return codes

    def _scales(self, rows: Rows) -> NDArray[np.float64]:
        return np.add(rows % 97, 1.0, dtype=np.float64)

    def raw_values(self, rows: Rows) -> NDArray[np.float32]:
        """What the raw file holds."""
        return self._codes(rows).astype(np.float32)

    def codes(self, rows: Rows) -> NDArray[np.uint8]:
        """What /codes of the store holds."""
        return self._codes(rows)

    def values(self, rows: Rows) -> NDArray[np.float32]:
        """What the store must give."""
        out = np.empty((len(rows), self.dim), np.float32)
        quantization.dequantize(self._codes(rows), self._scales(rows), out)
        return out

    def touched(self, rows: Rows) -> int:
        """Bytes of the pages that codes and scales of these rows lie on."""
        codes = _pages(self.extents["codes"].offset + rows * self.dim, self.dim)
        scales = _pages(self.extents["scales"].offset + rows * 8, 8)
        return pagecache.PAGE * len(np.union1d(codes, scales))

    def raw_touched(self, rows: Rows) -> int:
        """The same for the raw file."""
        return pagecache.PAGE * len(_pages(128 + rows * self.dim * 4, self.dim * 4))


def _pages(offsets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    first, last = offsets // pagecache.PAGE, (offsets + size - 1) // pagecache.PAGE
    spans = range(int((last - first).max()) + 1)
    return np.unique(np.concatenate([np.minimum(first + step, last) for step in spans]))


class _ColdReader:
    """Opens with the file out of the page cache, and counts bytes."""

    def __init__(self, path: Path, open_it: Callable[[], Any]) -> None:
        self._path, self._open, self.held = path, open_it, None
        self._before = 0

    def before(self) -> None:
        pagecache.drop(self._path)
        self.held = self._open()
        self._before = pagecache.bytes_read()

    def after(self) -> dict[str, float]:
        count = pagecache.bytes_read() - self._before
        self.held = None  # mapped pages cannot be dropped
        return {"bytes_read": float(count)}


def _entrant(
    name: str,
    reader: _ColdReader,
    take: Callable[[Any, Rows], Any],
    requests: list[Rows],
    expected: Callable[[Rows], NDArray[Any]],
    touched: int,
    ours: bool = False,
) -> Entrant:
    return Entrant(
        name,
        # Other rows each time: the host may keep what the guest has dropped.
        each(lambda number: take(reader.held, requests[number % len(requests)])),
        kind="ours" if ours else "peer",
        check=lambda found: check_same(found, expected(requests[0])),
        before=reader.before,
        after=reader.after,
        single=True,
        moved=touched,
    )


def cold(options: Options) -> Iterator[Contest]:
    """20,000 scattered rows, with the bytes read beside the pages touched."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        files = _Files(Path(folder), options.cold_bytes, options.dim)
        generator = np.random.default_rng(13)
        asked = min(_ASKED, files.raw_rows)
        ours = list(generator.integers(0, files.rows, (options.slow_budget.most, asked)))
        raw = list(generator.integers(0, files.raw_rows, (options.slow_budget.most, asked)))
        touched, raw_touched = files.touched(ours[0]), files.raw_touched(raw[0])
        entrants = [
            _entrant(
                engines.label(level), _our_reader(files, level), _take, ours, files.values, touched, True
            )
            for level in options.levels
        ]
        entrants += [
            _entrant(name, reader, take, ours, files.codes, touched)
            for name, reader, take in _code_readers(files)
        ]
        entrants += [
            _entrant(name, _ColdReader(files.raw, opener), _take, raw, files.raw_values, raw_touched)
            for name, opener in (
                ("numpy memmap float32", partial(np.load, files.raw, mmap_mode="r")),
                ("numpy memmap float32, MADV_RANDOM", partial(_random_map, files.raw)),
            )
        ]
        setting = {"rows": files.rows, "dim": files.dim, "asked": asked, "touched": touched, "threads": 1}
        yield Contest("cold", setting, [*entrants, _disk_limit(files.store, touched)])


def cold_few(options: Options) -> Iterator[Contest]:
    """16 scattered rows, as a token asks for, with and without the scales in memory."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        files = _Files(Path(folder), options.cold_bytes, options.dim)
        ours = list(np.random.default_rng(17).integers(0, files.rows, (options.slow_budget.most, _FEW)))
        touched = files.touched(ours[0])
        entrants = [
            _entrant(f"{engines.label(level)}{said}", reader, _take, ours, files.values, touched, True)
            for level in options.levels
            for said, reader in (
                ("", _our_reader(files, level)),
                (", resident_scales", _our_reader(files, level, resident_scales=True)),
            )
        ]
        entrants += [
            _entrant(name, reader, take, ours, files.codes, touched)
            for name, reader, take in _code_readers(files)
        ]
        setting = {"rows": files.rows, "dim": files.dim, "asked": _FEW, "touched": touched, "threads": 1}
        yield Contest("cold few", setting, [*entrants, _disk_limit(files.store, touched)])


def _take(held: Any, rows: Rows) -> Any:
    return held[rows]


def _our_reader(files: _Files, level: str, resident_scales: bool = False) -> _ColdReader:
    def open_store() -> qstore.Store:
        engines.use(level)
        return qstore.open(files.store, resident_scales=resident_scales)

    return _ColdReader(files.store, open_store)


def _random_map(path: Path) -> Any:
    mapped = np.load(path, mmap_mode="r")
    mapped._mmap.madvise(mmap.MADV_RANDOM)
    return mapped


def _code_readers(files: _Files) -> list[tuple[str, _ColdReader, Callable[[Any, Rows], Any]]]:
    """Other ways to the codes alone, without the scales and without dequantizing."""
    offset, shape = files.extents["codes"].offset, (files.rows, files.dim)

    def mapped() -> Any:
        return np.memmap(files.store, np.uint8, "r", offset, shape)

    def mapped_random() -> Any:
        codes = mapped()
        codes._mmap.madvise(mmap.MADV_RANDOM)
        return codes

    def opened() -> Any:
        return open(files.store, "rb", buffering=0)

    return [
        ("numpy memmap of the codes", _ColdReader(files.store, mapped), _take),
        ("numpy memmap of the codes, MADV_RANDOM", _ColdReader(files.store, mapped_random), _take),
        ("preadv of the codes", _ColdReader(files.store, opened), partial(_preadv, offset, shape[1], 1)),
        (
            "preadv of the codes, 8 threads",
            _ColdReader(files.store, opened),
            partial(_preadv, offset, shape[1], 8),
        ),
    ]


def _preadv(offset: int, dim: int, threads: int, file: Any, rows: Rows) -> NDArray[np.uint8]:
    out, fd = np.empty((len(rows), dim), np.uint8), file.fileno()
    # The kernel would read ahead of each row: nothing that helps here.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def part(number: int) -> None:
        span = range(number, len(rows), threads)
        for place, row in zip(span, rows[number::threads].tolist(), strict=True):
            os.preadv(fd, [out[place]], offset + row * dim)

    if threads == 1:
        part(0)
    else:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(part, range(threads)))
    return out


def _disk_limit(path: Path, count: int) -> Entrant:
    reader = _ColdReader(path, lambda: None)
    room = max(1, (path.stat().st_size - count) // BLOCK_BYTES)
    return Entrant(
        "limit: readv of as many bytes in a row",
        each(lambda number: read_through(path, count, (number * 7 % room) * BLOCK_BYTES)),
        kind="limit",
        before=reader.before,
        after=reader.after,
        single=True,
        moved=count,
    )


def cold_sequential(options: Options) -> Iterator[Contest]:
    """The first part of the matrix block by block, cold."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        files = _Files(Path(folder), options.cold_bytes // 4, options.dim)
        numbers = np.arange(files.rows)
        entrants = [
            _entrant(
                engines.label(level),
                _our_reader(files, level),
                lambda store, _: [block for _, block in store.blocks()][-1][-1],
                [numbers],
                lambda rows: files.values(rows[-1:])[0],
                files.rows * (files.dim + 8),
                True,
            )
            for level in options.levels
        ]
        offset = files.extents["codes"].offset
        mapped = _ColdReader(
            files.store, lambda: np.memmap(files.store, np.uint8, "r", offset, (files.rows, files.dim))
        )
        entrants.append(
            _entrant(
                "numpy memmap of the codes, copied",
                mapped,
                lambda codes, _: [np.array(codes[a : a + 5000]) for a in range(0, files.rows, 5000)][-1][-1],
                [numbers],
                lambda rows: files.codes(rows[-1:])[0],
                files.rows * files.dim,
            )
        )
        setting = {"rows": files.rows, "dim": files.dim, "threads": 1}
        yield Contest(
            "cold sequential", setting, [*entrants, _disk_limit(files.store, files.rows * files.dim)]
        )
