"""A store in six shards, one of them empty, beside the matrix it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import qstore

__all__ = ["CUTS", "DIM", "ROWS", "make_shards", "published", "read_all", "ways_to_open"]

ROWS, DIM = 3001, 48
CUTS = (0, 700, 701, 701, 1500, 2999, ROWS)


def make_shards(folder: Path, values: NDArray[Any], cuts: tuple[int, ...] = CUTS) -> list[str]:
    """Build a store of each piece of a matrix; their names."""
    folder.mkdir(exist_ok=True)
    names = [f"part-{number}.h5" for number in range(len(cuts) - 1)]
    for name, start, stop in zip(names, cuts, cuts[1:], strict=False):
        qstore.build(values[start:stop], folder / name)
    return names


def published(folder: Path, values: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    make_shards(folder, values)
    qstore.publish_shards(folder)
    return folder


def ways_to_open(folder: Path) -> dict[str, Any]:
    """What opens these shards as one store, by each of the ways to say which."""
    return {
        "directory": folder,
        "list": [folder / f"part-{number}.h5" for number in range(6)],
        "pattern": str(folder / "part-*.h5"),
    }


def read_all(folder: Path) -> None:
    with qstore.open(folder) as store:
        store[:]
