"""What the command line settles for all cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .rounds import Budget

__all__ = ["DIMS", "OUTPUTS", "Options"]

DIMS = (16, 64, 128, 300, 768, 1024, 4096)
OUTPUTS = ("float32", "float64", "float16")


@dataclass(frozen=True)
class Options:
    """Sizes, engines and peers of a run.

    Attributes
    ----------
    folder : Path
        For the files: on the disk that is to be measured.
    rows, dim : int
        Shape of the matrix. Cases that vary one of them keep the product.
    asked : int
        Rows of a large request.
    bags, bag_rows : int
        Number of bags to pool, and rows of each.
    pool_rows : tuple of int
        Rows of the matrices to pool from.
    cold_bytes, build_bytes : int
        Size of the files that are read cold, and of the source of a build.
    huge_rows : int
        Rows of the store that is mostly a hole, 256 columns each.
    levels : tuple of str
        Engines of qstore, the best first.
    threads : tuple of int
    peers : tuple of str or None
        Only these libraries; None for all.
    budget, slow_budget : Budget
        For work of milliseconds, and of seconds.
    """

    folder: Path
    rows: int = 200_000
    dim: int = 768
    asked: int = 10_000
    bags: int = 4096
    bag_rows: int = 40
    pool_rows: tuple[int, ...] = (200_000, 2_000_000)
    cold_bytes: int = 4 << 30
    build_bytes: int = 4 << 30
    huge_rows: int = 1 << 32
    levels: tuple[str, ...] = ("numpy",)
    threads: tuple[int, ...] = (1,)
    peers: tuple[str, ...] | None = None
    budget: Budget = field(default=Budget(6.0, 5, 400))
    slow_budget: Budget = field(default=Budget(30.0, 5, 20))

    def wants(self, library: str) -> bool:
        """Whether this peer takes part."""
        return self.peers is None or library in self.peers
