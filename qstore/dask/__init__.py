"""Stores and Dask: stores as lazy arrays, and built, searched and surveyed by many workers.

Comes in: a store or a Dask array. Goes out: lazy arrays and delayed results whose tasks open the store
where they run; sharded stores. Dask is imported only where this is used.

May use: building and everything below it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building import build
    from .lazy import from_store
    from .reductions import search, stats

__all__ = ["build", "from_store", "search", "stats"]

_HOMES = {"build": "building", "from_store": "lazy", "search": "reductions", "stats": "reductions"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
