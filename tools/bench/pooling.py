"""Pooled bags of rows ("embedding bag"), and quantizing in memory: FBGEMM's home ground."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import qstore
from qstore.engine import quantization

from . import engines
from .limits import copy_entrant
from .options import Options
from .peers import library
from .rounds import Contest, Entrant, each
from .scene import Scene, check_close, check_same

__all__ = ["pool", "quantize"]

_POOL_DIM = 128
_QUANTIZE_ROWS = 50_000


def pool(options: Options) -> Iterator[Contest]:
    """Sums of bags of scattered rows, as in a recommender's lookup."""
    for rows in options.pool_rows:
        with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
            scene = Scene(Path(folder), rows, _POOL_DIM)
            for threads in options.threads:
                yield _pool(scene, options, threads)


def _pool(scene: Scene, options: Options, threads: int) -> Contest:
    requests = scene.row_sets(options.bags * options.bag_rows)
    offsets = np.arange(0, options.bags * options.bag_rows, options.bag_rows)
    moved = options.bags * _POOL_DIM * (options.bag_rows + 4)
    entrants = [_our_pool(scene, requests, offsets, level, threads, moved) for level in options.levels]
    entrants.append(_numpy_pool(scene, requests, offsets))
    skipped = {}
    if options.wants("torch"):
        try:
            entrants += _torch_pools(scene, requests, offsets, moved)
        except ImportError as error:
            skipped["torch"] = str(error)
    setting = {"rows": scene.rows, "dim": scene.dim, "bags": options.bags, "bag_rows": options.bag_rows}
    limit = copy_entrant(moved, threads)
    return Contest("pool", {**setting, "threads": threads}, [*entrants, limit], skipped)


def _our_pool(
    scene: Scene, requests: list[Any], offsets: Any, level: str, threads: int, moved: int
) -> Entrant:
    store = qstore.open(scene.store_path)

    def check(found: Any) -> None:
        expected = np.empty((len(offsets), scene.dim), np.float32)
        quantization.pool(store.codes, store.scales, requests[0], offsets, None, "sum", expected)
        check_same(found, expected)

    return Entrant(
        engines.label(level),
        each(lambda number: store.pool(requests[number % len(requests)], offsets, threads=threads)),
        kind="ours",
        check=check,
        before=partial(engines.use, level),
        moved=moved,
    )


def _close_pool(scene: Scene, rows: Any, offsets: Any, found: Any) -> None:
    # Errors of 8-bit codes add up over a bag, at worst all in one direction.
    length = len(rows) // len(offsets)
    some = slice(0, min(len(offsets), 256))
    expected = scene.values[rows.reshape(-1, length)[some]].sum(axis=1, dtype=np.float64)
    check_close(np.asarray(found)[some], expected, length * scene.largest / 127)


def _numpy_pool(scene: Scene, requests: list[Any], offsets: Any) -> Entrant:
    mapped = np.load(scene.npy32, mmap_mode="r")
    return Entrant(
        "numpy memmap float32, add.reduceat",
        each(lambda number: np.add.reduceat(mapped[requests[number % len(requests)]], offsets)),
        check=lambda found: _close_pool(scene, requests[0], offsets, found),
        moved=4 * scene.dim * (len(requests[0]) + len(offsets)),
    )


def _torch_pools(scene: Scene, requests: list[Any], offsets: Any, moved: int) -> list[Entrant]:
    torch = library("torch")
    values = torch.from_numpy(scene.values)
    packed = torch.ops.quantized.embedding_bag_byte_prepack(values)
    lookup = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
    entrants = []
    for name, kind in (("int64", torch.int64), ("int32", torch.int32)):
        rows = [torch.from_numpy(request).to(kind) for request in requests]
        starts = torch.from_numpy(offsets).to(kind)
        entrants.append(
            Entrant(
                f"torch embedding_bag_byte_rowwise_offsets, {name}",
                each(partial(_lookup, lookup, packed, rows, starts)),
                check=lambda found: _close_pool(scene, requests[0], offsets, found),
                moved=moved,
            )
        )
    plain = torch.nn.functional.embedding_bag
    rows, starts = [torch.from_numpy(request) for request in requests], torch.from_numpy(offsets)
    float_pool = Entrant(
        "torch embedding_bag float32",
        each(lambda number: plain(rows[number % len(rows)], values, starts, mode="sum")),
        check=lambda found: _close_pool(scene, requests[0], offsets, found),
        moved=4 * scene.dim * (len(requests[0]) + len(offsets)),
    )
    return [*entrants, float_pool]


