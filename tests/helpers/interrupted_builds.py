"""What stops a build after some rows."""

from __future__ import annotations

from typing import Any

__all__ = ["Interrupt", "stop_at"]


class Interrupt(Exception):
    """Stands for whatever stops a build."""


def stop_at(rows: int) -> Any:
    def progress(done: int, total: int | None) -> None:
        if done >= rows:
            raise Interrupt

    return progress
