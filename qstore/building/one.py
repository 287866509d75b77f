"""From a source to a store: the main job, end to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..engine import kernels
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..engine.quantization import item_size
from ..errors import SourceError
from ..format import layout
from ..format.composition import compose
from ..keys.packed import KeyKind
from ..keys.stream import KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys, inline_keys
from ..sources import QuantizedSource, RowSource, Source, are_paths, open_source
from ..sources.row_ranges import limited, row_range
from ..system.progress import Progress, rows_progress
from ..system.urls import without_file_scheme
from ..writer import Writer
from ..writing.output_paths import check_output

__all__ = [
    "BuildPlan",
    "BuildReport",
    "build",
    "check_coding",
    "check_places",
    "plan",
    "planned",
    "source_bytes",
]


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
    convention: str = ""


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes
    ----------
    path : str
        The published store.
    tensor, source_dtype : str
        Name and element type of the source matrix.
    rows, dim : int
        Shape of the matrix.
    rows_resumed : int
        Rows an interrupted build had done before.
    source_bytes, file_bytes : int
        Size of the matrix in its source's type, and of the store.
    seconds : float
        Wall-clock time.
    engine : str
        Name of the kernel engine that was used.
    key_kind : {"text", "integer"} or None
        What the keys of the rows are, if they have any.
    unkeyed_rows : int
        Rows that have no key, where the others have one.
    nonfinite : NonFiniteValues
        Values that were NaN or infinite and are stored as 0 (``nonfinite="zero"``): how many, and where the
        first ones are. Of all rows, also of those that an interrupted build had done before.
    warnings : tuple of str
        What deserves a look, in words: values that 8 bits keep badly, or would keep without loss.
    convention : str
        How the values are computed of several tensors of the source, in words; empty where they lie in it.
    """

    path: str
    tensor: str
    source_dtype: str
    rows: int
    dim: int
    rows_resumed: int
    source_bytes: int
    file_bytes: int
    seconds: float
    engine: str
    key_kind: KeyKind | None = None
    unkeyed_rows: int = 0
    nonfinite: NonFiniteValues = field(default_factory=NonFiniteValues)
    warnings: tuple[str, ...] = ()
    convention: str = ""


