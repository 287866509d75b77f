"""Do the values of a store fit a type? Told from the scales, and exactly where these leave it open."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..engine.narrowing import Narrowing, may_lose, narrowed
from ..errors import NoViewError
from ..store import Store

__all__ = ["losses"]

# Values of one block, as float64: 8 MiB.
_BLOCK_VALUES = 1 << 20


def losses(store: Store, first: int, last: int, dtype: str) -> Narrowing:
    """What `dtype` does to the rows `first` to before `last`; values are read where scales are extreme."""
    found, dim = Narrowing(), store.shape[1]
    step = max(1, _BLOCK_VALUES // dim)
    exact = store.astype("float64")
    for start in range(first, last, step):
        stop = min(start + step, last)
        if may_lose(_scales(store, start, stop), dtype):
            found += narrowed(exact[start:stop], dtype, range(start, stop), range(dim))[1]
    return found


def _scales(store: Store, start: int, stop: int) -> NDArray[np.float64]:
    try:
        return store.scales[start:stop]
    except NoViewError:  # several files
        return np.concatenate([part.scales for part in store.parts(start, stop)])
