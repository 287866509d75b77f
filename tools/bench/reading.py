"""Warm reads: scattered rows, one row, slices, first touch, and how their cost grows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import qstore

from . import engines
from .limits import copy_entrant
from .options import DIMS, OUTPUTS, Options
from .peers import code_readers, peer_readers
from .readers import Reader, Rows, numpy_readers, our_readers
from .rounds import Contest, Entrant, each
from .scene import Scene, check_close, check_same

__all__ = ["asked", "dims", "few", "first_touch", "matrix_rows", "outputs", "rows", "threads"]

_LARGEST_ROWS = 2_000_000
_MATRIX_ROWS = (500, 2000, 8000, 30_000, 125_000, 500_000, 2_000_000)
_FEW_ASKED = (1, 8, 16, 64)
_SHORT = 160
_NUMBERS_ASKED = (1, 4, 16, 64, 250, 1000, 4000, 16_000, 64_000)
_SLICE_ROWS = 10_000


def rows(options: Options) -> Iterator[Contest]:
    """Everything at the main size: large and small requests, fresh and into an array, one row, slices."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), options.rows, options.dim)
        others, skipped = peer_readers(scene, options)
        readers = [*our_readers(scene, options.levels), *numpy_readers(scene), *others]
        for count in options.threads:
            for number in (options.asked, 64):
                yield _gather(scene, readers, number, count, "fresh", skipped)
                yield _gather(scene, readers, number, count, "out=", skipped)
            yield _slice(scene, readers, count, skipped)
        yield _one_row(scene, readers, skipped)


def _setting(scene: Scene, asked: int, threads: int, output: str = "float32", **more: Any) -> dict[str, Any]:
    shape = {"rows": scene.rows, "dim": scene.dim, "asked": asked}
    return {**shape, "output": output, "threads": threads, **more}


def _moved(scene: Scene, reader: Reader | None, asked: int, output: str) -> int:
    item = 4 if reader and reader.kind != "ours" and reader.values is None else 1
    return asked * scene.dim * (item + np.dtype(output).itemsize)


def _check(scene: Scene, reader: Reader, rows: Rows, output: str, found: Any) -> None:
    if reader.kind == "ours":
        check_same(found, scene.oracle(rows, output))
    else:
        values = scene.values if reader.values is None else reader.values
        check_close(found, values[rows], reader.error * scene.largest)


def _check_one(scene: Scene, reader: Reader, number: int, found: Any) -> None:
    _check(scene, reader, np.array([number]), "float32", np.asarray(found)[None])


def _gather(
    scene: Scene,
    readers: list[Reader],
    asked: int,
    threads: int,
    way: str,
    skipped: dict[str, str],
    output: str = "float32",
    case: str = "gather",
    again: int | None = None,
) -> Contest:
    """Scattered rows; `again` is after how many requests the same rows are asked for."""
    requests = scene.row_sets(asked)[:again]
    entrants = []
    for reader in readers:
        if way == "out=" and reader.into is None:
            continue
        entrants.append(
            Entrant(
                reader.name,
                _gather_run(reader, requests, way, np.empty((asked, scene.dim), output)),
                kind=reader.kind,
                check=partial(_check, scene, reader, requests[0], output),
                before=reader.before,
                moved=_moved(scene, reader, asked, output),
            )
        )
    entrants.append(copy_entrant(_moved(scene, None, asked, output), threads))
    more = {} if again is None else {"again after": again}
    return Contest(case, _setting(scene, asked, threads, output, way=way, **more), entrants, skipped)


def _gather_run(reader: Reader, requests: list[Rows], way: str, out: Any) -> Any:
    take, into, count = reader.take, reader.into, len(requests)
    if way == "fresh" or into is None:
        return each(lambda number: take(requests[number % count]))
    return each(lambda number: into(requests[number % count], out))


