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
from ..keys.packed import KeyKind
from ..keys.stream import KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys, inline_keys
from ..sources import QuantizedSource, RowSource, Source, are_paths, open_source
from ..sources.row_ranges import limited, row_range
from ..system.messages import tell
from ..system.options import flag
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.urls import without_file_scheme
from ..writer import Writer
from ..writing.output_paths import check_output

__all__ = [
    "CHANGED",
    "BuildReport",
    "build",
    "check_coding",
    "check_places",
    "identity_of",
    "is_comparable",
    "kind_of_keys",
    "source_bytes",
]

CHANGED = "the source has been changed meanwhile"
"""Why rows that were done before may be dropped."""


@dataclass(frozen=True, repr=False)
class BuildReport(Reported):
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
        What deserves a look, in words: values that 8 bits keep badly, or would keep without loss; texts
        beside the rows that are not their keys.
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
    """Build a store from any source, in flat memory.

    Parameters
    ----------
    source : path-like, list of path-like, array-like or iterable
        A file or checkpoint of any format in docs/sources.md (NumPy, safetensors, PyTorch, HDF5, GGUF,
        Parquet, word vectors …), or the URL of one in safetensors, ``.npy`` or GGUF; a list of such, whose
        rows follow one another; anything with ``.shape`` and row slices (ndarray, memmap, h5py dataset, zarr
        array …); a tuple of two such, codes and scales; or an iterable of 2-D chunks. A store, in any way
        that another program has written it, gives its codes, scales and keys as they are.
    path : path-like
        The store to make.
    tensor : str, optional
        Which tensor of the source (of each, in a list); needed where it holds several 2-D ones. A weight
        that is quantized in a known way is taken with its scales: as codes and scales where that loses
        nothing, else as the numbers they stand for.
    join : bool
        `tensor` is a pattern (``*`` stands for anything, ``?`` for one character, ``[…]`` for one of
        several): all tensors whose names match become one matrix, in the order of the number in which their
        names differ. Missing numbers, and tensors that differ in width or type, are errors.
    scale : str, optional
        Name of the tensor that scales the codes of `tensor` (of each, with `join`), where no known way says
        it.
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
        True shows a bar on stderr; a callable gets (rows done, rows in all or None). Rows done are an int
        with an attribute ``fraction``: the part that is done, 0.0 to 1.0, by the bytes of the file where
        the rows cannot be counted before; None where neither is known.
    overwrite : bool
        Replace an existing file once the new one is complete.
    resume : bool
        Go on with what an unfinished build of the same name has left behind (see Notes); False drops it.
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
    RemoteError, MissingExtraError
        What is behind a URL cannot be read, or a library for it is not installed.
    ExistsError, BusyError, OutputError
        The output exists, is being written, or cannot be written.
    ResumeError
        An interrupted build of the same name had another source or other parameters.

    Notes
    -----
    A build that was interrupted (killed, Ctrl-C, a full disk) goes on when the same call is made again, from
    any file and from arrays; iterables begin again. Rows that are done are not quantized again; files that
    are read from front to back (text, packed text, deflated ``.npz``) are skipped through. Where the file has
    changed since, or cannot tell, rows done before are compared with it; streams begin again then. With
    another source or other parameters the build is refused, so that no work is lost by mistake.

    A build that failed because of its data (`SourceError`: NaN, keys that come twice …) does not insist:
    ``nonfinite="zero"``, ``duplicates="first"``, ``keys=False`` and another end of `rows` go on with the rows
    that are done, mended keys and arrays as far as they agree, and everything else begins again. What is
    dropped is said by a warning of `logging`, under the name ``qstore``.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> report = qstore.build(np.eye(3, dtype=np.float32), path)
    >>> report.rows, report.dim, report.source_dtype
    (3, 3, 'float32')
    """
    begun = time.perf_counter()
    resume = flag("resume", resume)
    check_places(source, Path(os.path.abspath(path)), overwrite)
    with open_source(source, tensor, join, scale, as_stored) as matrix:
        matrix.threads = threads
        check_coding(matrix, Coding(step, zero_point))
        first, last = row_range(rows, matrix.rows)
        count = None if last is None else last - first
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        kept = kind_of_keys(matrix, keys, stream)
        parameters, stamp = identity_of(matrix, first, last, kept)
        lasting = stamp is not None or is_comparable(matrix)
        with Writer(
            path,
            matrix.dim,
            count,
            overwrite=overwrite,
            resume=resume and lasting,
            keep=lasting,
            nonfinite=nonfinite,
            threads=threads,
            tensor=matrix.name,
            source_dtype=matrix.recorded_dtype,
            parameters=parameters,
            stamp=stamp,
            duplicates=duplicates,
            missing_keys=missing_keys,
            step=step,
            zero_point=zero_point,
        ) as writer:
            _check_resumed(writer, matrix, first, stamp, stream)
            resumed = writer.rows
            if isinstance(matrix, QuantizedSource) and (first, last) == (0, matrix.rows):
                writer.keep_measured(matrix.measured())
            with rows_progress(progress, count, resumed, matrix.bytes_read) as on_rows:
                if kept == "own":
                    _fill_keyed(writer, matrix, first, last, on_rows)
                else:
                    _fill(writer, matrix, first, last, on_rows, stream)
            check_all_taken(stream, first + writer.rows, last, matrix)
            matrix.check_unchanged()
        report = BuildReport(
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
            warnings=(*said_of(matrix, keys), *writer.warnings),
            convention=matrix.convention,
        )
    tell(f"{report.path}: made of {report.rows:,} rows, {resumed:,} of them done before")
    if report.nonfinite.count:
        tell(f"{report.path}: 0 is stored for NaN and infinities: {report.nonfinite.in_words()}")
    for warning in report.warnings:
        tell(f"{report.path}: {warning}")
    return report


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


