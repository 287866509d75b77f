"""Stores and Dask: a store as a lazy array, searched by many workers, and built by them, a shard each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building import build
    from .lazy import from_store
    from .reductions import search

__all__ = ["build", "from_store", "search"]

_HOMES = {"build": "building", "from_store": "lazy", "search": "reductions"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
