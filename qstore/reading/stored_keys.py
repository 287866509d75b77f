"""The keys of a store as a sequence, read where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..keys.lookup import MISSING
from .backing import Backing
from .rows_by_key import key_of

__all__ = ["StoredKeys"]

# Keys read at a time where all are walked.
_BLOCK = 1 << 16


class StoredKeys(Sequence[Any]):
    """The keys of the rows 0 to N - 1, as :meth:`.Store.keys` gives them: nothing is read before it is used.

    ``keys[7]``, ``keys[:10]`` and ``keys[[3, 1]]`` are what :meth:`.Store.key_of` gives, ``"queen" in keys``
    looks it up, and iterating reads some at a time. None stands for a row without a key.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._index = backing.key_index()

    def __len__(self) -> int:
        return self._backing.facts.rows

    def __getitem__(self, row: Any) -> Any:
        return key_of(self._backing, row)

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), _BLOCK):
            yield from list(self._index.keys_between(first, min(first + _BLOCK, len(self))))

    def __contains__(self, key: object) -> bool:
        kinds: Any = str if self._index.kind == "text" else (int, np.integer)
        if not isinstance(key, kinds) or isinstance(key, bool):
            return False
        return bool(self._index.row_of(key) != MISSING)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the keys of a store become an array by being read: copy=False cannot be had")
        keys = self[:]
        try:
            return np.array(keys, dtype or (None if isinstance(keys, np.ndarray) else object))
        except ValueError as error:
            kind = "whole numbers" if isinstance(keys, np.ndarray) else "texts"
            raise ValueError(f"the keys are {kind}, expected a dtype that holds all: {error}") from None

    def __repr__(self) -> str:
        what = "texts" if self._index.kind == "text" else "whole numbers"
        return f"<keys of {self._backing.path}: {len(self)} rows, {what}>"
