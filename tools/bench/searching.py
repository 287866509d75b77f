"""Exact search over all rows: one query, and 64 together."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore

from . import engines
from .options import Options
from .peers import library
from .rounds import Contest, Entrant, WrongResult, each
from .scene import Scene, normal_values

__all__ = ["search"]

_BEST = 10
_THREADS = (1, 2)
Search = Callable[[NDArray[np.float32]], Any]


def search(options: Options) -> Iterator[Contest]:
    """The best 10 rows by scalar product."""
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), options.rows, options.dim)
        peers, skipped = _peers(scene, options)
        for count in (1, 64):
            yield _search(scene, options, count, peers, skipped)


def _search(
    scene: Scene, options: Options, count: int, peers: dict[str, Search], skipped: dict[str, str]
) -> Contest:
    requests = list(normal_values(8 * count, scene.dim, 2).reshape(8, count, scene.dim))
    store = qstore.open(scene.store_path)
    entrants = [
        Entrant(
            f"{engines.label(level)}, threads={threads}",
            _each_request(partial(_our_search, store, threads), requests),
            kind="ours",
            check=lambda found: _check_ours(store, requests[0], found),
            before=partial(engines.use, level),
            moved=store.codes.nbytes,
        )
        for level in options.levels
        if count == 1 or level != "numpy"  # 64 queries take it seconds
        for threads in sorted({*_THREADS, *options.threads})
    ]
    entrants += [
        Entrant(
            name,
            _each_request(find, requests),
            check=lambda found: _check_peer(scene, requests[0], found),
            moved=store.codes.nbytes,
        )
        for name, find in peers.items()
    ]
    setting = {"rows": scene.rows, "dim": scene.dim, "queries": count, "threads": 1}
    limits = [_read_entrant(store.codes, threads) for threads in _THREADS]
    return Contest("search", setting, [*entrants, *limits], skipped)


def _each_request(find: Search, requests: list[NDArray[np.float32]]) -> Any:
    return each(lambda number: find(requests[number % len(requests)]))


def _our_search(store: qstore.Store, threads: int, queries: NDArray[np.float32]) -> Any:
    return store.search(queries, _BEST, "dot", threads=threads)


def _check_ours(store: qstore.Store, queries: NDArray[np.float32], found: Any) -> None:
    wanted = queries.astype(np.float64)
    scores = np.concatenate([wanted @ block.T for _, block in store.astype("float64").blocks()], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_BEST]
    if not np.array_equal(found[1], order):
        raise WrongResult("the rows found differ from brute force on the float64 values")
    if not np.allclose(found[0], np.take_along_axis(scores, order, 1), rtol=1e-12):
        raise WrongResult("a score differs from brute force on the float64 values")


def _check_peer(scene: Scene, queries: NDArray[np.float32], rows: Any) -> None:
    """Another 8-bit code leads to other rows here and there: most must be among the best 20."""
    scores = scene.values @ queries[0]
    best = np.argsort(-scores, kind="stable")[: 2 * _BEST]
    if np.isin(np.asarray(rows)[0], best).mean() < 0.8:
        raise WrongResult(f"found rows {rows[0]}, expected some of {best}")


def _read_entrant(codes: NDArray[np.uint8], threads: int) -> Entrant:
    """Reading the codes once, as 64-bit words."""
    flat = codes.reshape(-1)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    bounds = [words.size * part // threads for part in range(threads + 1)]
    parts = [words[bounds[part] : bounds[part + 1]] for part in range(threads)]
    executor = ThreadPoolExecutor(threads)

    def read(number: int) -> Any:
        return words.sum() if threads == 1 else list(executor.map(np.sum, parts))

    return Entrant(f"limit: codes read once, threads={threads}", each(read), kind="limit", moved=codes.nbytes)


def _peers(scene: Scene, options: Options) -> tuple[dict[str, Search], dict[str, str]]:
    found: dict[str, Search] = {}
    skipped: dict[str, str] = {}
    for name, make in {"faiss": _faiss, "usearch": _usearch}.items():
        try:
            if options.wants(name):
                found |= make(scene)
        except ImportError as error:
            skipped[name] = str(error)
    return found, skipped


def _faiss(scene: Scene) -> dict[str, Search]:
    faiss = library("faiss")
    index = faiss.IndexScalarQuantizer(scene.dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(scene.values)
    index.add(scene.values)
    return {"faiss SQ8 inner product": lambda queries: index.search(queries, _BEST)[1]}


def _usearch(scene: Scene) -> dict[str, Search]:
    """Codes with one scale for all rows, as it knows of none; scalar products keep their order then."""
    exact, metrics = library("usearch.index").search, library("usearch.index").MetricKind
    codes = np.rint(scene.values * (127 / scene.largest)).astype(np.int8)

    def find(queries: NDArray[np.float32]) -> Any:
        coded = np.rint(queries * (127 / np.abs(queries).max())).astype(np.int8)
        return exact(codes, coded, _BEST, metrics.IP, exact=True, threads=1).keys.reshape(len(queries), -1)

    return {"usearch exact i8": find}
