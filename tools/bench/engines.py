"""Which of qstore's engines runs, and how many threads everybody may use."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from qstore.engine import kernels, quantization
from qstore.system import threads

__all__ = ["LEVELS", "available_levels", "label", "use", "use_threads"]

LEVELS = ("avx512", "avx2", "baseline", "numpy")

_extension: Any = kernels._native


def available_levels() -> list[str]:
    """Levels that work here, the best first."""
    return [level for level in LEVELS if _works(level)]


def _works(level: str) -> bool:
    if level == "numpy":
        return True
    if _extension is None:
        return False
    before = _extension.level()
    try:
        _extension.set_level(level)
    except ValueError:
        return False
    finally:
        _extension.set_level(before)
    return True


def label(level: str) -> str:
    """Name of qstore with this engine in tables."""
    return "qstore (NumPy)" if level == "numpy" else f"qstore ({level})"


def use(level: str) -> None:
    """Make qstore run on this engine from now on, as if the process had started with it."""
    if level == "numpy":
        kernels._native, kernels._engine = None, quantization
    else:
        kernels._native = kernels._engine = _extension
        _extension.set_level(level)


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Let qstore, torch and faiss use this many threads where the caller says nothing."""
    before = threads.processors
    threads.processors = lambda: count
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(count)
    try:
        yield
    finally:
        threads.processors = before