def build(
    source: Any,
    path: str | os.PathLike[str],
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
    """Build a store from any source, in flat memory.

    Parameters
    ----------
    source : path-like, list of path-like, array-like or iterable
        A checkpoint file (``.npy``, HDF5, ``.safetensors`` single or sharded); a list of such, whose
        rows follow one another; anything with ``.shape`` and row slices (ndarray, memmap, h5py dataset,
        zarr array …); a tuple of two such, codes and scales; or an iterable of 2-D chunks. A store, in any
        way that another program has written it, gives its codes, scales and keys as they are.
    path : path-like
        The store to make.
    tensor : str, optional
        Which tensor of the source (of each, in a list); needed where it holds several 2-D ones. A weight
        that is quantized in a known way is taken with its scales: as codes and scales where that loses
        nothing, else as the numbers they stand for.
    scale : str, optional
        Name of the tensor that scales the codes of `tensor`, where no known way says it.
    as_stored : bool
        Take the numbers of the tensor as they are, whatever lies beside it.
    keys : sequence or iterator of str or int, ndarray of int64, path-like or False, optional
        A key for each row of the source, in order: texts, or whole numbers of 64 bits. A path is that of a
        file of them (see :func:`.keys.files.read_key_file`). By default those that the source itself has
        (word2vec, GloVe, fastText; Parquet with a column ``key``; a store); False leaves these out.
    key_encoding : str, optional
        How the words of the source, or the lines of a text file of keys, are text: an encoding such as
        "latin-1", by default UTF-8. "utf-8:replace" and "utf-8:backslashreplace" keep those that are none
        with a mark in them.
    rows : slice or (start, stop), optional
        Only these rows, and their keys. Keys for the rows before `stop` are enough then.
    threads : int, optional
        By default the number of processors.
    progress : bool or callable, optional
        True shows a bar on stderr; a callable gets (rows done, rows in all or None).
    overwrite : bool
        Replace an existing file once the new one is complete.
    resume : bool
        Go on where an interrupted build of the same source and parameters stopped (not for iterables and
        what is quantized already: they start again); False begins again. Rows done before are compared
        with the source unless that is an unchanged file.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities: stop, or store 0.
    duplicates : {"error", "first"}
        What to do where two rows have the same key: publish nothing, or let it stand for the first of them.
    missing_keys : {"error", "none"}
        What to do where rows have no key, as where a table has more rows than there are tokens: publish
        nothing, or let them have none (:meth:`.Store.key_of` gives None). Only among texts. With
        fewer keys than rows, the last rows are those without; in a list, None stands for no key.
    step : float, optional
        The source holds whole numbers that fit 8 bits: store them as they are, to be read as
        ``(value - zero_point) * step``, without any rounding. What does not fit is a SourceError.
    zero_point : int
        With `step`: values may be ``zero_point - 128`` to ``zero_point + 127``.

    Returns
    -------
    BuildReport

    Raises
    ------
    SourceError, TensorError, NonFiniteError
        The source cannot be read, names are ambiguous or unknown, values are not finite; there are fewer or
        more keys than rows, or two rows have the same key.
    ExistsError, BusyError, OutputError
        The output exists, is being written, or cannot be written.
    ResumeError
        An interrupted build of the same name had another source or other parameters.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> report = qstore.build(np.eye(3, dtype=np.float32), path)
    >>> report.rows, report.dim, report.source_dtype
    (3, 3, 'float32')
    """
    begun = time.perf_counter()
    check_places(source, _absolute(path), overwrite)
    with open_source(source, tensor, scale, as_stored) as matrix:
        check_coding(matrix, Coding(step, zero_point))
        first, last = row_range(rows, matrix.rows)
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        identity = matrix.fingerprint()
        stamp = None if identity is None else identity.pop("mtime_ns", None)
        parameters = {"source": identity, "first_row": first, "last_row": last, "nonfinite": nonfinite}
        with Writer(
            path,
            matrix.dim,
            None if last is None else last - first,
            overwrite=overwrite,
            resume=resume and _can_go_on(matrix),
            keep=_can_go_on(matrix),
            nonfinite=nonfinite,
            threads=threads,
            tensor=matrix.name,
            source_dtype=matrix.recorded_dtype,
            parameters=parameters if stream is None else {**parameters, "keys": "given"},
            stamp=stamp,
            duplicates=duplicates,
            missing_keys=missing_keys,
            step=step,
            zero_point=zero_point,
        ) as writer:
            resumed = writer.rows
            if isinstance(matrix, QuantizedSource) and (first, last) == (0, matrix.rows):
                writer.keep_measured(matrix.measured())
            if isinstance(matrix, RowSource) and resumed and (writer.stale or stamp is None):
                writer.check_rows(lambda start, stop: matrix.read(first + start, first + stop))
            if stream is not None:
                writer.check_keys(stream)
            with rows_progress(progress, None if last is None else last - first, resumed) as on_rows:
                if matrix.keyed and keys is None:
                    _fill_keyed(writer, matrix, first, last, on_rows)
                else:
                    _fill(writer, matrix, first, last, on_rows, stream)
            check_all_taken(stream, first + writer.rows, last, matrix)
            matrix.check_unchanged()
        return BuildReport(
            path=str(writer.path),
            tensor=matrix.name,
            source_dtype=matrix.dtype,
            rows=writer.rows,
            dim=matrix.dim,
            rows_resumed=resumed,
            source_bytes=source_bytes(writer.rows, matrix.dim, matrix.dtype),
            file_bytes=os.stat(writer.path).st_size,
            seconds=time.perf_counter() - begun,
            engine=kernels.engine_name(),
            key_kind=writer.key_kind,
            unkeyed_rows=writer.unkeyed_rows,
            nonfinite=writer.nonfinite,
            warnings=(*matrix.notes, *writer.warnings),
            convention=matrix.convention,
        )


def plan(
    source: Any,
    path: str | os.PathLike[str],
    *,
    tensor: str | None = None,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    overwrite: bool = False,
    missing_keys: MissingKeys = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> BuildPlan:
    """Say what :func:`build` would do, reading only the source's header; raises what that would raise."""
    check_places(source, _absolute(path), overwrite)
    with open_source(source, tensor, scale, as_stored) as matrix:
        coding = Coding(step, zero_point)
        return planned(matrix, _absolute(path), rows, keys, key_encoding, missing_keys, coding)


def planned(
    matrix: Source,
    path: Path,
    rows: slice | tuple[int, int] | None,
    keys: Any,
    key_encoding: str | None,
    missing_keys: MissingKeys,
    coding: Coding,
) -> BuildPlan:
    """Plan of the store of an open source."""
    check_coding(matrix, coding)
    first, last = row_range(rows, matrix.rows)
    stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
    keyed = stream is not None or (matrix.keyed and keys is None)
    count = None if last is None else last - first
    return BuildPlan(
        path=str(path),
        tensor=matrix.name,
        source_dtype=matrix.dtype,
        rows=count,
        dim=matrix.dim,
        source_bytes=None if count is None else source_bytes(count, matrix.dim, matrix.dtype),
        file_bytes=None
        if count is None or keyed
        else compose(
            count,
            matrix.dim,
            {"content_id": "0" * 32},
            layout.Parts(fidelity=_is_measured(matrix, coding, first, count)),
        ).size,
        convention=matrix.convention,
    )


def check_places(source: Any, path: Path, overwrite: bool) -> None:
    """Raise unless a store of `source` may be published at `path`."""
    paths = source if are_paths(source) else [source] if isinstance(source, (str, os.PathLike)) else []
    for one in map(without_file_scheme, paths):
        if path.exists() and os.path.exists(one) and os.path.samefile(one, path):
            raise SourceError(f"{path} is both the source and the output; choose another output")
    check_output(path, overwrite)


def check_coding(matrix: Source, coding: Coding) -> None:
    """Raise where codes and scales are given and a step, too."""
    if not coding.rounds and isinstance(matrix, QuantizedSource):
        raise SourceError(
            "the source holds codes and scales, which are stored as they are: leave the step out (step=None, "
            "no --step)"
        )


def _fill(
    writer: Writer,
    matrix: Source,
    first: int,
    last: int | None,
    on_rows: Callable[[int], object],
    keys: KeyStream | None,
) -> None:
    writer.expect_keys(keys)  # kept where not one row comes, too
    if isinstance(matrix, QuantizedSource):
        stop = matrix.rows if last is None else last
        writer.append_coded_rows(matrix.read_codes, first, stop, on_rows, keys)
        return
    if isinstance(matrix, RowSource):
        stop = matrix.rows if last is None else last
        writer.append_rows(matrix.read, first + writer.rows, stop, on_rows, keys)
        return
    for chunk in limited(matrix.chunks(first), None if last is None else last - first):
        writer.append(chunk, keys and keys.take(len(chunk)))
        on_rows(len(chunk))


def _fill_keyed(
    writer: Writer, matrix: Source, first: int, last: int | None, on_rows: Callable[[int], object]
) -> None:
    """With the keys that the source itself carries."""
    for chunk, keys in inline_keys(matrix, first, None if last is None else last - first):
        writer.append(chunk, keys)
        on_rows(len(chunk))


def _is_measured(matrix: Source, coding: Coding, first: int, rows: int) -> bool:
    """Whether the store will hold errors: measured when it is built, or taken over with all codes."""
    if isinstance(matrix, QuantizedSource):
        return (first, rows) == (0, matrix.rows) and matrix.measured() is not None
    return rows > 0 and coding.rounds


def _can_go_on(matrix: Source) -> bool:
    """Whether an interrupted build need not start again.

    A stream has to be read from its beginning anyway, and nothing tells whether it is the same. Codes are
    copied faster than they could be compared.
    """
    return isinstance(matrix, RowSource) and not isinstance(matrix, QuantizedSource)


def source_bytes(rows: int, dim: int, dtype: str) -> int:
    """Size of a matrix in its source's type: codes have a scale of 8 bytes in each row beside them."""
    return rows * (dim + 8) if dtype == QuantizedSource.dtype else rows * dim * item_size(dtype)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))
