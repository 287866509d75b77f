"""What a build would do, told from headers and from what an unfinished one has left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..engine.arguments import check_nonfinite
from ..engine.coding import Coding
from ..format import layout
from ..format.composition import compose
from ..keys.supply import MissingKeys, given_keys
from ..sources import QuantizedSource, Source, open_source
from ..sources.row_ranges import row_range
from ..system import durable_files
from ..system.options import flag
from ..system.reported import Reported
from ..writing.left_behind import left_behind
from ..writing.origin import Origin
from ..writing.output_paths import partial_path
from .one import (
    CHANGED,
    check_coding,
    check_places,
    identity_of,
    is_comparable,
    kind_of_keys,
    source_bytes,
)

__all__ = ["BuildPlan", "least_bytes", "plan", "planned"]


@dataclass(frozen=True, repr=False)
class BuildPlan(Reported):
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
    convention : str
        How the values are computed of several tensors of the source, in words; empty where they lie in it.
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
    convention: str = ""


def plan(
    source: Any,
    path: str | os.PathLike[str],
    *,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    overwrite: bool = False,
    resume: bool = True,
    nonfinite: Literal["error", "zero"] = "error",
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> BuildPlan:
    """Say what :func:`build` would do, from the source's header alone. Nothing is written.

    Parameters
    ----------
    source, path, tensor, join, keys, key_encoding, rows, overwrite, resume, nonfinite
        As for :func:`build`. A file of keys is read, keys are not compared.
    scale, as_stored, missing_keys, step, zero_point
        As for :func:`build`.

    Returns
    -------
    BuildPlan

    Raises
    ------
    SourceError, TensorError, ExistsError
        What :func:`build` would raise before it reads data.
    OutputError
        The disk is too small, too.
    ResumeError
        There is an unfinished build of another source, or with other parameters.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> found = plan(np.zeros((1000, 64), np.float32), os.path.join(tempfile.mkdtemp(), "ids.h5"))
    >>> found.rows, found.dim, found.source_bytes, found.file_bytes
    (1000, 64, 256000, 102760)
    """
    target = Path(os.path.abspath(path))
    resume = flag("resume", resume)
    check_places(source, target, overwrite)
    with open_source(source, tensor, join, scale, as_stored) as matrix:
        coding = Coding(step, zero_point)
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        kept = kind_of_keys(matrix, keys, stream)
        found = planned(matrix, target, rows, kept, resume, nonfinite, missing_keys, coding)
        if found.rows is not None:
            with durable_files.output_errors(target):
                size = least_bytes(matrix, first, found.rows, coding)
                durable_files.check_room(target, size, partial_path(target))
    return found


def planned(
    matrix: Source,
    path: Path,
    rows: slice | tuple[int, int] | None,
    keys: Literal["given", "own"] | None,
    resume: bool,
    nonfinite: Literal["error", "zero"],
    missing_keys: MissingKeys,
    coding: Coding,
) -> BuildPlan:
    """Plan of the store of an open source; whether the disk has room for it is another question."""
    check_nonfinite(nonfinite)
    first, last = row_range(rows, matrix.rows)
    count = None if last is None else last - first
    parameters, stamp = identity_of(matrix, first, last, keys)
    done, reason = 0, ""
    if resume and (stamp is not None or is_comparable(matrix)):
        told = {**coding.parameters(), **parameters}
        dtype = matrix.recorded_dtype
        origin = Origin.of(matrix.dim, matrix.name, dtype, nonfinite, missing_keys, told, stamp)
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
        file_bytes=None if count is None or keys is not None else least_bytes(matrix, first, count, coding),
        rows_resumed=done,
        begins_again=reason,
        free_bytes=durable_files.free_bytes(path.parent),
        convention=matrix.convention,
    )


def least_bytes(matrix: Source, first: int, rows: int, coding: Coding) -> int:
    """Size of a store of so many rows of a source from `first` on, keys left out."""
    parts = layout.Parts(fidelity=_is_measured(matrix, first, rows, coding))
    return compose(rows, matrix.dim, {"content_id": "0" * 32}, parts).size


def _is_measured(matrix: Source, first: int, rows: int, coding: Coding) -> bool:
    """Whether the store will hold errors: measured when it is built, or taken over with all codes."""
    if isinstance(matrix, QuantizedSource):
        return (first, rows) == (0, matrix.rows) and matrix.measured() is not None
    return rows > 0 and coding.rounds
