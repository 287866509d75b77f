"""Stores joined into one file: codes and scales copied as they are, without a second rounding."""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, SourceError
from ..format import layout
from ..format.checksums import joined_crc32
from ..format.composition import compose
from ..format.layout import Facts, KeyPart, Parts, Shard
from ..keys.checking import key_problems
from ..keys.equal_keys import check_duplicates
from ..keys.index import KeyIndexWriter
from ..keys.packed import KeyKind, stored
from ..opening import common_facts, open_local
from ..reading.shard_files import ShardFiles
from ..sources.row_ranges import row_range
from ..system import durable_files
from ..system.messages import tell
from ..system.options import shown, without
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.threads import in_order, thread_count
from ..writing.output_paths import check_output
from .copying import Copied, Span, block_spans, copy_span
from .publishing import other_kind

__all__ = ["ConcatReport", "concat"]

# Rows whose keys are copied at a time, and pages asked for ahead of those that are copied.
_KEY_ROWS = 1 << 16
_AHEAD_BLOCKS = 8


@dataclass(frozen=True, repr=False)
class ConcatReport(Reported):
    """What was joined.

    Attributes
    ----------
    path : str
        The store that was made.
    files : int
        Number of files the rows came from.
    rows, dim : int
        Shape of the matrix.
    content_id : str
    file_bytes : int
    seconds : float
        Wall-clock time.
    key_kind : {"text", "integer"} or None
        What the keys of the rows are, if they have any.
    """

    path: str
    files: int
    rows: int
    dim: int
    content_id: str
    file_bytes: int
    seconds: float
    key_kind: KeyKind | None = None


def concat(
    sources: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    keys: Literal[False] | None = None,
    rows: slice | tuple[int, int] | None = None,
    duplicates: Literal["error", "first"] = "error",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = None,
) -> ConcatReport:
    """Join stores into one file whose rows are theirs in order.

    Codes and scales are copied byte for byte, nothing is rounded again, and keys go along: all rows must
    have some of one kind, or none. Every block that is copied is compared with its checksums on the way.
    The file appears when it is complete and synced, and is, byte for byte, what one build of all the rows
    would have made, but without measured errors: those are of the first rows of each block, and the blocks
    are others.

    Parameters
    ----------
    sources : sequence of path-like
        Files, directories of shards, or patterns of names, as :func:`qstore.open` takes them.
    path : path-like
        The store to make.
    keys : False, optional
        Leave all keys out.
    rows : slice or (start, stop), optional
        Only these rows of the whole; one source and a range cut a piece out of a store.
    duplicates : {"error", "first"}
        What to do where two rows have the same key: publish nothing, or let it stand for the first of them.
    overwrite : bool
        Replace an existing file once the new one is complete.
    threads : int, optional
        By default the number of processors.
    progress : bool or callable, optional
        True shows a bar on stderr; a callable gets (rows done, rows in all).

    Returns
    -------
    ConcatReport

    Raises
    ------
    FormatError
        A source is no store, is damaged, or has other columns than the first, or keys and others have none or
        of another kind.
    SourceError
        The rows are not there, two of them have the same key, or the output is one of the sources.
    ExistsError, OutputError
        The output exists or cannot be written; nothing is left behind.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for name in ("a.h5", "b.h5"):
    ...     _ = qstore.build(np.eye(3), os.path.join(folder, name))
    >>> report = qstore.concat([os.path.join(folder, "*.h5")], os.path.join(folder, "c.h5"))
    >>> report.rows, report.dim
    (6, 3)
    """
    begun = time.perf_counter()
    check_duplicates(duplicates)
    keyed = not without("keys", keys)
    target, workers = Path(os.path.abspath(path)), thread_count(threads)
    facts, shards = _files_of(sources)
    for shard in shards:
        if target.exists() and target.samefile(shard.path):
            raise SourceError(f"{target} is both a source and the output; choose another output")
    check_output(target, overwrite)
    first, last = row_range(rows, facts.rows)
    job = _Job(facts, shards, first, last or 0, keyed=keyed)
    with (
        rows_progress(progress, job.rows) as on_rows,
        durable_files.output_errors(target),
        durable_files.atomic_output(target, job.least_size()) as file,
    ):
        content_id = job.write(file.fileno(), duplicates, workers, on_rows)
        check_output(target, overwrite)
    tell(f"{target}: made of {job.rows:,} rows of {len(job.taken):,} files")
    return ConcatReport(
        path=str(target),
        files=len(job.taken),
        rows=job.rows,
        dim=job.dim,
        content_id=content_id,
        file_bytes=os.stat(target).st_size,
        seconds=time.perf_counter() - begun,
        key_kind=job.key_kind,
    )


def _files_of(sources: Sequence[str | os.PathLike[str]]) -> tuple[Facts, list[Shard]]:
    """What the sources have in common, and their files in order."""
    if not isinstance(sources, (list, tuple)) or not sources:
        raise SourceError(f"expected a list of stores to join, found {shown(sources)}")
    facts: list[Facts] = []
    shards: list[Shard] = []
    wholes: list[Shard] = []
    first = 0
    for source in sources:
        backing = open_local(source)
        facts.append(backing.facts)
        wholes.append(Shard(backing.path, first, backing.facts.rows, backing.facts.content_id))
        shards.extend(shard._replace(first=first + shard.first) for shard in backing.shards)
        first += backing.facts.rows
        backing.close()
    return common_facts(facts, wholes), shards