def _lookup(operation: Any, packed: Any, requests: list[Any], offsets: Any, number: int) -> Any:
    return operation(packed, requests[number % len(requests)], offsets)


def quantize(options: Options) -> Iterator[Contest]:
    """Quantize a matrix that is in memory."""
    rows = min(_QUANTIZE_ROWS, options.rows)
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        scene = Scene(Path(folder), rows, options.dim)
        for threads in options.threads:
            yield _quantize(scene, options, threads)


def _quantize(scene: Scene, options: Options, threads: int) -> Contest:
    values, moved = scene.values, 5 * scene.values.size
    out = np.empty(values.shape, np.uint8), np.empty(len(values))
    expected = np.empty(values.shape, np.uint8), np.empty(len(values))
    quantization.quantize(values, *expected, False)

    def check(found: Any) -> None:
        check_same(found[0], expected[0])
        check_same(found[1], expected[1])

    entrants = []
    for level in options.levels:
        for name, given in ((engines.label(level), None), (f"{engines.label(level)}, out=", out)):
            entrants.append(
                Entrant(
                    name,
                    each(partial(_quantize_into, values, given)),
                    kind="ours",
                    check=check,
                    before=partial(engines.use, level),
                    moved=moved,
                )
            )
    skipped = {}
    for make in (_torch_quantizers, _faiss_quantizer):
        try:
            entrants += make(scene, moved, options)
        except ImportError as error:
            skipped[make.__name__.split("_")[1]] = str(error)
    setting = {"rows": scene.rows, "dim": scene.dim, "threads": threads}
    return Contest("quantize", setting, [*entrants, copy_entrant(moved, threads)], skipped)


def _quantize_into(values: Any, out: Any, _: int) -> Any:
    return qstore.quantize(values, out=out)


def _torch_quantizers(scene: Scene, moved: int, options: Options) -> list[Entrant]:
    if not options.wants("torch"):
        return []
    torch = library("torch")
    values = torch.from_numpy(scene.values)
    pack = torch.ops.quantized.embedding_bag_byte_prepack

    def check_packed(packed: Any) -> None:
        codes, parts = packed[:, : scene.dim].numpy(), packed[:, scene.dim :].numpy().copy().view(np.float32)
        check_close(codes * parts[:, :1] + parts[:, 1:], scene.values, scene.largest / 127)

    def per_channel(_: int) -> Any:
        scales = values.abs().amax(1).double() / 127
        return torch.quantize_per_channel(values, scales, torch.full_like(scales, 128), 0, torch.quint8)

    return [
        Entrant(
            "torch embedding_bag_byte_prepack", each(lambda _: pack(values)), check=check_packed, moved=moved
        ),
        Entrant(
            "torch quantize_per_channel",
            each(per_channel),
            check=lambda found: check_close(found.dequantize(), scene.values, scene.largest / 127),
            moved=moved,
        ),
    ]


def _faiss_quantizer(scene: Scene, moved: int, options: Options) -> list[Entrant]:
    if not options.wants("faiss"):
        return []
    faiss = library("faiss")
    index = faiss.IndexScalarQuantizer(scene.dim, faiss.ScalarQuantizer.QT_8bit)
    index.train(scene.values)
    return [
        Entrant(
            "faiss SQ8 sa_encode",
            each(lambda _: index.sa_encode(scene.values)),
            check=lambda found: check_close(index.sa_decode(found), scene.values, 1.1 * scene.largest / 127),
            moved=moved,
        )
    ]