def said_of(matrix: Source, keys: Any) -> tuple[str, ...]:
    """What the source says of itself; of names that are left out only where nothing was said of keys."""
    return (*matrix.notes, *(matrix.unused_names if keys is None else ()))


def kind_of_keys(matrix: Source, keys: Any, stream: KeyStream | None) -> Literal["given", "own"] | None:
    """Where the keys of the rows come from: beside the rows, or with them; None where they have none."""
    if stream is not None:
        return "given"
    return "own" if matrix.keyed and keys is None else None


def identity_of(
    matrix: Source, first: int, last: int | None, keys: Literal["given", "own"] | None
) -> tuple[dict[str, Any], int | None]:
    """What builds must share for one to go on with what the other has done; and the time of the file."""
    identity = matrix.fingerprint()
    stamp, errors = (identity or {}).pop("mtime_ns", None), (identity or {}).pop("key_errors", None)
    parameters = {"source": identity, "first_row": first, "last_row": last, "keys": keys}
    return {**parameters, "key_errors": errors}, stamp


def is_comparable(matrix: Source) -> bool:
    """Whether rows that were done are compared with the source where it may have changed.

    Reading a stream again takes as long as building of it, and codes are copied as fast as they are compared.
    """
    return isinstance(matrix, RowSource) and not isinstance(matrix, QuantizedSource)


def _check_resumed(
    writer: Writer, matrix: Source, first: int, stamp: int | None, keys: KeyStream | None
) -> None:
    """See that the rows that were done before are those of this source, with these keys."""
    if writer.rows and (writer.stale or stamp is None):
        if isinstance(matrix, RowSource) and is_comparable(matrix):
            writer.check_rows(lambda start, stop: matrix.read(first + start, first + stop))
        else:
            writer.begin_again(CHANGED)
    if keys is not None:
        writer.check_keys(keys)


def _fill(
    writer: Writer,
    matrix: Source,
    first: int,
    last: int | None,
    on_rows: Callable[[int], object],
    keys: KeyStream | None,
) -> None:
    writer.expect_keys(keys)  # kept where not one row comes, too
    start = first + writer.rows
    if isinstance(matrix, QuantizedSource):
        stop = matrix.rows if last is None else last
        writer.append_coded_rows(matrix.read_codes, start, stop, on_rows, keys)
        return
    if isinstance(matrix, RowSource):
        writer.append_rows(matrix.read, start, matrix.rows if last is None else last, on_rows, keys)
        return
    for chunk in limited(matrix.chunks(start), None if last is None else last - start):
        writer.append(chunk, keys and keys.take(len(chunk)))
        on_rows(len(chunk))


def _fill_keyed(
    writer: Writer, matrix: Source, first: int, last: int | None, on_rows: Callable[[int], object]
) -> None:
    """With the keys that the source itself carries."""
    start = first + writer.rows
    for chunk, keys in inline_keys(matrix, start, None if last is None else last - start):
        writer.append(chunk, keys)
        on_rows(len(chunk))


def source_bytes(rows: int, dim: int, dtype: str) -> int:
    """Size of a matrix in its source's type: codes have a scale of 8 bytes in each row beside them."""
    return rows * (dim + 8) if dtype == QuantizedSource.dtype else rows * dim * item_size(dtype)