def few(options: Options) -> Iterator[Contest]:
    """Few rows a request, far apart and in the caches: of the main size, and of 160 columns beside codes."""
    values = options.rows * options.dim
    shapes = ("few rows", options.rows, options.dim), ("few short rows", values // _SHORT, _SHORT)
    for case, count, dim in shapes:
        with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
            scene = Scene(Path(folder), max(64, count), dim)
            readers = [*our_readers(scene, options.levels), numpy_readers(scene)[0]]
            skipped: dict[str, str] = {}
            if case == "few short rows":
                others, skipped = code_readers(scene, options)
                readers += others
            for reader in readers:  # warm: all pages are mapped by now
                _read_all(reader, scene.rows)
            for number, again, way in product(_FEW_ASKED, (None, 8), ("fresh", "out=")):
                yield _gather(scene, readers, number, 1, way, skipped, case=case, again=again)


def _read_all(reader: Reader, rows: int) -> None:
    reader.before()
    for start in range(0, rows, _SLICE_ROWS):
        reader.take(np.arange(start, min(start + _SLICE_ROWS, rows)))


def _one_row(scene: Scene, readers: list[Reader], skipped: dict[str, str]) -> Contest:
    numbers = scene.row_sets(10_000)[0].tolist()

    def run(reader: Reader) -> Any:
        one_by_one = reader.one_by_one
        if one_by_one is None:
            raise TypeError(f"{reader.name} reads no single rows")

        def some(first: int, count: int) -> Any:
            start = first % (len(numbers) // 2)
            return one_by_one(numbers[start : start + count])

        return some

    entrants = [
        Entrant(
            reader.name,
            run(reader),
            kind=reader.kind,
            check=partial(_check_one, scene, reader, numbers[0]),
            before=reader.before,
            moved=_moved(scene, reader, 1, "float32"),
        )
        for reader in readers
        if reader.one_by_one
    ]
    return Contest("one row", _setting(scene, 1, 1), entrants, skipped)


def _slice(scene: Scene, readers: list[Reader], threads: int, skipped: dict[str, str]) -> Contest:
    length = min(_SLICE_ROWS, scene.rows // 2)
    starts = np.random.default_rng(5).integers(0, scene.rows - length, 64).tolist()

    def run(reader: Reader) -> Any:
        block = reader.block
        if block is None:
            raise TypeError(f"{reader.name} reads no slices")
        return each(lambda number: block(starts[number % 64], starts[number % 64] + length))

    first = np.arange(starts[0], starts[0] + length)
    entrants = [
        Entrant(
            reader.name,
            run(reader),
            kind=reader.kind,
            check=partial(_check, scene, reader, first, "float32"),
            before=reader.before,
            moved=_moved(scene, reader, length, "float32"),
        )
        for reader in readers
        if reader.block
    ]
    entrants.append(copy_entrant(_moved(scene, None, length, "float32"), threads))
    return Contest("slice", _setting(scene, length, threads), entrants, skipped)


def first_touch(options: Options) -> Iterator[Contest]:
    """Scattered rows right after opening: in the page cache, but not in this process's page tables."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), options.rows, options.dim)
        requests = scene.row_sets(options.asked)
        ours = [_touch_entrant(scene, requests, level) for level in options.levels]
        theirs = [
            _touch_memmap(scene, requests, name, path)
            for name, path in (("numpy memmap float32", scene.npy32), ("numpy memmap float16", scene.npy16))
        ]
        copy = copy_entrant(_moved(scene, None, options.asked, "float32"))
        yield Contest("first touch", _setting(scene, options.asked, 1), [*ours, *theirs, copy])


def _touch_entrant(scene: Scene, requests: list[Rows], level: str) -> Entrant:
    held: list[qstore.Store] = []

    def before() -> None:
        engines.use(level)
        held[:] = [qstore.open(scene.store_path)]

    return Entrant(
        engines.label(level),
        each(lambda number: held[0][requests[number % len(requests)]]),
        kind="ours",
        check=lambda found: check_same(found, scene.oracle(requests[0], "float32")),
        before=before,
        single=True,
        moved=_moved(scene, None, len(requests[0]), "float32"),
    )


def _touch_memmap(scene: Scene, requests: list[Rows], name: str, path: Path) -> Entrant:
    held: list[Any] = []
    return Entrant(
        name,
        each(lambda number: held[0][requests[number % len(requests)]].astype(np.float32, copy=False)),
        check=lambda found: check_close(found, scene.values[requests[0]], 1e-3 * scene.largest),
        before=lambda: held.__setitem__(slice(None), [np.load(path, mmap_mode="r")]),
        single=True,
        moved=4 * len(requests[0]) * scene.dim * 2,
    )


def _sweep(
    options: Options,
    case: str,
    shapes: list[tuple[int, int]],
    numbers: tuple[int, ...],
    threads: tuple[int, ...] = (1,),
    output: str = "float32",
    way: str = "fresh",
) -> Iterator[Contest]:
    """Large requests over shapes, sizes of request and threads; the quick peers only."""
    for count, dim in shapes:
        with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
            scene = Scene(Path(folder), count, dim)
            readers = [*our_readers(scene, options.levels, output), *numpy_readers(scene, output)[:2]]
            skipped: dict[str, str] = {}
            if output == "float32":
                others, skipped = peer_readers(scene, _quick_peers(options))
                readers += others
            for used in threads:
                for number in numbers:
                    yield _gather(scene, readers, number, used, way, skipped, output, case)


def _quick_peers(options: Options) -> Options:
    return replace(options, peers=tuple(name for name in ("torch", "faiss") if options.wants(name)))


def dims(options: Options) -> Iterator[Contest]:
    """Cost against the number of columns, the matrix's size held constant."""
    values = options.rows * options.dim
    shapes = [(min(_LARGEST_ROWS, max(64, values // dim)), dim) for dim in DIMS]
    yield from _sweep(options, "dims", shapes, (options.asked,))


def matrix_rows(options: Options) -> Iterator[Contest]:
    """Cost against the number of rows in the matrix: 128 columns."""
    counts = [count for count in _MATRIX_ROWS if count <= max(500, options.rows * options.dim // 64)]
    yield from _sweep(options, "matrix rows", [(count, 128) for count in counts], (options.asked,))


def asked(options: Options) -> Iterator[Contest]:
    """Cost against the number of rows asked for."""
    numbers = tuple(number for number in _NUMBERS_ASKED if number <= 8 * options.asked)
    yield from _sweep(options, "asked", [(options.rows, options.dim)], numbers)


def threads(options: Options) -> Iterator[Contest]:
    """Cost against the number of threads, for one and for ten times the large request."""
    used = tuple(sorted({1, 2, *options.threads}))
    numbers = (options.asked, 10 * options.asked)
    for way in ("fresh", "out="):
        yield from _sweep(options, "threads", [(options.rows, options.dim)], numbers, used, way=way)


def outputs(options: Options) -> Iterator[Contest]:
    """Large requests read as float32, float64 and float16."""
    for output in OUTPUTS:
        yield from _sweep(options, "outputs", [(options.rows, options.dim)], (options.asked,), (1,), output)
