"""How many of the nearest rows does a search on codes find? Against exact search on the values of the source.

Builds a store of one matrix in a temporary folder and takes rows of the source as queries: the same ones on
every run. The best k by the store (`store.search`, exact on the codes) are compared with the best k among the
source's own values (NumPy, every row, in float64). A query's own row is left out on both sides.

    python tools/checks/recall.py model.safetensors [--tensor NAME] [--queries 1000] [-k 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.engine.quantization import to_float64
from qstore.sources import open_source

_TOGETHER = 64


@dataclass(frozen=True)
class Recall:
    """What was found for one metric.

    Attributes
    ----------
    metric : str
    rows, dim, queries, k : int
    recall : float
        Share of the k best rows of the source that the store's k best have.
    first : float
        Share of queries whose best row is the same.
    least : float
        Recall of the worst query.
    """

    metric: str
    rows: int
    dim: int
    queries: int
    k: int
    recall: float
    first: float
    least: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both metrics and print what was found."""
    parser = argparse.ArgumentParser(prog="recall", description="Recall of search on codes.")
    parser.add_argument("path", type=Path, help="anything that qstore build takes")
    parser.add_argument("--tensor", help="which one; may be left out where only one is 2-D")
    parser.add_argument("--queries", type=int, default=1000, metavar="N")
    parser.add_argument("-k", type=int, default=10, metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    values = read_values(options.path, options.tensor)
    with tempfile.TemporaryDirectory(prefix="qstore-recall-") as folder:
        path = Path(folder, "store.h5")
        qstore.build(options.path, path, tensor=options.tensor)
        with qstore.open(path) as store:
            found = [
                recall(store, values, options.queries, options.k, metric) for metric in ("cosine", "dot")
            ]
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        shares = f"recall@{one.k} {one.recall:.4f}, the same best row {one.first:.4f}"
        asked = f"{one.rows} x {one.dim}, {one.queries} queries"
        print(f"{one.metric:<6}  {asked}: {shares}, worst query {one.least:.2f}")
    return 0


def read_values(path: Path, tensor: str | None) -> NDArray[np.float64]:
    """The matrix as it is in the source."""
    with open_source(path, tensor) as source:
        return np.concatenate([to_float64(np.asarray(chunk)) for chunk in source.chunks(0)])


def recall(
    store: qstore.Store,
    values: NDArray[np.float64],
    queries: int,
    k: int,
    metric: Literal["cosine", "dot"],
) -> Recall:
    """Of a sample of the source's rows."""
    rows = np.sort(np.random.default_rng(0).permutation(len(values))[:queries])
    k = min(k, len(values) - 1)
    found = without_own(store.search(values[rows], k + 1, metric)[1], rows)
    wanted = without_own(brute_force(values, rows, k + 1, metric), rows)
    shares = np.array([np.isin(some, others).mean() for some, others in zip(wanted, found, strict=True)])
    first = float((wanted[:, 0] == found[:, 0]).mean())
    total, dim = values.shape
    return Recall(metric, total, dim, len(rows), k, float(shares.mean()), first, float(shares.min()))


def without_own(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One column less: the query's own row, or the last where it is not there."""
    kept = [
        [row for row in some if row != own][: len(some) - 1] for some, own in zip(found, rows, strict=True)
    ]
    return np.array(kept, np.int64)


def brute_force(
    values: NDArray[np.float64], rows: NDArray[np.int64], k: int, metric: str
) -> NDArray[np.int64]:
    """The best k of all rows for each of `rows`, ties by row number."""
    if metric == "cosine":
        lengths = np.linalg.norm(values, axis=1)
        values = values / np.where(lengths == 0, 1, lengths)[:, None]
    best = []
    for start in range(0, len(rows), _TOGETHER):
        scores = values[rows[start : start + _TOGETHER]] @ values.T
        best.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(best)


if __name__ == "__main__":
    sys.exit(main())
