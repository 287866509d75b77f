"""From one source to the shards of a directory, and their manifest."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from ..engine import kernels
from ..engine.arguments import as_count
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..errors import FormatError, NonFiniteError, ResumeError, SourceError
from ..format.manifest import MANIFEST
from ..keys.equal_keys import check_duplicates
from ..keys.packed import KeyBlock, stored
from ..keys.stream import KeyPiece, KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys
from ..opening import describe_file
from ..reading.local_store import LocalStore, unkeyed_rows
from ..sources import RowSource, Source, open_source
from ..sources.pieces import Rest, range_of
from ..sources.row_ranges import row_range
from ..system import durable_files
from ..system.messages import tell, warn
from ..system.options import check_path, flag
from ..system.progress import Progress, rows_progress
from ..writing.output_paths import journal_path, partial_path
from .one import BuildReport, build, check_coding, identity_of, kind_of_keys, said_of, source_bytes
from .plans import BuildPlan, least_bytes, planned
from .publishing import publish_shards
from .shard_record import RECORD, Start, Told, add_finished, begin, mark_failed, shard_name, start_of

__all__ = ["build_shards", "joined_warnings", "plan_shards"]

# Shards whose warnings are shown; they are mostly alike.
_SHOWN = 3

# Rows whose keys are compared at a time.
_KEY_ROWS = 1 << 16


def build_shards(
    source: Any,
    directory: str | os.PathLike[str],
    shard_rows: int,
    *,
    tensor: str | None = None,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    threads: int | None = None,
    progress: Progress = None,
    overwrite: bool = False,
    resume: bool = True,
    nonfinite: Literal["error", "zero"] = "error",
    duplicates: Literal["error", "first"] = "error",
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> BuildReport:
    """Build a store of several files, ``part-00000.h5`` and so on, of so many rows each.

    The manifest that makes them one store is published last. A build that was interrupted goes on when the
    same call is made again: shards that are finished are kept where the source is an unchanged file, and are
    built again otherwise. The same source gives the same shards.

    Parameters
    ----------
    directory : path-like
        Made if it is not there.
    shard_rows : int
        Rows of each shard; the last one has what is left.
    overwrite : bool
        Replace the sharded store that is there: its manifest and shards (all ``part-*.h5``) go first. To
        replace one that is in use, build another directory.
    duplicates : {"error", "first"}
        What to do where two rows, of whichever shards, have the same key: publish no manifest, or let it
        stand for the first of them. They are looked for when all shards are there, and these stay: the same
        call with "first" goes on from there.
    source, tensor, join, scale, as_stored, keys, key_encoding, rows, threads, progress, resume, nonfinite
        As for :func:`qstore.build`.
    missing_keys, step, zero_point
        As for :func:`qstore.build`.

    Returns
    -------
    BuildReport
        Of all shards together; `path` is the directory. Warnings begin with the name of their shard.

    Raises
    ------
    QStoreError
        Whatever :func:`qstore.build` and :func:`qstore.publish_shards` raise. Finished shards then stay.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> folder = os.path.join(tempfile.mkdtemp(), "ids")
    >>> qstore.build_shards(np.eye(10, 4), folder, shard_rows=4).rows
    10
    >>> sorted(os.listdir(folder))
    ['part-00000.h5', 'part-00001.h5', 'part-00002.h5', 'qstore.json']
    """
    begun = time.perf_counter()
    place = Path(os.path.abspath(directory))
    size, coding = as_count("shard_rows", shard_rows), Coding(step, zero_point)
    check_duplicates(duplicates)
    check_path(directory)
    overwrite, resume = flag("overwrite", overwrite), flag("resume", resume)
    with open_source(source, tensor, join, scale, as_stored) as matrix:
        matrix.threads = threads
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        kept = kind_of_keys(matrix, keys, stream)
        parameters = _parameters(matrix, first, last, kept, size, nonfinite, missing_keys, coding)
        start = start_of(place, parameters, overwrite, resume)
        begin(place, parameters, start)
        options = {
            "threads": threads,
            "resume": resume,
            "nonfinite": nonfinite,
            # The same key in two rows of a shard is found with all others, by the rows' numbers in the whole.
            "duplicates": "first",
            "missing_keys": missing_keys,
            "step": step,
            "zero_point": zero_point,
        }
        count = None if last is None else last - first
        try:
            with rows_progress(progress, count, position=matrix.bytes_read) as on_rows:
                job = _Job(place, size, keys, stream, start, on_rows, options)
                for piece in _pieces(matrix, first, last, size, kept == "own"):
                    job.add(piece)
            check_all_taken(stream, first + job.rows, last, matrix)
            matrix.check_unchanged()
            shards = publish_shards(place, job.names, overwrite=True, duplicates=duplicates)
        except SourceError:
            mark_failed(place, parameters)
            raise
    durable_files.free_path(place / RECORD)
    tell(f"{place}: made of {job.rows:,} rows in {len(shards):,} shards, {job.resumed:,} rows done before")
    return BuildReport(
        path=str(place),
        tensor=matrix.name,
        source_dtype=matrix.dtype,
        rows=job.rows,
        dim=matrix.dim,
        rows_resumed=job.resumed,
        source_bytes=source_bytes(job.rows, matrix.dim, matrix.dtype),
        file_bytes=sum(os.stat(shard.path).st_size for shard in shards),
        seconds=time.perf_counter() - begun,
        engine=kernels.engine_name(),
        key_kind=describe_file(shards[0].path).key_kind,
        unkeyed_rows=job.unkeyed_rows,
        nonfinite=job.nonfinite,
        warnings=(*said_of(matrix, keys), *joined_warnings(job.warnings)),
        convention=matrix.convention,
    )


def plan_shards(
    source: Any,
    directory: str | os.PathLike[str],
    shard_rows: int,
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
    """Say what :func:`build_shards` would do, reading only headers; else as :func:`plan`.

    Parameters
    ----------
    source, directory, shard_rows, tensor, join, keys, key_encoding, rows, overwrite, resume, nonfinite
        As for :func:`build_shards`.
    scale, as_stored, missing_keys, step, zero_point
        As for :func:`build_shards`.

    Returns
    -------
    BuildPlan
        Of all shards together; `path` is the directory.
    """
    place = Path(os.path.abspath(directory))
    size, coding = as_count("shard_rows", shard_rows), Coding(step, zero_point)
    check_path(directory)
    overwrite, resume = flag("overwrite", overwrite), flag("resume", resume)
    with open_source(source, tensor, join, scale, as_stored) as matrix:
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        kept = kind_of_keys(matrix, keys, stream)
        parameters = _parameters(matrix, first, last, kept, size, nonfinite, missing_keys, coding)
        start = start_of(place, parameters, overwrite, resume)
        whole = planned(matrix, place, slice(first, last), kept, False, nonfinite, missing_keys, coding)
        there: list[Path] = []
        row, ended = first, first == last
        while not ended:
            path = place / shard_name(len(there))
            if path.name not in start.finished:
                break
            most = size if last is None else min(size, last - row)
            found = _finished_rows(path, matrix, most, exact=last is not None)
            if found is None:
                break
            there.append(path)
            row += found
            ended = found < size or row == last
        done = row - first
        if not start.fresh and not ended:
            path = place / shard_name(len(there))
            piece = next(_pieces(matrix, row, last, size, kept == "own"))
            done += planned(piece, path, None, kept, resume, nonfinite, missing_keys, coding).rows_resumed
            there.append(partial_path(path))
        heights = [] if whole.rows is None else _heights(whole.rows, size)
        sample = next(_pieces(matrix, first, last, size, kept == "own"))
        file_bytes = sum(least_bytes(sample, 0, height, coding) * times for height, times in heights)
        with durable_files.output_errors(place):
            durable_files.check_room(place / MANIFEST, file_bytes, *there)
    return dataclasses.replace(
        whole,
        file_bytes=None if whole.file_bytes is None else file_bytes,
        rows_resumed=done,
        begins_again=start.reason,
        free_bytes=durable_files.free_bytes(place),
        shards=sum(times for _, times in heights) or None,
    )


def _heights(rows: int, size: int) -> list[tuple[int, int]]:
    """How many rows shards have, and how many shards have so many."""
    whole, rest = divmod(rows, size)
    return [(size, whole)] * bool(whole) + [(rest, 1)] * bool(rest or not whole)


class _Job:
    """Builds one shard after the other, and counts."""

    def __init__(
        self,
        place: Path,
        size: int,
        keys: Any,
        stream: KeyStream | None,
        start: Start,
        on_rows: Callable[[int], object],
        options: dict[str, Any],
    ) -> None:
        self.names: list[str] = []
        self.rows = self.resumed = self.unkeyed_rows = 0
        self.nonfinite = NonFiniteValues()
        self.warnings: list[tuple[str, tuple[str, ...]]] = []
        self._place, self._size, self._keys, self._stream = place, size, keys, stream
        self._start, self._on_rows, self._options = start, on_rows, options

    def add(self, piece: Source) -> None:
        """Build the shard of the next rows, unless it is there."""
        path = self._place / shard_name(len(self.names))
        self.names.append(path.name)
        told = self._start.finished.get(path.name)
        done = None if told is None else self._finished_rows(path, piece)
        if told is not None and done is not None:
            # A journal is that of a build that was killed when it had just published.
            durable_files.free_path(journal_path(path))
            if isinstance(piece, Rest):
                piece.skip(done)
            self.resumed += done
            self._count(path.name, done, told)
            self._on_rows(done)
            return
        before = 0

        def advance(done: int, total: int | None) -> None:
            nonlocal before
            self._on_rows(done - before)
            before = done

        keys = self._keys if self._stream is None else KeyPiece(self._stream)
        try:
            report = build(piece, path, keys=keys, progress=advance, overwrite=True, **self._options)
        except NonFiniteError as error:
            raise NonFiniteError(error.value, self.rows + error.row, error.column) from None
        except SourceError as error:
            error.add_note(f"rows are counted from row {self.rows}, the first one of {path.name}")
            raise
        told = Told(report.nonfinite, report.warnings)
        add_finished(self._place, path.name, told)
        self.resumed += report.rows_resumed
        self.unkeyed_rows += report.unkeyed_rows
        self._count(path.name, report.rows, told)

    def _finished_rows(self, path: Path, piece: Source) -> int | None:
        """Rows of the shard, if it is there as it would be built."""
        found = _finished_rows(path, piece, _height(piece), exact=not isinstance(piece, Rest))
        return None if found is None or not self._has_keys(path, found) else found

    def _count(self, name: str, rows: int, told: Told) -> None:
        self.nonfinite += told.nonfinite.from_row(self.rows)
        self.warnings.append((name, told.warnings))
        self.rows += rows

    def _has_keys(self, path: Path, rows: int) -> bool:
        """Take the keys of a finished shard; False where it has others, and may.

        Raises
        ------
        ResumeError
            It has others, and the build was interrupted: it insists.
        """
        # Without any given, they come with the rows, or there are none: the parameters tell.
        if (self._keys is not None or self._stream is not None) and not self._are_given(path, rows):
            return False
        self.unkeyed_rows += unkeyed_rows(str(path))
        return True

    def _are_given(self, path: Path, rows: int) -> bool:
        """Compare the keys of a finished shard with those that are given; see :meth:`_has_keys`."""
        taken: list[KeyBlock] = []
        with closing(LocalStore(str(path))) as store:
            for start in range(0, rows, _KEY_ROWS):
                stop = min(start + _KEY_ROWS, rows)
                found = stored(store.scanned_keys(), start, stop) if store.facts.key_kind else None
                given = None if self._stream is None else self._stream.take(stop - start)
                if given is not None and self._start.failed:
                    taken.append(given)
                if (given and (given.kind, given.payload())) != (found and (found.kind, found.payload())):
                    break
            else:
                return True
        if not self._start.failed:
            raise ResumeError(
                f"the keys have changed since {path} was built: those of its rows {start} to {stop - 1} "
                f"differ; start again (--restart, resume=False)"
            )
        self._drop_from_here()
        if self._stream is not None:
            for block in reversed(taken):
                self._stream.give_back(block)
        return False

    def _drop_from_here(self) -> None:
        """Remove this shard and all finished ones behind it."""
        warn(
            f"{self._place}: goes on from row {self.rows}: the keys have changed since the build that failed"
        )
        number = len(self.names) - 1
        while (path := self._place / shard_name(number)).name in self._start.finished:
            durable_files.free_path(path)
            number += 1
        durable_files.sync_directory(self._place)


def joined_warnings(of_shards: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Warnings of shards, each behind the shard's name: of the first ones that have some."""
    warned = [(name, warnings) for name, warnings in of_shards if warnings]
    shown = [f"{name}: {text}" for name, warnings in warned[:_SHOWN] for text in warnings]
    more = len(warned) - _SHOWN
    return (*shown, f"there are warnings of {more:,} more shards") if more > 0 else tuple(shown)


