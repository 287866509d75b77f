"""The qstore command in tests: how one ended, and one in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import qstore

__all__ = ["Result", "Run", "start"]


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


def start(*words: object, code: str | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process of the command, or of `code`, which finds the words in sys.argv."""
    program = ["-m", "qstore"] if code is None else ["-c", code]
    package = str(Path(qstore.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": package},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
