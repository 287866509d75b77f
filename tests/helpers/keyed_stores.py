"""Small stores whose rows have keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import qstore

__all__ = ["TWINS", "keyed"]

# Two texts with one hash, 0: whatever follows them, they still have one.
TWINS = ("77kepQFQ8Kl", "!0IC=VloaY")


def keyed(path: Path, keys: Any, dim: int = 2, **options: Any) -> qstore.Store:
    """A store of as many rows as there are keys; row r holds r + 1."""
    rows = np.repeat(np.arange(1.0, len(keys) + 1)[:, None], dim, axis=1)
    qstore.build(rows.astype(np.float32), path, keys=keys, overwrite=True, **options)
    return qstore.open(path)
