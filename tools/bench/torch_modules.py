"""qstore.torch side by side with torch: embeddings, bags, batches of a DataLoader, memory.

Every round times all ways once, one after the other; medians of all rounds are printed, and what they are
of ``nn.Embedding`` on float32. Batches are new random rows each time, so rows come from memory rather than
the caches once the table is large enough.

    python tools/bench/torch_modules.py [--rows 200000] [--dim 384] [--rounds 15] [--threads N]

torch splits batches over its threads and waits for the slowest: on a machine that is busy otherwise
``--threads 1`` tells more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import qstore
import qstore.torch
from qstore.environment import headline

Ways = dict[str, Callable[[Any], object]]


def main() -> None:
    """Build a table, time everything, print."""
    parser = argparse.ArgumentParser(description="qstore.torch side by side with torch.")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{headline()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{options.rows:,} rows of {options.dim}, {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="qstore-torch-") as folder:
        path = Path(folder, "table.h5")
        values = np.random.default_rng(0).standard_normal((options.rows, options.dim), np.float32)
        qstore.build(values, path)
        del values
        with qstore.open(path) as store:
            measure(store, options.rounds)


def measure(store: qstore.Store, rounds: int) -> None:
    """All tables, for one store."""
    before = private_bytes()
    ours = qstore.torch.Embedding(store)
    ours(torch.arange(len(store)))
    print(f"\nprivate memory: qstore.torch.Embedding {(private_bytes() - before) / 1e6:.0f} MB", end="")
    before = private_bytes()
    weights = torch.from_numpy(store[...])
    theirs = torch.nn.Embedding.from_pretrained(weights)
    print(f", nn.Embedding {(private_bytes() - before) / 1e6:.0f} MB")
    ways: Ways = {
        "nn.Embedding, float32": theirs,
        "qstore.torch.Embedding": ours,
        "  bfloat16": qstore.torch.Embedding(store, dtype=torch.bfloat16),
        "  float16": qstore.torch.Embedding(store, dtype=torch.float16),
        "  by way of a device": lambda rows: qstore.torch.taking.take_on_device(
            store, rows.numpy(), torch.float32, torch.device("cpu")
        ),
        "nn.Embedding, bfloat16": torch.nn.Embedding.from_pretrained(weights.bfloat16()),
        "torch.ao quantized.Embedding": torch_quantized(store),
    }
    with torch.no_grad():
        for batch in (64, 4096):
            show(f"rows/s, batches of {batch:,}", batch, embeddings(ways, len(store), batch, rounds))
        bags: Ways = {
            "nn.EmbeddingBag, float32": torch.nn.EmbeddingBag.from_pretrained(weights, mode="sum"),
            "qstore.torch.EmbeddingBag": qstore.torch.EmbeddingBag(store, "sum"),
        }
        seconds = embeddings(bags, len(store), 4096, rounds, lambda rows: rows.reshape(-1, 32))
        show("rows/s, 128 bags of 32", 4096, seconds)
    show("rows/s, one epoch of a DataLoader, 2 workers", len(store), epochs(store, weights))


def torch_quantized(store: qstore.Store) -> Any:
    """torch's own 8-bit embedding: unsigned codes, a float32 scale and zero point a row."""
    scales = torch.from_numpy(np.array(store.scales)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = torch.per_channel_affine_float_qparams
        weights = torch.quantize_per_channel(
            torch.from_numpy(store[...]), scales, torch.full_like(scales, 128.0), 0, torch.quint8
        )
        assert_kind(weights.qscheme(), kind)
        return torch.ao.nn.quantized.Embedding(*store.shape, _weight=weights)


def assert_kind(found: object, expected: object) -> None:
    """Stop if torch made another kind of tensor."""
    if found != expected:
        raise SystemExit(f"torch made {found}, expected {expected}")


def embeddings(
    ways: Ways, total: int, batch: int, rounds: int, shape: Callable[[Any], Any] = lambda rows: rows
) -> dict[str, float]:
    """Median seconds of one batch."""
    rng = np.random.default_rng(1)
    repeats = max(1, 8192 // batch)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            batches = [shape(torch.from_numpy(rng.integers(0, total, batch))) for _ in range(repeats)]
            begun = time.perf_counter()
            for rows in batches:
                way(rows)
            taken[name].append((time.perf_counter() - begun) / repeats)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def epochs(store: qstore.Store, weights: Any) -> dict[str, float]:
    """Median seconds of an epoch in random order, workers started before."""
    dataset: Any = store  # a map-style dataset that does not derive from torch's class
    common: dict[str, Any] = {"num_workers": 2, "persistent_workers": True, "shuffle": True}
    loaders = {
        "TensorDataset of float32": DataLoader(TensorDataset(weights), batch_size=4096, **common),
        "the store": DataLoader(dataset, batch_size=4096, **common),
        "the store, collate_fn=torch.from_numpy": DataLoader(
            dataset, batch_size=4096, collate_fn=torch.from_numpy, **common
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(4):
        for name, loader in loaders.items():
            begun = time.perf_counter()
            rows = sum(count_rows(loader))
            if turn:
                taken[name].append(time.perf_counter() - begun)
            if rows != len(store):
                raise SystemExit(f"{name}: {rows} rows came, expected {len(store)}")
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def count_rows(loader: Any) -> Iterator[int]:
    """Rows of each batch."""
    for batch in loader:
        yield len(batch[0] if isinstance(batch, list) else batch)


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/smaps_rollup has no line Anonymous")


def show(title: str, rows: int, seconds: dict[str, float]) -> None:
    """A table; the first way is what the others are compared with."""
    print(f"\n{title}")
    first = next(iter(seconds.values()))
    for name, median in seconds.items():
        print(f"  {name:<40} {rows / median / 1e6:8.2f} M   {first / median:5.2f}x   {median * 1e6:9.1f} us")


if __name__ == "__main__":
    main()
