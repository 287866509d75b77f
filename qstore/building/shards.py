"""From one source to the shards of a directory, and their manifest."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..engine import kernels
from ..engine.arguments import as_count
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..errors import ExistsError, FormatError, NonFiniteError, ResumeError, SourceError
from ..format.manifest import MANIFEST
from ..keys.equal_keys import check_duplicates
from ..keys.packed import stored
from ..keys.stream import KeyPiece, KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys
from ..opening import describe_file
from ..reading.local_store import LocalStore
from ..sources import RowSource, Source, open_source
from ..sources.pieces import Rest, range_of
from ..sources.row_ranges import row_range
from ..system import durable_files
from ..system.progress import Progress, rows_progress
from ..writing.output_paths import journal_path
from .one import BuildReport, build, check_coding, source_bytes
from .publishing import publish_shards

__all__ = ["build_shards", "joined_warnings", "shard_name"]

_RECORD = f"{MANIFEST}.building"
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
    source, tensor, scale, as_stored, keys, key_encoding, rows, threads, progress, resume, nonfinite
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
    with open_source(source, tensor, scale, as_stored) as matrix:
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        parameters = {**_parameters(matrix, first, last, size, nonfinite), **coding.parameters()}
        if key_encoding is not None:
            parameters["key_encoding"] = key_encoding
        finished = _begin(place, parameters, overwrite, resume)
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
        with rows_progress(progress, None if last is None else last - first) as on_rows:
            job = _Job(place, size, keys, stream, finished, on_rows, options)
            for piece in _pieces(matrix, first, last, size, matrix.keyed and keys is None):
                job.add(piece)
        check_all_taken(stream, first + job.rows, last, matrix)
        matrix.check_unchanged()
    shards = publish_shards(place, job.names, overwrite=True, duplicates=duplicates)
    durable_files.free_path(place / _RECORD)
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
        warnings=(*matrix.notes, *joined_warnings(job.warnings)),
        convention=matrix.convention,
    )


def shard_name(number: int) -> str:
    """File name of a shard: in order for those who sort names as text, up to 100,000 shards."""
    return f"part-{number:05}.h5"


class _Job:
    """Builds one shard after the other, and counts."""

    def __init__(
        self,
        place: Path,
        size: int,
        keys: Any,
        stream: KeyStream | None,
        finished: dict[str, _Told],
        on_rows: Callable[[int], object],
        options: dict[str, Any],
    ) -> None:
        self.names: list[str] = []
        self.rows = self.resumed = self.unkeyed_rows = 0
        self.nonfinite = NonFiniteValues()
        self.warnings: list[tuple[str, tuple[str, ...]]] = []
        self._place, self._size, self._keys, self._stream = place, size, keys, stream
        self._finished, self._on_rows, self._options = finished, on_rows, options

    def add(self, piece: Source) -> None:
        """Build the shard of the next rows, unless it is there."""
        path = self._place / shard_name(len(self.names))
        self.names.append(path.name)
        told = self._finished.get(path.name)
        if told is not None and _is_finished(path, piece):
            self._check_keys(path, _height(piece))
            durable_files.free_path(
                journal_path(path)
            )  # of a build that was killed when it had just published
            self.resumed += _height(piece)
            self._count(path.name, _height(piece), told)
            self._on_rows(_height(piece))
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
        told = _Told(report.nonfinite, report.warnings)
        with durable_files.output_errors(self._place), open(self._place / _RECORD, "ab") as record:
            record.write(told.line(path.name))
        self.resumed += report.rows_resumed
        self.unkeyed_rows += report.unkeyed_rows
        self._count(path.name, report.rows, told)

    def _count(self, name: str, rows: int, told: _Told) -> None:
        self.nonfinite += told.nonfinite.from_row(self.rows)
        self.warnings.append((name, told.warnings))
        self.rows += rows

    def _check_keys(self, path: Path, rows: int) -> None:
        """Take the keys of a finished shard; ResumeError where it has others."""
        arrays = LocalStore(str(path)).scanned_keys()
        for start in range(0, rows, _KEY_ROWS):
            stop = min(start + _KEY_ROWS, rows)
            given = None if self._stream is None else self._stream.take(stop - start)
            found = stored(arrays, start, stop) if arrays else None
            if (given and (given.kind, given.payload())) != (found and (found.kind, found.payload())):
                raise ResumeError(
                    f"the keys have changed since {path} was built: those of its rows {start} to {stop - 1} "
                    f"differ; start again (--restart, resume=False)"
                )
            self.unkeyed_rows += 0 if given is None else int(given.unkeyed().sum())


def joined_warnings(of_shards: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Warnings of shards, each behind the shard's name: of the first ones that have some."""
    warned = [(name, warnings) for name, warnings in of_shards if warnings]
    shown = [f"{name}: {text}" for name, warnings in warned[:_SHOWN] for text in warnings]
    more = len(warned) - _SHOWN
    return (*shown, f"there are warnings of {more:,} more shards") if more > 0 else tuple(shown)


