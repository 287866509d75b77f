"""A Dask array made a sharded store: every task writes its own shard, the client publishes the manifest."""

from __future__ import annotations

import functools
import os
import time
import uuid
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..building.one import BuildReport, source_bytes
from ..building.publishing import publish_shards
from ..building.shards import joined_warnings
from ..engine import kernels
from ..engine.arguments import as_count
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..errors import NonFiniteError, SourceError
from ..format.manifest import MANIFEST
from ..sources.memory.array import ArraySource
from ..system import durable_files
from ..system.options import check_path
from ..writer import Writer
from ..writing.output_paths import check_output
from .library import array as dask_array
from .library import tokenize

__all__ = ["build", "write_shard"]


def build(
    array: dask_array.Array,
    directory: str | os.PathLike[str],
    *,
    shard_rows: int | None = None,
    tensor: str = "",
    overwrite: bool = False,
    nonfinite: Literal["error", "zero"] = "error",
    step: float | None = None,
    zero_point: int = 0,
) -> BuildReport:
    """Build a sharded store of a Dask array, a shard of each chunk of rows.

    The tasks compute a chunk and write it as a finished store, on whatever scheduler is in use: threads,
    processes, or the workers of a ``distributed`` client, which must see `directory` under the same path. A
    shard appears whole or not at all, and a task that runs again writes the same bytes, so a lost worker
    costs a retry. The manifest comes last, from this process: before that there is no store.

    Parameters
    ----------
    array : dask.array.Array, shape (N, D)
        Of any type that can be quantized, and the same whenever it is computed. Chunks of columns are joined.
    directory : path-like
        Made if it is not there.
    shard_rows : int, optional
        Rows of a shard; by default those of the array's chunks. Some hundreds of MiB are a good size.
    tensor : str
        Name recorded in the shards.
    overwrite : bool
        Replace a store that is there, once the new one is complete. The files of the old one stay, for
        those who have it open.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities: stop, or store 0.
    step, zero_point
        As for :func:`qstore.build`.

    Returns
    -------
    BuildReport
        Warnings begin with the name of their shard.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    SourceError, NonFiniteError
        The array is no matrix of numbers, its chunks have unknown sizes, or values are not finite.
    ExistsError, OutputError
        There is a store already, or it cannot be written.

    Examples
    --------
    >>> import dask.array, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "table")
    >>> report = build(dask.array.ones((10, 3), chunks=(4, 3)), path)
    >>> report.rows, [shard.rows for shard in qstore.open(path).shards]
    (10, [4, 4, 2])
    """
    begun = time.perf_counter()
    if not isinstance(array, dask_array.Array):
        raise SourceError(
            f"array is of type {type(array).__name__}, expected a Dask array: dask.array.from_array makes one"
        )
    source = ArraySource(array)  # says what is wrong with an array that cannot be quantized
    rows = "auto" if shard_rows is None else as_count("shard_rows", shard_rows)
    matrix = array.rechunk({1: -1} if shard_rows is None else {0: rows, 1: -1})
    check_path(directory)
    place = Path(os.path.abspath(directory))
    with durable_files.output_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    check_output(place / MANIFEST, overwrite)
    coding = Coding(step, zero_point)
    token = tokenize(matrix.name, tensor, nonfinite, *coding.parameters().values())[:12]
    written = _written(
        matrix,
        place,
        token,
        tensor=tensor,
        source_dtype=source.dtype,
        nonfinite=nonfinite,
        step=coding.step,
        zero_point=coding.zero_point,
    )
    names = [shard.name for shard in written]
    publish_shards(place, names, overwrite=overwrite)
    _remove_attempts(place, token)
    return BuildReport(
        path=str(place),
        tensor=tensor,
        source_dtype=source.dtype,
        rows=source.rows,
        dim=source.dim,
        rows_resumed=0,
        source_bytes=source_bytes(source.rows, source.dim, source.dtype),
        file_bytes=sum(os.stat(place / name).st_size for name in [*names, MANIFEST]),
        seconds=time.perf_counter() - begun,
        engine=kernels.engine_name(),
        nonfinite=sum((shard.nonfinite for shard in written), NonFiniteValues()),
        warnings=joined_warnings((shard.name, shard.warnings) for shard in written),
    )


class WrittenShard(NamedTuple):
    """What a task hands back: rows are numbered through all shards."""

    name: str
    nonfinite: NonFiniteValues
    warnings: tuple[str, ...]


def _written(matrix: dask_array.Array, place: Path, token: str, **options: Any) -> list[WrittenShard]:
    """Have all shards written."""
    results = matrix.map_blocks(
        functools.partial(write_shard, directory=str(place), token=token, **options),
        dtype=np.object_,
        meta=np.empty((0, 0), np.object_),
        chunks=((1,) * matrix.numblocks[0], (1,)),
        name=f"qstore-shard-{uuid.uuid4().hex}",  # never a result that a scheduler has kept
    )
    written: list[WrittenShard] = results.compute()[:, 0].tolist()
    return written


def write_shard(
    block: NDArray[Any],
    directory: str,
    token: str,
    tensor: str,
    source_dtype: str,
    nonfinite: Literal["error", "zero"],
    step: float | None = None,
    zero_point: int = 0,
    block_info: Any = None,
) -> NDArray[np.object_]:
    """Write one shard under a name of this attempt's own, then give it its name.

    A scheduler may take a worker for dead that still writes: the two must not meet in one file. Which of
    them comes last does not matter, as both write the same.
    """
    first = block_info[0]["array-location"][0][0]
    number = block_info[0]["chunk-location"][0]
    final = Path(directory, _shard_name(token, number))
    attempt = final.with_name(f"{final.name}.{uuid.uuid4().hex}")
    try:
        # Dask runs as many tasks at once as there are processors.
        with Writer(
            attempt,
            block.shape[1],
            len(block),
            nonfinite=nonfinite,
            threads=1,
            tensor=tensor,
            source_dtype=source_dtype,
            step=step,
            zero_point=zero_point,
        ) as writer:
            writer.append(block)
    except NonFiniteError as error:
        raise NonFiniteError(error.value, first + error.row, error.column) from None
    except SourceError as error:
        error.add_note(f"rows are counted from row {first}, the first one of {final.name}")
        raise
    with durable_files.output_errors(final):
        durable_files.publish(attempt, final)
    result = np.empty((1, 1), np.object_)
    result[0, 0] = WrittenShard(final.name, writer.nonfinite.from_row(first), writer.warnings)
    return result


def _shard_name(token: str, number: int) -> str:
    """The same for every attempt at a chunk; another for another array, whose store may be there."""
    return f"part-{number:05}-{token}.h5"


def _remove_attempts(place: Path, token: str) -> None:
    """Remove what attempts left behind whose workers were killed."""
    for left in place.glob(f"part-*-{token}.h5.*"):
        durable_files.free_path(left)
