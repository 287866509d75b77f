"""What a build would do, told from headers and from what an unfinished one has left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..format import layout
from ..format.composition import compose
from ..keys.supply import given_keys
from ..sources import QuantizedSource, Source, open_source
from ..sources.row_ranges import row_range
from ..system import durable_files
from ..writing.left_behind import left_behind
from ..writing.origin import Origin
from ..writing.output_paths import partial_path
from .one import CHANGED, check_places, identity_of, is_comparable, kind_of_keys, source_bytes

__all__ = ["BuildPlan", "least_bytes", "plan", "planned"]


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do, as `qstore build --dry-run` prints it.

    Attributes
    ----------
    path : str
        The store to make.
    tensor, source_dtype : str
        Name and element type of the source matrix.
    rows : int or None
        None where only reading to the end can tell.
    dim : int
    source_bytes, file_bytes : int or None
        Size of the matrix in its source's type, and of the store; that is unknown where rows have keys, too.
    rows_resumed : int
        Rows that an unfinished build has done, as its journal tells: the build looks at them again.
    begins_again : str
        Why rows that an unfinished build has done are of no use; empty where it is not so.
    free_bytes : int or None
        Free space where the store is to be made.
    shards : int or None
        Number of files, of a store of several.
    """

    path: str
    tensor: str
    source_dtype: str
    rows: int | None
    dim: int
    source_bytes: int | None
    file_bytes: int | None
    rows_resumed: int = 0
    begins_again: str = ""
    free_bytes: int | None = None
    shards: int | None = None


def plan(
    source: Any,
    path: str | os.PathLike[str],
    *,
    tensor: str | None = None,
    keys: Any = None,
    rows: slice | tuple[int, int] | None = None,
    overwrite: bool = False,
    resume: bool = True,
    nonfinite: Literal["error", "zero"] = "error",
) -> BuildPlan:
    """Say what :func:`build` would do, reading only the source's header; raises what it would raise at once.

    Nothing is written. A disk that is too small is an `OutputError`, an unfinished build of another source or
    with other parameters a `ResumeError`.
    """
    target = Path(os.path.abspath(path))
    check_places(source, target, overwrite)
    with open_source(source, tensor) as matrix:
        kept = kind_of_keys(matrix, keys, given_keys(keys, matrix, row_range(rows, matrix.rows)[0]))
        found = planned(matrix, target, rows, kept, resume, nonfinite)
        if found.rows is not None:
            with durable_files.output_errors(target):
                size = least_bytes(matrix, found.rows)
                durable_files.check_room(target, size, partial_path(target))
    return found


def planned(
    matrix: Source,
    path: Path,
    rows: slice | tuple[int, int] | None,
    keys: Literal["given", "own"] | None,
    resume: bool,
    nonfinite: Literal["error", "zero"],
) -> BuildPlan:
    """Plan of the store of an open source; whether the disk has room for it is another question."""
    first, last = row_range(rows, matrix.rows)
    count = None if last is None else last - first
    parameters, stamp = identity_of(matrix, first, last, keys)
    done, reason = 0, ""
    if resume and (stamp is not None or is_comparable(matrix)):
        origin = Origin.of(matrix.dim, matrix.name, matrix.dtype, nonfinite, parameters, stamp)
        done, stale, reason = left_behind(path, origin, count)
        if done and stale and not is_comparable(matrix):
            done, reason = 0, CHANGED
    return BuildPlan(
        path=str(path),
        tensor=matrix.name,
        source_dtype=matrix.dtype,
        rows=count,
        dim=matrix.dim,
        source_bytes=None if count is None else source_bytes(count, matrix.dim, matrix.dtype),
        file_bytes=None if count is None or keys is not None else least_bytes(matrix, count),
        rows_resumed=done,
        begins_again=reason,
        free_bytes=durable_files.free_bytes(path.parent),
    )


def least_bytes(matrix: Source, rows: int) -> int:
    """Size of a store of so many rows of a source, keys left out."""
    parts = layout.Parts(fidelity=rows > 0 and not isinstance(matrix, QuantizedSource))
    return compose(rows, matrix.dim, {"content_id": "0" * 32}, parts).size
