"""From several tensors of one source to a store each."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ..analysis.advice import build_warnings
from ..engine import kernels
from ..engine.coding import Coding
from ..errors import ExistsError, FormatError, NonFiniteError, OutputError, QStoreError, SourceError
from ..keys.supply import MissingKeys, given_keys
from ..reading.local_store import unkeyed_rows
from ..sources import (
    Choice,
    QuantizedSource,
    TensorInfo,
    is_matrix,
    list_tensors,
    open_source,
    unknown_tensor,
)
from ..sources.addresses import as_address
from ..sources.row_ranges import row_range
from ..store import Store
from ..store import open as open_store
from ..system import durable_files
from ..system.options import check_path, flag, shown
from ..system.progress import Progress, rows_progress
from ..writing.output_paths import partial_path
from .one import BuildReport, build, check_coding, check_places, kind_of_keys, said_of, source_bytes
from .plans import BuildPlan, least_bytes, planned
from .verify_against import compared_with

__all__ = ["build_all", "plan_all", "store_name"]

# Most file systems take names of 255 bytes, and a build adds ".partial".
_LONGEST_NAME = 240

Rows = slice | tuple[int, int] | None


@dataclass(frozen=True)
class _Table:
    """One tensor of the source, and its store."""

    tensor: TensorInfo
    path: Path
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.tensor.shape[1]


def build_all(
    source: Any,
    directory: str | os.PathLike[str],
    tensor: str = "*",
    *,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: Rows = None,
    threads: int | None = None,
    progress: Progress = None,
    overwrite: bool = False,
    resume: bool = True,
    nonfinite: Literal["error", "zero"] = "error",
    duplicates: Literal["error", "first"] = "error",
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> list[BuildReport]:
    """Build one store of each tensor whose name matches a pattern, named after it.

    A run that was interrupted goes on when the same call is made again: a store that is there already is
    compared with the source, and left as it is where every code agrees. Anything else that is there is
    an error before anything is written, unless `overwrite` is set: all stores are then built anew.

    Parameters
    ----------
    source : path-like
        A checkpoint whose tensors have names.
    directory : path-like
        Where the stores go; made if it is not there. Their names are those of the tensors and ``.h5``, where
        anything but ASCII letters, digits and ``_.-~`` is percent-encoded:
        ``urllib.parse.unquote(name.removesuffix(".h5"))`` gives the tensor's name back.
    tensor : str
        The name of a tensor; or, where none has it, a pattern: ``*`` stands for anything, ``?`` for one
        character, ``[…]`` for one of several. What matches but is no matrix that can be quantized is left
        out.
    scale, as_stored, keys, key_encoding
        As for :func:`qstore.build`, the same for each tensor.
    rows : slice or (start, stop), optional
        Only these rows, of each tensor.
    progress : bool or callable, optional
        True shows one bar on stderr for all; a callable gets (rows done, rows in all) of all.
    threads, overwrite, resume, nonfinite, duplicates, missing_keys, step, zero_point
        As for :func:`qstore.build`.

    Returns
    -------
    list of BuildReport
        In the order of the tensors. For a store that was left as it is, `rows_resumed` is `rows`.

    Raises
    ------
    TensorError
        No matrix matches.
    ExistsError
        Something else is at the place of a store.
    QStoreError
        Whatever :func:`qstore.build` raises, with a note that names the tensor. Stores that are finished
        then stay.

    Examples
    --------
    >>> import h5py, numpy as np, os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with h5py.File(os.path.join(folder, "model.hdf5"), "w") as file:
    ...     file["tables/user"], file["tables/item"] = np.ones((5, 3)), np.ones((9, 4))
    >>> reports = qstore.build_all(os.path.join(folder, "model.hdf5"), os.path.join(folder, "stores"))
    >>> [(os.path.basename(report.path), report.rows, report.dim) for report in reports]
    [('tables%2Fitem.h5', 9, 4), ('tables%2Fuser.h5', 5, 3)]
    """
    source = as_address(source)
    tables = _tables(source, directory, tensor, rows, Choice(scale, as_stored))
    how = {"scale": scale, "as_stored": as_stored}
    what = {"keys": keys, "key_encoding": key_encoding, "rows": rows, "missing_keys": missing_keys, **how}
    resume = flag("resume", resume)
    _check_outputs(source, tables, overwrite)
    with rows_progress(progress, sum(table.rows for table in tables)) as on_rows:
        comparison = _Comparison(source, what, nonfinite, Coding(step, zero_point), threads, on_rows)
        kept = {} if overwrite else comparison.of_all(tables)
        _make_directory(Path(directory))
        reports = []
        for table in tables:
            report = kept.get(table.path)
            if report is None:
                with _Share(on_rows, table) as share:
                    report = build(
                        source,
                        table.path,
                        tensor=table.tensor.name,
                        **what,
                        threads=threads,
                        progress=share.advance,
                        overwrite=overwrite,
                        resume=resume,
                        nonfinite=nonfinite,
                        duplicates=duplicates,
                        step=step,
                        zero_point=zero_point,
                    )
            reports.append(report)
    return reports


def plan_all(
    source: Any,
    directory: str | os.PathLike[str],
    tensor: str = "*",
    *,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: Rows = None,
    overwrite: bool = False,
    resume: bool = True,
    nonfinite: Literal["error", "zero"] = "error",
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> list[BuildPlan]:
    """Say what :func:`build_all` would do, from headers alone; stores that are there are not compared.

    Nothing is written.

    Parameters
    ----------
    source, directory, tensor, keys, key_encoding, missing_keys, rows, overwrite, resume, nonfinite
        As for :func:`build_all`.
    scale, as_stored, step, zero_point
        As for :func:`build_all`.

    Returns
    -------
    list of BuildPlan
        One of each matrix whose name matches, in the order of the tensors.

    Raises
    ------
    SourceError, TensorError, ExistsError, OutputError, ResumeError
        What :func:`build_all` would raise before it reads data.
    """
    source = as_address(source)
    tables = _tables(source, directory, tensor, rows, Choice(scale, as_stored))
    resume = flag("resume", resume)
    _check_outputs(source, tables, overwrite)
    coding = Coding(step, zero_point)
    plans, needed, held = [], 0, []
    for table in tables:
        with open_source(source, table.tensor.name, scale=scale, as_stored=as_stored) as matrix:
            check_coding(matrix, coding)
            first, last = row_range(rows, matrix.rows)
            stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
            kept = kind_of_keys(matrix, keys, stream)
            plans.append(planned(matrix, table.path, rows, kept, resume, nonfinite, missing_keys, coding))
            if overwrite or not table.path.is_file():
                needed += least_bytes(matrix, first, table.rows, coding)
                held.append(partial_path(table.path))
    with durable_files.output_errors(tables[0].path.parent):
        durable_files.check_room(tables[0].path, needed, *held)
    return plans


def store_name(tensor: str) -> str:
    """File name of the store of a tensor; no two tensors share one.

    Examples
    --------
    >>> store_name("tables.0.weight"), store_name("a/b"), store_name("a%2Fb"), store_name(".hidden")
    ('tables.0.weight.h5', 'a%2Fb.h5', 'a%252Fb.h5', '%2Ehidden.h5')
    """
    from urllib.parse import quote

    name = quote(tensor, safe="")
    return ("%2E" + name[1:] if name.startswith(".") else name) + ".h5"


def _tables(
    source: Any, directory: str | os.PathLike[str], pattern: str, rows: Rows, choice: Choice
) -> list[_Table]:
    if not isinstance(source, (str, os.PathLike)):
        raise SourceError(
            f"expected one file or checkpoint that holds several tensors, found {source!r:.200}"
        )
    if not isinstance(pattern, str):
        raise TypeError(f"tensor is {shown(pattern)}, expected a pattern of names, such as 'tables.*'")
    found = list_tensors(source, as_stored=choice.as_stored or choice.scale is not None)
    # A name may have brackets in it: what is called so is meant, and nothing else.
    matching = [info for info in found if info.name == pattern] or [
        info for info in found if fnmatchcase(info.name, pattern)
    ]
    matrices = [info for info in matching if is_matrix(info)]
    if choice.scale is not None:
        matrices = [_scaled(source, info, choice) for info in matrices if info.name != choice.scale]
    if not matrices:
        raise unknown_tensor(f"{source} (matrices only)", pattern, [i.name for i in found if is_matrix(i)])
    return [_table(source, Path(os.path.abspath(directory)), info, rows) for info in matrices]


def _scaled(source: Any, info: TensorInfo, choice: Choice) -> TensorInfo:
    """What a tensor is once it is scaled by hand."""
    with open_source(source, info.name, scale=choice.scale) as matrix:
        shape = (matrix.rows or 0, matrix.dim)
        return TensorInfo(matrix.name, shape, matrix.dtype, convention=matrix.convention)


def _table(source: Any, directory: Path, info: TensorInfo, rows: Rows) -> _Table:
    if not info.name:
        raise SourceError(f"{source} holds a matrix without a name: say which file to make, not a directory")
    path = directory / store_name(info.name)
    if len(path.name) > _LONGEST_NAME:
        raise OutputError(
            errno.ENAMETOOLONG,
            f"{path} has a name of {len(path.name)} bytes, expected at most {_LONGEST_NAME}; "
            f"build this tensor alone, under another name",
            str(path),
        )
    first, last = row_range(rows, info.shape[0])
    return _Table(info, path, (last or 0) - first)


def _check_outputs(source: Any, tables: list[_Table], overwrite: bool) -> None:
    """Everything that can be told from names and headers alone, before anything is written."""
    directory = tables[0].path.parent
    check_path(directory)
    overwrite = flag("overwrite", overwrite)
    if not os.path.lexists(directory):
        if not directory.parent.is_dir():
            raise OutputError(
                errno.ENOENT,
                f"there is no directory {directory.parent} to make {directory.name} in; create it first",
                str(directory),
            )
        return
    if not directory.is_dir():
        raise ExistsError(errno.EEXIST, f"{directory} is not a directory; name one", str(directory))
    for table in tables:
        check_places(source, table.path, overwrite or table.path.is_file())
        if table.path.is_file() and not overwrite:
            _open_existing(table).close()


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            error.errno, f"cannot make directory {directory}: {error.strerror}", str(directory)
        ) from error


def _open_existing(table: _Table) -> Store:
    """The store that is there, if it may be that of the tensor."""
    try:
        store = open_store(table.path)
    except FormatError:
        raise _in_the_way(table, "it is no store") from None
    # What is quantized already may say what it was before, or how.
    told = table.tensor.dtype == QuantizedSource.dtype or table.tensor.convention
    dtype = store.source_dtype if told else table.tensor.dtype
    found = (store.tensor, store.shape, store.source_dtype)
    expected = (table.tensor.name, table.shape, dtype)
    if found != expected:
        store.close()
        raise _in_the_way(table, f"it is a store of {found}, expected {expected}")
    return store


def _in_the_way(table: _Table, reason: str) -> ExistsError:
    return ExistsError(
        errno.EEXIST,
        f"{table.path} exists, and {reason}; pass overwrite=True (--force) to build all stores anew, "
        f"or choose another directory",
        str(table.path),
    )


@dataclass(frozen=True)
class _Comparison:
    """Stores that are there, compared with what a build would make of the source."""

    source: Any
    what: dict[str, Any]
    nonfinite: Literal["error", "zero"]
    coding: Coding
    threads: int | None
    on_rows: Callable[[int], object]

    def of_all(self, tables: list[_Table]) -> dict[Path, BuildReport]:
        """Reports of the stores that are there and hold what the source holds."""
        return {table.path: self._kept(table) for table in tables if table.path.is_file()}

    def _kept(self, table: _Table) -> BuildReport:
        begun = time.perf_counter()
        with _open_existing(table) as store, _Share(self.on_rows, table) as share:
            key_kind = store.key_kind
            found, findings = compared_with(
                store,
                self.source,
                tensor=table.tensor.name,
                join=False,
                threads=self.threads,
                progress=share.advance,
                coding=self.coding,
                **self.what,
            )
            if not found.ok:
                raise _in_the_way(table, f"its content is another: {'; '.join(found.problems)}")
            if key_kind is not None and not _has_keys(self.source, table, self.what["keys"]):
                raise _in_the_way(table, "its rows have keys, which none are given for")
            if self.nonfinite == "error" and found.nonfinite.count:
                row, column, value = found.nonfinite.first[0]
                raise NonFiniteError(float(value), row, column)
        return BuildReport(
            path=str(table.path),
            tensor=table.tensor.name,
            source_dtype=table.tensor.dtype,
            rows=table.rows,
            dim=table.shape[1],
            rows_resumed=table.rows,
            source_bytes=source_bytes(*table.shape, table.tensor.dtype),
            file_bytes=os.stat(table.path).st_size,
            seconds=time.perf_counter() - begun,
            engine=kernels.engine_name(),
            key_kind=key_kind,
            unkeyed_rows=unkeyed_rows(str(table.path)),
            nonfinite=found.nonfinite,
            warnings=(*_notes(self.source, table, self.what), *build_warnings(findings)),
            convention=table.tensor.convention,
        )


def _has_keys(source: Any, table: _Table, keys: Any) -> bool:
    if keys is not None:
        return keys is not False
    with open_source(source, table.tensor.name, as_stored=True) as matrix:
        return matrix.keyed or matrix.key_pieces() is not None


def _notes(source: Any, table: _Table, what: dict[str, Any]) -> tuple[str, ...]:
    how = {option: what[option] for option in ("scale", "as_stored")}
    with open_source(source, table.tensor.name, **how) as matrix:
        return said_of(matrix, what["keys"])


class _Share:
    """The part that one table has in the progress of all; an error inside gets the tensor's name."""

    def __init__(self, on_rows: Callable[[int], object], table: _Table) -> None:
        self._on_rows, self._table, self._done = on_rows, table, 0

    def advance(self, done: int, total: int | None) -> None:
        """Take the number of the table's rows that are done."""
        self._on_rows(done - self._done)
        self._done = done

    def __enter__(self) -> _Share:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, QStoreError):
            error.add_note(f"this was tensor {self._table.tensor.name!r}")
