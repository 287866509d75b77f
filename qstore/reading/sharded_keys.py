"""Key ↔ row of a store in several files, each with an index of its own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine.part_kernels import by_part
from ..keys.lookup import MISSING, KeyIndex
from .shard_files import ShardFiles

__all__ = ["ShardedKeys"]

Rows = NDArray[np.int64]


class ShardedKeys(KeyIndex):
    """The keys of all shards: one after the other is asked for what the ones before do not have.

    Where two shards have the same key, it stands for the row in the first of them.
    """

    def __init__(self, path: str, kind: Literal["text", "integer"], files: ShardFiles) -> None:
        super().__init__(path, {})
        self.kind = kind
        self._files = files
        self._firsts = np.array([shard.first for shard in files.shards], np.int64)
        self._total = sum(shard.rows for shard in files.shards)

    def rows_of(self, keys: Any) -> Rows:
        """See :meth:`.KeyIndex.rows_of`."""
        found: Rows | None = None
        for number, shard in enumerate(self._files.shards):
            if not shard.rows:
                continue
            if found is None:
                found = self._placed(number, keys)
                continue
            missing = np.flatnonzero(found == MISSING)
            if not missing.size:
                break
            some = keys[missing] if isinstance(keys, np.ndarray) else [keys[at] for at in missing.tolist()]
            found[missing] = self._placed(number, some)
        return np.full(len(keys), MISSING, np.int64) if found is None else found

    def _placed(self, number: int, keys: Any) -> Rows:
        rows = self._files.get(number).key_index().rows_of(keys)
        rows[rows != MISSING] += self._files.shards[number].first
        return rows

    def keys_of(self, rows: Rows) -> list[str | None] | Rows:
        """See :meth:`.KeyIndex.keys_of`."""
        out = np.empty(len(rows), object if self.kind == "text" else np.int64)
        for number, at, local in by_part(self._firsts, self._total, rows):
            out[at] = self._files.get(number).key_index().keys_of(local)
        return out.tolist() if self.kind == "text" else out

    def unkeyed_rows(self) -> int:
        """See :meth:`.KeyIndex.unkeyed_rows`."""
        shards = enumerate(self._files.shards)
        return sum(
            self._files.get(number).key_index().unkeyed_rows() for number, shard in shards if shard.rows
        )

    def keys_between(self, first: int, last: int) -> list[str | None] | Rows:
        """See :meth:`.KeyIndex.keys_between`."""
        pieces: list[Any] = []
        for number, shard in enumerate(self._files.shards):
            start, stop = max(first, shard.first), min(last, shard.first + shard.rows)
            if start < stop:
                index = self._files.get(number).key_index()
                pieces.append(index.keys_between(start - shard.first, stop - shard.first))
        if self.kind == "text":
            return [key for piece in pieces for key in piece]
        return np.concatenate([np.empty(0, np.int64), *pieces])
