"""A store that is being made: the unfinished file and its journal, from the first lock to publication."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine.nonfinite import NonFiniteValues
from ..errors import OutputError
from ..format import layout
from ..format.checksums import crc32
from ..format.composition import Composition, compose
from ..format.fidelity import FidelityTotals
from ..keys.index import KeyIndexWriter
from ..keys.packed import KeyBlock, KeyKind
from ..system import durable_files
from ..system.messages import warn
from ..system.write_windows import WindowedWriter
from .findings import Findings
from .journal import BlockRecord, Journal
from .origin import Origin
from .output_paths import check_output, journal_path, partial_path

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["UnfinishedStore"]

# From so many bytes of codes on they are written around the page cache: that much memory is left to others,
# and no time goes into filling it. Smaller stores are in it when they are done, for who reads them next.
_LARGE = 1 << 30

# Scales of a block may be 8 bytes, with one row a block: not each is worth a call.
_GATHERED_BLOCKS = 256
_Rest = tuple[
    NDArray[np.uint8], NDArray[np.float64], KeyBlock | None, NDArray[np.float64] | None, NonFiniteValues
]


class UnfinishedStore:
    """The unfinished file and the journal of one store, locked until they are released.

    Blocks are taken in, in order, and recorded once they are written; :meth:`finish` adds the rest and
    publishes. One thread may use it at a time.

    Parameters
    ----------
    path : Path
        Absolute path of the store to publish.
    dim : int
        Number of columns.
    origin : Origin
        What the store is built of.
    rows : int, optional
        Number of rows, if known: the disk space is then reserved at once.
    overwrite : bool
        Replace an existing file.
    resume : bool
        Go on with what an interrupted build left behind.
    sync_bytes : int
        Bytes of codes stored between two syncs.
    duplicates : {"error", "first"}
        Whether the key of two rows may be the same.

    Attributes
    ----------
    rows : int
        Rows the interrupted build had done.
    rest : tuple, or None
        Codes, scales, keys, errors and replaced values of those behind the last whole block. They are not
        recorded any more.
    key_kind : {"text", "integer"} or None
        What keys the rows have, if any; to be set before the first block is recorded.
    unkeyed_rows : int
        Rows of recorded blocks that have no key, where others have one.
    key_checksums : array of uint32
        CRC-32 of the packed keys of each recorded block.
    findings : Findings
        Of all rows that are in, also of those that the interrupted build had done; without `rest`.
    checksums : array of uint32
        Of the codes and the scales of each recorded block, one after the other.
    stale : bool
        The interrupted build's source had another stamp.
    measured : ndarray or None
        Errors to keep in place of those that are measured here.
    failed : bool
        The build that is gone on with had failed because of its data: it does not insist on its rows.

    Raises
    ------
    ExistsError, BusyError, OutputError
        The output exists, is being written by another process, or cannot be written. Whatever the
        operating system refuses later is an `OutputError`, too.
    ResumeError
        What was left behind is of another build.
    """

    def __init__(
        self,
        path: Path,
        dim: int,
        origin: Origin,
        rows: int | None,
        *,
        overwrite: bool,
        resume: bool,
        sync_bytes: int,
        duplicates: Literal["error", "first"],
    ) -> None:
        self.path = path
        self.stale = False
        self.failed = False
        self.measured: NDArray[np.float64] | None = None
        self._duplicates: Literal["error", "first"] = duplicates
        self._dim = dim
        self._block_rows = layout.block_rows(dim)
        self._forget_rows()
        self._origin = origin
        self._announced = rows
        self._overwrite = overwrite
        self._sync_bytes = sync_bytes
        self._unrecorded: deque[tuple[int, BlockRecord, Callable[[], object] | None]] = deque()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncing_blocks = 0
        self._syncer: ThreadPoolExecutor | None = None
        self._direct: int | None = None
        check_output(path, overwrite)
        with durable_files.output_errors(path):
            self._fd = durable_files.lock_file(partial_path(path))
        # Only what is new, or is to be dropped anyway, may be removed if the beginning fails.
        self._fresh = not resume or os.fstat(self._fd).st_size == 0
        try:
            with durable_files.output_errors(path):
                self._journal = Journal(journal_path(path))
                self._begin()
            self._direct = durable_files.open_direct(self._fd) if (rows or 0) * dim >= _LARGE else None
            self._codes = self._writer_of_codes()
        except BaseException:
            self.release(remove=self._fresh)
            raise

    # Beginning and going on -----------------------------------------------------------------------

    def _forget_rows(self) -> None:
        self.rows = 0
        self.rest: _Rest | None = None
        self.checksums = array("I")  # two a block: 8 bytes, where tuples would take 125
        self.key_kind: KeyKind | None = None
        self.unkeyed_rows = 0
        self.key_checksums = array("I")
        self.findings = Findings(self._dim)
        self._found_rows = 0
        self._measured = True
        self._text_bytes = 0

    def _begin(self) -> None:
        # A journal beside a file that is new is a stale one: that of a build which has been published.
        found = None if self._fresh else self._journal.parameters()
        if found is None or not self._journal.listed:
            self._start_again()
        elif reason := self._origin.judge(self._journal, self._announced, partial_path(self.path)):
            self._start_again(reason)
        else:
            self._go_on(found)
        self._reserve()

    def _reserve(self) -> None:
        if self._announced is not None:
            durable_files.allocate(self._fd, self._compose(self._announced, "0" * 32).size)

    def _start_again(self, reason: str = "") -> None:
        """Begin with nothing; `reason` says why what there is, if anything, is not gone on with."""
        if reason:
            warn(f"{self.path}: begins again: {reason}")
        self._fresh, self.stale = True, False
        self._forget_rows()
        dropped = os.fstat(self._fd).st_size > 0
        os.ftruncate(self._fd, 0)
        if dropped:  # a power cut may leave half of the old journal: only beside nothing must it not count
            durable_files.sync_data(self._fd)
        self._journal.start(self._origin.header())
        if dropped:
            self._journal.sync()

    def _go_on(self, found: dict[str, Any]) -> None:
        self.failed = self._journal.failed
        self.stale = self._origin.adopt(found) or self._journal.mixed
        self._take_superblock()
        self._replay()
        self._write_again(self._journal.synced)

    def go_back(self, blocks: int, reason: str) -> None:
        """Drop what is recorded but so many blocks, and say why: the rows behind them are others now."""
        with durable_files.output_errors(self.path):
            if blocks:
                warn(f"{self.path}: goes on from row {blocks * self._block_rows}: {reason}")
                self._forget_rows()
                self._replay(blocks)
            else:
                self._start_again(reason)
                self._reserve()
        self._codes.close()
        self._codes = self._writer_of_codes()

    def _writer_of_codes(self) -> WindowedWriter:
        return WindowedWriter(self._fd, layout.CODES_OFFSET + self._done() * self._dim, self._direct)

    def _take_superblock(self) -> None:
        """A complete superblock must not vouch for rows that are about to be written again."""
        if any(durable_files.read_exactly(self._fd, layout.SUPERBLOCK_SIZE, 0)):
            durable_files.write_all(self._fd, bytes(layout.SUPERBLOCK_SIZE), 0)
            durable_files.sync_data(self._fd)

    def _replay(self, most: int | None = None) -> None:
        """Count the rows that journal and file agree on; drop the records behind them, or behind so many."""
        for record in self._journal.records(self._block_rows):
            codes = None if self._blocks() == most else self._stored(self.rows, record.rows)
            if codes is None or crc32(codes) != record.codes_crc:
                self._journal.back(record)
                break
            keys = None if self._origin.keyless else record.keys
            self.rows += record.rows
            self.key_kind = None if keys is None else keys.kind
            if record.rows < self._block_rows:
                self._journal.back(record)
                self.rest = codes, record.scales, keys, record.errors, record.nonfinite
                break
            self._find(codes, record)
            self._note(record._replace(keys=keys))
        self._journal.cut()
        if self.stale:
            self._journal.mark_mixed()
        self._journal.go_on_with(self._origin.header())

    def _write_again(self, block: int) -> None:
        """Write the blocks from this one on once more.

        They can be read, but if a sync of the interrupted build failed, Linux has dropped them without
        writing them, and no later sync would.
        """
        for number in range(block, self._blocks()):
            codes = self._stored(number * self._block_rows, self._block_rows)
            if codes is not None:
                durable_files.write_all(self._fd, codes.data, layout.CODES_OFFSET + number * codes.size)

    def _stored(self, first: int, rows: int) -> NDArray[np.uint8] | None:
        raw = durable_files.read_exactly(self._fd, rows * self._dim, layout.CODES_OFFSET + first * self._dim)
        return np.frombuffer(raw, np.uint8).reshape(rows, self._dim) if len(raw) == rows * self._dim else None

    # Taking blocks in -----------------------------------------------------------------------------

    def expect_source_dtype(self, find: Callable[[], str]) -> str:
        """Element type the rows must have: where none was known, the one `find` gives, which is recorded."""
        if self._origin.source_dtype is None:
            self._origin.source_dtype = find()
            with durable_files.output_errors(self.path):
                self._journal.start(self._origin.header())
        return self._origin.source_dtype

    def add(
        self, codes: NDArray[np.uint8], record: BlockRecord, written: Callable[[], object] | None = None
    ) -> None:
        """Take in the next block; only the last one may be short.

        Its codes may not change any more before `written` is called, if they are not the caller's for good.
        """
        self._find(codes, record)
        with durable_files.output_errors(self.path):
            self._unrecorded.append((self._codes.end + codes.size, record, written))
            self._codes.add(codes.data)
            self._record_written()

    def _find(self, codes: NDArray[np.uint8], record: BlockRecord) -> None:
        self.findings.add(self._found_rows, codes, record.scales, record.errors, record.nonfinite)
        self._found_rows += record.rows

    def flush(self) -> None:
        """Write and record all that was taken in."""
        with durable_files.output_errors(self.path):
            self._codes.flush()
            self._record_written()

    def mark_failed(self) -> None:
        """Note that the build ends because of its data: who goes on may change what it is built of."""
        with durable_files.output_errors(self.path):
            self._journal.mark_failed()
            self._journal.sync()

    def _record_written(self) -> None:
        while self._unrecorded and self._unrecorded[0][0] <= self._codes.written:
            _, record, written = self._unrecorded.popleft()
            self._record(record)
            if written is not None:
                written()

    def _record(self, record: BlockRecord) -> None:
        self._journal.append(record)
        self._note(record)
        self._unsynced += record.rows * self._dim
        if self._unsynced >= self._sync_bytes:
            self._sync_behind()

    def _done(self) -> int:
        """Rows in whole recorded blocks."""
        return self._blocks() * self._block_rows

    def _note(self, record: BlockRecord) -> None:
        self.checksums.extend((record.codes_crc, record.scales_crc))
        self._measured &= record.errors is not None
        if record.keys is not None:
            self.key_checksums.append(record.keys.crc32())
            self.unkeyed_rows += int(np.count_nonzero(record.keys.unkeyed()))
            self._text_bytes += len(record.keys.data) if record.keys.kind == "text" else 0

    def _blocks(self) -> int:
        return len(self.checksums) // 2

    def _sync_behind(self) -> None:
        """Sync in the background, one sync at a time, so that the build never waits for the disk here."""
        if self._syncing is not None:
            if not self._syncing.done():
                return
            self._end_sync(self._syncing)
        if self._syncer is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms, not at import

            self._syncer = ThreadPoolExecutor(1, "qstore-sync")
        self._unsynced = 0
        self._syncing_blocks = self._blocks()
        self._syncing = self._syncer.submit(self._sync)

    def _end_sync(self, syncing: Future[None]) -> None:
        syncing.result()
        self._journal.mark_synced(self._syncing_blocks)

    def _sync(self) -> None:
        durable_files.sync_data(self._fd)
        self._journal.sync()

    # Finishing ------------------------------------------------------------------------------------

    def finish(self, rows: int) -> None:
        """Complete the file with what is not codes, and publish it under its final name.

        Parameters
        ----------
        rows : int
            Number of rows; all of them are in.

        Raises
        ------
        ExistsError, OutputError
            Nothing is published, unless only the sync of the directory failed.
        """
        self.flush()
        with durable_files.output_errors(self.path):
            if self._syncing is not None:
                self._syncing.result()
            # From here on all rows are safe: whatever fails below, a resumed writer only finishes again.
            self._sync()
            self._journal.mark_synced(self._blocks())
            self._complete(rows)
            check_output(self.path, self._overwrite)
            durable_files.publish(partial_path(self.path), self.path)
            with contextlib.suppress(OSError):  # the store is there: a journal beside it is ignored
                durable_files.free_path(journal_path(self.path))

    def _complete(self, rows: int) -> None:
        """Write all but the codes, all durable before the superblock makes it a store."""
        keys = None if self.key_kind is None else layout.KeyPart(self.key_kind, self._text_bytes)
        measured = self.measured is not None or self._measured
        parts = layout.Parts(keys=keys, fidelity=measured and rows > 0)
        places = layout.places(layout.shapes(rows, self._dim, parts))
        index = None if keys is None else KeyIndexWriter(self._fd, places, rows, keys, self._duplicates)
        fidelity = FidelityTotals(self._dim)
        self._write_scales(places["scales"].offset, rows, index, fidelity)
        if parts.fidelity:
            numbers = fidelity.numbers() if self.measured is None else self.measured
            durable_files.write_all(self._fd, numbers.astype("<f8").tobytes(), places["fidelity"].offset)
        checksums = np.array(self.checksums, dtype="<u4").reshape(-1, 2)
        durable_files.write_all(self._fd, checksums.tobytes(), places["checksums"].offset)
        key_checksums = None if index is None else index.finish()
        content_id = layout.content_id(rows, self._dim, checksums, key_checksums)
        composition = self._compose(rows, content_id, parts)
        *body, superblock = composition.segments
        # Blocks behind a failed one, or an earlier end, may have left something in the alignment gaps.
        for offset, data in [*body, *((gap.offset, bytes(gap.size)) for gap in composition.gaps())]:
            durable_files.write_all(self._fd, data, offset)
        os.ftruncate(self._fd, composition.size)
        os.fsync(self._fd)
        durable_files.write_all(self._fd, superblock[1], superblock[0])
        os.fsync(self._fd)

    def _compose(self, rows: int, content_id: str, parts: layout.Parts = layout.NO_PARTS) -> Composition:
        return compose(rows, self._dim, self._origin.attributes(content_id), parts)

    def _write_scales(
        self, offset: int, rows: int, index: KeyIndexWriter | None, fidelity: FidelityTotals
    ) -> None:
        """Write the scales, and the keys by row, as the journal has kept them; add up the errors."""
        scales = WindowedWriter(self._fd, offset)
        gathered, found = [], 0
        for record in self._journal.records(self._block_rows):
            gathered.append(record.scales)
            if index is not None and record.keys is not None:
                index.add(record.keys)
            if record.errors is not None:
                fidelity.add_block(found, record.errors, record.scales[: len(record.errors)])
            found += record.rows
            if len(gathered) == _GATHERED_BLOCKS:
                scales.add(np.concatenate(gathered).data)
                gathered = []
        if gathered:
            scales.add(np.concatenate(gathered).data)
        scales.flush()
        if found != rows:
            raise OutputError(5, f"{journal_path(self.path)} was damaged while it was in use", str(self.path))

    # The end --------------------------------------------------------------------------------------

    def release(self, remove: bool) -> None:
        """Close and unlock the files, once; with `remove`, an unfinished store is removed before."""
        if self._syncer is not None:
            self._syncer.shutdown(cancel_futures=True)
        if hasattr(self, "_codes"):
            self._codes.close()
        if remove:
            with contextlib.suppress(OSError):  # whatever made the build fail is the error to raise
                self._remove()
        with durable_files.output_errors(self.path):
            if hasattr(self, "_journal"):
                self._journal.close()
            if self._direct is not None:
                os.close(self._direct)
            os.close(self._fd)

    def _remove(self) -> None:
        # Both locks are still held, and the journal goes first: no other writer can have begun here.
        if hasattr(self, "_journal"):
            durable_files.free_path(journal_path(self.path))
        if durable_files.same_file(self._fd, partial_path(self.path)):
            durable_files.free_path(partial_path(self.path))
