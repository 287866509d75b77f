"""Tests on the NumPy engine and on C at every level that the machine has: what the fixture `engine` needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from qstore.engine import kernels, quantization
from qstore.system import threads

__all__ = [
    "LEVELS",
    "NEEDS_EXTENSION",
    "function_fixture",
    "machine_has",
    "native",
    "running_on",
    "split_from",
]

native: Any = kernels._native
NEEDS_EXTENSION = pytest.mark.skipif(
    native is None, reason="qstore._native is not installed: NumPy engine only"
)
LEVELS = ("baseline", "avx2", "avx512")
# For tests of Hypothesis that take the fixture `engine`.
function_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def machine_has(level: str) -> bool:
    if native is None:
        return False
    before = native.level()
    try:
        native.set_level(level)
    except ValueError:
        return False
    native.set_level(before)
    return True


def running_on(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the fixture `engine` does."""
    if name == "NumPy":
        monkeypatch.setattr(kernels, "_native", None)
        monkeypatch.setattr(kernels, "_engine", quantization)
        yield "NumPy"
    elif not machine_has(name):
        if os.environ.get("QSTORE_REQUIRE_EXTENSION") == "1" and native is None:
            pytest.fail("QSTORE_REQUIRE_EXTENSION=1, but the extension is missing")
        pytest.skip("no extension" if native is None else f"this machine lacks {name}")
    else:
        before = native.level()
        native.set_level(name)
        yield f"C ({name})"
        native.set_level(before)


def split_from(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    """Let requests that read this many codes be split over threads."""
    monkeypatch.setattr(kernels, "SPLIT_VALUES", values)
    monkeypatch.setattr(threads, "SPLIT_VALUES", values)
