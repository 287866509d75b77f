"""Stores and torch: frozen embeddings over a store, rows as tensors on any device, codes and scales.

The other way, from a tensor to a store, needs nothing of this package: :func:`qstore.build` takes tensors.
A store also is a map-style dataset: ``torch.utils.data.DataLoader`` takes it as it is.

May use: store and everything below it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .modules import Embedding, EmbeddingBag
    from .quantized import codes_and_scales, to_quantized
    from .taking import take

__all__ = ["Embedding", "EmbeddingBag", "codes_and_scales", "take", "to_quantized"]

# The classes derive from torch's, so torch is imported when one of these names is first used.
_HOMES = {
    "Embedding": "modules",
    "EmbeddingBag": "modules",
    "codes_and_scales": "quantized",
    "take": "taking",
    "to_quantized": "quantized",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