def _height(piece: Source) -> int:
    return piece.rows or 0


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


# Beginning and going on -------------------------------------------------------------------------------


def _parameters(matrix: Source, first: int, last: int | None, size: int, nonfinite: str) -> dict[str, Any]:
    return {
        "source": matrix.fingerprint(),
        "tensor": matrix.name,
        "dtype": matrix.dtype,
        "rows": [first, last],
        "dim": matrix.dim,
        "shard_rows": size,
        "nonfinite": nonfinite,
    }


class _Told(NamedTuple):
    """What the build of a shard had to say: a line of the record, written when the shard is published."""

    nonfinite: NonFiniteValues
    warnings: tuple[str, ...]

    def line(self, name: str) -> bytes:
        """As :func:`_recorded` reads it, whatever stands before it: an interrupted line has no end."""
        told = {"shard": name, "nonfinite": self.nonfinite.encoded().decode(), "warnings": self.warnings}
        return b"\n" + json.dumps(told).encode()


def _begin(place: Path, parameters: dict[str, Any], overwrite: bool, resume: bool) -> dict[str, _Told]:
    """Make the directory ready; return which shards that are there are finished ones of an unchanged file.

    While the record is there, every shard beside it is one of the build that it describes.
    """
    record, parameters = place / _RECORD, json.loads(json.dumps(parameters))
    with durable_files.output_errors(place):
        place.mkdir(exist_ok=True)
        found, finished = _recorded(record)
        if resume and found == parameters:
            trusted = parameters["source"] is not None and "mtime_ns" in parameters["source"]
            return finished if trusted else {}
        if found is None and not overwrite:
            _check_empty(place)
        if found is not None and resume and not overwrite:
            _check_same(place, found, parameters)
        # The manifest first, and the record last: no step of this leaves shards that could be mistaken.
        for path in (place / MANIFEST, record, *place.glob("part-[0-9]*.h5*")):
            durable_files.free_path(path)
        durable_files.sync_directory(place)
        with durable_files.atomic_output(record) as file:
            file.write(json.dumps(parameters).encode())
    return {}


def _recorded(record: Path) -> tuple[dict[str, Any] | None, dict[str, _Told]]:
    """Parameters of the build that was begun, and the shards that it finished; None without a good record.

    A shard that is finished but not in the record is built again: what it told is lost.
    """
    try:
        first, *lines = record.read_bytes().split(b"\n")
        found = json.loads(first)
    except (FileNotFoundError, ValueError):
        return None, {}
    finished = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            nonfinite = NonFiniteValues.decoded(told["nonfinite"])
            if nonfinite is not None:
                finished[told["shard"]] = _Told(nonfinite, tuple(map(str, told["warnings"])))
    return (found if isinstance(found, dict) else None), finished


def _check_empty(place: Path) -> None:
    for path in (place / MANIFEST, place / shard_name(0)):
        if os.path.lexists(path):
            raise ExistsError(
                errno.EEXIST,
                f"{path} exists; pass overwrite=True (--force) to replace the shards in {place}, or choose "
                f"another directory",
                str(path),
            )


def _check_same(place: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """ResumeError where the interrupted build had other parameters; another time of change is none."""
    found, wanted = dict(found), dict(wanted)
    for one in (found, wanted):
        if isinstance(one.get("source"), dict):
            one["source"] = {name: value for name, value in one["source"].items() if name != "mtime_ns"}
    differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
    if differing:
        raise ResumeError(
            f"the build of {place} was begun with other parameters: {', '.join(differing)} differ; restore "
            f"them, or start again (--restart, resume=False)"
        )


def _is_finished(path: Path, piece: Source) -> bool:
    """Whether the shard is there: it was published whole, and the record beside it says of what."""
    if not isinstance(piece, RowSource) or not path.exists():
        return False
    try:
        found = describe_file(str(path), follow=False)
    except (OSError, FormatError):
        return False
    expected = (piece.rows, piece.dim, piece.name, piece.recorded_dtype)
    return (found.rows, found.dim, found.tensor, found.source_dtype) == expected