class _Job:
    """What is copied: the files, and which rows of each.

    The files are not closed, but let go of with this: an error on its way still holds what failed.

    Parameters
    ----------
    facts : Facts
        What the sources have in common.
    shards : sequence of Shard
    first, last : int
        Only these rows of the whole.
    keyed : bool
        With their keys.
    """

    def __init__(self, facts: Facts, shards: Sequence[Shard], first: int, last: int, keyed: bool) -> None:
        self.rows = last - first
        self.dim = facts.dim
        self._facts = facts
        self._files = ShardFiles(shards, facts.dim, resident_scales=False, follow=True)
        self._block_rows = layout.block_rows(facts.dim)
        self.taken = [
            (number, max(first, shard.first) - shard.first, min(last, shard.first + shard.rows) - shard.first)
            for number, shard in enumerate(shards)
            if max(first, shard.first) < min(last, shard.first + shard.rows)
        ]
        self._parts = Parts(keys=self._key_part() if keyed else None)
        self.key_kind = None if self._parts.keys is None else self._parts.keys.kind
        self._places = layout.places(layout.shapes(self.rows, self.dim, self._parts))

    def _key_part(self) -> KeyPart | None:
        """What keys go along."""
        taken = [number for number, _, _ in self.taken]
        kinds = [self._files.get(number).facts.key_kind for number in taken]
        for number, other in zip(taken, kinds, strict=True):
            if other != kinds[0]:
                path, before = self._files.shards[number].path, self._files.shards[taken[0]].path
                raise other_kind(path, other, kinds[0], f"{before} has")
        kind = kinds[0] if kinds else self._facts.key_kind
        if kind is None:
            return None
        if kind == "integer":
            return KeyPart("integer", 0)
        return KeyPart("text", sum(self._text_bytes(*taken) for taken in self.taken))

    def _text_bytes(self, number: int, first: int, last: int) -> int:
        offsets = self._keys(number)["offsets"]
        return int(offsets[last]) - int(offsets[first])

    def _keys(self, number: int) -> dict[str, NDArray[Any]]:
        return dict(self._files.get(number).scanned_keys() or {})

    def least_size(self) -> int:
        """Bytes the file takes, within a few pages."""
        return max(place.stop for place in self._places.values())

    def write(
        self, fd: int, duplicates: Literal["error", "first"], threads: int, on_rows: Callable[[int], object]
    ) -> str:
        """Write the whole file; return its content id."""
        checksums = self._copy(fd, threads, on_rows)
        durable_files.write_all(fd, checksums.tobytes(), self._places["checksums"].offset)
        key_checksums = self._copy_keys(fd, duplicates)
        content_id = layout.content_id(self.rows, self.dim, checksums, key_checksums)
        attributes = {
            "content_id": content_id,
            "tensor": self._facts.tensor,
            "source_dtype": self._facts.source_dtype,
        }
        composition = compose(self.rows, self.dim, attributes, self._parts)
        for offset, data in composition.segments:
            durable_files.write_all(fd, data, offset)
        os.ftruncate(fd, composition.size)
        return content_id

    # Codes and scales -----------------------------------------------------------------------------

    def _spans(self) -> Iterator[Span]:
        target = 0
        for number, first, last in self.taken:
            yield from block_spans(number, first, last, target, self._block_rows)
            target += last - first

    def _copy(self, fd: int, threads: int, on_rows: Callable[[int], object]) -> NDArray[np.uint32]:
        """Copy all codes and scales; return the checksums of the output's blocks."""
        found, rows = array("I"), 0
        for piece in self._copied(fd, threads):
            if rows % self._block_rows == 0:
                found.extend((piece.codes_crc, piece.scales_crc))
            else:
                found[-2] = joined_crc32(found[-2], piece.codes_crc, piece.rows * self.dim)
                found[-1] = joined_crc32(found[-1], piece.scales_crc, piece.rows * 8)
            rows += piece.rows
            on_rows(piece.rows)
        return np.array(found, "<u4").reshape(-1, 2)

    def _copied(self, fd: int, threads: int) -> Iterator[Copied]:
        """Copy span after span, several at a time; yield the pieces in order."""

        def copy(span: Span) -> list[Copied]:
            return copy_span(self._files.get(span.shard), span, fd, self._places)

        for pieces in in_order(copy, self._asked_for(), threads):
            yield from pieces

    def _asked_for(self) -> Iterator[Span]:
        """The spans; the pages of each are asked for some time before it is copied."""
        spans = self._spans()
        ahead: deque[Span] = deque()
        for span in spans:
            self._files.get(span.shard).pager.ask(span.first, span.last)
            ahead.append(span)
            if len(ahead) > _AHEAD_BLOCKS:
                yield ahead.popleft()
        yield from ahead

    # Keys -----------------------------------------------------------------------------------------

    def _copy_keys(self, fd: int, duplicates: Literal["error", "first"]) -> NDArray[np.uint32] | None:
        if self._parts.keys is None:
            return None
        index = KeyIndexWriter(fd, self._places, self.rows, self._parts.keys, duplicates)
        for number, first, last in self.taken:
            keys = self._keys(number)
            for problem in key_problems(keys):
                raise FormatError(f"{self._files.shards[number].path}: {problem}; restore the file")
            for start in range(first, last, _KEY_ROWS):
                index.add(stored(keys, start, min(start + _KEY_ROWS, last)))
        return index.finish()
