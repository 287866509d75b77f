"""From a store to a file of another format: in flat memory, and whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..engine.narrowing import Narrowing
from ..errors import ExportError, OutputError
from ..keys.packed import listed
from ..sources.row_ranges import row_range
from ..store import Store, opened
from ..system.durable_files import atomic_output, output_errors
from ..system.messages import tell
from ..system.options import check_path, flag
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..writing.output_paths import check_output
from .base import Format
from .formats import choose_format
from .narrowing import losses
from .selection import Selection

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True, repr=False)
class ExportReport(Reported):
    """What an export did.

    Attributes
    ----------
    path : str
        The file that was made.
    format : str
    rows, dim : int
        Shape of what is in it.
    dtype : str
        Type of the values; ``uint8`` for codes.
    file_bytes : int
    seconds : float
        Wall-clock time.
    zeroed : int
        Values that are 0 in the file because they are too small for its type.
    warnings : tuple of str
        What deserves a look, in words.
    """

    path: str
    format: str
    rows: int
    dim: int
    dtype: str
    file_bytes: int
    seconds: float
    zeroed: int = 0
    warnings: tuple[str, ...] = ()


def export(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    dtype: str = "float32",
    codes: bool = False,
    keys: Sequence[str] | Literal[False] | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> ExportReport:
    """Write a store in another format, in flat memory.

    The file appears under its name when it is complete and synced to disk. Building from a float32 or
    float64 export gives the codes of the store again.

    Parameters
    ----------
    store : Store or path-like
        Of a Store too, `dtype` alone says what is written.
    path : path-like
        The file to make.
    format : {"npy", "safetensors", "word2vec-text", "word2vec-binary", "parquet", "torch"}, optional
        By default the end of the name tells: ``.npy``, ``.safetensors``, ``.txt`` or ``.vec``, ``.bin``,
        ``.parquet``, ``.pt`` or ``.pth``. Parquet needs pyarrow, torch files need nothing.
    rows : slice or (start, stop), optional
        Only these rows.
    dtype : {"float32", "float64", "float16"}
        Type of the values. Binary word2vec holds float32 only. Values too large for it are an error, before
        anything is written; those that are too small for it, and 0 then, are counted.
    codes : bool
        Write codes (uint8) and scales (float64) as two tensors instead of values; safetensors only.
    keys : sequence of str or False, optional
        A word for each row of the whole store, for word2vec and Parquet. By default the store's own keys,
        which other formats leave out. Without keys, or with False, word2vec gets the rows' numbers and
        Parquet no column ``key``.
    overwrite : bool
        Replace an existing file once the new one is complete.
    progress : bool or callable, optional
        True shows a bar on stderr; a callable gets (rows done, rows in all).

    Returns
    -------
    ExportReport

    Raises
    ------
    ExportError
        The format is unknown, or it or the type cannot hold what is asked for.
    ExistsError, OutputError
        The output exists or cannot be written; nothing is left behind.
    SourceError
        The rows are not in the store.
    MissingExtraError
        The format's library is not installed.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = qstore.build(np.eye(3, dtype=np.float32), os.path.join(folder, "ids.h5"))
    >>> report = qstore.export(os.path.join(folder, "ids.h5"), os.path.join(folder, "ids.npy"))
    >>> np.load(report.path)[1]
    array([0., 1., 0.], dtype=float32)
    """
    begun = time.perf_counter()
    check_path(path)
    target = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    given = None if keys is None or keys is False else _listed(keys)
    codes, overwrite = flag("codes", codes), flag("overwrite", overwrite)
    chosen = choose_format(str(target), format, dtype, codes, given is not None)
    with opened(store) as held:
        _check_target(held, target, overwrite)
        _check_keys(given, len(held))
        first, last = row_range(rows, len(held))
        count = (last or 0) - first
        lost = Narrowing() if codes else losses(held, first, first + count, dtype)
        if lost.infinite and dtype != "float64":
            holds = not losses(held, first, first + count, "float32").infinite
            wider = [*(["float32"] if holds else []), "float64"]
            raise ExportError(
                f"{lost.infinite_in_words(dtype)}: nothing is written; {_instead(wider, chosen)}"
            )
        with rows_progress(progress, count) as on_rows, output_errors(target):
            kind = "text" if given is not None else held.key_kind or "text"
            words = _keys_between(held, False if keys is False else given)
            selection = Selection(held.astype(dtype), first, first + count, words, kind, on_rows)
            with atomic_output(target, chosen.least_size(selection)) as file:
                chosen.write(file, selection)
                check_output(target, overwrite)
        tell(f"{target}: made of {count:,} rows")
        return ExportReport(
            path=str(target),
            format=chosen.name,
            rows=count,
            dim=held.shape[1],
            dtype="uint8" if codes else dtype,
            file_bytes=os.stat(target).st_size,
            seconds=time.perf_counter() - begun,
            zeroed=lost.zeroed,
            warnings=tuple(filter(None, (lost.infinite_in_words(dtype), lost.zeroed_in_words(dtype)))),
        )


def _instead(wider: list[str], chosen: Format) -> str:
    """What to do where values are too large: `wider` are the types that hold all of them."""
    fitting = [name for name in wider if name in chosen.dtypes]
    if not fitting:
        return f"{chosen.name} has no wider type: export {wider[-1]} to another format, such as .npy"
    return "expected " + " or ".join(f'dtype="{name}" (--dtype {name})' for name in fitting)


def _check_target(store: Store, target: Path, overwrite: bool) -> None:
    if target.exists() and any(os.path.exists(at.path) and target.samefile(at.path) for at in store.shards):
        raise ExportError(f"{target} is the store itself; choose another output")
    check_output(target, overwrite)
    if target.exists() and not target.is_file():
        raise OutputError(errno.EINVAL, f"{target} is not a regular file; choose another output", str(target))


def _keys_between(
    store: Store, keys: Sequence[str] | Literal[False] | None
) -> Callable[[int, int], Sequence[Any]] | None:
    """What gives the keys of a range of rows; None where there are none, or they are not wanted."""
    if keys is False or (keys is None and store.key_kind is None):
        return None
    return lambda first, last: store.key_of(slice(first, last)) if keys is None else keys[first:last]


def _listed(keys: Any) -> Sequence[Any]:
    given = listed(keys)
    if isinstance(given, np.ndarray):
        return given.tolist()  # type: ignore[no-any-return]
    return given if isinstance(given, (list, tuple)) else list(given)


def _check_keys(keys: Sequence[str] | None, rows: int) -> None:
    if keys is not None and len(keys) != rows:
        raise ExportError(f"there are {len(keys):,} keys, expected one for each of the store's {rows:,} rows")