def _height(piece: Source) -> int:
    rows: int | None = piece.most if isinstance(piece, Rest) else piece.rows
    return rows or 0


def _pieces(matrix: Source, first: int, last: int | None, size: int, keyed: bool) -> Iterator[Source]:
    """The source of each shard, one at least."""
    if isinstance(matrix, RowSource) and not keyed:
        end = matrix.rows if last is None else last
        for start in range(first, max(end, first + 1), size):
            yield range_of(matrix, start, min(start + size, end))
        return
    rest = Rest(matrix, first, None if last is None else last - first, size, keyed)
    yield rest
    while rest.go_on():
        yield rest


# Going on -----------------------------------------------------------------------------------------------


def _parameters(
    matrix: Source,
    first: int,
    last: int | None,
    keys: Literal["given", "own"] | None,
    size: int,
    nonfinite: str,
    missing_keys: str,
    coding: Coding,
) -> dict[str, Any]:
    parameters, stamp = identity_of(matrix, first, last, keys)
    return {
        **parameters,
        **coding.parameters(),
        "stamp": stamp,
        "tensor": matrix.name,
        "dtype": matrix.dtype,
        "dim": matrix.dim,
        "shard_rows": size,
        "nonfinite": nonfinite,
        "missing_keys": missing_keys,
    }


def _finished_rows(path: Path, matrix: Source, most: int, exact: bool) -> int | None:
    """Rows of the shard, if it is there: published whole, and the record beside it says of what.

    It has `most` rows; where the source's length is unknown the last one may have fewer.
    """
    try:
        found = describe_file(str(path), follow=False)
    except (OSError, FormatError):
        return None
    same = (found.dim, found.tensor, found.source_dtype) == (matrix.dim, matrix.name, matrix.recorded_dtype)
    fits = found.rows == most or (not exact and found.rows < most)
    return found.rows if same and fits else None
