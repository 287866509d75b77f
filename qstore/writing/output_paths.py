"""Where a store is built and where it is published."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ExistsError, OutputError
from ..system.options import check_path, flag

__all__ = ["check_output", "journal_path", "partial_path"]

# What is left of "s3://bucket" in an absolute path.
_LIKE_URL = re.compile(r"/[A-Za-z][\w.+-]+:/")


def partial_path(path: Path) -> Path:
    """Where a store is built until it is complete."""
    return path.with_name(path.name + ".partial")


def journal_path(path: Path) -> Path:
    """Where the progress of a build is kept until the store is published."""
    return path.with_name(path.name + ".journal")


def check_output(path: Path, overwrite: bool) -> None:
    """Raise unless a store may be published at `path`."""
    check_path(path)
    overwrite = flag("overwrite", overwrite)
    if path.is_dir():
        raise ExistsError(21, f"{path} is a directory; name a file in it", str(path))
    if not overwrite and os.path.lexists(path):
        raise ExistsError(
            17,
            f"{path} exists; pass overwrite=True (--force) to replace it or choose another name",
            str(path),
        )
    if not path.parent.is_dir():
        if _LIKE_URL.search(str(path)):
            raise OutputError(
                2,
                f"cannot write {path}: an output is a file of this machine, no URL; write one, and upload it",
                str(path),
            )
        raise OutputError(
            2, f"cannot write {path}: there is no directory {path.parent}; create it first", str(path)
        )
